// A batch is turned around; each label's row is counted in one dense row that stays in the cache,
// and read back in order through one bit a label.
#include "pair_counts.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "inverted_rows.h"

namespace fastheads {
namespace {

// Labels of top at a time. With K = 100, at most 53 million pairs or 640 MB, if all are distinct.
constexpr int64_t kMaxEntries = int64_t(1) << 20;

void check_labels(const char* name, const int64_t* labels, int64_t size, int64_t num_labels) {
  for (int64_t e = 0; e < size; ++e) {
    if (labels[e] < 0 || labels[e] >= num_labels) {
      throw std::invalid_argument(std::string(name) + " must hold labels from 0 to " +
                                  std::to_string(num_labels - 1) + ", got " +
                                  std::to_string(labels[e]));
    }
  }
}

// A dense row of counts that is read back in order: a bit a label, and a bit for each 64 of those.
class RowCounter {
 public:
  explicit RowCounter(int64_t num_labels)
      : counts_(num_labels), seen_((num_labels + 63) / 64), seen_words_((seen_.size() + 63) / 64) {}

  void add(int64_t label) {
    ++counts_[label];
    seen_[label / 64] |= uint64_t(1) << label % 64;
    seen_words_[label / 4096] |= uint64_t(1) << label / 64 % 64;
  }

  // Writes the row, starts a new one and returns how many labels it had.
  int64_t flush(int32_t* columns, int64_t* counts) {
    int64_t size = 0;
    for_bits(seen_words_, 0, seen_words_.size(), [&](int64_t word) {
      for_bits(seen_, word, word + 1, [&](int64_t label) {
        columns[size] = static_cast<int32_t>(label);
        counts[size++] = std::exchange(counts_[label], 0);
      });
    });
    return size;
  }

 private:
  // Calls body with the positions of the bits of words begin to end, and clears them.
  template <typename Body>
  static void for_bits(std::vector<uint64_t>& words, int64_t begin, int64_t end, const Body& body) {
    for (int64_t word = begin; word < end; ++word) {
      for (uint64_t bits = std::exchange(words[word], 0); bits != 0; bits &= bits - 1) {
        body(64 * word + __builtin_ctzll(bits));
      }
    }
  }

