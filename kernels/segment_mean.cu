// Means over runs of rows, and their gradient.
//
//   fwd     y[s] = mean of x[offsets[s] .. offsets[s + 1]]
//   bwd_x   dx[row] = dy[s] / length of s, s the run that holds the row
//
// Shapes    x, dx: rows x c; y, dy: runs x c; offsets: runs + 1 first rows, ascending. An empty run has mean 0.
// Types     f32, bf16, f16 in memory, f32 sums.
// Launch    256 threads. fwd: a block for a run and 32 vectors of columns; the eight warps take every eighth row and are added
//           in order of warps. bwd_x: one thread per vector; it finds its row's run by binary search.
// Traffic   fwd reads x once, bwd_x writes dx once: memory bound.
// Rejected  one mean per run: as many launches as slides.
// Numerics  sums in a fixed order; one division by the length.
// Tail      columns not a multiple of 16 bytes: one element per lane.

#include "common/block.cuh"

struct SegmentParams {
    const void* from;
    void* to;
    const i32* offsets;
    u64 rows, runs, c;
    u32 aligned;  // c is a multiple of 16 bytes
    u32 tiles;    // of columns, in fwd
};

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

template <typename T, int W>
__device__ __forceinline__ void mean(const SegmentParams& p, float (&parts)[WARPS][32 * WIDTH<T>]) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u64 run = blockIdx.x / p.tiles, first = u64(blockIdx.x % p.tiles) * 32 * W, col = first + lane * W;
    const u64 begin = min(u64(p.offsets[run]), p.rows), end = min(u64(p.offsets[run + 1]), p.rows);
    float sum[W];
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] = 0.0f;
    if (col < p.c) {
#pragma unroll 4
        for (u64 row = begin + warp; row < end; row += WARPS) {
            float x[W];
            load_floats(x, static_cast<const T*>(p.from) + row * p.c + col);
#pragma unroll
            for (int i = 0; i < W; ++i) sum[i] += x[i];
        }
    }
    put_columns(parts, sum);
    __syncthreads();
    const u32 at = threadIdx.x;
    if (at < 32 * W && first + at < p.c) {
        const float length = begin < end ? float(end - begin) : 1.0f;
        static_cast<T*>(p.to)[run * p.c + first + at] = from_float<T>(column_sum(parts, at) / length);
    }
}

template <typename T>
__device__ __forceinline__ void forward(const SegmentParams& p) {
    __shared__ float parts[WARPS][32 * WIDTH<T>];
    if (p.aligned) {
        mean<T, WIDTH<T>>(p, parts);
    } else {
        mean<T, 1>(p, parts);
    }
}

template <typename T, int W>
__device__ __forceinline__ void spread(const SegmentParams& p) {
    const u64 at = global_thread() * W;
    if (at >= p.rows * p.c) return;
    const u64 row = at / p.c, col = at % p.c;
    u64 low = 0, high = p.runs;  // the last run that begins at or before the row
    while (high - low > 1) {
        const u64 middle = (low + high) / 2;
        if (u64(p.offsets[middle]) <= row) {
            low = middle;
        } else {
            high = middle;
        }
    }
    const float length = float(p.offsets[low + 1] - p.offsets[low]);
    float d[W];
    load_floats(d, static_cast<const T*>(p.from) + low * p.c + col);
#pragma unroll
    for (int i = 0; i < W; ++i) d[i] /= length;
    store_floats(static_cast<T*>(p.to) + at, d);
}

template <typename T>
__device__ __forceinline__ void backward(const SegmentParams& p) {
    if (p.aligned) {
        spread<T, WIDTH<T>>(p);
    } else {
        spread<T, 1>(p);
    }
}

#define ENTRIES(T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS) segment_mean_fwd_##T(const __grid_constant__ SegmentParams p) { \
        forward<T>(p);                                                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) segment_mean_bwd_x_##T(const __grid_constant__ SegmentParams p) { \
        backward<T>(p);                                                                                                \
    }

ENTRIES(f32)
ENTRIES(bf16)
ENTRIES(f16)
