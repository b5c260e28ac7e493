// The largest element of every row and where it is; of equals the first.
//
// Shapes    x: rows x cols; y, index: rows.
// Types     x, y f32, bf16, f16; index i32.
// Launch    256 threads. One warp per row, eight rows per block; rows longer than 2048 get a block each (`fwd_block_per_row`).
//           16 B per lane where rows are a multiple of that, else one element.
// Traffic   x once: memory bound.
// Rejected  several blocks per row and a second launch: rows as long as that are not what classes or scores come in.
// Numerics  exact. NaN wins, the first of them.
// Tail      columns beyond the row are skipped.

#include "common/warp.cuh"

struct MaxParams {
    const void* x;
    void* y;
    i32* index;
    u64 rows;
    u32 cols;
    u32 aligned;  // cols is a multiple of the vector width
};

constexpr int THREADS = 256;

struct Best {
    float value;
    u32 index;
};

__device__ __forceinline__ Best better(Best a, Best b) {
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    const bool equal = a.value == b.value || (a_nan && b_nan);
    const bool take_b = equal ? b.index < a.index : b_nan || b.value > a.value;
    return take_b ? b : a;
}

__device__ __forceinline__ Best warp_best(Best x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        x = better(x, {__shfl_xor_sync(FULL_MASK, x.value, step), __shfl_xor_sync(FULL_MASK, x.index, step)});
    }
    return x;
}

// The best of a row over `step` threads, of which this is number `me`.
template <typename T, int W>
__device__ __forceinline__ Best best_of(const T* x, u32 cols, u32 me, u32 step) {
    Best best = {-INFINITY, 0x7fffffffu};
#pragma unroll 1
    for (u32 col = me * W; col < cols; col += step * W) {
        float v[W];
        load_floats(v, x + col);
#pragma unroll
        for (int i = 0; i < W; ++i) best = better(best, {v[i], col + i});
    }
    return warp_best(best);
}

template <typename T>
__device__ __forceinline__ void store_best(const MaxParams& p, u64 row, Best best) {
    static_cast<T*>(p.y)[row] = from_float<T>(best.value);
    p.index[row] = i32(best.index);
}

template <typename T, int W>
__device__ __forceinline__ void warp_per_row(const MaxParams& p) {
    const u64 row = global_thread() / 32;
    if (row >= p.rows) return;
    const Best best = best_of<T, W>(static_cast<const T*>(p.x) + row * p.cols, p.cols, threadIdx.x % 32, 32);
    if (threadIdx.x % 32 == 0) store_best<T>(p, row, best);
}

template <typename T, int W>
__device__ __forceinline__ void block_per_row(const MaxParams& p) {
    __shared__ Best of_warp[THREADS / 32];
    const u64 row = blockIdx.x;
    const Best mine = best_of<T, W>(static_cast<const T*>(p.x) + row * p.cols, p.cols, threadIdx.x, THREADS);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x > 0) return;
    Best best = of_warp[0];
#pragma unroll
    for (int warp = 1; warp < THREADS / 32; ++warp) best = better(best, of_warp[warp]);
    store_best<T>(p, row, best);
}

#define ENTRY(NAME, T, FUNCTION)                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) max_##NAME##_##T(const __grid_constant__ MaxParams p) { \
        if (p.aligned) {                                                                                 \
            FUNCTION<T, WIDTH<T>>(p);                                                                    \
        } else {                                                                                         \
            FUNCTION<T, 1>(p);                                                                           \
        }                                                                                                \
    }
#define EVERY_LENGTH(T)         \
    ENTRY(fwd, T, warp_per_row) \
    ENTRY(fwd_block_per_row, T, block_per_row)

EVERY_LENGTH(f32)
EVERY_LENGTH(bf16)
EVERY_LENGTH(f16)
