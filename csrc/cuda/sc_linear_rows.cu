// Launches of sc_linear for few rows.
#include <algorithm>

#include "sc_linear_rows.cuh"

namespace fastheads {
namespace {

// Where every row that the group reads begins at a multiple of 16 bytes.
template <typename scalar_t>
bool is_aligned(const RowsProblem<scalar_t>& problem, const RowsGroup& group) {
  const auto multiple = [](int64_t elements) { return elements % kChunk<scalar_t> == 0; };
  const auto address = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  return address(problem.x) && address(problem.weight) && address(problem.generic) &&
         multiple(problem.x_stride) && multiple(problem.generic_stride) &&
         multiple(problem.generic_size) && multiple(group.inputs) && multiple(group.in) &&
         multiple(group.weight);
}

}  // namespace

template <typename scalar_t>
void launch_rows(RowsProblem<scalar_t>& problem, std::vector<RowsGroup>& groups,
                 cudaStream_t stream) {
  int64_t tiles = 0;
  problem.groups = 0;
  const auto launch = [&] {
    if (tiles == 0) return;
    rows_kernel<<<static_cast<unsigned>(tiles), kRowsThreads, 0, stream>>>(problem);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    tiles = problem.groups = 0;
  };
  for (RowsGroup& group : groups) {
    const int64_t more = ceil_div(group.labels, kLabels) * ceil_div(group.pairs, kRows);
    if (more == 0) continue;
    STD_TORCH_CHECK(more < INT32_MAX, "sc_linear: a group has too many labels and rows for CUDA");
    if (problem.groups == kRowsGroups || tiles + more >= INT32_MAX) launch();
    group.first_tile = static_cast<int>(tiles);
    group.aligned = is_aligned(problem, group);
    problem.group[problem.groups++] = group;
    tiles += more;
  }
  launch();
}

template void launch_rows(RowsProblem<double>&, std::vector<RowsGroup>&, cudaStream_t);
template void launch_rows(RowsProblem<float>&, std::vector<RowsGroup>&, cudaStream_t);
template void launch_rows(RowsProblem<torch::headeronly::Half>&, std::vector<RowsGroup>&,
                          cudaStream_t);
template void launch_rows(RowsProblem<torch::headeronly::BFloat16>&, std::vector<RowsGroup>&,
                          cudaStream_t);

}  // namespace fastheads
