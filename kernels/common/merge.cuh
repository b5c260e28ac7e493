// Partial sums of products whose inner axis was split: added in the order of the splits, whatever ran first; then what follows
// the sum.
#pragma once

#include "epilogue.cuh"

struct MergeParams {
    const float* partials;  // [splits, count]
    void* y;                // [pixels, channels], `count` in all; one pixel where nothing depends on the channel
    u64 count;
    u32 splits, channels;
    Epilogue epilogue;
};

// Adds the splits of an element in their order, does F, and rounds once. A thread takes four neighbours: as one where pixels are whole
// fours, else one by one.
template <typename T, Following F>
__device__ __forceinline__ void merge(const MergeParams& p) {
    const u64 first = global_thread() * 4;
    if (first >= p.count) return;
    T* y = static_cast<T*>(p.y);
    // Partial sums are few: 2^31 elements never have any.
    u32 pixel = u32(first) / p.channels, channel = u32(first) - pixel * p.channels;
    if (p.channels % 4 == 0) {
        float4 sum = *reinterpret_cast<const float4*>(p.partials + first);
#pragma unroll 4
        for (u32 split = 1; split < p.splits; ++split) {
            const float4 v = *reinterpret_cast<const float4*>(p.partials + split * p.count + first);
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        }
        float values[4] = {sum.x, sum.y, sum.z, sum.w};
        follow<T, F>(p.epilogue, pixel, channel, first, 4, true, values);
        store_floats(y + first, values);
        return;
    }
#pragma unroll 1
    for (u64 i = first; i < min(first + 4, p.count); ++i) {
        float sum[1] = {p.partials[i]};
        for (u32 split = 1; split < p.splits; ++split) sum[0] += p.partials[split * p.count + i];
        follow<T, F>(p.epilogue, pixel, channel, i, 1, true, sum);
        y[i] = from_float<T>(sum[0]);
        if (++channel == p.channels) channel = 0, ++pixel;
    }
}

#define MERGE(STEM, T, F) \
    extern "C" __global__ void __launch_bounds__(256) STEM##_merge_##T(const __grid_constant__ MergeParams p) { merge<T, F>(p); }
#define MERGES(STEM, F) MERGE(STEM, f32, F) MERGE(STEM, bf16, F) MERGE(STEM, f16, F)
