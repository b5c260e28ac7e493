// Reductions over the threads of a block, in a fixed order: the butterfly of every warp, then the warps in turn. Every thread
// calls them; every thread receives the result.
#pragma once

#include "warp.cuh"

template <int THREADS, typename Warp, typename Join>
__device__ __forceinline__ float block_reduce(float x, Warp within, Join join) {
    static_assert(THREADS % 32 == 0 && THREADS <= 1024, "whole warps");
    __shared__ float of_warp[THREADS / 32];
    x = within(x);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    float all = of_warp[0];
#pragma unroll
    for (int warp = 1; warp < THREADS / 32; ++warp) all = join(all, of_warp[warp]);
    __syncthreads();  // the next reduction writes of_warp again
    return all;
}

template <int THREADS>
__device__ __forceinline__ float block_sum(float x) {
    return block_reduce<THREADS>(x, [](float v) { return warp_sum(v); }, [](float a, float b) { return a + b; });
}

template <int THREADS>
__device__ __forceinline__ float block_max(float x) {
    return block_reduce<THREADS>(x, [](float v) { return warp_max(v); }, larger);
}

// Sums of N values a thread over the threads with the same place in a row of `row` threads (a power of two). The result is
// valid in the first row. `shared` holds N * THREADS floats and may be reused after a barrier.
template <int THREADS, int N>
__device__ __forceinline__ void column_sum(float (&v)[N], float* shared, u32 row) {
    const u32 me = threadIdx.x;
#pragma unroll
    for (int i = 0; i < N; ++i) shared[i * THREADS + me] = v[i];
    for (u32 half = THREADS / 2; half >= row; half /= 2) {
        __syncthreads();
        if (me < half) {
#pragma unroll
            for (int i = 0; i < N; ++i) {
                v[i] += shared[i * THREADS + me + half];
                shared[i * THREADS + me] = v[i];
            }
        }
    }
}
