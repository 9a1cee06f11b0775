// How many int32 atomic adds a second a table of counts takes, by its size and the pattern of
// cells. Decides from how many labels on co-detections are counted one by one rather than as a
// product.
#include "timing.cuh"

constexpr char kHelp[] =
    "usage: atomic_add_rate [--rows N] [--k K] [--max-gb G] [--repeats R]\n"
    "Adds N K (K + 1) / 2 ones to [L, L] int32 tables of up to G GB and prints CSV:\n"
    "  random: anywhere; upper: all pairs i <= j of K uniform labels of each of N rows;\n"
    "  skewed: the same with label ranks r at frequencies 1 / sqrt(r)\n";
constexpr int kThreads = 256;

__global__ void add_random(int* table, unsigned long long cells, unsigned long long updates,
                           unsigned long long seed) {
  const unsigned long long step = 1ull * gridDim.x * kThreads;
  for (unsigned long long e = 1ull * blockIdx.x * kThreads + threadIdx.x; e < updates; e += step) {
    atomicAdd(table + mix(seed + e) % cells, 1);
  }
}

// top: [rows, k] labels, ascending in each row
__global__ void add_upper(int* table, const int* top, int rows, int k, long long labels) {
  for (int n = blockIdx.x; n < rows; n += gridDim.x) {
    const int* row = top + 1ll * n * k;
    for (int a = threadIdx.x / 32; a < k; a += kThreads / 32) {
      for (int b = a + threadIdx.x % 32; b < k; b += 32)
        atomicAdd(table + row[a] * labels + row[b], 1);
    }
  }
}

__global__ void add_up(const int* table, unsigned long long cells, unsigned long long* sum) {
  const unsigned long long step = 1ull * gridDim.x * kThreads;
  unsigned long long mine = 0;
  for (unsigned long long e = 1ull * blockIdx.x * kThreads + threadIdx.x; e < cells; e += step) {
    mine += table[e];
  }
  atomicAdd(sum, mine);
}

std::vector<int> labels_of_rows(int rows, int k, long long labels, bool skewed) {
  std::vector<int> top(1ll * rows * k);
  for (size_t e = 0; e < top.size(); ++e) {
    const double u = (mix(e) >> 11) * 0x1p-53;
    const auto rank = static_cast<unsigned long long>(labels * (skewed ? u * u : u));
    top[e] = static_cast<int>(skewed ? mix(rank) % labels : rank);  // ranks lie anywhere
  }
  for (int n = 0; n < rows; ++n) std::sort(top.begin() + 1ll * n * k, top.begin() + (n + 1ll) * k);
  return top;
}

int main(int argc, char** argv) {
  const int rows = static_cast<int>(option(argc, argv, "--rows", 4096, kHelp));
  const int k = static_cast<int>(option(argc, argv, "--k", 100, kHelp));
  const double max_bytes = 1e9 * option(argc, argv, "--max-gb", 41, kHelp);
  const int repeats = static_cast<int>(option(argc, argv, "--repeats", 10, kHelp));
  require(rows > 0 && k > 0 && repeats > 0, kHelp);
  const unsigned long long updates = 1ull * rows * k * (k + 1) / 2;
  int* top = nullptr;
  unsigned long long* sum = nullptr;
  CHECK(cudaMalloc(&top, sizeof(int) * rows * k));
  CHECK(cudaMalloc(&sum, sizeof *sum));

  std::printf("pattern,labels,table_mb,updates,median_us,updates_per_us\n");
  for (const long long labels : {1000, 3000, 5000, 10000, 20000, 50000, 100000}) {
    const unsigned long long cells = 1ull * labels * labels;
    size_t free = 0, total = 0;
    CHECK(cudaMemGetInfo(&free, &total));
    if (4.0 * cells > std::min(max_bytes, 0.95 * free)) break;
    int* table = nullptr;
    CHECK(cudaMalloc(&table, 4 * cells));
    for (const char* pattern : {"random", "upper", "skewed"}) {
      const auto host = labels_of_rows(rows, k, labels, pattern[0] == 's');
      CHECK(cudaMemcpy(top, host.data(), sizeof(int) * host.size(), cudaMemcpyHostToDevice));
      CHECK(cudaMemset(table, 0, 4 * cells));
      CHECK(cudaMemset(sum, 0, sizeof *sum));
      unsigned long long runs = 0;
      const double time = median_us(repeats, [&] {
        if (pattern[0] == 'r') {
          add_random<<<16 * processors(), kThreads>>>(table, cells, updates, runs << 32);
        } else {
          add_upper<<<rows, kThreads>>>(table, top, rows, k, labels);
        }
        ++runs;
      });
      add_up<<<16 * processors(), kThreads>>>(table, cells, sum);
      unsigned long long found = 0;
      CHECK(cudaMemcpy(&found, sum, sizeof found, cudaMemcpyDeviceToHost));
      require(found == runs * updates, "the table does not hold every update");
      std::printf("%s,%lld,%.0f,%llu,%.1f,%.0f\n", pattern, labels, 4e-6 * cells, updates, time,
                  updates / time);
      std::fflush(stdout);
    }
    CHECK(cudaFree(table));
  }
}
