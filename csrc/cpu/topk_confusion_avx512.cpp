// The top-K selection with AVX-512 (F and BW).
#include "topk_select.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)
#include <immintrin.h>

namespace fastheads {
namespace {

struct Avx512 {
  static constexpr int kBytes = 64;

  template <typename raw_t>
  static uint64_t mask(const raw_t* x, raw_t flip, raw_t bound) {
    constexpr int kLanes = 64 / sizeof(raw_t);
    uint64_t passed = 0;
    for (int i = 0; i < kBlock; i += kLanes) {
      passed |= static_cast<uint64_t>(compare(_mm512_loadu_si512(x + i), flip, bound)) << i;
    }
    return passed;
  }

 private:
  template <typename raw_t>
  static auto compare(__m512i bits, raw_t flip, raw_t bound) {
    if constexpr (sizeof(raw_t) == 2) {
      return _mm512_cmpge_epi16_mask(_mm512_xor_si512(bits, _mm512_set1_epi16(flip)),
                                     _mm512_set1_epi16(bound));
    } else if constexpr (sizeof(raw_t) == 4) {
      return _mm512_cmpge_epi32_mask(_mm512_xor_si512(bits, _mm512_set1_epi32(flip)),
                                     _mm512_set1_epi32(bound));
    } else {
      return _mm512_cmpge_epi64_mask(_mm512_xor_si512(bits, _mm512_set1_epi64(flip)),
                                     _mm512_set1_epi64(bound));
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
