// The mean of a function of differences and its gradient, for the loss kernels: each block sums LOSS_CHUNK elements, one more block
// adds the blocks' sums in a fixed order.
#pragma once

#include "block.cuh"

constexpr int LOSS_THREADS = 256;
constexpr int LOSS_CHUNK = 4096;

struct LossParams {
    const void *x, *target;
    float* parts;    // one per block
    void* y;         // one number
    const void* dy;  // one number
    void* dx;
    u64 count;
    float scale;  // 1 / count
    u32 blocks;
};

// y where one block is enough, else its part. f(difference) is what is averaged.
template <typename T, typename F>
__device__ __forceinline__ void loss_parts(const LossParams& p, F f) {
    constexpr int W = WIDTH<T>;
    const T *const x = static_cast<const T*>(p.x), *const target = static_cast<const T*>(p.target);
    float sum = 0.0f;
#pragma unroll 1
    for (int i = 0; i < LOSS_CHUNK / (LOSS_THREADS * W); ++i) {
        const u64 at = u64(blockIdx.x) * LOSS_CHUNK + (u64(i) * LOSS_THREADS + threadIdx.x) * W;
        if (at + W <= p.count) {
            float a[W], b[W];
            load_floats(a, x + at);
            load_floats(b, target + at);
#pragma unroll
            for (int j = 0; j < W; ++j) sum += f(a[j] - b[j]);
        } else {
#pragma unroll 1
            for (u64 j = at; j < p.count; ++j) sum += f(to_float(x[j]) - to_float(target[j]));
        }
    }
    sum = block_sum<LOSS_THREADS>(sum);
    if (threadIdx.x == 0) {
        if (p.blocks == 1) {
            *static_cast<T*>(p.y) = from_float<T>(sum * p.scale);
        } else {
            p.parts[blockIdx.x] = sum;
        }
    }
}

template <typename T>
__device__ __forceinline__ void loss_sum(const LossParams& p) {
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < p.blocks; i += LOSS_THREADS) sum += p.parts[i];
    sum = block_sum<LOSS_THREADS>(sum);
    if (threadIdx.x == 0) *static_cast<T*>(p.y) = from_float<T>(sum * p.scale);
}

// dx = derivative(difference) · dy / count; one vector per thread.
template <typename T, typename F>
__device__ __forceinline__ void loss_gradient(const LossParams& p, F derivative) {
    constexpr int W = WIDTH<T>;
    const T *const x = static_cast<const T*>(p.x), *const target = static_cast<const T*>(p.target);
    T* const dx = static_cast<T*>(p.dx);
    const float upstream = to_float(*static_cast<const T*>(p.dy)) * p.scale;
    const u64 at = global_thread() * W;
    if (at + W <= p.count) {
        float a[W], b[W];
        load_floats(a, x + at);
        load_floats(b, target + at);
#pragma unroll
        for (int j = 0; j < W; ++j) a[j] = derivative(a[j] - b[j]) * upstream;
        store_floats(dx + at, a);
    } else {
#pragma unroll 1
        for (u64 j = at; j < p.count; ++j) dx[j] = from_float<T>(derivative(to_float(x[j]) - to_float(target[j])) * upstream);
    }
}

#define LOSS_ENTRY(NAME, T, ...)                                                                                 \
    extern "C" __global__ void __launch_bounds__(LOSS_THREADS) NAME##_##T(const __grid_constant__ LossParams p) { \
        __VA_ARGS__;                                                                                             \
    }
