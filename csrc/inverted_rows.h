// A batch of label lists turned around: for each label, where it occurs. Two counting sorts.
#pragma once

#include <cstdint>
#include <vector>

namespace fastheads {

// rows: N lists of labels of one width K, in any order.
struct InvertedRows {
  std::vector<int32_t> columns;  // [N, K], each row's labels ascending
  std::vector<int64_t> starts;   // [L + 1], label i occurs at entries[starts[i]:starts[i + 1]]
  std::vector<int32_t> entries;  // [N * K], positions in columns, by label and then by row

  // label_t may be int64 (tensors) or int32 (buffers). N * K must be below 2^31.
  template <typename label_t>
  void build(const label_t* rows, int64_t num_rows, int64_t width, int64_t num_labels) {
    const int64_t size = num_rows * width;
    columns.resize(size);
    entries.resize(size);
    starts.assign(num_labels + 1, 0);
    for (int64_t e = 0; e < size; ++e) ++starts[rows[e] + 1];
    for (int64_t i = 0; i < num_labels; ++i) starts[i + 1] += starts[i];
    next_.assign(starts.begin(), starts.end() - 1);
    for (int64_t n = 0, e = 0; n < num_rows; ++n) {
      for (int64_t c = 0; c < width; ++c, ++e) entries[next_[rows[e]]++] = static_cast<int32_t>(n);
    }
    // Labels are now visited in ascending order, so every row fills up sorted.
    next_.resize(num_rows);
    for (int64_t n = 0; n < num_rows; ++n) next_[n] = n * width;
    for (int64_t i = 0; i < num_labels; ++i) {
      for (int64_t e = starts[i]; e < starts[i + 1]; ++e) {
        const int64_t position = next_[entries[e]]++;
        columns[position] = static_cast<int32_t>(i);
        entries[e] = static_cast<int32_t>(position);
      }
    }
  }

  // The first label of part `part` of `parts` that hold about equally many entries.
  int64_t split(int64_t part, int64_t parts) const {
    if (part == parts) return static_cast<int64_t>(starts.size()) - 1;
    const int64_t entry = static_cast<int64_t>(entries.size()) * part / parts;
    int64_t low = 0, high = static_cast<int64_t>(starts.size()) - 1;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (starts[middle] < entry) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

 private:
  std::vector<int64_t> next_;
};

}  // namespace fastheads
