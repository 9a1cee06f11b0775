#include <cuda_runtime.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

// Saves the registers that a call keeps and the stack pointer, and goes on where `to` was saved.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace emulator {
namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr size_t kSharedBytes = 48 << 10;  // what a block has without asking for more
constexpr int kWorkers = 3;                // OS threads: blocks that run at a time

enum class State { runnable, at_barrier, in_warp, ended };

struct Copy {
  void* to;
  const void* from;  // null: zeros

  void finish() const { from ? std::memcpy(to, from, 16) : std::memset(to, 0, 16); }
};

struct Thread {
  Place place;
  int index;
  State state;
  void* stack_pointer;
  int line;       // where it waits
  bool vote;      // of a barrier
  unsigned mask;  // of an exchange
  unsigned char given[kGiven];
  Given seen;
  std::vector<Copy> copies;              // since the last commit
  std::deque<std::vector<Copy>> groups;  // committed, not yet waited for

  int lane() const { return index % 32; }
};

// An OS thread, which runs one block after the other.
struct Worker {
  const char* kernel = "";
  const std::function<void()>* body = nullptr;
  void* stack_pointer = nullptr;  // of the scheduler
  std::vector<Thread> threads;    // the most that a block has had
  std::vector<char*> stacks;
  int count = 0;  // threads of this block
  std::map<const void*, std::vector<unsigned char>> shared;
  size_t used = 0;
  std::vector<unsigned char> dynamic;
  unsigned char garbage = 0;
  std::mt19937 random{std::random_device{}()};
};

// Found without a call: they are read at every turn.
#define FAST_LOCAL thread_local __attribute__((tls_model("initial-exec")))
FAST_LOCAL Worker* worker = nullptr;
FAST_LOCAL Thread* running = nullptr;

void* aligned(std::vector<unsigned char>& bytes) {
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(bytes.data()) + 15) / 16 * 16);
}

void wait_as(State state, int line) {
  running->state = state;
  running->line = line;
  emulator_switch(&running->stack_pointer, worker->stack_pointer);
}

void thread_begins() {
  (*worker->body)();
  wait_for_copies(0);
  wait_as(State::ended, 0);
}

// Lays the stack out as if the thread had called emulator_switch at its very beginning.
void prepare(Worker& w, int index) {
  if (index == static_cast<int>(w.stacks.size())) {
    void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) std::abort();
    w.stacks.push_back(static_cast<char*>(stack));
  }
  constexpr int kSaved = 6;
  void** top = reinterpret_cast<void**>(w.stacks[index] + kStackBytes) - (kSaved + 2);
  for (int i = 0; i < kSaved; ++i) top[i] = nullptr;
  top[kSaved] = reinterpret_cast<void*>(&thread_begins);
  top[kSaved + 1] = nullptr;  // its return address: it never returns
  w.threads[index].stack_pointer = top;
}

// Lets the lanes of a thread's exchange go on, once all have come. Gives those that may.
std::vector<int> release(Worker& w, int index) {
  const Thread& last = w.threads[index];
  const int first = index - last.lane();
  Given given{};
  std::vector<int> lanes;
  for (int t = first; t < std::min(first + 32, w.count); ++t) {
    const Thread& other = w.threads[t];
    if (!(last.mask >> other.lane() & 1)) continue;
    if (other.state == State::ended) {
      running = &w.threads[index];
      fail("an exchange with a lane that has ended", last.line);
    }
    const bool same = other.line == last.line && other.mask == last.mask;
    if (other.state != State::in_warp || !same) return {};
    std::memcpy(given.bytes[other.lane()], other.given, kGiven);
    lanes.push_back(t);
  }
  for (const int t : lanes) {
    w.threads[t].seen = given;
    w.threads[t].state = State::runnable;
  }
  return lanes;
}

// Lets all threads that have not ended go on behind a barrier, at which they must be.
std::vector<int> pass_barrier(Worker& w) {
  std::vector<int> waiting;
  bool any = false;
  for (int t = 0; t < w.count; ++t) {
    running = &w.threads[t];
    if (running->state == State::ended) continue;
    if (running->state == State::in_warp) fail("an exchange waits for others", running->line);
    any |= running->vote;
    waiting.push_back(t);
    if (running->line != w.threads[waiting[0]].line) fail("two barriers", running->line);
  }
  for (const int t : waiting) {
    w.threads[t].vote = any;
    w.threads[t].state = State::runnable;
  }
  return waiting;
}

