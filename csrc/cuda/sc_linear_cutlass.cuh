// Many products in one launch on sm_90a: CUTLASS's pointer-array kernel, with an epilogue of our
// own that adds a bias and writes rows at any address. Included by one small file a kernel, because
// each takes half a minute and gigabytes to compile.
#pragma once

#include <cutlass/cutlass.h>

#include <cutlass/gemm/dispatch_policy.hpp>

// Of the builders and kernels only those used: including them all doubles the time.
#include <cutlass/device_kernel.h>
#include <cutlass/gemm/kernel/gemm_universal_decl.h>

#include <cutlass/epilogue/collective/detail.hpp>
#include <cutlass/epilogue/dispatch_policy.hpp>
#include <cutlass/gemm/collective/builders/sm90_gmma_builder.inl>
#include <cutlass/gemm/collective/collective_builder_decl.hpp>
#include <cutlass/gemm/collective/collective_mma_decl.hpp>
#include <cutlass/gemm/collective/sm90_mma_array_tma_gmma_ss_warpspecialized.hpp>
#include <cutlass/gemm/group_array_problem_shape.hpp>
#include <cutlass/gemm/kernel/sm90_gemm_array_tma_warpspecialized_cooperative.hpp>
#include <cutlass/gemm/kernel/sm90_gemm_array_tma_warpspecialized_pingpong.hpp>
#include <cutlass/gemm/kernel/tile_scheduler.hpp>

#include "sc_linear_grouped.cuh"

namespace fastheads {
namespace {

// Accumulators to memory through shared memory: a warp hands 16 x 32 sums at a time around, so that
// it writes whole stretches of rows. If swapped, the rows of the product are columns of D.
template <typename Element_, bool swapped>
struct StagedStore {
  using ElementAccumulator = float;
  using ElementC = Element_;
  using ElementD = Element_;
  using StrideC = cute::Stride<int64_t, cute::_1, cute::_0>*;
  using StrideD = StrideC;
  using InternalStrideC = cute::remove_pointer_t<StrideC>;
  using InternalStrideD = InternalStrideC;
  using DispatchPolicy = cutlass::epilogue::PtrArrayNoSmemWarpSpecialized;
  struct SharedStorage {};  // of the base: for tensor maps, of which there are none

  static constexpr int kRows = swapped ? 32 : 16, kColumns = 512 / kRows;
  static constexpr int kPitch = kColumns + (swapped ? 4 : 8);  // no bank conflicts on the way in
  static constexpr int kWarps = 8;                             // of both consumer warp groups

  struct Params {
    const GroupedOutput* outputs;  // [problems]
    bool add;                      // to what D holds
  };
  using Arguments = Params;
  Params params;

  CUTLASS_HOST_DEVICE explicit StagedStore(const Params& params_) : params(params_) {}

  template <class Shape>
  static Params to_underlying_arguments(const Shape&, const Arguments& arguments, void*) {
    return arguments;
  }
  template <class Shape>
  static size_t get_workspace_size(const Shape&, const Arguments&, int) {
    return 0;
  }

  // Writes [rows, columns] of the staged sums, V columns of a row at a time.
  template <int V>
  CUTLASS_DEVICE void write(const float* staged, Element_* d, const Element_* bias, int64_t pitch,
                            int rows, int columns, int lane) const {
    constexpr int kLanes = kColumns / V;  // of a row
    const int column = lane % kLanes * V;
    if (column >= columns) return;
    float biases[V] = {};
    if (bias != nullptr) {
      CUTLASS_PRAGMA_UNROLL
      for (int e = 0; e < V; ++e) {
        if (column + e < columns) biases[e] = static_cast<float>(bias[column + e]);
      }
    }
    CUTLASS_PRAGMA_UNROLL
    for (int r = 0; r < kRows; r += 32 / kLanes) {
      const int row = r + lane / kLanes;
      if (row >= rows) continue;
      Element_* to = d + row * pitch + column;
      float values[V];
      CUTLASS_PRAGMA_UNROLL
      for (int e = 0; e < V; ++e) values[e] = staged[row * kPitch + column + e] + biases[e];
      if (column + V <= columns) {
        float held[V] = {};
        if (params.add) Packed<Element_, V>::load(to).unpack(held);
        CUTLASS_PRAGMA_UNROLL
        for (int e = 0; e < V; ++e) values[e] += held[e];
        Packed<Element_, V>::pack(values).store(to);
      } else {
        CUTLASS_PRAGMA_UNROLL
        for (int e = 0; e < V; ++e) {
          if (column + e >= columns) continue;
          if (params.add) values[e] += static_cast<float>(to[e]);
          to[e] = static_cast<Element_>(values[e]);
        }
      }
    }
  }

