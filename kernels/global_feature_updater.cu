// The weighted sum of the global feature updater (paper eq. 6 and the inner sum of eq. 8) in one pass, and its gradients.
//
//   z = softmax(logits) over a patch's cells,  y = Σ z ∘ r
//   dr = z dy,  dlogits = z ∘ (r·dy − y·dy)
//
// Shapes    logits, dlogits: patches x cells; r, dr: patches x cells x d; y, dy: patches x d.
// Types     f32, bf16, f16 in memory, f32 arithmetic.
// Launch    fwd: 256 threads, one block per patch and tile of columns; a warp reads a cell's 32 vectors side by side, the eight
//           warps take every eighth cell and are added up in order of warps through shared memory.
//           bwd: 256 threads, one block per patch, a warp takes every eighth cell over its whole width.
//           Each warp works out the softmax of its patch by itself: some tens of numbers, from L1.
// Traffic   fwd reads r once; z is never stored. bwd reads r once and writes dr once; Σ z (r·dy) over cells is y·dy, so one
//           pass is enough. 2 FLOP per byte at most: memory bound.
// Rejected  one block per patch over all columns in fwd: too few blocks for a slide of a hundred patches.
// Numerics  expf within 2 ulp; weights are not rounded before they multiply.
// Tail      columns not a multiple of 16 bytes: one element per lane instead.

#include "common/block.cuh"

struct GatherParams {
    const void *logits, *r;
    void* y;
    const void* dy;
    void *dlogits, *dr;
    u64 d;
    u32 cells;
    u32 aligned;  // d is a multiple of 16 bytes
    u32 tiles;    // of columns, in fwd
    u32 unused;
};

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

// The softmax of a row of logits: exp(logit - row_max) * scale.
struct Softmax {
    float row_max, scale;

    template <typename T>
    static __device__ __forceinline__ Softmax of(const T* logits, u32 cells) {
        const u32 lane = threadIdx.x % 32;
        float row_max = -INFINITY;
        for (u32 i = lane; i < cells; i += 32) row_max = fmaxf(row_max, to_float(logits[i]));
#pragma unroll
        for (int step = 16; step > 0; step /= 2) row_max = fmaxf(row_max, __shfl_xor_sync(FULL_MASK, row_max, step));
        float sum = 0.0f;
        for (u32 i = lane; i < cells; i += 32) sum += expf(to_float(logits[i]) - row_max);
        return {row_max, 1.0f / warp_sum(sum)};
    }
    __device__ __forceinline__ float weight(float logit) const { return expf(logit - row_max) * scale; }
};

template <typename T, int W>
__device__ __forceinline__ void gather(const GatherParams& p, float (&parts)[WARPS][32 * WIDTH<T>]) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u64 patch = blockIdx.x / p.tiles, first = u64(blockIdx.x % p.tiles) * 32 * W, col = first + lane * W;
    const T* const logits = static_cast<const T*>(p.logits) + patch * p.cells;
    const T* const r = static_cast<const T*>(p.r) + patch * p.cells * p.d;
    const Softmax softmax = Softmax::of(logits, p.cells);
    float sum[W];
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] = 0.0f;
    if (col < p.d) {
#pragma unroll 4
        for (u32 cell = warp; cell < p.cells; cell += WARPS) {
            const float z = softmax.weight(to_float(logits[cell]));
            float x[W];
            load_floats(x, r + cell * p.d + col);
#pragma unroll
            for (int i = 0; i < W; ++i) sum[i] = fmaf(z, x[i], sum[i]);
        }
    }
    put_columns(parts, sum);
    __syncthreads();
    const u32 at = threadIdx.x;
    if (at < 32 * W && first + at < p.d) {
        static_cast<T*>(p.y)[patch * p.d + first + at] = from_float<T>(column_sum(parts, at));
    }
}

template <typename T>
__device__ __forceinline__ void forward(const GatherParams& p) {
    __shared__ float parts[WARPS][32 * WIDTH<T>];
    if (p.aligned) {
        gather<T, WIDTH<T>>(p, parts);
    } else {
        gather<T, 1>(p, parts);
    }
}

template <typename T, int W>
__device__ __forceinline__ void spread(const GatherParams& p) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u64 patch = blockIdx.x;
    const T* const logits = static_cast<const T*>(p.logits) + patch * p.cells;
    const T* const r = static_cast<const T*>(p.r) + patch * p.cells * p.d;
    const T* const y = static_cast<const T*>(p.y) + patch * p.d;
    const T* const dy = static_cast<const T*>(p.dy) + patch * p.d;
    T* const dr = static_cast<T*>(p.dr) + patch * p.cells * p.d;
    const Softmax softmax = Softmax::of(logits, p.cells);
    float mean = 0.0f;
    for (u64 col = lane * W; col < p.d; col += 32 * W) {
        float a[W], b[W];
        load_floats(a, y + col);
        load_floats(b, dy + col);
#pragma unroll
        for (int i = 0; i < W; ++i) mean = fmaf(a[i], b[i], mean);
    }
    mean = warp_sum(mean);
    for (u32 cell = warp; cell < p.cells; cell += WARPS) {
        const float z = softmax.weight(to_float(logits[cell]));
        float dot = 0.0f;
#pragma unroll 2
        for (u64 col = lane * W; col < p.d; col += 32 * W) {
            float x[W], d[W];
            load_floats(x, r + cell * p.d + col);
            load_floats(d, dy + col);
#pragma unroll
            for (int i = 0; i < W; ++i) {
                dot = fmaf(x[i], d[i], dot);
                d[i] *= z;
            }
            store_floats(dr + cell * p.d + col, d);
        }
        dot = warp_sum(dot);
        if (lane == 0) static_cast<T*>(p.dlogits)[patch * p.cells + cell] = from_float<T>(z * (dot - mean));
    }
}

template <typename T>
__device__ __forceinline__ void backward(const GatherParams& p) {
    if (p.aligned) {
        spread<T, WIDTH<T>>(p);
    } else {
        spread<T, 1>(p);
    }
}

#define ENTRIES(T)                                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS) global_feature_updater_fwd_##T(const __grid_constant__ GatherParams p) { \
        forward<T>(p);                                                                                                       \
    }                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS) global_feature_updater_bwd_##T(const __grid_constant__ GatherParams p) { \
        backward<T>(p);                                                                                                      \
    }

ENTRIES(f32)
ENTRIES(bf16)
ENTRIES(f16)
