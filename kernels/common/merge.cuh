// Partial sums of products whose inner axis was split: added in the order of the splits, whatever ran first.
#pragma once

#include "element.cuh"

struct MergeParams {
    const float* partials;  // [splits, count]
    const void* bias;       // [channels], or null
    void* y;                // [count]
    u64 count;
    u32 splits, channels;
};

// Adds the splits of an element in their order and rounds once. A thread takes four neighbours.
template <typename T>
__device__ __forceinline__ void merge(const MergeParams& p) {
    const u64 first = global_thread() * 4;
    T* y = static_cast<T*>(p.y);
    const T* bias = static_cast<const T*>(p.bias);
    if (p.count % 4 == 0) {
        if (first >= p.count) return;
        float4 sum = *reinterpret_cast<const float4*>(p.partials + first);
#pragma unroll 4
        for (u32 split = 1; split < p.splits; ++split) {
            const float4 v = *reinterpret_cast<const float4*>(p.partials + split * p.count + first);
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        }
        float values[4] = {sum.x, sum.y, sum.z, sum.w};
        if (bias != nullptr) {
#pragma unroll
            for (int i = 0; i < 4; ++i) values[i] += to_float(bias[(first + i) % p.channels]);
        }
        store_floats(y + first, values);
        return;
    }
#pragma unroll 1
    for (u64 i = first; i < min(first + 4, p.count); ++i) {
        float sum = p.partials[i];
        for (u32 split = 1; split < p.splits; ++split) sum += p.partials[split * p.count + i];
        if (bias != nullptr) sum += to_float(bias[i % p.channels]);
        y[i] = from_float<T>(sum);
    }
}

#define MERGE(STEM, T) \
    extern "C" __global__ void __launch_bounds__(256) STEM##_merge_##T(const __grid_constant__ MergeParams p) { merge<T>(p); }
#define MERGES(STEM) MERGE(STEM, f32) MERGE(STEM, bf16) MERGE(STEM, f16)
