// Softmax over the rows of each segment, column by column, and its gradient.
//
//   fwd     y[row] = exp(x[row]) / Σ exp(x[r]) over the rows r of the row's segment
//   bwd_x   dx[row] = y[row] (dy[row] − Σ dy[r] y[r])
//
// Shapes    x, y, dy, dx: rows x c; offsets: segments + 1 first rows, ascending.
// Types     f32, bf16, f16 in memory; f32 arithmetic.
// Launch    256 threads: a block for a segment and `lanes` columns, a power of two up to 32, so that attention over patches
//           (c = 1) still reads neighbouring rows with neighbouring threads.
// Traffic   every operand twice, the second time from L2 as a rule: a slide of 8192 patches is 32 KB a column. Memory bound.
// Rejected  one softmax per segment: as many launches as slides. Several blocks per segment: a second launch to join them, for
//           segments longer than any slide here.
// Numerics  online softmax, the sum rescaled as the maximum rises; threads joined in a fixed order. expf within 2 ulp. NaN propagates.
// Tail      lanes beyond c idle. A segment of -inf gives NaN, as the definition does.

#include "common/online_softmax.cuh"
#include "common/segment.cuh"

struct SegmentSoftmaxParams {
    const void* x;  // dy in the gradient
    const void* y;  // of the gradient
    void* out;
    const i32* offsets;
    u64 rows, c;
    u32 lanes;
    u32 tiles;  // of columns
};

template <typename T>
__device__ __forceinline__ void forward(const SegmentSoftmaxParams& p) {
    __shared__ OnlineSoftmax of_thread[SEGMENT_THREADS];
    const SegmentTile tile(p.offsets, p.rows, p.lanes, p.tiles);
    const T* const x = static_cast<const T*>(p.x) + tile.col;
    T* const y = static_cast<T*>(p.out) + tile.col;
    OnlineSoftmax mine = no_softmax();
    if (tile.col < p.c) {
        tile.for_each_row([&](u64 row) { mine = merge(mine, {to_float(x[row * p.c]), 1.0f}); });
    }
    const OnlineSoftmax all = reduce_columns(of_thread, mine, p.lanes, merge);
    if (tile.col < p.c) {
        const float scale = 1.0f / all.sum;
        tile.for_each_row([&](u64 row) { y[row * p.c] = from_float<T>(expf(to_float(x[row * p.c]) - all.max) * scale); });
    }
}

template <typename T>
__device__ __forceinline__ void backward(const SegmentSoftmaxParams& p) {
    __shared__ float of_thread[SEGMENT_THREADS];
    const SegmentTile tile(p.offsets, p.rows, p.lanes, p.tiles);
    const T *const dy = static_cast<const T*>(p.x) + tile.col, *const y = static_cast<const T*>(p.y) + tile.col;
    T* const dx = static_cast<T*>(p.out) + tile.col;
    float dot = 0.0f;
    if (tile.col < p.c) {
        tile.for_each_row([&](u64 row) { dot = fmaf(to_float(dy[row * p.c]), to_float(y[row * p.c]), dot); });
    }
    dot = reduce_columns(of_thread, dot, p.lanes, [](float a, float b) { return a + b; });
    if (tile.col < p.c) {
        tile.for_each_row([&](u64 row) { dx[row * p.c] = from_float<T>(to_float(y[row * p.c]) * (to_float(dy[row * p.c]) - dot)); });
    }
}

#define ENTRIES(T)                                                                \
    SEGMENT_ENTRY(segment_softmax_fwd, T, SegmentSoftmaxParams, forward<T>(p)) \
    SEGMENT_ENTRY(segment_softmax_bwd_x, T, SegmentSoftmaxParams, backward<T>(p))

ENTRIES(f32)
ENTRIES(bf16)
ENTRIES(f16)
