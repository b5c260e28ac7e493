// A convolution in which every channel sees only itself, its input gradient and its weight gradient.
//
//     y[n,i,j,c] = Σ_{r,s} x[n, i·stride + r − padding, j·stride + s − padding, c] · w[r,s,c]
//
// Shapes    x: n h w c, w: r s c, y: n oh ow c, channels last. The input gradient is the same map with the flipped kernel over dy
//           with zeros inserted, so `fwd` and `bwd_x` share their code: a position reads (i·stride + r − padding) / up where
//           that is whole.
// Types     f32, bf16, f16; f32 arithmetic.
// Launch    fwd, bwd_x: 256 threads, each 16 bytes of channels of four neighbouring pixels of a row, so that a warp's accesses are
//           whole sectors; blocks = ceil(n oh strips c/W / 256). 3 and 5 columns of stride 1 (5: two pixels per thread) keep a row
//           of the kernel in registers and read each pixel once for its results; other kernels read it per tap, from L1.
//           bwd_weight: one block per split of the rows of y and up to 32 vectors of channels for one row of the kernel (one tap where
//           it has other than 3 or 5 columns); threads beside each other in a channel take every parts-th row and are added in
//           order in shared memory. `splitk_reduce` adds the splits in order: bit-identical from run to run.
// Limit     memory: x and y once each; 2 r s FLOP an element is 4.5 FLOP/B for 3 x 3 in 16 bits. The weight gradient reads x once per
//           row of the kernel, all but the first from L2.
// Rejected  tiles of x in shared memory: the reuse is between neighbours that L1 already serves, and the barriers cost more than
//           the loads. All taps of the weight gradient in one thread: 72 accumulators for 3 x 3, too many for 5 x 5.
// Numerics  f32 sums over taps in order; the weight gradient's order depends on its splits alone.
// Tail      where c is no multiple of 16 bytes each thread takes one channel; pixels beyond a row's end are computed by nobody.

#include "common/splitk.cuh"

struct StencilParams {
    const void *x, *w;
    void* y;
    u32 n, h, width, c;  // of x
    u32 r, s;
    u32 oh, ow;
    u32 stride, up;
    int padding_h, padding_w;
    u32 flipped;  // the kernel is rotated by 180 degrees
    u32 vector;   // channels of a thread
    u32 strips;   // of a row: results of a thread are 2 where the kernel has 5 columns and stride 1, else 4
    u32 unused;
};

struct WeightGradientParams {
    const void *x, *dy;
    float* partials;  // [splits, r, s, c]
    u32 n, h, width, c;
    u32 r, s;
    u32 oh, ow;
    u32 stride;
    int padding;
    u32 vector;
    u32 rows_per_split;  // rows of y in a split
    u32 lanes;           // vectors of channels in a block, a power of two up to 32
    u32 unused;
};

// W channels: a position outside the image is zero.
template <typename T, int W>
__device__ __forceinline__ void load_pixel(float (&v)[W], const T* row, int column, u32 width, u32 c, bool there) {
    if (there && u32(column) < width) {
        load_floats(v, row + u64(column) * c);
    } else {
#pragma unroll
        for (int i = 0; i < W; ++i) v[i] = 0.0f;
    }
}

// Neighbouring results of a row. S columns of stride 1 where S is not 0, else any.
template <typename T, int W, int S>
__device__ __forceinline__ void stencil(const StencilParams& p, u64 thread) {
    constexpr int OUTPUTS = S == 5 ? 2 : 4;
    const u32 vectors = p.c / W;
    const u32 channel = u32(thread % vectors) * W;
    const u64 rest = thread / vectors;
    const u32 first = u32(rest % p.strips) * OUTPUTS;
    const u64 y_row = rest / p.strips;
    const u32 i = u32(y_row % p.oh);
    const u64 sample = y_row / p.oh;
    if (sample >= p.n) return;
    const T* image = static_cast<const T*>(p.x) + sample * p.h * p.width * p.c + channel;
    const T* kernel = static_cast<const T*>(p.w) + channel;
    const u32 taps = p.r * p.s;
    float sum[OUTPUTS][W] = {};
#pragma unroll 1
    for (u32 r = 0; r < p.r; ++r) {
        const int far = int(i * p.stride + r) - p.padding_h;
        if (far < 0 || u32(far) % p.up != 0 || u32(far) / p.up >= p.h) continue;
        const T* row = image + u64(u32(far) / p.up) * p.width * p.c;
        if constexpr (S != 0) {
            float w[S][W];
#pragma unroll
            for (int s = 0; s < S; ++s) {
                const u32 tap = r * S + s;
                load_floats(w[s], kernel + u64(p.flipped ? taps - 1 - tap : tap) * p.c);
            }
            // Each pixel is read once and serves every result whose window it lies in.
#pragma unroll
            for (int j = 0; j < OUTPUTS + S - 1; ++j) {
                float x[W];
                load_pixel<T, W>(x, row, int(first) + j - p.padding_w, p.width, p.c, true);
#pragma unroll
                for (int o = max(0, j - S + 1); o <= min(j, OUTPUTS - 1); ++o) {
#pragma unroll
                    for (int v = 0; v < W; ++v) sum[o][v] = fmaf(x[v], w[j - o][v], sum[o][v]);
                }
            }
        } else {
#pragma unroll 1
            for (u32 s = 0; s < p.s; ++s) {
                const u32 tap = r * p.s + s;
                float w[W];
                load_floats(w, kernel + u64(p.flipped ? taps - 1 - tap : tap) * p.c);
#pragma unroll
                for (int o = 0; o < OUTPUTS; ++o) {
                    const int at = int((first + o) * p.stride + s) - p.padding_w;
                    const bool there = at >= 0 && u32(at) % p.up == 0;
                    float x[W];
                    load_pixel<T, W>(x, row, int(u32(at) / p.up), p.width, p.c, there);
#pragma unroll
                    for (int v = 0; v < W; ++v) sum[o][v] = fmaf(x[v], w[v], sum[o][v]);
                }
            }
        }
    }
    T* to = static_cast<T*>(p.y) + (y_row * p.ow + first) * p.c + channel;
#pragma unroll
    for (int o = 0; o < OUTPUTS; ++o) {
        if (first + o < p.ow) store_floats(to + u64(o) * p.c, sum[o]);
    }
}

