// Products of plain matrices: what matmul.cu and linear.cu share. C[m, n] = Σ_k A[m, k] B[k, n] for each of a batch.
#pragma once

#include "merge.cuh"
#include "mma.cuh"
#include "warp.cuh"

struct ProductParams {
    const void *a, *b;
    void* y;          // [batch, m, n]
    float* partials;  // [splits, batch, m, n], or null where the inner axis is not split
    u64 a_batch, b_batch;  // elements from one matrix to the next, 0 where there is only one
    u64 a_pitch, b_pitch;  // elements from one stored line to the next
    Epilogue epilogue;     // of products that have one
    u32 m, n, k, batch;
    u32 tiles_m, tiles_n;
    u32 inner_each;          // inner indices of a split, a multiple of the tile's
    u32 a_vector, b_vector;  // elements of a copy
    u32 y_vector;            // 4 where every row of y begins on four elements, else 1
};

// One tile of one matrix of the batch, one split of the inner axis.
template <typename Tile, bool A_INNER, bool B_INNER, Following F>
__device__ __forceinline__ void product_tile(const ProductParams& p) {
    using T = typename Tile::T;
    const TilePlace place = tile_place(p.tiles_m, p.tiles_n);
    const u32 matrix = place.z % p.batch, split = place.z / p.batch;
    const u32 m = place.m * Tile::M, n = place.n * Tile::N;
    const u32 begin = split * p.inner_each, end = min(p.k, begin + p.inner_each);

    const PlainOperand<Tile, A_INNER, Tile::M> a{
        static_cast<const T*>(p.a) + matrix * p.a_batch + u64(m) * (A_INNER ? p.a_pitch : 1), p.a_pitch, int(p.m - m), p.a_vector};
    const PlainOperand<Tile, B_INNER, Tile::N> b{
        static_cast<const T*>(p.b) + matrix * p.b_batch + u64(n) * (B_INNER ? p.b_pitch : 1), p.b_pitch, int(p.n - n), p.b_vector};
    Accumulators<Tile> c;
    multiply<Tile, A_INNER, B_INNER>(c, reinterpret_cast<T*>(block_memory), int(begin), int(end), a, b);

    const u64 corner = (u64(matrix) * p.m + m) * p.n + n;
    const int rows = int(p.m - m), cols = int(p.n - n);
    const bool aligned = p.y_vector == 4;
    if (p.partials != nullptr) {
        float* to = p.partials + u64(split) * p.batch * p.m * p.n + corner;
        for_each_four<Tile>(c, block_memory, [&](int row, int col, const float4& v) {
            const float values[4] = {v.x, v.y, v.z, v.w};
            if (row < rows) store_four(to + u64(row) * p.n + col, values, cols - col, aligned);
        });
        return;
    }
    T* to = static_cast<T*>(p.y);
    for_each_four<Tile, F == CURVED_EPILOGUE>(c, block_memory, [&](int row, int col, const float4& v) {
        float values[4] = {v.x, v.y, v.z, v.w};
        if (row < rows && col < cols) {
            const u64 at = corner + u64(row) * p.n + col;
            follow<T, F>(p.epilogue, u64(matrix) * p.m + m + row, n + col, at, cols - col, aligned, values);
            store_four(to + at, values, cols - col, aligned);
        }
    });
}

#define PRODUCT(STEM, ROLE, A_INNER, B_INNER, F, TILE, SIZE, NAME, T, EXACT)                          \
    extern "C" __global__ void __launch_bounds__(TILE<Product<T COMMA EXACT>>::THREADS, TILE<Product<T COMMA EXACT>>::RESIDENT) \
        STEM##_##ROLE##_##SIZE##_##NAME(const __grid_constant__ ProductParams p) {              \
        product_tile<TILE<Product<T COMMA EXACT>>, A_INNER, B_INNER, F>(p);                                \
    }
#define COMMA ,

#define PRODUCT_SIZES(STEM, ROLE, A_INNER, B_INNER, F, NAME, T, EXACT)                 \
    PRODUCT(STEM, ROLE, A_INNER, B_INNER, F, LargeTile, large, NAME, T, EXACT)         \
    PRODUCT(STEM, ROLE, A_INNER, B_INNER, F, SmallTile, small, NAME, T, EXACT)

// Every type, both sizes.
#define PRODUCTS(STEM, ROLE, A_INNER, B_INNER, F)                               \
    PRODUCT_SIZES(STEM, ROLE, A_INNER, B_INNER, F, bf16, bf16, false)           \
    PRODUCT_SIZES(STEM, ROLE, A_INNER, B_INNER, F, f16, f16, false)             \
    PRODUCT_SIZES(STEM, ROLE, A_INNER, B_INNER, F, f32, f32, true)              \
    PRODUCT_SIZES(STEM, ROLE, A_INNER, B_INNER, F, tf32_f32, f32, false)

// ------------------------------------------------------------------------------------------------ few rows

// y[r, j] = Σ_k a[r, k] b[j, k] for up to four rows: a warp a column j, its lanes along k. The sums are f32 fused
// multiply-adds whatever the precision.
template <typename T, int W, Following F>
__device__ __forceinline__ void few_rows(const ProductParams& p) {
    constexpr int ROWS = 4;
    const u32 lane = threadIdx.x % 32;
    const u64 column = global_thread() / 32;
    if (column >= u64(p.n) * p.batch) return;
    const u64 matrix = column / p.n, j = column % p.n;
    const T* a = static_cast<const T*>(p.a) + matrix * p.a_batch;
    const T* b = static_cast<const T*>(p.b) + matrix * p.b_batch + j * p.b_pitch;
    float sum[ROWS] = {};
    for (u32 k = lane * W; k < p.k; k += 32 * W) {
        float right[W];
        load_floats(right, b + k);
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            if (u32(row) < p.m) {
                float left[W];
                load_floats(left, a + row * p.a_pitch + k);
#pragma unroll
                for (int i = 0; i < W; ++i) sum[row] = fmaf(left[i], right[i], sum[row]);
            }
        }
    }
    // A lane a row.
    float mine[1] = {};
#pragma unroll
    for (int row = 0; row < ROWS; ++row) {
        const float all = warp_sum(sum[row]);
        if (u32(row) == lane) mine[0] = all;
    }
    if (lane < p.m) {
        const u64 pixel = matrix * p.m + lane, at = pixel * p.n + j;
        follow<T, F>(p.epilogue, pixel, u32(j), at, 1, true, mine);
        static_cast<T*>(p.y)[at] = from_float<T>(mine[0]);
    }
}

#define FEW_ROWS(STEM, T, F)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256) STEM##_fwd_few_rows_##T(const __grid_constant__ ProductParams p) { \
        if (min(p.a_vector, p.b_vector) == u32(WIDTH<T>)) {                                                              \
            few_rows<T, WIDTH<T>, F>(p);                                                                                 \
        } else {                                                                                                         \
            few_rows<T, 1, F>(p);                                                                                        \
        }                                                                                                                \
    }
