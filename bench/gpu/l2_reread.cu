// Whether tiles read again `delta` megabytes later still come from the L2 cache, when persistent
// blocks take them in the order of an atomic ticket. Decides how far pooling may run ahead of
// scaling in a squeeze-excitation that reads its input from memory once.
#include "timing.cuh"

constexpr char kHelp[] =
    "usage: l2_reread [--gb G] [--repeats R]\n"
    "Reads G GB in tiles, each again delta MB of first reads later, and prints CSV. write: the "
    "second\n"
    "reading also writes its tile. effective_gbps counts every byte the blocks ask for;\n"
    "once_over_time is 1 where the second reading is free (for write: as fast as one copy).\n";
constexpr int kThreads = 512, kBlocksPerProcessor = 2;

__global__ void fill(uint4* data, size_t vectors, unsigned long long* sum) {
  unsigned long long mine = 0;
  for (size_t v = 1ull * blockIdx.x * kThreads + threadIdx.x; v < vectors;
       v += 1ull * gridDim.x * kThreads) {
    const unsigned long long a = mix(2 * v), b = mix(2 * v + 1);
    data[v] = make_uint4(unsigned(a), unsigned(a >> 32), unsigned(b), unsigned(b >> 32));
    mine += data[v].x;
  }
  atomicAdd(sum, mine);
}

// Tickets 2 s and 2 s + 1: the first reading of tile s, the second of tile s - delta. delta beyond
// the tiles: one reading only. out: null, or where the second reading writes.
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    read_tiles(const uint4* data, uint4* out, int tiles, int tile_vectors, int delta, int* ticket,
               unsigned long long* sum) {
  __shared__ int taken;
  unsigned long long mine = 0;
  const int tickets = 2 * (delta < tiles ? tiles + delta : tiles);
  for (;;) {
    __syncthreads();  // all have read the last ticket
    if (threadIdx.x == 0) taken = atomicAdd(ticket, 1);
    __syncthreads();
    if (taken >= tickets) break;
    const bool again = taken % 2 == 1;
    const int tile = taken / 2 - (again ? delta : 0);
    if (tile < 0 || tile >= tiles) continue;
    const size_t first = 1ull * tile * tile_vectors;
#pragma unroll 8
    for (int v = threadIdx.x; v < tile_vectors; v += kThreads) {
      const uint4 value = __ldcg(data + first + v);  // past the first-level cache
      mine += value.x;
      if (again && out != nullptr) out[first + v] = value;
    }
  }
  atomicAdd(sum, mine);
}

int main(int argc, char** argv) {
  const double gigabytes = option(argc, argv, "--gb", 2, kHelp);
  const int repeats = static_cast<int>(option(argc, argv, "--repeats", 10, kHelp));
  require(gigabytes > 0.1 && gigabytes <= 30 && repeats > 0, kHelp);
  const size_t bytes = static_cast<size_t>(gigabytes * 1024) << 20;
  uint4 *data = nullptr, *out = nullptr;
  unsigned long long *sum = nullptr, filled = 0;
  int* ticket = nullptr;
  CHECK(cudaMalloc(&data, bytes));
  CHECK(cudaMalloc(&out, bytes));
  CHECK(cudaMalloc(&sum, sizeof *sum));
  CHECK(cudaMalloc(&ticket, sizeof *ticket));
  CHECK(cudaMemset(sum, 0, sizeof *sum));
  fill<<<16 * processors(), kThreads>>>(data, bytes / sizeof(uint4), sum);
  CHECK(cudaMemcpy(&filled, sum, sizeof filled, cudaMemcpyDeviceToHost));

  std::printf("write,tile_kb,delta_mb,median_us,effective_gbps,once_over_time\n");
  for (const int tile_kb : {16, 64}) {
    const int tiles = static_cast<int>(bytes / 1024 / tile_kb), per_mb = 1024 / tile_kb;
    const auto time_of = [&](int delta, uint4* where) {
      CHECK(cudaMemset(sum, 0, sizeof *sum));
      const double time = median_us(repeats, [&] {
        CHECK(cudaMemsetAsync(ticket, 0, sizeof *ticket));
        read_tiles<<<kBlocksPerProcessor * processors(), kThreads>>>(
            data, where, tiles, tile_kb * 64, delta, ticket, sum);
      });
      unsigned long long found = 0;
      CHECK(cudaMemcpy(&found, sum, sizeof found, cudaMemcpyDeviceToHost));
      const int readings = delta < tiles ? 2 : 1;
      require(found == readings * (repeats + 1) * filled,
              "a tile was not read as often as it should");
      return time;
    };
    for (uint4* where : {static_cast<uint4*>(nullptr), out}) {
      // Two readings at distance 0 of a copy are one reading of memory as well.
      const double once = time_of(where == nullptr ? tiles : 0, where);
      for (const int mb : {0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64}) {
        const double time = time_of(mb * per_mb, where);
        const double asked = bytes * (where == nullptr ? 2.0 : 3.0);
        std::printf("%d,%d,%d,%.1f,%.0f,%.3f\n", where != nullptr, tile_kb, mb, time,
                    1e-3 * asked / time, once / time);
        std::fflush(stdout);
      }
    }
  }
}
