// In place of csrc/cuda/sc_linear_mma.cuh.
#pragma once

#include "common.cuh"

namespace fastheads {
namespace {

inline void copy_async(void* shared, const void* source, bool inside) {
  emulator::copy_async(shared, inside ? source : nullptr, __LINE__);
}

inline void commit_copies() {
  emulator::commit_copies();
}

template <int pending>
void wait_for_copies() {
  emulator::wait_for_copies(pending);
}

inline void load_matrices(unsigned (&out)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) emulator::fail("ldmatrix: address", __LINE__);
  const emulator::Given& rows = emulator::exchange(~0u, row, __LINE__);
  const int lane = emulator::lane();
  for (int matrix = 0; matrix < 4; ++matrix) {
    const auto from = rows.of<const char*>(8 * matrix + lane / 4);
    memcpy(&out[matrix], from + 4 * (lane % 4), 4);
  }
}

template <typename scalar_t>
float half_of(unsigned word, int which) {
  const auto bits = static_cast<uint16_t>(word >> 16 * which);
  scalar_t value;
  memcpy(&value, &bits, 2);
  return static_cast<float>(value);
}

// PTX ISA, "Matrix fragments for mma.m16n8k16": a (r, k) is in lane 4 (r % 8) + k % 8 / 2, word
// r / 8 + 2 (k / 8), half k % 2; b (k, c) in lane 4 c + k % 8 / 2, word k / 8, half k % 2.
template <typename scalar_t>
void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  struct Words {
    unsigned a[4], b[2];
  };
  const Words words{{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const emulator::Given& given = emulator::exchange(~0u, words, __LINE__);
  const int lane = emulator::lane();
  for (int i = 0; i < 4; ++i) {
    const int r = lane / 4 + 8 * (i / 2), c = 2 * (lane % 4) + i % 2;
    double products = 0;
    for (int k = 0; k < 16; ++k) {
      const auto of_a = given.of<Words>(4 * (r % 8) + k % 8 / 2);
      const auto of_b = given.of<Words>(4 * c + k % 8 / 2);
      products += double(half_of<scalar_t>(of_a.a[r / 8 + 2 * (k / 8)], k % 2)) *
                  half_of<scalar_t>(of_b.b[k / 8], k % 2);
    }
    sum[i] = static_cast<float>(sum[i] + products);
  }
}

}  // namespace
}  // namespace fastheads
