// The split-K reduction: partial sums of a GEMM whose K was split are added in the order of the splits, whatever ran first; then
// the epilogue.
#pragma once

#include "epilogue.cuh"

struct SplitKReduceParams {
    const float* partials;  // [splits, count]
    void* y;                // [pixels, channels], `count` in all; one pixel where nothing depends on the channel
    u64 count;
    u32 splits, channels;
    Epilogue epilogue;
};

// Adds the partial sums of an element in their order, applies the epilogue and rounds once. One vec4 per thread where channels are
// a multiple of 4, else element by element.
template <typename T, EpilogueKind F>
__device__ __forceinline__ void splitk_reduce(const SplitKReduceParams& p) {
    const u64 first = global_thread() * 4;
    if (first >= p.count) return;
    T* y = static_cast<T*>(p.y);
    // Split-K is for small results: 2^31 elements never have partial sums.
    u32 pixel = u32(first) / p.channels, channel = u32(first) - pixel * p.channels;
    if (p.channels % 4 == 0) {
        float4 sum = *reinterpret_cast<const float4*>(p.partials + first);
#pragma unroll 4
        for (u32 split = 1; split < p.splits; ++split) {
            const float4 v = *reinterpret_cast<const float4*>(p.partials + split * p.count + first);
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        }
        float values[4] = {sum.x, sum.y, sum.z, sum.w};
        apply_epilogue<T, F>(p.epilogue, pixel, channel, first, 4, true, values);
        store_floats(y + first, values);
        return;
    }
#pragma unroll 1
    for (u64 i = first; i < min(first + 4, p.count); ++i) {
        float sum[1] = {p.partials[i]};
        for (u32 split = 1; split < p.splits; ++split) sum[0] += p.partials[split * p.count + i];
        apply_epilogue<T, F>(p.epilogue, pixel, channel, i, 1, true, sum);
        y[i] = from_float<T>(sum[0]);
        if (++channel == p.channels) channel = 0, ++pixel;
    }
}

#define SPLITK_REDUCE(MODULE, T, F) \
    extern "C" __global__ void __launch_bounds__(256) MODULE##_splitk_reduce_##T(const __grid_constant__ SplitKReduceParams p) { splitk_reduce<T, F>(p); }
#define SPLITK_REDUCE_DTYPES(MODULE, F) SPLITK_REDUCE(MODULE, f32, F) SPLITK_REDUCE(MODULE, bf16, F) SPLITK_REDUCE(MODULE, f16, F)