  template <class Problem, class Tile, class Coordinates, class Accumulators, class TiledMma>
  CUTLASS_DEVICE void write_tile(const Problem& problem, Tile tile, const Coordinates& coordinates,
                                 const Accumulators& accumulators, TiledMma tiled_mma, int thread,
                                 float* staged) const {
    using namespace cute;
    const int lane = thread % 32;
    const auto [m_tile, n_tile, k_tile, group] = coordinates;
    const GroupedOutput output = params.outputs[group];
    const int m_left = get<0>(problem) - m_tile * get<0>(tile);
    const int n_left = get<1>(problem) - n_tile * get<1>(tile);
    // Where this thread's sums lie in the tile: a warp has 16 rows, a lane of them l / 4 and + 8,
    // of every 8 columns 2 (l % 4) and + 1.
    const auto where =
        tiled_mma.get_thread_slice(thread).partition_C(make_identity_tensor(take<0, 2>(tile)));
    constexpr int kEights = decltype(size<0, 2>(accumulators))::value;
    static_assert(decltype(size(accumulators))::value ==
                  4 * kEights * decltype(size<1>(accumulators))::value);

    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < size<1>(accumulators); ++i) {
      const int m = get<0>(where(make_coord(make_coord(0, 0, 0), i, 0))) - lane / 4;
      CUTLASS_PRAGMA_UNROLL
      for (int first = 0; first < kEights; first += 4) {
        __syncwarp();  // the sums before these are written
        CUTLASS_PRAGMA_UNROLL
        for (int j = first; j < first + 4 && j < kEights; ++j) {
          CUTLASS_PRAGMA_UNROLL
          for (int h = 0; h < 2; ++h) {
            CUTLASS_PRAGMA_UNROLL
            for (int e = 0; e < 2; ++e) {
              const int row = lane / 4 + 8 * h, column = 8 * (j - first) + lane % 4 * 2 + e;
              staged[swapped ? column * kPitch + row : row * kPitch + column] =
                  accumulators(make_coord(make_coord(e, h, j), i, 0));
            }
          }
        }
        __syncwarp();
        const int n = 8 * first;
        const int64_t row = swapped ? n_tile * get<1>(tile) + n : m_tile * get<0>(tile) + m;
        const int64_t column = swapped ? m_tile * get<0>(tile) + m : n_tile * get<1>(tile) + n;
        const int rows = swapped ? n_left - n : m_left - m;
        const int columns = swapped ? m_left - m : n_left - n;
        auto* d = static_cast<Element_*>(output.d) + row * output.pitch + column;
        const auto* bias = static_cast<const Element_*>(output.bias);
        if (bias != nullptr) bias += column;
        if (output.aligned) {
          write<8>(staged, d, bias, output.pitch, rows, columns, lane);
        } else {
          write<1>(staged, d, bias, output.pitch, rows, columns, lane);
        }
      }
    }
  }
};

// What the kernel asks of an epilogue, around StagedStore.
template <typename Element, bool swapped>
struct StagedEpilogue : cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<
                            StagedStore<Element, swapped>> {
  using Store = StagedStore<Element, swapped>;
  using Base = cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<Store>;
  struct TensorStorage {
    float sums[Store::kWarps][Store::kRows * Store::kPitch];
  };

  CUTLASS_DEVICE StagedEpilogue(const typename Store::Params& params, TensorStorage&)
      : Base(params) {}

  template <class Pipeline, class State, class... Rest>
  CUTLASS_DEVICE auto load(Pipeline, State state, Rest&&...) {
    return state;
  }

  template <class Load, class LoadState, class Stores, class StoreState, class Problem, class Tile,
            class Coordinates, class Accumulators, class TiledMma, class TensorMap>
  CUTLASS_DEVICE auto store(Load, LoadState load_state, Stores, StoreState store_state,
                            Problem problem, Tile tile, Coordinates coordinates,
                            Accumulators accumulators, TiledMma tiled_mma, int thread,
                            TensorStorage& storage, const TensorMap&, int) {
    // Warp group 0 loads; each warp of the others has its own place.
    float* staged = storage.sums[threadIdx.x / 32 - 4];
    this->write_tile(problem, tile, coordinates, accumulators, tiled_mma, thread, staged);
    return cute::make_tuple(load_state, store_state);
  }
};

template <class Element, class Tile, class Schedule, class LayoutA, class LayoutB, bool swapped>
struct GroupedKernel {
  using Epilogue = StagedEpilogue<Element, swapped>;
  using Cluster = cute::Shape<cute::_1, cute::_1, cute::_1>;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, LayoutA*, 8, Element, LayoutB*,
      8, float, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
          sizeof(typename Epilogue::TensorStorage))>,
      Schedule>::CollectiveOp;
  using ProblemShape = cutlass::gemm::GroupProblemShape<cute::Shape<int, int, int>>;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<ProblemShape, Mainloop, Epilogue>;
  using StrideA = typename Kernel::InternalStrideA;
  using StrideB = typename Kernel::InternalStrideB;
  static_assert(sizeof(typename ProblemShape::UnderlyingProblemShape) == sizeof(GroupedSize));
  static_assert(sizeof(StrideA) == sizeof(int64_t) && sizeof(StrideB) == sizeof(int64_t));

