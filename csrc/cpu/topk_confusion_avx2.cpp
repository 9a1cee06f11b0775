// The top-K selection with AVX2.
#include "topk_select.h"

#ifdef __AVX2__
#include <immintrin.h>

namespace fastheads {
namespace {

struct Avx2 {
  static constexpr int kBytes = 32;

  template <typename raw_t>
  static uint64_t mask(const raw_t* x, raw_t flip_, raw_t bound_) {
    constexpr int kLanes = 32 / sizeof(raw_t);
    uint64_t failed = 0;  // AVX2 compares by "greater" alone
    if constexpr (sizeof(raw_t) == 2) {
      const __m256i flip = _mm256_set1_epi16(flip_), bound = _mm256_set1_epi16(bound_);
      for (int i = 0; i < kBlock; i += 2 * kLanes) {
        // Packing interleaves the 128-bit halves of the two vectors; the permutation undoes it.
        const __m256i low = _mm256_cmpgt_epi16(bound, _mm256_xor_si256(load(x + i), flip));
        const __m256i high =
            _mm256_cmpgt_epi16(bound, _mm256_xor_si256(load(x + i + kLanes), flip));
        const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0b11011000);
        failed |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(bytes))) << i;
      }
    } else if constexpr (sizeof(raw_t) == 4) {
      const __m256i flip = _mm256_set1_epi32(flip_), bound = _mm256_set1_epi32(bound_);
      for (int i = 0; i < kBlock; i += kLanes) {
        const __m256i fails = _mm256_cmpgt_epi32(bound, _mm256_xor_si256(load(x + i), flip));
        failed |= static_cast<uint64_t>(_mm256_movemask_ps(_mm256_castsi256_ps(fails))) << i;
      }
    } else {
      const __m256i flip = _mm256_set1_epi64x(flip_), bound = _mm256_set1_epi64x(bound_);
      for (int i = 0; i < kBlock; i += kLanes) {
        const __m256i fails = _mm256_cmpgt_epi64(bound, _mm256_xor_si256(load(x + i), flip));
        failed |= static_cast<uint64_t>(_mm256_movemask_pd(_mm256_castsi256_pd(fails))) << i;
      }
    }
    return ~failed;
  }

 private:
  static __m256i load(const void* x) { return _mm256_loadu_si256(static_cast<const __m256i*>(x)); }
};

}  // namespace

void select_rows_avx2(FloatFormat format, const void* scores, const TopkRows& shape, int64_t begin,
                      int64_t end, const TopkWorkspace& workspace, int64_t* top) {
  select_rows<Avx2>(format, scores, shape, begin, end, workspace, top);
}

}  // namespace fastheads
#endif
