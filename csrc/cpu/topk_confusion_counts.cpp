// The counts of topk_confusion on the CPU. The batch is turned around, so that each row of counts
// is updated once, by one thread, while it lies in the cache.
#include <algorithm>

#include "../inverted_rows.h"
#include "../topk_confusion.h"

namespace fastheads {
namespace {

constexpr int64_t kMaxEntries = int64_t(1) << 23;  // of top at a time: 100 MB of work space
constexpr int64_t kMaxRows = 65535;                // at a time, so that a gain fits 16 bits

void check_labels(const char* op, const char* name, const int64_t* labels, int64_t num_rows,
                  int64_t width, int64_t num_labels) {
  for (int64_t e = 0; e < num_rows * width; ++e) {
    if (labels[e] < 0 || labels[e] >= num_labels) {
      reject_label(op, name, e / width, labels[e], num_labels);
    }
  }
}

void check_annotation(const int64_t* indices, int64_t nonzeros, const int64_t* offsets,
                      int64_t num_rows, int64_t num_labels) {
  if (offsets[0] != 0) reject_offsets(0, offsets[0], offsets[num_rows > 0], nonzeros);
  for (int64_t n = 0; n < num_rows; ++n) {
    if (offsets[n] > offsets[n + 1] || offsets[n + 1] > nonzeros) {
      reject_offsets(n, offsets[n], offsets[n + 1], nonzeros);
    }
    for (int64_t a = offsets[n]; a < offsets[n + 1]; ++a) {
      if (indices[a] < 0 || indices[a] >= num_labels) {
        reject_label("topk_confusion_", "indices", n, indices[a], num_labels);
      }
    }
  }
  if (offsets[num_rows] != nonzeros) reject_offsets(num_rows - 1, 0, offsets[num_rows], nonzeros);
}

// Row i of the upper triangle gains the labels from i on of every row of the batch that holds i.
template <typename count_t>
void add_row(count_t* row, const InvertedRows& rows, int64_t i, int64_t width) {
  for (int64_t e = rows.starts[i]; e < rows.starts[i + 1]; ++e) {
    const int64_t position = rows.entries[e];  // of i in its row of the batch
    const int64_t last = (position / width + 1) * width;
    for (int64_t c = position; c < last; ++c) ++row[rows.columns[c]];
  }
}

// Rows begin to end of counts, [L, L].
template <typename count_t>
void add_rows(count_t* counts, const InvertedRows& rows, int64_t begin, int64_t end,
              const TopkShape& shape) {
  const int64_t labels = shape.labels;
  std::vector<uint16_t> gains(labels, 0);  // 16 bits, so that a row of it fits the cache
  for (int64_t i = begin; i < end; ++i) {
    count_t* row = counts + i * labels;
    const int64_t updates = rows.pairs[i + 1] - rows.pairs[i];
    if (updates < (labels - i) / 16) {  // few cache lines of the row are touched
      add_row(row, rows, i, shape.k);
      continue;
    }
    add_row(gains.data(), rows, i, shape.k);
    for (int64_t j = i; j < labels; ++j) {
      row[j] += gains[j];
      gains[j] = 0;
    }
  }
}

// counts: [L, L]
template <typename count_t>
void co_detection(count_t* counts, const int64_t* top, const TopkShape& shape) {
  if (shape.k == 0) return;
  const int64_t step = std::clamp<int64_t>(kMaxEntries / shape.k, 1, kMaxRows);
  const int64_t parts = torch::stable::get_num_threads();
  InvertedRows rows;
  for (int64_t first = 0; first < shape.rows; first += step) {
    rows.build(top + first * shape.k, std::min(step, shape.rows - first), shape.k, shape.labels);
    torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
      const int64_t first_label = InvertedRows::split(rows.pairs, begin, parts);
      add_rows(counts, rows, first_label, InvertedRows::split(rows.pairs, end, parts), shape);
    });
  }
}

// counts: [L, L]; row n is annotated with indices[offsets[n]:offsets[n + 1]]
// Hardly two updates share a page, so each waits for the address of one, in whatever order, and
// turning the batch around does not pay. Every thread reads all of top and updates its own rows,
// dealt out by a hash, because frequent labels may be neighbours.
template <typename count_t>
void confusion(count_t* counts, const int64_t* top, const int64_t* indices, const int64_t* offsets,
               const TopkShape& shape) {
  const int64_t parts = torch::stable::get_num_threads();
  const auto part_of = [&](int64_t label) {
    const uint32_t hash = static_cast<uint32_t>(label) * 2654435761u;
    return static_cast<int64_t>((uint64_t(hash) * parts) >> 32);
  };
  const auto count_part = [&](int64_t part) {
    std::vector<count_t*> mine(shape.k + 1);
    for (int64_t n = 0; n < shape.rows; ++n) {
      int64_t size = 0;
      for (int64_t c = 0; c < shape.k; ++c) {
        const int64_t label = top[n * shape.k + c];
        mine[size] = counts + label * shape.labels;
        size += part_of(label) == part;
      }
      for (int64_t a = offsets[n]; a < offsets[n + 1]; ++a) {
        for (int64_t c = 0; c < size; ++c) ++mine[c][indices[a]];
      }
    }
  };
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) count_part(part);
  });
}

void topk_co_detection_(Tensor counts, const Tensor& top_) {
  const auto shape = check_topk_co_detection(counts, top_);
  const Tensor top = torch::stable::contiguous(top_);
  const int64_t* top_data = top.const_data_ptr<int64_t>();
  check_labels("topk_co_detection_", "top", top_data, shape.rows, shape.k, shape.labels);
  if (counts.scalar_type() == ScalarType::Int) {
    co_detection(counts.mutable_data_ptr<int32_t>(), top_data, shape);
  } else {
    co_detection(counts.mutable_data_ptr<int64_t>(), top_data, shape);
  }
}

void topk_confusion_(Tensor counts, const Tensor& top_, const Tensor& indices_,
                     const Tensor& offsets_) {
  const auto shape = check_topk_confusion(counts, top_, indices_, offsets_);
  const Tensor top = torch::stable::contiguous(top_);
  const Tensor indices = torch::stable::contiguous(indices_);
  const Tensor offsets = torch::stable::contiguous(offsets_);
  const int64_t* top_data = top.const_data_ptr<int64_t>();
  const int64_t* index_data = indices.const_data_ptr<int64_t>();
  const int64_t* offset_data = offsets.const_data_ptr<int64_t>();
  check_labels("topk_confusion_", "top", top_data, shape.rows, shape.k, shape.labels);
  check_annotation(index_data, indices.numel(), offset_data, shape.rows, shape.labels);
  if (counts.scalar_type() == ScalarType::Int) {
    confusion(counts.mutable_data_ptr<int32_t>(), top_data, index_data, offset_data, shape);
  } else {
    confusion(counts.mutable_data_ptr<int64_t>(), top_data, index_data, offset_data, shape);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastheads, CPU, m) {
  m.impl("topk_confusion_", TORCH_BOX(&topk_confusion_));
  m.impl("topk_co_detection_", TORCH_BOX(&topk_co_detection_));
}

}  // namespace fastheads