  static void run(const GroupedTable& table, bool add, const Tensor& like, cudaStream_t stream) {
    cutlass::KernelHardwareInfo hardware;
    hardware.device_id = like.get_device_index();
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&hardware.sm_count, cudaDevAttrMultiProcessorCount,
                                          hardware.device_id));
    auto* sizes = reinterpret_cast<typename ProblemShape::UnderlyingProblemShape*>(table.sizes);
    typename Kernel::Arguments arguments{
        cutlass::gemm::GemmUniversalMode::kGrouped,
        {table.problems, sizes, nullptr},
        {reinterpret_cast<const Element**>(table.a), reinterpret_cast<StrideA*>(table.a_pitch),
         reinterpret_cast<const Element**>(table.b), reinterpret_cast<StrideB*>(table.b_pitch)},
        {table.outputs, add},
        hardware};
    Tensor workspace = torch::stable::new_empty(
        like, {static_cast<int64_t>(Kernel::get_workspace_size(arguments)) + 128},
        ScalarType::Byte);
    auto address = reinterpret_cast<uintptr_t>(workspace.mutable_data_ptr());
    const auto params = Kernel::to_underlying_arguments(
        arguments, reinterpret_cast<void*>((address + 127) / 128 * 128));
    auto* kernel = cutlass::device_kernel<Kernel>;
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        Kernel::SharedStorageSize));
    kernel<<<Kernel::get_grid_shape(params), Kernel::get_block_shape(), Kernel::SharedStorageSize,
             stream>>>(params);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

// Tiles, layouts and schedule of a pass. At K = 512 a pingpong kernel hides one tile's writing
// behind the next tile's products; the larger tiles read less where there are many of them.
template <GroupedPass pass>
struct PassTraits {
  static constexpr bool kSwapped = pass == GroupedPass::kForwardFew;
  static constexpr bool kWide = pass != GroupedPass::kForward && !kSwapped;
  static constexpr bool kBackward = pass == GroupedPass::kGradX || pass == GroupedPass::kGradWeight;
  using Columns =
      std::conditional_t<kWide, cute::_256, std::conditional_t<kSwapped, cute::_64, cute::_128>>;
  using Tile = cute::Shape<cute::_128, Columns, cute::_64>;
  using Schedule =
      std::conditional_t<kWide, cutlass::gemm::KernelPtrArrayTmaWarpSpecializedCooperative,
                         cutlass::gemm::KernelPtrArrayTmaWarpSpecializedPingpong>;
  using LayoutA = std::conditional_t<pass == GroupedPass::kGradWeight, cutlass::layout::ColumnMajor,
                                     cutlass::layout::RowMajor>;
  using LayoutB =
      std::conditional_t<kBackward, cutlass::layout::RowMajor, cutlass::layout::ColumnMajor>;
};

}  // namespace

template <GroupedPass pass, typename scalar_t>
void run_grouped(const GroupedTable& table, bool add, const Tensor& like, cudaStream_t stream) {
  using Traits = PassTraits<pass>;
  using Element = std::conditional_t<std::is_same_v<scalar_t, torch::headeronly::Half>,
                                     cutlass::half_t, cutlass::bfloat16_t>;
  GroupedKernel<Element, typename Traits::Tile, typename Traits::Schedule, typename Traits::LayoutA,
                typename Traits::LayoutB, Traits::kSwapped>::run(table, add, like, stream);
}

}  // namespace fastheads

// Both dtypes of a pass.
#define FASTHEADS_GROUPED_KERNELS(pass)                                                            \
  namespace fastheads {                                                                            \
  template void run_grouped<GroupedPass::pass, torch::headeronly::Half>(const GroupedTable&, bool, \
                                                                        const Tensor&,             \
                                                                        cudaStream_t);             \
  template void run_grouped<GroupedPass::pass, torch::headeronly::BFloat16>(const GroupedTable&,   \
                                                                            bool, const Tensor&,   \
                                                                            cudaStream_t);         \
  }
