#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

template <typename T>
struct Pair {
  T x, y;
};
using __half2 = Pair<c10::Half>;
using __nv_bfloat162 = Pair<c10::BFloat16>;

// All bits of a half where a is at least b.
template <typename T>
unsigned __hge2_mask(const Pair<T>& a, const Pair<T>& b) {
  return (float(a.x) >= float(b.x) ? 0xffffu : 0u) | (float(a.y) >= float(b.y) ? 0xffff0000u : 0u);
}
