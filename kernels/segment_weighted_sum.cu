// Weighted sums over segments of rows, and their gradients: how attention pools a slide's patches.
//
//   fwd           y[s] = Σ w[row] x[row] over the rows of s
//   bwd_x         dx[row] = w[row] dy[s], s the segment that owns the row
//   bwd_weights   dw[row] = x[row] · dy[s]
//
// Shapes    x, dx: rows x c; w, dw: rows; y, dy: segments x c; offsets: segments + 1 first rows, ascending.
// Types     f32, bf16, f16 in memory, f32 sums.
// Launch    256 threads. fwd: a block for a segment and 32 vectors of columns; the eight warps take every eighth row and are added
//           in order of warps. bwd_x: one thread per vector. bwd_weights: a warp per row. Both find the row's segment by binary search.
// Traffic   fwd and bwd_weights read x once, bwd_x writes dx once; a segment's dy comes from cache: memory bound.
// Rejected  x ∘ w and then a sum: three times the traffic.
// Numerics  sums in a fixed order.
// Tail      columns not a multiple of 16 bytes: one element per lane.

#include "common/segment.cuh"

template <typename T, int W>
__device__ __forceinline__ void weighted_sum(const SegmentParams& p, float (&parts)[SEGMENT_WARPS][32 * WIDTH<T>]) {
    const T* const weights = static_cast<const T*>(p.weights);
    sum_segments<T, W>(p, parts, [&](u64 row) { return to_float(weights[row]); }, [](float sum, u64) { return sum; });
}

template <typename T, int W>
__device__ __forceinline__ void gradient_by_x(const SegmentParams& p) {
    const T* const weights = static_cast<const T*>(p.weights);
    spread_segments<T, W>(p, [&](float d, u64 row, u64) { return to_float(weights[row]) * d; });
}

struct SegmentDotParams {
    const void *x, *dy;
    void* dw;
    const i32* offsets;
    u64 rows, segments, c;
    u32 aligned;  // c is a multiple of 16 bytes
    u32 unused;
};

template <typename T, int W>
__device__ __forceinline__ void gradient_by_weights(const SegmentDotParams& p) {
    const u64 row = global_thread() / 32;
    if (row >= p.rows) return;
    const T* const x = static_cast<const T*>(p.x) + row * p.c;
    const T* const dy = static_cast<const T*>(p.dy) + segment_of(p.offsets, p.segments, row) * p.c;
    float sum = 0.0f;
#pragma unroll 2
    for (u64 col = threadIdx.x % 32 * W; col < p.c; col += 32 * W) {
        float a[W], b[W];
        load_floats(a, x + col);
        load_floats(b, dy + col);
#pragma unroll
        for (int i = 0; i < W; ++i) sum = fmaf(a[i], b[i], sum);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) static_cast<T*>(p.dw)[row] = from_float<T>(sum);
}

#define ENTRIES(T)                                                                                                      \
    SEGMENT_ENTRY(segment_weighted_sum_fwd, T, SegmentParams,                                                          \
                  __shared__ float parts[SEGMENT_WARPS][32 * WIDTH<T>]; ALIGNED_OR_NOT(weighted_sum, T, p, parts))      \
    SEGMENT_ENTRY(segment_weighted_sum_bwd_x, T, SegmentParams, ALIGNED_OR_NOT(gradient_by_x, T, p))                    \
    SEGMENT_ENTRY(segment_weighted_sum_bwd_weights, T, SegmentDotParams, ALIGNED_OR_NOT(gradient_by_weights, T, p))

ENTRIES(f32)
ENTRIES(bf16)
ENTRIES(f16)
