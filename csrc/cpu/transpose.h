// Squares of numbers turned over in registers. Included by one file an instruction set; everything
// is local to it.
#pragma once

#include "float_vector.h"

namespace fastheads {
namespace {

// a and b in turns: of their first halves, or of their second.
template <bool second, typename V, int... lane>
V in_turns(V a, V b, std::integer_sequence<int, lane...>) {
  constexpr int kSize = sizeof...(lane);
  constexpr auto from = [](int i) { return i % 2 * kSize + i / 2 + second * kSize / 2; };
#ifdef __clang__
  return __builtin_shufflevector(a, b, from(lane)...);
#else
  using Index = std::conditional_t<sizeof(V) / kSize == 4, int32_t, int64_t>;
  return __builtin_shuffle(a, b, Vector<Index, sizeof(V)>{from(lane)...});
#endif
}

// Lane j of vector i becomes lane i of vector j. Each step moves one bit of every row's number into
// the lanes', and one back.
template <typename T>
void transpose(Vector<T> (&square)[kLanes<T>]) {
  constexpr int kSize = kLanes<T>;
  constexpr std::make_integer_sequence<int, kSize> lanes;
  for (int step = 1; step < kSize; step *= 2) {
    Vector<T> mixed[kSize];
    for (int i = 0; i < kSize / 2; ++i) {
      mixed[2 * i] = in_turns<false>(square[i], square[i + kSize / 2], lanes);
      mixed[2 * i + 1] = in_turns<true>(square[i], square[i + kSize / 2], lanes);
    }
    for (int i = 0; i < kSize; ++i) square[i] = mixed[i];
  }
}

}  // namespace
}  // namespace fastheads
