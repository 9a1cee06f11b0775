// What the host code and the files for each instruction set agree on. No PyTorch header here: its
// inline functions must not be compiled for AVX-512.
#pragma once

#include <cstdint>

#include "float_format.h"

namespace fastheads {

constexpr int64_t kBlock = 64;  // scores filtered at a time, one bit each

struct TopkRows {
  int64_t labels;    // L
  int64_t k;         // K
  int64_t stride;    // scores between the starts of two rows
  int64_t capacity;  // candidates kept before a selection, at least 6 K or else L
};

struct TopkWorkspace {
  void* keys;        // [capacity + 2 kBlock] of 8 bytes
  uint32_t* labels;  // [capacity + 2 kBlock]
  uint32_t* order;   // [max(capacity, K)]
};

// Writes top[begin:end], [rows, K]: the labels of the K best of scores [rows, L], best first.
using SelectRows = void(FloatFormat format, const void* scores, const TopkRows& shape,
                        int64_t begin, int64_t end, const TopkWorkspace& workspace, int64_t* top);

SelectRows select_rows_plain, select_rows_avx2, select_rows_avx512;

}  // namespace fastheads
