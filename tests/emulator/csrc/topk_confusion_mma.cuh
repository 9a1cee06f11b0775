// In place of csrc/cuda/topk_confusion_mma.cuh.
#pragma once

#include <cuda_runtime.h>

namespace fastheads {
namespace {

// PTX ISA, "Matrix fragments for mma.m16n8k256": word w of row r of a is in lane 4 (r % 8) + w % 4,
// word r / 8 + 2 (w / 4); word w of column c of b in lane 4 c + w % 4, word w / 4.
inline void add_bit_product(int (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Words {
    uint32_t a[4], b[2];
  };
  const Words words{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const emulator::Given& given = emulator::exchange(~0u, words, __LINE__);
  const int lane = emulator::lane();
  for (int i = 0; i < 4; ++i) {
    const int r = lane / 4 + 8 * (i / 2), c = 2 * (lane % 4) + i % 2;
    for (int w = 0; w < 8; ++w) {
      const auto of_a = given.of<Words>(4 * (r % 8) + w % 4);
      const auto of_b = given.of<Words>(4 * c + w % 4);
      sums[i] += std::popcount(of_a.a[r / 8 + 2 * (w / 4)] & of_b.b[w / 4]);
    }
  }
}

}  // namespace
}  // namespace fastheads
