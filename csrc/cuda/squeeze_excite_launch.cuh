// How the stages of squeeze_excite run on CUDA: as one launch each, or as one launch in which an
// atomic ticket hands out the tiles of all stages. Both give the same bits.
//
// A pipeline has kStages stages; the samples go through one after the other:
//   Pipeline::of_items(k)                  stage k: an item of one sample is a tile
//   pipeline.tiles(k)                      tiles of a sample if so, else of up to kSamples samples
//   pipeline.run<k>(rows, tile, shared)    one tile of the samples rows, by one block
#pragma once

#include <cuda/atomic>
#include <optional>
#include <utility>

#include "squeeze_excite_product.cuh"

namespace fastheads {
namespace {

// Blocks a multiprocessor, which bounds registers: of one stage, of all stages in one kernel.
template <typename acc>
constexpr int kStageBlocks = sizeof(acc) == 8 ? 2 : 4;
template <typename acc>
constexpr int kTicketBlocks = sizeof(acc) == 8 ? 2 : 3;

struct Groups {
  int64_t samples, count;
  int size;  // samples in one, at most kSamples

  __device__ Rows rows(int64_t group) const {
    const int64_t first = group * size, left = samples - first;
    return {first, static_cast<int>(left < size ? left : size)};
  }
};

inline Groups groups_of(int64_t samples, int size) {
  return {samples, ceil_div(samples, size), size};
}

template <typename Pipeline, int stage>
__global__ void __launch_bounds__(kThreads, kStageBlocks<typename Pipeline::acc>)
    stage_kernel(const __grid_constant__ Pipeline pipeline, const Groups groups) {
  __shared__ Shared<typename Pipeline::acc> shared;
  for (int64_t group = blockIdx.y; group < groups.count; group += gridDim.y) {
    pipeline.template run<stage>(groups.rows(group), blockIdx.x, shared);
  }
}

template <typename Pipeline, int stage>
void launch_stage(const Pipeline& pipeline, int64_t samples, cudaStream_t stream) {
  const Groups groups = groups_of(samples, Pipeline::of_items(stage) ? 1 : kSamples);
  const dim3 blocks(pipeline.tiles(stage), std::min<int64_t>(groups.count, 65535));
  if (blocks.x == 0 || blocks.y == 0) return;
  stage_kernel<Pipeline, stage><<<blocks, kThreads, 0, stream>>>(pipeline, groups);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename Pipeline>
void launch_stages(const Pipeline& pipeline, int64_t samples, cudaStream_t stream) {
  [&]<int... stage>(std::integer_sequence<int, stage...>) {
    (launch_stage<Pipeline, stage>(pipeline, samples, stream), ...);
  }(std::make_integer_sequence<int, Pipeline::kStages>());
}

// Tickets 0, 1, ... are the work of step 0, step 1, ...; in step i, stage k works on group
// i - lag[k], so a group goes through the stages while its x is in the L2 cache.
template <int stages>
struct Tickets {
  unsigned* next;  // the next ticket
  unsigned* done;  // [groups, stages]: finished tickets
  unsigned total;  // tickets
  unsigned groups;
  unsigned begin[stages + 1];  // of each stage in a step
  unsigned lag[stages];
};

constexpr int kTicketItems = 4;  // 64 to 128 KB: drawing and waiting cost about a microsecond

using Counter = cuda::atomic_ref<unsigned, cuda::thread_scope_device>;

// What one ticket asks for.
struct Work {
  unsigned ticket;
  unsigned group;    // none: the step has nothing to do for this stage
  int stage, index;  // which work of the group in this stage
  unsigned slot;     // of its counter in done
};

// By one thread: the next ticket, once the stage before has finished its group.
template <int stages>
__device__ Work draw(const Tickets<stages>& tickets) {
  Work work{};
  work.ticket = Counter(*tickets.next).fetch_add(1, cuda::memory_order_relaxed);
  if (work.ticket >= tickets.total) return work;
  const unsigned step = work.ticket / tickets.begin[stages];
  const unsigned k = work.ticket % tickets.begin[stages];
  int stage = 0;
  while (k >= tickets.begin[stage + 1]) ++stage;
  work.stage = stage;
  work.index = static_cast<int>(k - tickets.begin[stage]);
  work.group = step - tickets.lag[stage];  // before the first: wraps to a large one
  work.slot = work.group * stages + stage;
  if (stage > 0 && work.group < tickets.groups) {
    const unsigned all = tickets.begin[stage] - tickets.begin[stage - 1];
    Counter before(tickets.done[work.slot - 1]);
    while (before.load(cuda::memory_order_acquire) < all) __nanosleep(100);
  }
  return work;
}

template <int stage, typename Pipeline>
__device__ void run_work(const Pipeline& pipeline, const Rows& rows, int index,
                         Shared<typename Pipeline::acc>& shared) {
  if (!Pipeline::of_items(stage)) {
    pipeline.template run<stage>(rows, index, shared);
    return;
  }
  const int tiles = pipeline.tiles(stage), each = (tiles + kTicketItems - 1) / kTicketItems;
  const int row = index / each, first = index % each * kTicketItems;
  if (row >= rows.count) return;
  for (int tile = first; tile < min(first + kTicketItems, tiles); ++tile) {
    pipeline.template run<stage>({rows.first + row, 1}, tile, shared);
  }
}

// Free of deadlock however few blocks are resident: a ticket waits for smaller ones alone, and none
// is drawn but by a running block with no other in hand. So the smallest unfinished ticket is being
// worked on, and waits for nothing.
//
// Order of memory: what a tile's threads wrote is ordered before the barrier, that before thread
// 0's release add to done; the acquire load that sees the last of a stage's adds is ordered after
// all of them (adds continue the release sequence), and the barrier behind it before every read of
// the waiting block. Earlier stages are ordered by the same chain. These reads are plain loads of
// memory that the kernel also writes, so the compiler takes no read-only path for them.
template <typename Pipeline>
__global__ void __launch_bounds__(kThreads, kTicketBlocks<typename Pipeline::acc>)
    ticket_kernel(const __grid_constant__ Pipeline pipeline, const Groups groups,
                  const __grid_constant__ Tickets<Pipeline::kStages> tickets) {
  __shared__ Shared<typename Pipeline::acc> shared;
  __shared__ Work work;
  for (;;) {
    if (threadIdx.x == 0) work = draw(tickets);
    __syncthreads();
    if (work.ticket >= tickets.total) return;
    if (work.group < tickets.groups) {
      const Rows rows = groups.rows(work.group);
      [&]<int... s>(std::integer_sequence<int, s...>) {
        ((s == work.stage ? run_work<s>(pipeline, rows, work.index, shared) : void()), ...);
      }(std::make_integer_sequence<int, Pipeline::kStages>());
    }
    __syncthreads();
    if (threadIdx.x == 0 && work.group < tickets.groups) {
      Counter(tickets.done[work.slot]).fetch_add(1, cuda::memory_order_release);
    }
  }
}

// Samples that go through the stages together: about 2 MB, so that all lags are well within the L2
// cache, and as many as one product takes where samples are small.
inline int group_size(int64_t sample_bytes) {
  constexpr int64_t kGroupBytes = 2 << 20;
  const int64_t fitting = kGroupBytes / std::max<int64_t>(sample_bytes, 1);
  return static_cast<int>(std::clamp<int64_t>(fitting, 1, kSamples));
}

// False, and nothing launched, where the tickets of one call would not fit their counter.
template <typename Pipeline>
bool launch_tickets(const Pipeline& pipeline, int64_t samples, int64_t sample_bytes,
                    const Tensor& like, cudaStream_t stream) {
  constexpr int kStages = Pipeline::kStages;
  const Groups groups = groups_of(samples, group_size(sample_bytes));
  constexpr int64_t kResident = kTicketBlocks<typename Pipeline::acc>;  // blocks a multiprocessor
  int processors = 0;
  STD_CUDA_CHECK(
      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, like.get_device_index()));
  Tickets<kStages> tickets{};
  int64_t in_step = 0;
  for (int stage = 0; stage < kStages; ++stage) {
    const int64_t tiles = pipeline.tiles(stage);
    in_step += Pipeline::of_items(stage) ? groups.size * ceil_div(tiles, kTicketItems) : tiles;
    if (in_step >= INT32_MAX) return false;
    tickets.begin[stage + 1] = static_cast<unsigned>(in_step);
  }
  // What a tile waits for was drawn a full round of blocks before if it takes long, else a quarter.
  const int64_t round = ceil_div(kResident * processors, in_step), quarter = ceil_div(round, 4);
  int64_t lag = 0;
  for (int stage = 1; stage < kStages; ++stage) {
    lag += Pipeline::of_items(stage - 1) ? round : quarter;
    tickets.lag[stage] = static_cast<unsigned>(lag);
  }
  const int64_t steps = groups.count + lag;
  if (steps >= INT32_MAX / std::max<int64_t>(in_step, kStages)) return false;
  tickets.total = static_cast<unsigned>(steps * in_step);
  tickets.groups = static_cast<unsigned>(groups.count);

  // Zeroed for each call: calls on other streams, or captured in graphs, share nothing.
  const int64_t counters = 1 + groups.count * kStages;
  Tensor memory = torch::stable::new_empty(like, {counters}, ScalarType::Int);
  tickets.next = reinterpret_cast<unsigned*>(memory.mutable_data_ptr<int32_t>());
  tickets.done = tickets.next + 1;
  STD_CUDA_CHECK(cudaMemsetAsync(tickets.next, 0, counters * sizeof(unsigned), stream));
  const auto blocks = std::min<int64_t>(kResident * processors, tickets.total);
  ticket_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(pipeline, groups, tickets);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return true;
}

// Bytes of x from which one launch is chosen. No GPU has measured it yet, so it never is.
constexpr int64_t kTicketedBytes = INT64_MAX;

template <typename Pipeline>
void launch(const Pipeline& pipeline, const SqueezeExciteShape& shape, const Tensor& x,
            std::optional<bool> ticketed) {
  if (shape.samples == 0) return;
  const cudaStream_t stream = current_stream(x);
  const int64_t bytes = x.numel() * static_cast<int64_t>(x.element_size());
  if (bytes > 0 && ticketed.value_or(bytes >= kTicketedBytes) &&
      launch_tickets(pipeline, shape.samples, bytes / shape.samples, x, stream)) {
    return;
  }
  launch_stages(pipeline, shape.samples, stream);
}

inline const void* data(const Tensor& tensor) {
  return tensor.const_data_ptr();
}
inline const void* data(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

// Keeps a parameter, or what takes its place in memory, alive until the launch.
struct Contiguous {
  std::optional<Tensor> tensor;

  explicit Contiguous(const std::optional<Tensor>& any) {
    if (any) tensor = torch::stable::contiguous(*any);
  }
  template <typename scalar_t>
  Parameter<scalar_t> parameter() const {
    const auto wide = sizeof(acc_t<scalar_t>) == 8 ? ScalarType::Double : ScalarType::Float;
    return {data(tensor), tensor && tensor->scalar_type() == wide};
  }
};

// body(scalar_t(), V) with vectors of 16 bytes where all maps allow them, else of one.
template <typename Body>
void dispatch_vectors(const SqueezeExciteShape& shape, const Tensor& x,
                      std::initializer_list<const void*> maps, const Body& body) {
  FASTHEADS_DISPATCH(x, "squeeze_excite", [&] {
    if (fits_vectors<scalar_t>(shape, maps)) {
      body(scalar_t(), std::integral_constant<int, 16 / sizeof(scalar_t)>());
    } else {
      body(scalar_t(), std::integral_constant<int, 1>());
    }
  });
}

}  // namespace
}  // namespace fastheads
