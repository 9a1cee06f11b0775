// A batch of label lists turned around: for each label, where it occurs. Two counting sorts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fastheads {

// rows: N lists of labels of one width K, in any order.
struct InvertedRows {
  std::vector<int32_t> columns;  // [N, K], each row's labels ascending
  std::vector<int64_t> starts;   // [L + 1], label i occurs at entries[starts[i]:starts[i + 1]]
  std::vector<int32_t> entries;  // [N * K], positions in columns, by label and then by row
  std::vector<int64_t> pairs;    // [L + 1], labels 0 to i - 1 meet pairs[i] labels not below them

  // Fills starts, and entries with the rows, not the positions. N * K must be below 2^31.
  void invert(const int64_t* rows, int64_t num_rows, int64_t width, int64_t num_labels) {
    const int64_t size = num_rows * width;
    entries.resize(size);
    starts.assign(num_labels + 1, 0);
    for (int64_t e = 0; e < size; ++e) ++starts[rows[e] + 1];
    for (int64_t i = 0; i < num_labels; ++i) starts[i + 1] += starts[i];
    next_.assign(starts.begin(), starts.end() - 1);
    for (int64_t n = 0, e = 0; n < num_rows; ++n) {
      for (int64_t c = 0; c < width; ++c, ++e) entries[next_[rows[e]]++] = static_cast<int32_t>(n);
    }
  }

  // Fills everything.
  void build(const int64_t* rows, int64_t num_rows, int64_t width, int64_t num_labels) {
    invert(rows, num_rows, width, num_labels);
    columns.resize(num_rows * width);
    pairs.resize(num_labels + 1);
    pairs[0] = 0;
    // Labels are now visited in ascending order, so every row fills up sorted.
    next_.resize(num_rows);
    for (int64_t n = 0; n < num_rows; ++n) next_[n] = n * width;
    for (int64_t i = 0; i < num_labels; ++i) {
      int64_t met = 0;
      for (int64_t e = starts[i]; e < starts[i + 1]; ++e) {
        const int64_t n = entries[e], position = next_[n]++;
        columns[position] = static_cast<int32_t>(i);
        entries[e] = static_cast<int32_t>(position);
        met += (n + 1) * width - position;
      }
      pairs[i + 1] = pairs[i] + met;
    }
  }

  // The first label of part `part` of `parts` that weigh about the same, where all labels before
  // label i weigh weights[i]: starts or pairs.
  static int64_t split(const std::vector<int64_t>& weights, int64_t part, int64_t parts) {
    const auto labels = static_cast<int64_t>(weights.size()) - 1;
    if (part == parts) return labels;
    const auto weight = static_cast<int64_t>(__int128(weights.back()) * part / parts);
    return std::lower_bound(weights.begin(), weights.end() - 1, weight) - weights.begin();
  }

 private:
  std::vector<int64_t> next_;
};

}  // namespace fastheads
