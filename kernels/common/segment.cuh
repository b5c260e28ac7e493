// Segments: runs of rows that belong together, such as a slide's patches. Segment s owns the rows offsets[s] .. offsets[s + 1].
//
// Two ways for a block to go through a segment: `sum_segments` for rows of many columns, a warp taking whole rows, and
// `SegmentTile` for few columns, down to one, where neighbouring threads take neighbouring rows.
#pragma once

#include "block.cuh"

constexpr int SEGMENT_THREADS = 256;
constexpr int SEGMENT_WARPS = SEGMENT_THREADS / 32;

struct Rows {
    u64 begin, end;
    __device__ __forceinline__ u64 length() const { return end - begin; }
};

// Never beyond `rows`, whatever the offsets say.
__device__ __forceinline__ Rows rows_of(const i32* offsets, u64 segment, u64 rows) {
    const u64 end = min(u64(offsets[segment + 1]), rows);
    return {min(u64(offsets[segment]), end), end};
}

// The segment that owns a row: the last that begins at or before it.
__device__ __forceinline__ u64 segment_of(const i32* offsets, u64 segments, u64 row) {
    u64 low = 0, high = segments;
    while (high - low > 1) {
        const u64 middle = (low + high) / 2;
        if (u64(offsets[middle]) <= row) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

struct SegmentParams {
    const void *from, *weights;  // weights: one per row, where the kernel has any
    void* to;
    const i32* offsets;
    u64 rows, segments, c;
    u32 aligned;  // c is a multiple of 16 bytes
    u32 tiles;    // of columns, in sums
};

// to[s] = finish(Σ weight(row) from[row], length) by a block for a segment and 32 vectors of columns; the eight warps take every
// eighth row and are added in order of warps.
template <typename T, int W, typename F, typename G>
__device__ __forceinline__ void sum_segments(const SegmentParams& p, float (&parts)[SEGMENT_WARPS][32 * WIDTH<T>], F weight, G finish) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u64 segment = blockIdx.x / p.tiles, first = u64(blockIdx.x % p.tiles) * 32 * W, col = first + lane * W;
    const Rows rows = rows_of(p.offsets, segment, p.rows);
    float sum[W];
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] = 0.0f;
    if (col < p.c) {
#pragma unroll 4
        for (u64 row = rows.begin + warp; row < rows.end; row += SEGMENT_WARPS) {
            float x[W];
            load_floats(x, static_cast<const T*>(p.from) + row * p.c + col);
            const float w = weight(row);
#pragma unroll
            for (int i = 0; i < W; ++i) sum[i] = fmaf(w, x[i], sum[i]);
        }
    }
    put_columns(parts, sum);
    __syncthreads();
    const u32 at = threadIdx.x;
    if (at < 32 * W && first + at < p.c) {
        static_cast<T*>(p.to)[segment * p.c + first + at] = from_float<T>(finish(column_sum(parts, at), rows.length()));
    }
}

// to[row] = f(from[s], row, length), s the segment that owns the row; one thread per vector.
template <typename T, int W, typename F>
__device__ __forceinline__ void spread_segments(const SegmentParams& p, F f) {
    const u64 at = global_thread() * W;
    if (at >= p.rows * p.c) return;
    const u64 row = at / p.c, col = at % p.c, segment = segment_of(p.offsets, p.segments, row);
    const u64 length = rows_of(p.offsets, segment, p.rows).length();
    float d[W];
    load_floats(d, static_cast<const T*>(p.from) + segment * p.c + col);
#pragma unroll
    for (int i = 0; i < W; ++i) d[i] = f(d[i], row, length);
    store_floats(static_cast<T*>(p.to) + at, d);
}

// A block's threads over a segment: `lanes` neighbouring columns, a power of two up to 32, times 256 / lanes rows at a time.
// The grid is segments times `tiles` of columns.
struct SegmentTile {
    Rows rows;
    u64 segment, col;
    u32 lanes, group, groups;

    __device__ __forceinline__ SegmentTile(const i32* offsets, u64 all_rows, u32 lanes, u32 tiles)
        : segment(blockIdx.x / tiles), lanes(lanes), group(threadIdx.x / lanes), groups(SEGMENT_THREADS / lanes) {
        rows = rows_of(offsets, segment, all_rows);
        col = u64(blockIdx.x % tiles) * lanes + threadIdx.x % lanes;
    }

    // f(row) for this thread's rows.
    template <typename F>
    __device__ __forceinline__ void for_each_row(F f) const {
#pragma unroll 4
        for (u64 row = rows.begin + group; row < rows.end; row += groups) f(row);
    }
};

// What `combine` makes of a value of every thread of a column, in a fixed order; every thread receives its column's. All threads
// call it, once per array.
template <typename V, typename F>
__device__ __forceinline__ V reduce_columns(V (&of_thread)[SEGMENT_THREADS], V mine, u32 lanes, F combine) {
    const u32 me = threadIdx.x;
    of_thread[me] = mine;
#pragma unroll 1
    for (u32 step = SEGMENT_THREADS / 2; step >= lanes; step /= 2) {
        __syncthreads();
        if (me < step) of_thread[me] = combine(of_thread[me], of_thread[me + step]);
    }
    __syncthreads();
    return of_thread[me % lanes];
}

#define SEGMENT_ENTRY(NAME, T, PARAMS, ...)                                                                        \
    extern "C" __global__ void __launch_bounds__(SEGMENT_THREADS) NAME##_##T(const __grid_constant__ PARAMS p) { \
        __VA_ARGS__;                                                                                               \
    }
// FUNCTION<T, W>(...), W being a vector where rows are aligned.
#define ALIGNED_OR_NOT(FUNCTION, T, ...)     \
    if (p.aligned) {                         \
        FUNCTION<T, WIDTH<T>>(__VA_ARGS__);  \
    } else {                                 \
        FUNCTION<T, 1>(__VA_ARGS__);         \
    }
