// The K best of a row: it is read once for the maxima of sets of its scores, which give a bound,
// and where scores may reach it again. Included by one file an instruction set; everything is local
// to it, so that no function compiled for AVX-512 can be linked into the code that runs everywhere.
#pragma once

#include "topk_candidates.h"

namespace fastheads {
namespace {

// Scores that a row is divided into, to find a lower bound of its k-th best key: the maxima of
// disjoint sets of scores are scores of the row, so their k-th best cannot be above the row's; it
// is near, because few of the k best share one of 3 k sets. In long rows a set is a block of
// neighbours, and those whose maximum is below the bound are not read again; in others it is a lane
// of some vectors.
struct Sets {
  int64_t block;  // of neighbours, a multiple of kBlock; 0: sets are lanes
  int64_t size;   // scores of a lane's set
  int64_t count;  // at least k of blocks; at most the capacity

  Sets(const TopkRows& shape, int64_t lanes) {
    const int64_t labels = shape.labels, k = shape.k;
    const int64_t longest = labels / (4 * k * kBlock);                // of which there are 4 k
    const int64_t shortest = labels / (kBlock * shape.capacity) + 1;  // of which all are kept
    block = longest > 0 ? kBlock * std::max(shortest, std::min<int64_t>(longest, 4)) : 0;
    size = std::max<int64_t>(1, labels / std::max<int64_t>(3 * k, 256));
    count = block > 0 ? labels / block : labels / (size * lanes) * lanes;
  }
};

constexpr int64_t kPage = 4096;  // bytes, where what the processor fetches ahead by itself ends

// Of the bits as signed integers, the largest is the best score if that is at least 0, otherwise
// the smallest is. A set with positive NaN counts for nothing.
template <class Isa, class F>
struct Extremes {
  using raw_t = typename F::raw_t;
  using Raws = Vector<raw_t, Isa::kBytes>;
  typename Raws::Lanes largest, smallest;

  explicit Extremes(const raw_t* x) : largest(Raws::at(x)), smallest(largest) {}
  // x: in a row that is read for the first time
  void add(const raw_t* x) {
    __builtin_prefetch(reinterpret_cast<const char*>(x) + kPage);
    const typename Raws::Lanes bits = Raws::at(x);
    largest = bits > largest ? bits : largest;
    smallest = bits < smallest ? bits : smallest;
  }
  // keys: [kLanes]
  void keys_of_lanes(typename F::key_t* keys) const {
    const typename Raws::Lanes best = largest < 0 ? smallest : largest;
    raw_t bits[Raws::kLanes];
    __builtin_memcpy(bits, &best, sizeof(best));
    for (int64_t lane = 0; lane < Raws::kLanes; ++lane) keys[lane] = F::key(bits[lane]);
  }
  typename F::key_t key_of_all() const {
    const raw_t most = reduce<Isa::kBytes>(largest, [](auto a, auto b) { return a > b ? a : b; });
    if (most >= 0) return F::key(most);
    return F::key(reduce<Isa::kBytes>(smallest, [](auto a, auto b) { return a < b ? a : b; }));
  }

 private:
  // By halves, as long as they are vectors.
  template <int kBytes, class Op>
  static raw_t reduce(typename Vector<raw_t, kBytes>::Lanes x, Op op) {
    if constexpr (kBytes > 16) {
      typename Vector<raw_t, kBytes / 2>::Lanes halves[2];
      __builtin_memcpy(halves, &x, kBytes);
      return reduce<kBytes / 2>(op(halves[0], halves[1]), op);
    } else {
      raw_t found = x[0];
      for (int64_t lane = 1; lane < Vector<raw_t, kBytes>::kLanes; ++lane) {
        found = op(found, raw_t(x[lane]));
      }
      return found;
    }
  }
};

// maxima: [sets.count]
template <class Isa, class F>
void maxima_of(const typename F::raw_t* x, const Sets& sets, typename F::key_t* maxima) {
  constexpr int64_t kLanes = Extremes<Isa, F>::Raws::kLanes;
  if (sets.block > 0) {
    for (int64_t b = 0; b < sets.count; ++b, x += sets.block) {
      Extremes<Isa, F> even(x), odd(x + kLanes);
      for (int64_t i = 0; i < sets.block; i += 2 * kLanes) {
        even.add(x + i);
        odd.add(x + i + kLanes);
      }
      even.largest = odd.largest > even.largest ? odd.largest : even.largest;
      even.smallest = odd.smallest < even.smallest ? odd.smallest : even.smallest;
      maxima[b] = even.key_of_all();
    }
    return;
  }
  for (int64_t s = 0; s < sets.count; s += kLanes) {
    Extremes<Isa, F> of_lanes(x);
    for (int64_t i = 0; i < sets.size; ++i, x += kLanes) of_lanes.add(x);
    of_lanes.keys_of_lanes(maxima + s);
  }
}

constexpr int64_t kMaxRanked = 256;  // where sorting begins to win

// The search of one row, of its parts in ascending order.
template <class Isa, class F>
struct RowSearch {
  using raw_t = typename F::raw_t;
  using key_t = typename F::key_t;
  const raw_t* row;
  int64_t k, capacity;
  Candidates<Isa, F> found;
  key_t low = F::kNan;  // everything passes

