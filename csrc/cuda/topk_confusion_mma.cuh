// The instruction of co-detection on the tensor cores.
#pragma once

#include <cstdint>

namespace fastheads {
namespace {

// sums[16, 8] += a[16, 256] b[256, 8], of bits. Lane 4 g + t of a warp holds words t and t + 4 of
// rows g and g + 8 of a and of column g of b, and columns 2 t and 2 t + 1 of rows g, g + 8 of sums.
__device__ inline void add_bit_product(int (&sums)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace
}  // namespace fastheads
