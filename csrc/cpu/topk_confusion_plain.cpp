// The top-K selection for any processor: a block is first asked whether anything passes at all.
#include "topk_select.h"

namespace fastheads {
namespace {

struct Plain {
  static constexpr int kBytes = 16;

  template <typename raw_t>
  static uint64_t mask(const raw_t* x, raw_t flip, raw_t bound) {
    raw_t any = 0;
    for (int64_t i = 0; i < kBlock; ++i) {
      any |= static_cast<raw_t>((x[i] ^ flip) >= bound);
    }
    if (!any) return 0;
    uint64_t mask = 0;
    for (int64_t i = 0; i < kBlock; ++i) {
      mask |= static_cast<uint64_t>((x[i] ^ flip) >= bound) << i;
    }
    return mask;
  }
};

}  // namespace

void select_rows_plain(FloatFormat format, const void* scores, const TopkRows& shape, int64_t begin,
                       int64_t end, const TopkWorkspace& workspace, int64_t* top) {
  select_rows<Plain>(format, scores, shape, begin, end, workspace, top);
}

}  // namespace fastheads
