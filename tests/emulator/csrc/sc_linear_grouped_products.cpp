// In place of CUTLASS: the products that a table asks for, one after the other.
#include "sc_linear_grouped.cuh"

namespace fastheads {
namespace {

// [rows, columns] in float, of a matrix that lies as it is or transposed.
template <typename scalar_t>
std::vector<float> matrix(const void* data, int64_t pitch, int rows, int columns, bool transposed) {
  const auto* elements = static_cast<const scalar_t*>(data);
  std::vector<float> values;
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) {
      values.push_back(elements[transposed ? c * pitch + r : r * pitch + c]);
    }
  }
  return values;
}

}  // namespace

template <GroupedPass pass, typename scalar_t>
void run_grouped(const GroupedTable& table, bool add, const Tensor&, cudaStream_t) {
  constexpr bool kSwapped = pass == GroupedPass::kForwardFew;
  constexpr bool kGradWeight = pass == GroupedPass::kGradWeight;
  constexpr bool kBackward = kGradWeight || pass == GroupedPass::kGradX;
  for (int g = 0; g < table.problems; ++g) {
    const auto [m, n, k] = table.sizes[g];
    const auto a = matrix<scalar_t>(table.a[g], table.a_pitch[g], m, k, kGradWeight);
    const auto b = matrix<scalar_t>(table.b[g], table.b_pitch[g], n, k, kBackward);
    const GroupedOutput& output = table.outputs[g];
    const auto* bias = static_cast<const scalar_t*>(output.bias);
    for (int i = 0; i < m; ++i) {
      for (int j = 0; j < n; ++j) {
        const int row = kSwapped ? j : i, column = kSwapped ? i : j;
        scalar_t& d = static_cast<scalar_t*>(output.d)[row * output.pitch + column];
        float sum = 0;
        for (int p = 0; p < k; ++p) sum += a[int64_t(i) * k + p] * b[int64_t(j) * k + p];
        if (bias != nullptr) sum += static_cast<float>(bias[column]);
        if (add) sum += static_cast<float>(d);
        d = static_cast<scalar_t>(sum);
      }
    }
  }
}

#define INSTANTIATE(pass, scalar_t)                                                                \
  template void run_grouped<GroupedPass::pass, scalar_t>(const GroupedTable&, bool, const Tensor&, \
                                                         cudaStream_t);
#define INSTANTIATE_BOTH(pass)               \
  INSTANTIATE(pass, torch::headeronly::Half) \
  INSTANTIATE(pass, torch::headeronly::BFloat16)

INSTANTIATE_BOTH(kForward)
INSTANTIATE_BOTH(kForwardWide)
INSTANTIATE_BOTH(kForwardFew)
INSTANTIATE_BOTH(kGradX)
INSTANTIATE_BOTH(kGradWeight)

}  // namespace fastheads
