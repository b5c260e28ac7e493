// Means over segments of rows, and their gradient.
//
//   fwd     y[s] = mean of x[offsets[s] .. offsets[s + 1]]
//   bwd_x   dx[row] = dy[s] / length of s, s the segment that owns the row
//
// Shapes    x, dx: rows x c; y, dy: segments x c; offsets: segments + 1 first rows, ascending. An empty segment has mean 0.
// Types     f32, bf16, f16 in memory, f32 sums.
// Launch    256 threads. fwd: a block for a segment and 32 vectors of columns; the eight warps take every eighth row and are added
//           in order of warps. bwd_x: one thread per vector; it finds its row's segment by binary search.
// Traffic   fwd reads x once, bwd_x writes dx once: memory bound.
// Rejected  one mean per segment: as many launches as slides.
// Numerics  sums in a fixed order; one division by the length.
// Tail      columns not a multiple of 16 bytes: one element per lane.

#include "common/segment.cuh"

template <typename T, int W>
__device__ __forceinline__ void mean(const SegmentParams& p, float (&parts)[SEGMENT_WARPS][32 * WIDTH<T>]) {
    const auto divide = [](float sum, u64 length) { return sum / float(max(length, u64(1))); };
    sum_segments<T, W>(p, parts, [](u64) { return 1.0f; }, divide);
}

template <typename T, int W>
__device__ __forceinline__ void mean_gradient(const SegmentParams& p) {
    spread_segments<T, W>(p, [](float d, u64, u64 length) { return d / float(length); });
}

#define ENTRIES(T)                                                                                \
    SEGMENT_ENTRY(segment_mean_fwd, T, SegmentParams,                                             \
                  __shared__ float parts[SEGMENT_WARPS][32 * WIDTH<T>]; ALIGNED_OR_NOT(mean, T, p, parts)) \
    SEGMENT_ENTRY(segment_mean_bwd_x, T, SegmentParams, ALIGNED_OR_NOT(mean_gradient, T, p))

ENTRIES(f32)
ENTRIES(bf16)
ENTRIES(f16)
