// fastheads._C: what is not a tensor operator. Build facts and host-side containers.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>
#include <vector>

#include "pair_counts.h"

namespace py = pybind11;

namespace fastheads {
namespace {

using Int64Array = py::array_t<int64_t, py::array::c_style>;
using Int32Array = py::array_t<int32_t, py::array::c_style>;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// offsets: [rows + 1], ascending from 0 to nonzeros
void check_offsets(const Int64Array& offsets, int64_t rows, int64_t nonzeros) {
  require(offsets.ndim() == 1 && offsets.size() == rows + 1,
          "offsets must have one entry more than there are rows");
  const int64_t* o = offsets.data();
  require(o[0] == 0 && std::is_sorted(o, o + rows + 1) && o[rows] == nonzeros,
          "offsets must ascend from 0 to the number of indices");
}

void add_co_detection(PairCounts& self, const Int64Array& top, int num_threads) {
  require(top.ndim() == 2, "top must be [N, K]");
  const int64_t* data = top.data();
  const int64_t rows = top.shape(0), width = top.shape(1);
  const py::gil_scoped_release release;
  self.add_co_detection(data, rows, width, std::max(1, num_threads));
}

void add_confusion(PairCounts& self, const Int64Array& top, const Int64Array& indices,
                   const Int64Array& offsets, int num_threads) {
  require(top.ndim() == 2, "top must be [N, K]");
  check_offsets(offsets, top.shape(0), indices.size());
  const int64_t *data = top.data(), *index_data = indices.data(), *offset_data = offsets.data();
  const int64_t rows = top.shape(0), width = top.shape(1);
  const py::gil_scoped_release release;
  self.add_confusion(data, rows, width, index_data, offset_data, std::max(1, num_threads));
}

void add_run(PairCounts& self, const Int64Array& offsets, const Int32Array& columns,
             const Int64Array& counts) {
  require(columns.size() == counts.size(), "columns and counts must be of one length");
  check_offsets(offsets, self.num_labels(), columns.size());
  const int32_t* c = columns.data();
  for (int64_t i = 0; i < self.num_labels(); ++i) {
    for (int64_t p = offsets.at(i); p < offsets.at(i + 1); ++p) {
      require(c[p] >= 0 && c[p] < self.num_labels() && (p == offsets.at(i) || c[p - 1] < c[p]),
              "columns must be labels that ascend within each row");
    }
  }
  self.add_run({{offsets.data(), offsets.data() + offsets.size()},
                {c, c + columns.size()},
                {counts.data(), counts.data() + counts.size()}});
}

template <typename Numbers>
auto to_numpy(const Numbers& values) {
  const auto size = static_cast<py::ssize_t>(values.size());
  return py::array_t<typename Numbers::value_type>(size, values.data());
}

py::tuple merged(PairCounts& self) {
  const CountRun* run;
  {
    const py::gil_scoped_release release;
    run = &self.merged();
  }
  return py::make_tuple(to_numpy(run->offsets), to_numpy(run->columns), to_numpy(run->counts));
}

}  // namespace
}  // namespace fastheads

PYBIND11_MODULE(_C, m) {
  using fastheads::PairCounts;
  m.doc() = "Build facts and host-side containers of fastheads.";
  m.attr("with_cuda") = static_cast<bool>(FASTHEADS_WITH_CUDA);
  py::class_<PairCounts>(m, "PairCounts", "Exact sparse counts of label pairs, int64.")
      .def(py::init<int64_t>(), py::arg("num_labels"))
      .def("add_co_detection", &fastheads::add_co_detection, py::arg("top"),
           py::arg("num_threads") = 1, "Counts every pair i <= j of each row of top [N, K].")
      .def("add_confusion", &fastheads::add_confusion, py::arg("top"), py::arg("indices"),
           py::arg("offsets"), py::arg("num_threads") = 1,
           "Counts (i in top [N, K], j in the row's part of indices) for each row.")
      .def("add_run", &fastheads::add_run, py::arg("offsets"), py::arg("columns"),
           py::arg("counts"), "Adds a sparse matrix of counts by rows.")
      .def("merged", &fastheads::merged,
           "Everything counted so far by rows: offsets [L + 1], columns and counts [nonzeros].");
}