  void append_all(int64_t begin, int64_t end) {
    for (int64_t i = 0; i < end - begin; ++i) {
      found.keys[found.size + i] = F::key(row[begin + i]);
      found.labels[found.size + i] = static_cast<uint32_t>(begin + i);
    }
    found.size += end - begin;
  }

  // Blocks of kBlock; false: no later label can be one of the best, since k scores are infinite.
  bool search(int64_t begin, int64_t end) {
    Candidates<Isa, F> kept = found;  // local, so that it stays in registers
    Filter<F> filter(low);
    for (int64_t label = begin; label + kBlock <= end && low <= F::kInf; label += kBlock) {
      for (uint64_t mask = Isa::mask(row + label, filter.flip, filter.bound); mask != 0;
           mask &= mask - 1) {
        const int64_t passed = label + __builtin_ctzll(mask);
        kept.keys[kept.size] = F::key(row[passed]);
        kept.labels[kept.size++] = static_cast<uint32_t>(passed);
      }
      if (kept.size > capacity) filter = Filter<F>(low = kept.shrink(k, k + k / 8));
    }
    found = kept;
    return low <= F::kInf;
  }

  // top: [k]; order: [k]
  void finish(uint32_t* order, int64_t* top) {
    if (k + k / 2 <= kMaxRanked) {
      if (found.size > k + k / 2) found.shrink(k, k + k / 8);
      found.rank(k, top);
    } else {
      found.shrink(k, k);
      found.sort(order, top);
    }
  }
};

constexpr int64_t kAhead = 512;  // bytes of the next row, fetched while a block is read again

template <class Isa, class F>
void select_row(const typename F::raw_t* row, const TopkRows& shape, const Sets& sets,
                const TopkWorkspace& workspace, int64_t* top) {
  using key_t = typename F::key_t;
  const int64_t length = shape.labels, k = shape.k;
  auto* keys = static_cast<key_t*>(workspace.keys);
  RowSearch<Isa, F> r{row, k, shape.capacity, {keys, workspace.labels}};
  int64_t searched = 0;
  bool going = true;
  if (sets.count >= k) {
    int64_t count;
    maxima_of<Isa, F>(row, sets, keys);
    r.low = Candidates<Isa, F>{keys, nullptr, sets.count}.bound(k, k + k / 8, &count);
  } else {
    r.append_all(0, searched = shape.capacity);
  }
  if (sets.block > 0) {
    uint32_t* again = workspace.order;  // blocks
    int64_t count = 0;
    for (int64_t b = 0; b < sets.count; ++b) {
      again[count] = static_cast<uint32_t>(b);
      count += keys[b] >= r.low || keys[b] == F::kNan;  // NaN hides what else is there
    }
    const char* next = reinterpret_cast<const char*>(row + shape.stride);
    for (int64_t i = 0; i < count && going; ++i, next += kAhead) {
      for (int64_t byte = 0; byte < kAhead; byte += 64) __builtin_prefetch(next + byte, 0, 2);
      going = r.search(again[i] * sets.block, (again[i] + 1) * sets.block);
    }
    searched = sets.count * sets.block;
  }
  if (going) going = r.search(searched, length);
  if (going) r.append_all(searched + (length - searched) / kBlock * kBlock, length);
  r.finish(workspace.order, top);
}

template <class Isa, class F>
void select_rows_of(const void* scores, const TopkRows& shape, int64_t begin, int64_t end,
                    const TopkWorkspace& workspace, int64_t* top) {
  using raw_t = typename F::raw_t;
  const auto* rows = static_cast<const raw_t*>(scores);
  const Sets sets(shape, Isa::kBytes / sizeof(raw_t));
  for (int64_t n = begin; n < end; ++n) {
    select_row<Isa, F>(rows + n * shape.stride, shape, sets, workspace, top + n * shape.k);
  }
}

template <class Isa>
void select_rows(FloatFormat format, const void* scores, const TopkRows& shape, int64_t begin,
                 int64_t end, const TopkWorkspace& workspace, int64_t* top) {
  using Float64 = Format<int64_t, 0x7ff0000000000000>;
  using Float32 = Format<int32_t, 0x7f800000>;
  using Float16 = Format<int16_t, 0x7c00>;
  using BFloat16 = Format<int16_t, 0x7f80>;
  const auto select = format == FloatFormat::kFloat64   ? select_rows_of<Isa, Float64>
                      : format == FloatFormat::kFloat32 ? select_rows_of<Isa, Float32>
                      : format == FloatFormat::kFloat16 ? select_rows_of<Isa, Float16>
                                                        : select_rows_of<Isa, BFloat16>;
  select(scores, shape, begin, end, workspace, top);
}

}  // namespace
}  // namespace fastheads
