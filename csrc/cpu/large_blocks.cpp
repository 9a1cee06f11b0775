#include "large_blocks.h"

#include <mutex>
#include <unordered_map>
#include <vector>

#include "allocate.h"

namespace fastheads {
namespace {

// The blocks are tensors of bytes, so that PyTorch's allocator (and who replaces or watches it)
// serves them as it serves all others.
class LargeBlocks {
 public:
  void* take(int64_t bytes) {
    if (void* found = take_idle(bytes)) return found;
    release();
    const int64_t stride = 1;
    Tensor block = fresh(1, &bytes, &stride, aoti_torch_dtype_uint8(), bytes);
    void* data = block.mutable_data_ptr();
    const std::lock_guard lock(mutex_);
    used_.emplace(data, std::move(block));
    return data;
  }

  void give_back(void* data) {
    const std::lock_guard lock(mutex_);
    idle_.insert(used_.extract(data));
  }

  void release() {
    Blocks released;  // to the system when the lock is open again
    const std::lock_guard lock(mutex_);
    released.swap(idle_);
  }

 private:
  using Blocks = std::unordered_map<void*, Tensor>;

  // The smallest that suffices and is not more than twice what is needed.
  void* take_idle(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    auto best = idle_.end();
    for (auto block = idle_.begin(); block != idle_.end(); ++block) {
      const int64_t size = block->second.numel();
      if (size < bytes || size / 2 > bytes) continue;
      if (best == idle_.end() || size < best->second.numel()) best = block;
    }
    if (best == idle_.end()) return nullptr;
    return used_.insert(idle_.extract(best)).position->first;
  }

  std::mutex mutex_;
  Blocks used_, idle_;
};

LargeBlocks& large_blocks() {
  static auto& blocks = *new LargeBlocks;  // never destroyed: tensors may be freed at exit
  return blocks;
}

Tensor new_empty(const Tensor& like, const std::vector<int64_t>& size) {
  std::vector<int64_t> strides(size.size());
  int64_t stride = 1;
  for (size_t d = size.size(); d-- > 0; stride *= size[d] > 0 ? size[d] : 1) strides[d] = stride;
  return empty_strided(static_cast<int64_t>(size.size()), size.data(), strides.data(),
                       like.scalar_type());
}

void empty_cache() {
  large_blocks().release();
}

}  // namespace

Tensor large_empty(int64_t dims, const int64_t* sizes, const int64_t* strides, ScalarType dtype,
                   int64_t bytes) {
  void* data = large_blocks().take(bytes);
  return torch::stable::from_blob(data, {sizes, static_cast<size_t>(dims)},
                                  {strides, static_cast<size_t>(dims)},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), dtype,
                                  [](void* freed) { large_blocks().give_back(freed); });
}

}  // namespace fastheads

// For fastheads/memory.py; no operators of a graph.
STABLE_TORCH_LIBRARY_FRAGMENT(fastheads, m) {
  m.def("_new_empty(Tensor like, int[] size) -> Tensor");
  m.def("_empty_cache() -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(fastheads, CPU, m) {
  m.impl("_new_empty", TORCH_BOX(&fastheads::new_empty));
}

STABLE_TORCH_LIBRARY_IMPL(fastheads, CompositeExplicitAutograd, m) {
  m.impl("_empty_cache", TORCH_BOX(&fastheads::empty_cache));
}
