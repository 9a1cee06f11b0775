// The native surface of fastheads: every operator under the stem of its files.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastheads, m) {
  // csr_matmul
  m.def("csr_matmul(Tensor crow_indices, Tensor col_indices, Tensor values, Tensor x) -> Tensor");
  // gate
  m.def(
      "gate(Tensor x, Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? bias2, Tensor? noise, "
      "float temperature, bool soft, Tensor? running_mean=None, Tensor? running_var=None, "
      "Tensor? norm_weight=None, Tensor? norm_bias=None, float eps=1e-05) "
      "-> (Tensor z, Tensor probability, Tensor mean)");
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
  // multilabel_margin
  m.def("multilabel_margin(Tensor logits, Tensor indices, Tensor offsets) -> Tensor");
  m.def(
      "multilabel_margin_backward(Tensor grad, Tensor logits, Tensor indices, Tensor offsets) "
      "-> (Tensor loss, Tensor grad_logits)");
  // sc_linear
  m.def(
      "sc_linear(Tensor x, Tensor weight, Tensor? bias, Tensor? generic, int[]? in_offsets, "
      "int[] out_offsets) -> Tensor");
  m.def(
      "sc_linear_(Tensor(a!) y, Tensor x, Tensor weight, Tensor? bias, Tensor? generic, "
      "int[]? in_offsets, int[] out_offsets, bool accumulate=True) -> ()");
  m.def(
      "sc_linear_backward(Tensor grad, Tensor x, Tensor weight, Tensor? generic, "
      "int[]? in_offsets, int[] out_offsets, bool[4] needed) "
      "-> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias, Tensor grad_generic)");
  m.def(
      "sc_linear_conditional(Tensor x, Tensor weight, Tensor? bias, Tensor? rows, Tensor groups, "
      "int[]? in_offsets, int[] out_offsets) -> (Tensor values, Tensor offsets)");
  // sc_sigmoid_loss
  m.def(
      "sc_sigmoid_loss_logits_(Tensor(a!) logits, Tensor indices, Tensor offsets, Tensor? values, "
      "Tensor out_offsets, int labels, Tensor? gamma, Tensor? label_bias, Tensor? label_weights, "
      "bool gamma_per_label, bool normalize, bool with_loss, bool with_grad, float scale, "
      "bool gamma_columns, bool bias_columns) "
      "-> (Tensor sums, Tensor grad_gamma, Tensor grad_label_bias)");
  // squeeze_excite
  m.def(
      "squeeze_excite(Tensor x, Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? bias2, "
      "Tensor? residual, Tensor? scale, Tensor? shift, int inner, int gate, bool relu) "
      "-> (Tensor y, Tensor mean, Tensor s)");
  m.def(
      "squeeze_excite_(Tensor(a!) x, Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? bias2, "
      "Tensor? residual, Tensor? scale, Tensor? shift, int inner, int gate, bool relu, "
      "Tensor? running_mean=None, Tensor? running_var=None, float eps=1e-05) -> ()");
  m.def(
      "squeeze_excite_backward(Tensor grad, Tensor x, Tensor? y, Tensor mean, Tensor s, "
      "Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? bias2, Tensor? scale, "
      "Tensor? shift, bool has_residual, int inner, int gate) "
      "-> (Tensor grad_x, Tensor grad_residual, Tensor grad_weight1, Tensor grad_bias1, "
      "Tensor grad_weight2, Tensor grad_bias2)");
  // topk_confusion
  m.def("topk_indices(Tensor scores, int k) -> Tensor");
  m.def("topk_confusion_(Tensor(a!) counts, Tensor top, Tensor indices, Tensor offsets) -> ()");
  m.def("topk_co_detection_(Tensor(a!) counts, Tensor top) -> ()");
}
