// What the microbenchmarks share: checked calls, times of a stream, the command line.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define CHECK(call)                                                                        \
  do {                                                                                     \
    const cudaError_t status = (call);                                                     \
    if (status != cudaSuccess) {                                                           \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(status)); \
      std::exit(1);                                                                        \
    }                                                                                      \
  } while (0)

// Ends the program with a message unless the condition holds.
inline void require(bool condition, const char* message) {
  if (condition) return;
  std::fprintf(stderr, "%s\n", message);
  std::exit(1);
}

// The number after `name` on the command line; ends after printing `help` on --help or a mistake.
inline double option(int argc, char** argv, const char* name, double otherwise, const char* help) {
  for (int i = 1; i < argc; i += 2) {
    if (std::strcmp(argv[i], "--help") == 0 || i + 1 == argc || std::strncmp(argv[i], "--", 2)) {
      std::fputs(help, stdout);
      std::exit(std::strcmp(argv[i], "--help") == 0 ? 0 : 2);
    }
    if (std::strcmp(argv[i], name) == 0) return std::atof(argv[i + 1]);
  }
  return otherwise;
}

// The median time of run(), which works on the default stream, in microseconds.
template <typename Run>
double median_us(int repeats, const Run& run) {
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  std::vector<float> times(repeats);
  run();  // warm
  for (float& time : times) {
    CHECK(cudaEventRecord(begin));
    run();
    CHECK(cudaEventRecord(end));
    CHECK(cudaEventSynchronize(end));
    CHECK(cudaEventElapsedTime(&time, begin, end));
  }
  CHECK(cudaGetLastError());
  CHECK(cudaEventDestroy(begin));
  CHECK(cudaEventDestroy(end));
  std::sort(times.begin(), times.end());
  return 1e3 * times[repeats / 2];
}

inline int processors() {
  int device = 0, count = 0;
  CHECK(cudaGetDevice(&device));
  CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// A bijection of 64-bit numbers that looks random (the finaliser of SplitMix64).
__host__ __device__ inline unsigned long long mix(unsigned long long x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}