template <typename T, int W>
__device__ __forceinline__ void stencil_of(const StencilParams& p) {
    const u64 thread = global_thread();
    if constexpr (W > 1) {
        const bool dense = p.stride == 1 && p.up == 1;
        if (dense && p.s == 3) return stencil<T, W, 3>(p, thread);
        if (dense && p.s == 5) return stencil<T, W, 5>(p, thread);
    }
    stencil<T, W, 0>(p, thread);
}

#define STENCIL(ROLE, T)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(256) depthwise_conv2d_##ROLE##_##T(const __grid_constant__ StencilParams p) { \
        if (p.vector == u32(WIDTH<T>)) {                                                                                    \
            stencil_of<T, WIDTH<T>>(p);                                                                                     \
        } else {                                                                                                            \
            stencil_of<T, 1>(p);                                                                                            \
        }                                                                                                                   \
    }

STENCIL(fwd, f32)
STENCIL(fwd, bf16)
STENCIL(fwd, f16)
STENCIL(bwd_x, f32)
STENCIL(bwd_x, bf16)
STENCIL(bwd_x, f16)

// blockIdx: split of rows, block of channels, row of the kernel or tap.
template <typename T, int W, int S>
__device__ __forceinline__ void weight_gradient(const WeightGradientParams& p, float* memory) {
    const u32 lane = threadIdx.x % p.lanes, part = threadIdx.x / p.lanes, parts = 256 / p.lanes;
    const u32 channel = (blockIdx.y * p.lanes + lane) * W;
    constexpr int TAPS = S == 0 ? 1 : S;
    const u32 r = S == 0 ? blockIdx.z / p.s : blockIdx.z, first = S == 0 ? blockIdx.z % p.s : 0;
    float sum[TAPS][W] = {};
    const u64 rows = u64(p.n) * p.oh, begin = u64(blockIdx.x) * p.rows_per_split, end = min(rows, begin + p.rows_per_split);
    if (channel < p.c) {
#pragma unroll 1
        for (u64 y_row = begin + part; y_row < end; y_row += parts) {
            const int h = int(u32(y_row % p.oh) * p.stride + r) - p.padding;
            if (u32(h) >= p.h) continue;
            const T* row = static_cast<const T*>(p.x) + (y_row / p.oh * p.h + h) * p.width * p.c + channel;
            const T* dy = static_cast<const T*>(p.dy) + y_row * p.ow * p.c + channel;
#pragma unroll 1
            for (u32 j = 0; j < p.ow; ++j) {
                float upstream[W];
                load_floats(upstream, dy + u64(j) * p.c);
#pragma unroll
                for (int s = 0; s < TAPS; ++s) {
                    float x[W];
                    load_pixel<T, W>(x, row, int(j * p.stride + first + s) - p.padding, p.width, p.c, true);
#pragma unroll
                    for (int v = 0; v < W; ++v) sum[s][v] = fmaf(x[v], upstream[v], sum[s][v]);
                }
            }
        }
    }
    float* to = p.partials + ((u64(blockIdx.x) * p.r + r) * p.s + first) * p.c + channel;
#pragma unroll
    for (int s = 0; s < TAPS; ++s) {
        if (s > 0) __syncthreads();
#pragma unroll
        for (int v = 0; v < W; ++v) memory[v * 256 + threadIdx.x] = sum[s][v];
        __syncthreads();
        if (part == 0 && channel < p.c) {
#pragma unroll
            for (int v = 0; v < W; ++v) {
                float total = 0.0f;
#pragma unroll 1
                for (u32 other = 0; other < parts; ++other) total += memory[v * 256 + other * p.lanes + lane];
                to[u64(s) * p.c + v] = total;
            }
        }
    }
}

template <typename T, int W>
__device__ __forceinline__ void weight_gradient_of(const WeightGradientParams& p, float* memory) {
    if (p.s == 3) {
        weight_gradient<T, W, 3>(p, memory);
    } else if (W > 1 && p.s == 5) {
        weight_gradient<T, W, 5>(p, memory);
    } else {
        weight_gradient<T, W, 0>(p, memory);
    }
}

#define WEIGHT_GRADIENT(T)                                                                        \
    extern "C" __global__ void __launch_bounds__(256, 2)                                          \
        depthwise_conv2d_bwd_weight_##T(const __grid_constant__ WeightGradientParams p) {         \
        __shared__ float memory[256 * WIDTH<T>];                                                  \
        if (p.vector == u32(WIDTH<T>)) {                                                          \
            weight_gradient_of<T, WIDTH<T>>(p, memory);                                           \
        } else {                                                                                  \
            weight_gradient_of<T, 1>(p, memory);                                                  \
        }                                                                                         \
    }
WEIGHT_GRADIENT(f32)
WEIGHT_GRADIENT(bf16)
WEIGHT_GRADIENT(f16)
SPLITK_REDUCE_DTYPES(depthwise_conv2d, NONE)
