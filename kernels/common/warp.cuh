// Reductions over the lanes of a warp. All 32 lanes take part; every lane receives the result, and the order of additions is
// a fixed butterfly: results are bit-identical from run to run.
#pragma once

#include "element.cuh"

constexpr u32 FULL_MASK = 0xffffffffu;

// Sum over groups of `LANES` neighbouring lanes, a power of two.
template <int LANES = 32>
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) x += __shfl_xor_sync(FULL_MASK, x, step);
    return x;
}

// NaN wins: it propagates.
__device__ __forceinline__ float larger(float a, float b) { return b > a || b != b ? b : a; }

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x = larger(x, __shfl_xor_sync(FULL_MASK, x, step));
    return x;
}
