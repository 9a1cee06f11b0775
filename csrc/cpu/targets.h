// Sparse targets as losses read them: distinct labels, ascending within each row.
#pragma once

#include "../common.h"

namespace fastheads {

// indices: [nonzeros], labels from 0 to labels - 1; offsets: [rows + 1]
inline void check_targets(const char* op, int64_t rows, int64_t labels, const int64_t* indices,
                          int64_t nonzeros, const int64_t* offsets) {
  for (int64_t row = 0; row < rows; ++row) {
    STD_TORCH_CHECK(
        0 <= offsets[row] && offsets[row] <= offsets[row + 1] && offsets[row + 1] <= nonzeros, op,
        ": offsets of targets must ascend from 0 to the ", nonzeros, " entries of indices, got ",
        offsets[row], " to ", offsets[row + 1], " for row ", row);
    int64_t last = -1;
    for (int64_t e = offsets[row]; e < offsets[row + 1]; last = indices[e++]) {
      STD_TORCH_CHECK(indices[e] >= 0 && indices[e] < labels, op,
                      ": targets must hold labels from 0 to ", labels - 1, ", got ", indices[e],
                      " at ", e, " in row ", row);
      STD_TORCH_CHECK(indices[e] > last, op,
                      ": targets must be distinct and ascend within a row, got ", indices[e],
                      " after ", last, " at ", e, " in row ", row);
    }
  }
}

}  // namespace fastheads
