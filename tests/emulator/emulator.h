// CUDA kernels on the CPU: each thread of a block is a fiber, and blocks run on a few OS threads.
// Between two barriers the threads of a block run in random order, so a missing barrier shows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace emulator {

// Where the running thread is.
struct Place {
  dim3 thread, block, threads, blocks;
};
const Place& place();
int lane();

// Ends the process and names the kernel, the line and the thread.
[[noreturn]] void fail(const char* what, int line);

// Runs a grid to its end.
void launch(const char* kernel, dim3 grid, dim3 block, size_t dynamic_bytes,
            const std::function<void()>& thread);

// kernel<<<grid, block, dynamic_bytes, stream>>>(arguments...)
template <typename Kernel>
auto configured(const char* name, Kernel kernel, dim3 grid, dim3 block, size_t dynamic_bytes = 0,
                void* = nullptr) {
  return [=](auto... arguments) {
    launch(name, grid, block, dynamic_bytes, [&] { kernel(arguments...); });
  };
}

// Shared memory of the running block, full of garbage at first. A declaration has a type of its
// own.
void* shared_bytes(const void* declaration, size_t bytes);
void* dynamic_shared();
template <typename T, typename Declaration>
T& shared(Declaration) {
  static const char declaration = 0;
  return *static_cast<T*>(shared_bytes(&declaration, sizeof(T)));
}

// Waits for all threads of the block; whether one of them voted for it.
bool barrier(int line, bool vote = false);

// What each lane gave; where a lane is not in the mask, zeros.
constexpr size_t kGiven = 32;
struct Given {
  unsigned char bytes[32][kGiven];

  template <typename T>
  T of(int lane) const {
    static_assert(sizeof(T) <= kGiven);
    T value;
    std::memcpy(&value, bytes[lane], sizeof(T));
    return value;
  }
};

// Waits for all lanes of the mask, each of which gives a value.
const Given& exchange_bytes(unsigned mask, const void* value, size_t bytes, int line);
template <typename T>
const Given& exchange(unsigned mask, const T& value, int line) {
  static_assert(sizeof(T) <= kGiven);
  return exchange_bytes(mask, &value, sizeof(T), line);
}

// Copies 16 bytes, or zeros from null, at once or when they are waited for: which, is drawn.
void copy_async(void* to, const void* from, int line);
void commit_copies();
void wait_for_copies(int pending);

}  // namespace emulator
