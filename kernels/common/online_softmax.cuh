// Online softmax: the maximum of what was seen so far and the sum of exponentials relative to it, rescaled as the maximum rises.
#pragma once

#include "warp.cuh"

// e to the power of x for results that are stored as T: expf's 2 ulp where that is f32, one multiplication and ex2.approx, 2^-22
// and what rounding x / ln 2 adds, where 16 bits are.
template <typename T>
__device__ __forceinline__ float exp_for(float x) {
    if (sizeof(T) == 4) return expf(x);
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950408889634f));
    return y;
}

struct OnlineSoftmax {
    float max, sum;
};

// Nothing seen yet.
__device__ __forceinline__ OnlineSoftmax no_softmax() { return {-INFINITY, 0.0f}; }

__device__ __forceinline__ OnlineSoftmax merge(OnlineSoftmax a, OnlineSoftmax b) {
    const float row_max = larger(a.max, b.max);
    // -inf of both sides: nothing seen yet.
    const float keep_a = a.max == row_max ? 1.0f : expf(a.max - row_max), keep_b = b.max == row_max ? 1.0f : expf(b.max - row_max);
    return {row_max, a.sum * keep_a + b.sum * keep_b};
}

__device__ __forceinline__ OnlineSoftmax warp_merge(OnlineSoftmax x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        x = merge(x, {__shfl_xor_sync(FULL_MASK, x.max, step), __shfl_xor_sync(FULL_MASK, x.sum, step)});
    }
    return x;
}

// The statistics of a row over `step` threads, of which this is number `me`.
template <typename T, int W>
__device__ __forceinline__ OnlineSoftmax row_stats(const T* x, u64 cols, u32 me, u32 step) {
    OnlineSoftmax all = no_softmax();
    for (u64 col = u64(me) * W; col < cols; col += u64(step) * W) {
        float v[W];
        load_floats(v, x + col);
        float row_max = v[0];
#pragma unroll
        for (int i = 1; i < W; ++i) row_max = larger(row_max, v[i]);
        OnlineSoftmax some = {row_max, 0.0f};
#pragma unroll
        for (int i = 0; i < W; ++i) some.sum += v[i] == row_max ? 1.0f : exp_for<T>(v[i] - row_max);
        all = merge(all, some);
    }
    return all;
}