void run_block(Worker& w, dim3 block, dim3 blocks, dim3 threads) {
  w.count = static_cast<int>(threads.x * threads.y * threads.z);
  if (static_cast<int>(w.threads.size()) < w.count) w.threads.resize(w.count);
  w.shared.clear();
  w.used = w.dynamic.size();
  w.garbage = static_cast<unsigned char>(w.random());
  std::fill(w.dynamic.begin(), w.dynamic.end(), w.garbage);
  std::vector<int> runnable;
  for (int t = 0; t < w.count; ++t) {
    const unsigned u = static_cast<unsigned>(t);
    const dim3 at(u % threads.x, u / threads.x % threads.y, u / threads.x / threads.y);
    prepare(w, t);
    w.threads[t].place = {at, block, threads, blocks};
    w.threads[t].index = t;
    w.threads[t].state = State::runnable;
    w.threads[t].copies.clear();
    runnable.push_back(t);
  }
  while (!runnable.empty()) {
    std::swap(runnable[w.random() % runnable.size()], runnable.back());
    const int t = runnable.back();
    runnable.pop_back();
    running = &w.threads[t];
    emulator_switch(&w.stack_pointer, running->stack_pointer);
    std::vector<int> next;
    if (w.threads[t].state == State::in_warp) next = release(w, t);
    if (runnable.empty() && next.empty()) next = pass_barrier(w);
    runnable.insert(runnable.end(), next.begin(), next.end());
  }
}

// Workers are kept, as are the stacks of their threads.
std::mutex resting_lock;
std::vector<Worker*> resting;

Worker* take_worker() {
  const std::lock_guard<std::mutex> guard(resting_lock);
  if (resting.empty()) return new Worker;
  Worker* taken = resting.back();
  resting.pop_back();
  return taken;
}

}  // namespace

const Place& place() {
  return running->place;
}

int lane() {
  return running->lane();
}

void fail(const char* what, int line) {
  const auto [x, y, z] = running->place.block;
  std::fprintf(stderr, "%s, line %d, block (%u, %u, %u), thread %d: %s\n", worker->kernel, line, x,
               y, z, running->index, what);
  std::abort();
}

void* shared_bytes(const void* declaration, size_t bytes) {
  auto& memory = worker->shared[declaration];
  if (memory.empty()) {
    memory.assign(bytes + 16, worker->garbage);
    worker->used += bytes;
    if (worker->used > kSharedBytes) fail("more shared memory than a block has", 0);
  }
  return aligned(memory);
}

void* dynamic_shared() {
  return aligned(worker->dynamic);
}

bool barrier(int line, bool vote) {
  running->vote = vote;
  wait_as(State::at_barrier, line);
  return running->vote;
}

const Given& exchange_bytes(unsigned mask, const void* value, size_t bytes, int line) {
  if (!(mask >> lane() & 1)) fail("an exchange by a lane that is not in its mask", line);
  std::memcpy(running->given, value, bytes);
  running->mask = mask;
  wait_as(State::in_warp, line);
  return running->seen;
}

void copy_async(void* to, const void* from, int line) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0) {
    fail("a copy that is not aligned", line);
  }
  const Copy copy{to, from};
  worker->random() % 2 == 0 ? copy.finish() : running->copies.push_back(copy);
}

void commit_copies() {
  running->groups.push_back(std::move(running->copies));
  running->copies.clear();
}

void wait_for_copies(int pending) {
  for (; static_cast<int>(running->groups.size()) > pending; running->groups.pop_front()) {
    for (const Copy& copy : running->groups.front()) copy.finish();
  }
}

void launch(const char* kernel, dim3 grid, dim3 block, size_t dynamic_bytes,
            const std::function<void()>& thread) {
  const size_t threads = size_t(block.x) * block.y * block.z;
  const size_t blocks = size_t(grid.x) * grid.y * grid.z;
  if (threads == 0 || threads > 1024 || blocks == 0 || grid.x > INT32_MAX || grid.y > 65535 ||
      grid.z > 65535 || dynamic_bytes > kSharedBytes) {
    std::fprintf(stderr, "%s: no GPU launches %zu blocks of %zu threads with %zu bytes\n", kernel,
                 blocks, threads, dynamic_bytes);
    std::abort();
  }
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    worker = take_worker();
    worker->kernel = kernel;
    worker->body = &thread;
    worker->dynamic.resize(dynamic_bytes == 0 ? 0 : dynamic_bytes + 16);
    for (size_t b; (b = next++) < blocks;) {
      const dim3 at(b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y);
      run_block(*worker, at, grid, block);
    }
    const std::lock_guard<std::mutex> guard(resting_lock);
    resting.push_back(worker);
  };
  std::vector<std::thread> workers;
  for (size_t i = 0; i < std::min<size_t>(blocks, kWorkers); ++i) workers.emplace_back(work);
  for (std::thread& each : workers) each.join();
}

}  // namespace emulator

// What PyTorch with CUDA has beside its operators.
extern "C" {
int aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}
int torch_c10_cuda_check_msg(int32_t, const char*, const char*, uint32_t, bool, char** message) {
  *message = nullptr;
  return 0;
}
void torch_c10_cuda_free_error_msg(char*) {}
// The decision of a gate on one image of the CPU, which has no CUDA kernel.
void fastheads_gate_of_one() {
  std::abort();
}
}
