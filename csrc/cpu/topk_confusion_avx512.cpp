// The top-K selection with AVX-512 (F and BW).
#include "topk_select.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)
#include <immintrin.h>

namespace fastheads {
namespace {

struct Avx512 {
  template <class F>
  static uint64_t mask(const typename F::raw_t* x, Filter<F> filter) {
    using raw_t = typename F::raw_t;
    constexpr int kLanes = 64 / sizeof(raw_t);
    uint64_t passed = 0;
    for (int i = 0; i < kBlock; i += kLanes) {
      passed |= static_cast<uint64_t>(compare(_mm512_loadu_si512(x + i), filter)) << i;
    }
    return passed;
  }

 private:
  template <class F>
  static auto compare(__m512i bits, Filter<F> filter) {
    if constexpr (sizeof(typename F::raw_t) == 2) {
      return _mm512_cmpge_epi16_mask(_mm512_xor_si512(bits, _mm512_set1_epi16(filter.flip)),
                                     _mm512_set1_epi16(filter.bound));
    } else if constexpr (sizeof(typename F::raw_t) == 4) {
      return _mm512_cmpge_epi32_mask(_mm512_xor_si512(bits, _mm512_set1_epi32(filter.flip)),
                                     _mm512_set1_epi32(filter.bound));
    } else {
      return _mm512_cmpge_epi64_mask(_mm512_xor_si512(bits, _mm512_set1_epi64(filter.flip)),
                                     _mm512_set1_epi64(filter.bound));
    }
  }
};

}  // namespace

void select_rows_avx512(FloatFormat format, const void* scores, const TopkRows& shape,
                        int64_t begin, int64_t end, const TopkWorkspace& workspace, int64_t* top) {
  select_rows<Avx512>(format, scores, shape, begin, end, workspace, top);
}

}  // namespace fastheads
#endif
