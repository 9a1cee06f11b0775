// What an IF and a SWITCH node of a CUDA graph cost against a kernel node: chains of each.
// Decides whether gated blocks can be skipped by the graph itself.
#include "timing.cuh"

constexpr char kHelp[] =
    "usage: conditional_node_latency [--nodes N] [--repeats R]\n"
    "Runs graphs of N links one after the other and prints CSV of the time a link:\n"
    "  kernel: one empty kernel; two_kernels: two of them;\n"
    "  if_taken, if_skipped, switch_16: a kernel that sets the condition, then the node with one\n"
    "  kernel in each body\n";

__global__ void count_up(int* runs) {
  ++*runs;
}

#if CUDART_VERSION >= 12080
__global__ void set_condition(cudaGraphConditionalHandle handle, unsigned value) {
  cudaGraphSetConditional(handle, value);
}

// Adds a node after `last` and makes it the last.
void add_node(cudaGraph_t graph, cudaGraphNode_t& last, cudaGraphNodeParams& params) {
  cudaGraphNode_t node = nullptr;
  const size_t count = last == nullptr ? 0 : 1;
#if CUDART_VERSION >= 13000
  CHECK(cudaGraphAddNode(&node, graph, &last, nullptr, count, &params));
#else
  CHECK(cudaGraphAddNode(&node, graph, &last, count, &params));
#endif
  last = node;
}

template <typename... Args>
void add_kernel(cudaGraph_t graph, cudaGraphNode_t& last, void (*kernel)(Args...), Args... args) {
  void* pointers[] = {&args...};
  cudaGraphNodeParams params = {};
  params.type = cudaGraphNodeTypeKernel;
  params.kernel.func = reinterpret_cast<void*>(kernel);
  params.kernel.gridDim = params.kernel.blockDim = dim3(1);
  params.kernel.kernelParams = pointers;
  add_node(graph, last, params);
}

void add_conditional(cudaGraph_t graph, cudaGraphNode_t& last, cudaGraphConditionalNodeType type,
                     unsigned bodies, unsigned value, int* runs) {
  cudaGraphConditionalHandle handle;
  CHECK(cudaGraphConditionalHandleCreate(&handle, graph, 0, 0));
  add_kernel(graph, last, set_condition, handle, value);
  cudaGraphNodeParams params = {};
  params.type = cudaGraphNodeTypeConditional;
  params.conditional.handle = handle;
  params.conditional.type = type;
  params.conditional.size = bodies;
  add_node(graph, last, params);
  for (unsigned body = 0; body < bodies; ++body) {
    cudaGraphNode_t first = nullptr;
    add_kernel(params.conditional.phGraph_out[body], first, count_up, runs);
  }
}

void add_link(const char* link, cudaGraph_t graph, cudaGraphNode_t& last, int* runs) {
  if (std::strcmp(link, "if_taken") == 0) {
    add_conditional(graph, last, cudaGraphCondTypeIf, 1, 1, runs);
  } else if (std::strcmp(link, "if_skipped") == 0) {
    add_conditional(graph, last, cudaGraphCondTypeIf, 1, 0, runs);
  } else if (std::strcmp(link, "switch_16") == 0) {
    add_conditional(graph, last, cudaGraphCondTypeSwitch, 16, 7, runs);
  } else {
    add_kernel(graph, last, count_up, runs);
    if (std::strcmp(link, "two_kernels") == 0) add_kernel(graph, last, count_up, runs);
  }
}

int main(int argc, char** argv) {
  const int nodes = static_cast<int>(option(argc, argv, "--nodes", 100, kHelp));
  const int repeats = static_cast<int>(option(argc, argv, "--repeats", 30, kHelp));
  require(nodes > 0 && repeats > 0, kHelp);
  int* runs = nullptr;
  CHECK(cudaMalloc(&runs, sizeof *runs));

  std::printf("link,nodes,median_us,us_per_link\n");
  for (const char* link : {"kernel", "two_kernels", "if_taken", "if_skipped", "switch_16"}) {
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    cudaGraphNode_t last = nullptr;
    CHECK(cudaGraphCreate(&graph, 0));
    for (int n = 0; n < nodes; ++n) add_link(link, graph, last, runs);
    CHECK(cudaGraphInstantiate(&executable, graph, 0));
    CHECK(cudaMemset(runs, 0, sizeof *runs));
    const double time = median_us(repeats, [&] { CHECK(cudaGraphLaunch(executable, nullptr)); });
    int found = 0;
    CHECK(cudaMemcpy(&found, runs, sizeof found, cudaMemcpyDeviceToHost));
    const int each =
        std::strcmp(link, "two_kernels") == 0 ? 2 : std::strcmp(link, "if_skipped") != 0;
    require(found == each * nodes * (repeats + 1), "a body ran too often or too seldom");
    std::printf("%s,%d,%.1f,%.3f\n", link, nodes, time, time / nodes);
    std::fflush(stdout);
    CHECK(cudaGraphExecDestroy(executable));
    CHECK(cudaGraphDestroy(graph));
  }
}
#else
int main() {
  std::fprintf(stderr, "conditional_node_latency: needs CUDA 12.8 or later\n");
  return 1;
}
#endif
