// What the kernels and their launches use of CUDA's language and runtime.
#pragma once

#include <emulator.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

#define threadIdx (::emulator::place().thread)
#define blockIdx (::emulator::place().block)
#define blockDim (::emulator::place().threads)
#define gridDim (::emulator::place().blocks)

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

using std::isinf;
using std::isnan;
using std::max;
using std::min;

namespace emulator {

template <typename T>
T shuffled(unsigned mask, T value, int from, int line) {
  const Given& given = exchange(mask, value, line);
  if (from < 0 || from > 31) return value;
  if (!(mask >> from & 1)) fail("a shuffle from a lane that is not in its mask", line);
  return given.of<T>(from);
}

inline unsigned ballot(unsigned mask, bool vote, int line) {
  const Given& given = exchange(mask, vote, line);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= unsigned(given.of<bool>(lane)) << lane;
  return bits & mask;
}

template <typename T>
T sum_of(unsigned mask, T value, int line) {
  const Given& given = exchange(mask, value, line);
  T sum = 0;
  for (int lane = 0; lane < 32; ++lane) sum += given.of<T>(lane);
  return sum;
}

inline void warp_barrier(int line, unsigned mask = ~0u) {
  exchange(mask, 0, line);
}

}  // namespace emulator

#define __syncthreads() static_cast<void>(::emulator::barrier(__LINE__))
#define __syncthreads_or(vote) int(::emulator::barrier(__LINE__, bool(vote)))
#define __syncwarp(...) ::emulator::warp_barrier(__LINE__ __VA_OPT__(, ) __VA_ARGS__)
#define __shfl_sync(mask, value, from) ::emulator::shuffled(mask, value, (from) % 32, __LINE__)
#define __shfl_xor_sync(mask, value, bits) \
  ::emulator::shuffled(mask, value, ::emulator::lane() ^ (bits), __LINE__)
#define __shfl_up_sync(mask, value, by) \
  ::emulator::shuffled(mask, value, ::emulator::lane() - int(by), __LINE__)
#define __ballot_sync(mask, vote) ::emulator::ballot(mask, bool(vote), __LINE__)
#define __all_sync(mask, vote) int(::emulator::ballot(mask, !(vote), __LINE__) == 0)
#define __reduce_add_sync(mask, value) ::emulator::sum_of(mask, value, __LINE__)

template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
void __stcs(T* address, const T& value) {
  *address = value;
}
inline int __popc(unsigned bits) {
  return std::popcount(bits);
}
inline int __ffs(int bits) {
  return __builtin_ffs(bits);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline void __threadfence() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
}
inline void __nanosleep(unsigned) {
  sched_yield();
}

template <typename T, typename Value>
T atomicAdd(T* address, Value value) {
  return std::atomic_ref<T>(*address).fetch_add(static_cast<T>(value));
}
template <typename T, typename Value>
T atomicOr(T* address, Value value) {
  return std::atomic_ref<T>(*address).fetch_or(static_cast<T>(value));
}
template <typename T, typename Value>
T atomicMin(T* address, Value value) {
  std::atomic_ref<T> at(*address);
  T before = at.load();
  while (static_cast<T>(value) < before && !at.compare_exchange_weak(before, value)) {
  }
  return before;
}

// The runtime: one stream, on which everything has ended when a call returns.
using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrComputeCapabilityMajor };

inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 4 : 9;
  return cudaSuccess;
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t) {
  std::memset(address, value, bytes);
  return cudaSuccess;
}
