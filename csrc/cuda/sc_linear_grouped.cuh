// sc_linear's products of all groups in one launch, for float16 and bfloat16 on sm_90 (CUTLASS).
// Sizes and addresses are in a table in device memory, filled from parameters passed by value: no
// copy, no wait, and a launch can be captured.
#pragma once

#include <vector>

#include "common.cuh"

namespace fastheads {

// d [m, n] (+)= a [m, k] b [n, k]^T + bias [n]. Each is given by where it begins, in elements, and
// by the distance of its rows as they lie in memory.
struct GroupedProblem {
  int64_t a, b, d, bias;
  int64_t a_pitch, b_pitch, d_pitch;
  int m, n, k;
};

enum class GroupedPass {
  kForward,      // rows x labels; a and b hold rows of k elements
  kForwardWide,  // the same with larger tiles
  kForwardFew,   // labels x rows, and d [n, m]; bias [m]
  kGradX,        // rows x inputs: b is held as [k, n]
  kGradWeight,   // labels x inputs: a is held as [k, m], b as [k, n]
};

// Columns of a matrix, and where they go in another: a multiple of 8.
struct PaddedColumns {
  int64_t from, to, count;
};

struct GroupedCall {
  GroupedPass pass;
  std::vector<GroupedProblem> problems;
  const Tensor *a, *b, *d;
  const Tensor* bias;  // or null
  bool add;            // to what d holds
};

#ifdef FASTHEADS_CUTLASS
// Whether these kernels run on the device and dtype of x.
bool has_grouped(const Tensor& x);

// False, and nothing launched, where an operand is not aligned: a and b must begin at multiples of
// 16 bytes, and so must their rows. d and bias may lie anywhere. k is at least 1.
bool launch_grouped(const GroupedCall& call);

// Copies columns of 16-bit elements to places that launch_grouped accepts; fills up with zeros.
void copy_columns(const Tensor& from, const std::vector<PaddedColumns>& columns, const Tensor& to);
#else  // the build did not find CUTLASS
inline bool has_grouped(const Tensor&) {
  return false;
}
inline bool launch_grouped(const GroupedCall&) {
  return false;
}
inline void copy_columns(const Tensor&, const std::vector<PaddedColumns>&, const Tensor&) {}
#endif

// The table: a row a problem.
struct GroupedSize {
  int m, n, k;
};
struct GroupedOutput {
  void* d;
  const void* bias;  // or null
  int64_t pitch;
  bool aligned;  // rows of d may be written 16 bytes at a time
};
struct GroupedTable {
  int problems;
  GroupedSize* sizes;
  GroupedOutput* outputs;
  const void **a, **b;
  int64_t *a_pitch, *b_pitch;
};

// One kernel; a file each, since they take long to compile.
template <GroupedPass pass, typename scalar_t>
void run_grouped(const GroupedTable& table, bool add, const Tensor& like, cudaStream_t stream);

}  // namespace fastheads
