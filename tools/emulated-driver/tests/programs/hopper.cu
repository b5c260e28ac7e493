// For sm_90a: a cluster whose blocks read each other's shared memory, a cooperative grid, a copy by a tensor map.
// Wrong: a block reads its neighbour's memory before the cluster's barrier.
#include <cooperative_groups.h>
#include <cuda.h>

#include "check.h"

namespace cg = cooperative_groups;

__global__ void neighbours(int* out, bool ordered) {
    __shared__ int mine;
    cg::cluster_group cluster = cg::this_cluster();
    if (threadIdx.x == 0) mine = int(blockIdx.x) * 10;
    cg::this_thread_block().sync();
    if (ordered) cluster.sync();
    unsigned next = (cluster.block_rank() + 1) % cluster.num_blocks();
    if (threadIdx.x == 0) out[blockIdx.x] = *cluster.map_shared_rank(&mine, next);
    cluster.sync();
}

__global__ void two_steps(int* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = i;
    cg::this_grid().sync();
    int other = x[n - 1 - i];
    cg::this_grid().sync();
    if (i < n) x[i] += other;
}

__global__ void tile(const __grid_constant__ CUtensorMap map, float* out, int column, int row) {
    __shared__ alignas(128) float box[4 * 8];
    __shared__ alignas(8) unsigned long long arrived;
    unsigned barrier = unsigned(__cvta_generic_to_shared(&arrived)), to = unsigned(__cvta_generic_to_shared(box));
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 128;" ::"r"(barrier) : "memory");
        asm volatile(
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
            "l"(&map), "r"(column), "r"(row), "r"(barrier)
            : "memory");
    }
    __syncthreads();
    unsigned done = 0;
    while (!done)
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
            : "=r"(done)
            : "r"(barrier)
            : "memory");
    out[threadIdx.x] = box[threadIdx.x];
}

int main(int argc, char** argv) {
    int *out, result[64];
    CALL(cudaMalloc(&out, sizeof result));
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(8), config.blockDim = dim3(32);
    cudaLaunchAttribute attribute[1];
    attribute[0].id = cudaLaunchAttributeClusterDimension;
    attribute[0].val.clusterDim.x = 4, attribute[0].val.clusterDim.y = 1, attribute[0].val.clusterDim.z = 1;
    config.attrs = attribute, config.numAttrs = 1;
    int clusters = 0;
    CALL(cudaOccupancyMaxActiveClusters(&clusters, neighbours, &config));
    EXPECT(clusters > 0);
    CALL(cudaLaunchKernelEx(&config, neighbours, out, !is_wrong(argc, argv)));
    CALL(cudaMemcpy(result, out, 8 * sizeof(int), cudaMemcpyDeviceToHost));
    for (int i = 0; i < 8; ++i) EXPECT(result[i] == (i / 4 * 4 + (i + 1) % 4) * 10);

    int n = 64;
    void* params[] = {&out, &n};
    CALL(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(two_steps), dim3(2), dim3(32), params, 0, nullptr));
    CALL(cudaMemcpy(result, out, sizeof result, cudaMemcpyDeviceToHost));
    for (int i = 0; i < n; ++i) EXPECT(result[i] == n - 1);

    const int width = 24, height = 10;
    float host[height][width], box[32], *image, *piece;
    for (int i = 0; i < width * height; ++i) host[i / width][i % width] = float(i);
    CALL(cudaMalloc(&image, sizeof host));
    CALL(cudaMalloc(&piece, sizeof box));
    CALL(cudaMemcpy(image, host, sizeof host, cudaMemcpyHostToDevice));
    void* found = nullptr;
    cudaDriverEntryPointQueryResult query;
    CALL(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &query));
    EXPECT(query == cudaDriverEntryPointSuccess);
    CUtensorMap map;
    cuuint64_t extents[2] = {width, height}, strides[1] = {width * sizeof(float)};
    cuuint32_t sides[2] = {8, 4}, steps[2] = {1, 1};
    EXPECT(reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found)(
               &map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, image, extents, strides, sides, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
               CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS);
    tile<<<1, 32>>>(map, piece, 20, 8);
    CALL(cudaMemcpy(box, piece, sizeof box, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 32; ++i) {
        int x = 20 + i % 8, y = 8 + i / 8;
        EXPECT(box[i] == (x < width && y < height ? host[y][x] : 0.0f));
    }
    std::printf("right\n");
}
