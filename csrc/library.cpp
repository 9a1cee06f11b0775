// The native surface of fastheads: every operator under the stem of its files.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastheads, m) {
  // csr_matmul
  m.def("csr_matmul(Tensor crow_indices, Tensor col_indices, Tensor values, Tensor x) -> Tensor");
  // gate
  m.def(
      "gate(Tensor x, Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? bias2, Tensor? noise, "
      "float temperature, bool soft) -> (Tensor z, Tensor probability, Tensor mean)");
  m.def("active_samples(Tensor z) -> (Tensor active, Tensor count)");
  // gated_residual
  m.def("gated_residual(Tensor x, Tensor f, Tensor z, bool relu) -> Tensor");
  m.def("gated_residual_(Tensor(a!) x, Tensor f, Tensor z, bool relu) -> ()");
  m.def(
      "gated_residual_backward(Tensor grad, Tensor? y, Tensor? f, Tensor z) -> "
      "(Tensor grad_x, Tensor grad_f, Tensor grad_z)");
  m.def(
      "gated_residual_scatter_(Tensor(a!) x, Tensor f, Tensor active, Tensor? count, "
      "Tensor(b!)? mean, bool relu) -> ()");
  // squeeze_excite
  m.def(
      "squeeze_excite(Tensor x, Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? bias2, "
      "Tensor? residual, Tensor? scale, Tensor? shift, int inner, int gate, bool relu) "
      "-> (Tensor y, Tensor mean, Tensor s)");
  m.def(
      "squeeze_excite_(Tensor(a!) x, Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? bias2, "
      "Tensor? residual, Tensor? scale, Tensor? shift, int inner, int gate, bool relu) -> ()");
  m.def(
      "squeeze_excite_backward(Tensor grad, Tensor x, Tensor? y, Tensor mean, Tensor s, "
      "Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? scale, Tensor? shift, "
      "bool has_residual, int inner, int gate) "
      "-> (Tensor grad_x, Tensor grad_residual, Tensor hidden, Tensor grad_hidden, "
      "Tensor grad_logit)");
  // topk_confusion
  m.def("topk_indices(Tensor scores, int k) -> Tensor");
  m.def("topk_confusion_(Tensor(a!) counts, Tensor top, Tensor indices, Tensor offsets) -> ()");
  m.def("topk_co_detection_(Tensor(a!) counts, Tensor top) -> ()");
}
