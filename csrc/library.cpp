// The native surface of fastheads: every operator, one line each, under the stem of its files.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastheads, m) {
  // topk_confusion
  m.def("topk_indices(Tensor scores, int k) -> Tensor");
  m.def("topk_confusion_(Tensor(a!) counts, Tensor top, Tensor indices, Tensor offsets) -> ()");
  m.def("topk_co_detection_(Tensor(a!) counts, Tensor top) -> ()");
}
