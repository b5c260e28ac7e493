// The mean over a sliding window, padding counting as zeros, and its transpose, which is its gradient.
//
// Shapes    x: n x h x w x c; y: n x oh x ow x c; the transpose from y's shape to x's.
// Types     f32, bf16, f16 in memory; f32 sums.
// Launch    256 threads, a 128-bit vector of channels of one pixel each.
// Traffic   a window's values come from L1 but for the first: memory bound.
// Rejected  running sums along a row: saves additions that nobody waits for.
// Numerics  taps in reading order, one multiplication by 1 / kernel².
// Tail      c not a multiple of the vector width: one element per thread.

#include "common/element.cuh"

struct AvgPoolParams {
    const void* x;
    void* y;
    u32 threads;  // with work
    u32 h, w, c, oh, ow;
    u32 kernel, stride, padding;
    u32 aligned;  // c is a multiple of the vector width
};

template <typename T, int W>
__device__ __forceinline__ void pool(const AvgPoolParams& p, u32 index) {
    const u32 vectors = p.c / W, pixel = index / vectors, channel = index % vectors * W;
    const u64 image = pixel / p.ow / p.oh;
    const int top = int(pixel / p.ow % p.oh * p.stride) - int(p.padding), left = int(pixel % p.ow * p.stride) - int(p.padding);
    float sum[W];
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] = 0.0f;
#pragma unroll 1
    for (int row = max(top, 0); row < min(top + int(p.kernel), int(p.h)); ++row) {
#pragma unroll 1
        for (int col = max(left, 0); col < min(left + int(p.kernel), int(p.w)); ++col) {
            float x[W];
            load_floats(x, static_cast<const T*>(p.x) + ((image * p.h + row) * p.w + col) * p.c + channel);
#pragma unroll
            for (int i = 0; i < W; ++i) sum[i] += x[i];
        }
    }
    const float share = 1.0f / float(p.kernel * p.kernel);
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] *= share;
    store_floats(static_cast<T*>(p.y) + u64(index) * W, sum);
}

template <typename T, int W>
__device__ __forceinline__ void spread(const AvgPoolParams& p, u32 index) {
    const u32 vectors = p.c / W, pixel = index / vectors, channel = index % vectors * W;
    const u64 image = pixel / p.w / p.h;
    const u32 row = pixel / p.w % p.h + p.padding, col = pixel % p.w + p.padding;
    // Windows from the first that reaches this row to the last that begins at it.
    const u32 first_row = row < p.kernel ? 0 : (row - p.kernel) / p.stride + 1, last_row = min(row / p.stride, p.oh - 1);
    const u32 first_col = col < p.kernel ? 0 : (col - p.kernel) / p.stride + 1, last_col = min(col / p.stride, p.ow - 1);
    float sum[W];
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] = 0.0f;
#pragma unroll 1
    for (u32 i = first_row; i <= last_row; ++i) {
#pragma unroll 1
        for (u32 j = first_col; j <= last_col; ++j) {
            float v[W];
            load_floats(v, static_cast<const T*>(p.x) + ((image * p.oh + i) * p.ow + j) * p.c + channel);
#pragma unroll
            for (int k = 0; k < W; ++k) sum[k] += v[k];
        }
    }
    const float share = 1.0f / float(p.kernel * p.kernel);
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] *= share;
    store_floats(static_cast<T*>(p.y) + u64(index) * W, sum);
}

#define ENTRY(NAME, T, FUNCTION)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256) avg_pool2d_##NAME##_##T(const __grid_constant__ AvgPoolParams p) { \
        const u32 index = blockIdx.x * 256 + threadIdx.x;                                                                  \
        if (index >= p.threads) return;                                                                                    \
        if (p.aligned) {                                                                                                     \
            FUNCTION<T, WIDTH<T>>(p, index);                                                                               \
        } else {                                                                                                           \
            FUNCTION<T, 1>(p, index);                                                                                      \
        }                                                                                                                  \
    }
#define EVERY_PASS(T)   \
    ENTRY(fwd, T, pool) \
    ENTRY(bwd_x, T, spread)

EVERY_PASS(f32)
EVERY_PASS(bf16)
EVERY_PASS(f16)