  std::vector<int32_t> counts_;       // [L]
  std::vector<uint64_t> seen_;        // [L / 64], which counts are not 0
  std::vector<uint64_t> seen_words_;  // [L / 4096], which words of seen are not 0
};

// The run of a batch. weights: [L + 1], starts or pairs of rows; the labels before label i make at
// most weights[i] * scale pairs. add_entry(counter, entry) counts what one of rows.entries adds.
template <typename AddEntry>
CountRun count_rows(const InvertedRows& rows, const std::vector<int64_t>& weights, int64_t scale,
                    int num_threads, const AddEntry& add_entry) {
  const auto num_labels = static_cast<int64_t>(weights.size()) - 1;
  const int64_t most = weights.back() * scale;
  CountRun run;
  run.offsets.assign(num_labels + 1, 0);
  run.columns.resize(most);
  run.counts.resize(most);
  std::vector<int64_t> first(num_threads + 1), sizes(num_threads);
  for (int part = 0; part <= num_threads; ++part) {
    first[part] = InvertedRows::split(weights, part, num_threads);
  }
  const auto count_part = [&](int part) {
    RowCounter counter(num_labels);
    int64_t end = weights[first[part]] * scale;  // where the rows of this part have room
    const int64_t begin = end;
    for (int64_t i = first[part]; i < first[part + 1]; ++i) {
      for (int64_t e = rows.starts[i]; e < rows.starts[i + 1]; ++e) {
        add_entry(counter, rows.entries[e]);
      }
      end += counter.flush(run.columns.data() + end, run.counts.data() + end);
      run.offsets[i + 1] = end - begin;
    }
    sizes[part] = end - begin;
  };
  std::vector<std::jthread> threads;
  for (int part = 1; part < num_threads; ++part) threads.emplace_back(count_part, part);
  count_part(0);
  threads.clear();  // waits
  int64_t size = 0;
  for (int part = 0; part < num_threads; ++part) {  // close up
    const int64_t begin = weights[first[part]] * scale, end = begin + sizes[part];
    std::copy(run.columns.data() + begin, run.columns.data() + end, run.columns.data() + size);
    std::copy(run.counts.data() + begin, run.counts.data() + end, run.counts.data() + size);
    for (int64_t i = first[part]; i < first[part + 1]; ++i) run.offsets[i + 1] += size;
    size += sizes[part];
  }
  run.columns.resize(size);
  run.counts.resize(size);
  if (size < most - most / 8) {
    run.columns.shrink_to_fit();
    run.counts.shrink_to_fit();
  }
  return run;
}

CountRun merge(const CountRun& a, const CountRun& b) {
  CountRun sum;
  const size_t rows = a.offsets.size() - 1;
  sum.offsets.reserve(rows + 1);
  sum.columns.reserve(a.columns.size() + b.columns.size());
  sum.counts.reserve(a.columns.size() + b.columns.size());
  sum.offsets.push_back(0);
  for (size_t i = 0; i < rows; ++i) {
    int64_t p = a.offsets[i], q = b.offsets[i];
    const int64_t p_end = a.offsets[i + 1], q_end = b.offsets[i + 1];
    while (p < p_end || q < q_end) {
      const bool from_a = p < p_end && (q == q_end || a.columns[p] <= b.columns[q]);
      const bool from_b = q < q_end && (p == p_end || b.columns[q] <= a.columns[p]);
      sum.columns.push_back(from_a ? a.columns[p] : b.columns[q]);
      sum.counts.push_back((from_a ? a.counts[p] : 0) + (from_b ? b.counts[q] : 0));
      p += from_a;
      q += from_b;
    }
    sum.offsets.push_back(static_cast<int64_t>(sum.columns.size()));
  }
  return sum;
}

}  // namespace

PairCounts::PairCounts(int64_t num_labels) : num_labels_(num_labels) {
  if (num_labels < 1 || num_labels > (int64_t(1) << 30)) {
    throw std::invalid_argument("num_labels must be between 1 and 2^30, got " +
                                std::to_string(num_labels));
  }
}

void PairCounts::add_co_detection(const int64_t* top, int64_t num_rows, int64_t width,
                                  int num_threads) {
  check_labels("top", top, num_rows * width, num_labels_);
  const int64_t step = std::max<int64_t>(1, kMaxEntries / std::max<int64_t>(1, width));
  InvertedRows rows;
  for (int64_t first = 0; first < num_rows; first += step) {
    rows.build(top + first * width, std::min(step, num_rows - first), width, num_labels_);
    add_run(
        count_rows(rows, rows.pairs, 1, num_threads, [&](RowCounter& counter, int64_t position) {
          const int64_t end = (position / width + 1) * width;
          for (int64_t c = position; c < end; ++c) counter.add(rows.columns[c]);
        }));
  }
}

void PairCounts::add_confusion(const int64_t* top, int64_t num_rows, int64_t width,
                               const int64_t* indices, const int64_t* offsets, int num_threads) {
  check_labels("top", top, num_rows * width, num_labels_);
  check_labels("indices", indices, offsets[num_rows], num_labels_);
  int64_t widest = 0;
  for (int64_t n = 0; n < num_rows; ++n) widest = std::max(widest, offsets[n + 1] - offsets[n]);
  const int64_t step = std::max<int64_t>(1, kMaxEntries / std::max<int64_t>(1, width));
  InvertedRows rows;
  for (int64_t first = 0; first < num_rows; first += step) {
    rows.invert(top + first * width, std::min(step, num_rows - first), width, num_labels_);
    add_run(
        count_rows(rows, rows.starts, widest, num_threads, [&](RowCounter& counter, int64_t row) {
          const int64_t n = first + row;
          for (int64_t a = offsets[n]; a < offsets[n + 1]; ++a) counter.add(indices[a]);
        }));
  }
}

void PairCounts::add_run(CountRun run) {
  while (!runs_.empty() && runs_.back().columns.size() <= 2 * run.columns.size()) {
    run = merge(runs_.back(), run);
    runs_.pop_back();
  }
  runs_.push_back(std::move(run));
}

const CountRun& PairCounts::merged() {
  if (runs_.empty()) {
    runs_.push_back({std::vector<int64_t>(num_labels_ + 1, 0), {}, {}});
  }
  while (runs_.size() > 1) {
    CountRun last = std::move(runs_.back());
    runs_.pop_back();
    runs_.back() = merge(runs_.back(), last);
  }
  return runs_.front();
}

}  // namespace fastheads
