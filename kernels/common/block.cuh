// Sums over the threads of a block, in a fixed order: the butterfly of every warp, then the warps in turn. Every thread calls
// them, once per kernel: a second call would write shared memory that others still read.
#pragma once

#include "warp.cuh"

// Every thread receives the result.
template <int THREADS>
__device__ __forceinline__ float block_sum(float x) {
    static_assert(THREADS % 32 == 0 && THREADS <= 1024, "aligned warps");
    __shared__ float of_warp[THREADS / 32];
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    float all = of_warp[0];
#pragma unroll
    for (int warp = 1; warp < THREADS / 32; ++warp) all += of_warp[warp];
    return all;
}

// Where every warp has gone through rows of its own and its lanes hold W neighbouring columns each: hands the warps' sums
// over. A barrier, then `column_sum(parts, i)` is the block's sum of column i.
template <int WARPS, int COLUMNS, int W>
__device__ __forceinline__ void put_columns(float (&parts)[WARPS][COLUMNS], const float (&sums)[W]) {
    static_assert(32 * W <= COLUMNS, "a warp's columns fit");
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < W; ++i) parts[warp][lane * W + i] = sums[i];
}

template <int WARPS, int COLUMNS>
__device__ __forceinline__ float column_sum(const float (&parts)[WARPS][COLUMNS], u32 column) {
    float total = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) total += parts[warp][column];
    return total;
}

// The second stage of sums of columns over runs of rows: to[i] = Σ parts[run][i], runs in a fixed order. A block of WARPS
// warps takes 32 columns, a warp every WARPS-th run.
template <int WARPS = 8, typename T>
__device__ __forceinline__ void add_runs(T* to, const float* parts, u32 runs, u64 cols) {
    __shared__ float of_warp[WARPS][32];
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u64 col = u64(blockIdx.x) * 32 + lane;
    float sum[1] = {};
    if (col < cols) {
#pragma unroll 4
        for (u64 run = warp; run < runs; run += WARPS) sum[0] += parts[run * cols + col];
    }
    put_columns(of_warp, sum);
    __syncthreads();
    if (warp == 0 && col < cols) to[col] = from_float<T>(column_sum(of_warp, lane));
}
