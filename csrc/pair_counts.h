// Exact counts of label pairs where a dense [L, L] matrix does not fit: sorted runs, merged.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace fastheads {

// Leaves new numbers unwritten: memory that nobody writes to is not taken.
template <typename T>
struct Unwritten : std::allocator<T> {
  template <typename U>
  struct rebind {
    using other = Unwritten<U>;
  };
  template <typename U, typename... Args>
  void construct(U* place, Args&&... args) {
    ::new (place) U(std::forward<Args>(args)...);
  }
  template <typename U>
  void construct(U* place) {
    ::new (place) U;
  }
};

// A sparse matrix of counts by rows; the columns of each row ascend.
struct CountRun {
  std::vector<int64_t> offsets;                      // [L + 1]
  std::vector<int32_t, Unwritten<int32_t>> columns;  // [nonzeros]
  std::vector<int64_t, Unwritten<int64_t>> counts;   // [nonzeros]
};

// Every batch becomes a run; a run is merged with the one before it unless that is more than twice
// as long. The runs together then hold less than twice the pairs of the longest, and a merge as
// many again: at most four times the 12 bytes a pair of the result.
class PairCounts {
 public:
  explicit PairCounts(int64_t num_labels);

  // counts[i, j] += 1 for each row n, i in top[n, :], j in top[n, :] with i <= j. top: [N, K]
  void add_co_detection(const int64_t* top, int64_t num_rows, int64_t width, int num_threads);

  // counts[i, j] += 1 for each row n, i in top[n, :], j in indices[offsets[n]:offsets[n + 1]]
  void add_confusion(const int64_t* top, int64_t num_rows, int64_t width, const int64_t* indices,
                     const int64_t* offsets, int num_threads);

  void add_run(CountRun run);

  // Everything counted so far as one run; valid until the next change.
  const CountRun& merged();

  int64_t num_labels() const { return num_labels_; }

 private:
  int64_t num_labels_;
  std::vector<CountRun> runs_;
};

}  // namespace fastheads
