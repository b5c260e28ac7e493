// GEMM of plain matrices: what gemm.cu and linear.cu share. C[m, n] = Σ_k A[m, k] B[k, n] for each of a batch.
#pragma once

#include "mainloop.cuh"
#include "splitk.cuh"
#include "warp.cuh"

struct GemmParams {
    const void *a, *b;
    void* y;                             // [batch, m, n]
    float* partials;                     // [splits, batch, m, n], or null without split-K
    u64 a_batch_stride, b_batch_stride;  // elements, 0 where one matrix serves all
    u64 lda, ldb;                        // leading dimensions, elements
    Epilogue epilogue;                   // of entries that have one
    u32 m, n, k, batch;
    u32 tiles_m, tiles_n;
    u32 k_per_split;         // a multiple of the tile's K
    u32 a_vector, b_vector;  // elements per copy
    u32 y_vector;            // 4 where every row of y begins on four elements, else 1
};

// One tile of one matrix of the batch, one split of K.
template <typename Tile, bool A_K_MAJOR, bool B_K_MAJOR, EpilogueKind F>
__device__ __forceinline__ void gemm_tile(const GemmParams& p) {
    using T = typename Tile::T;
    const TileCoord coord = tile_coord(p.tiles_m, p.tiles_n);
    const u32 matrix = coord.z % p.batch, split = coord.z / p.batch;
    const u32 m = coord.m * Tile::M, n = coord.n * Tile::N;
    const u32 begin = split * p.k_per_split, end = min(p.k, begin + p.k_per_split);

    const MatrixOperand<Tile, A_K_MAJOR, Tile::M> a{
        static_cast<const T*>(p.a) + matrix * p.a_batch_stride + u64(m) * (A_K_MAJOR ? p.lda : 1), p.lda, int(p.m - m), p.a_vector};
    const MatrixOperand<Tile, B_K_MAJOR, Tile::N> b{
        static_cast<const T*>(p.b) + matrix * p.b_batch_stride + u64(n) * (B_K_MAJOR ? p.ldb : 1), p.ldb, int(p.n - n), p.b_vector};
    Accumulators<Tile> c;
    mainloop<Tile, A_K_MAJOR, B_K_MAJOR>(c, reinterpret_cast<T*>(dynamic_smem), int(begin), int(end), a, b);

    const u64 corner = (u64(matrix) * p.m + m) * p.n + n;
    const int rows = int(p.m - m), cols = int(p.n - n);
    const bool aligned = p.y_vector == 4;
    if (p.partials != nullptr) {
        float* to = p.partials + u64(split) * p.batch * p.m * p.n + corner;
        for_each_vec4<Tile>(c, dynamic_smem, [&](int row, int col, const float4& v) {
            const float values[4] = {v.x, v.y, v.z, v.w};
            if (row < rows) store_vec4(to + u64(row) * p.n + col, values, cols - col, aligned);
        });
        return;
    }
    T* to = static_cast<T*>(p.y);
    for_each_vec4<Tile, F == SMOOTH>(c, dynamic_smem, [&](int row, int col, const float4& v) {
        float values[4] = {v.x, v.y, v.z, v.w};
        if (row < rows && col < cols) {
            const u64 at = corner + u64(row) * p.n + col;
            apply_epilogue<T, F>(p.epilogue, u64(matrix) * p.m + m + row, n + col, at, cols - col, aligned, values);
            store_vec4(to + at, values, cols - col, aligned);
        }
    });
}

#define GEMM(MODULE, ROLE, A_K_MAJOR, B_K_MAJOR, F, TILE, SIZE, NAME, T, MATH)                          \
    extern "C" __global__ void __launch_bounds__(TILE<Mma<T COMMA MATH>>::THREADS, TILE<Mma<T COMMA MATH>>::MIN_BLOCKS_PER_SM) \
        MODULE##_##ROLE##_##SIZE##_##NAME(const __grid_constant__ GemmParams p) {              \
        gemm_tile<TILE<Mma<T COMMA MATH>>, A_K_MAJOR, B_K_MAJOR, F>(p);                                \
    }
#define COMMA ,

#define GEMM_TILES(MODULE, ROLE, A_K_MAJOR, B_K_MAJOR, F, NAME, T, MATH)             \
    GEMM(MODULE, ROLE, A_K_MAJOR, B_K_MAJOR, F, Tile128x128, 128x128, NAME, T, MATH) \
    GEMM(MODULE, ROLE, A_K_MAJOR, B_K_MAJOR, F, Tile64x64, 64x64, NAME, T, MATH)

// Every type, both tiles.
#define GEMM_DTYPES(MODULE, ROLE, A_K_MAJOR, B_K_MAJOR, F)                \
    GEMM_TILES(MODULE, ROLE, A_K_MAJOR, B_K_MAJOR, F, bf16, bf16, NATIVE) \
    GEMM_TILES(MODULE, ROLE, A_K_MAJOR, B_K_MAJOR, F, f16, f16, NATIVE)   \
    GEMM_TILES(MODULE, ROLE, A_K_MAJOR, B_K_MAJOR, F, f32, f32, TF32X3)   \
    GEMM_TILES(MODULE, ROLE, A_K_MAJOR, B_K_MAJOR, F, tf32_f32, f32, TF32)

// ------------------------------------------------------------------------------------------------ skinny M

// y[r, j] = Σ_k a[r, k] b[j, k] for up to four rows: one warp per column j, its lanes along k. The sums are f32 FMAs
// whatever the precision.
template <typename T, int W, EpilogueKind F>
__device__ __forceinline__ void skinny(const GemmParams& p) {
    constexpr int ROWS = 4;
    const u32 lane = threadIdx.x % 32;
    const u64 column = global_thread() / 32;
    if (column >= u64(p.n) * p.batch) return;
    const u64 matrix = column / p.n, j = column % p.n;
    const T* a = static_cast<const T*>(p.a) + matrix * p.a_batch_stride;
    const T* b = static_cast<const T*>(p.b) + matrix * p.b_batch_stride + j * p.ldb;
    float sum[ROWS] = {};
    for (u32 k = lane * W; k < p.k; k += 32 * W) {
        float right[W];
        load_floats(right, b + k);
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            if (u32(row) < p.m) {
                float left[W];
                load_floats(left, a + row * p.lda + k);
#pragma unroll
                for (int i = 0; i < W; ++i) sum[row] = fmaf(left[i], right[i], sum[row]);
            }
        }
    }
    // One lane per row.
    float mine[1] = {};
#pragma unroll
    for (int row = 0; row < ROWS; ++row) {
        const float all = warp_sum(sum[row]);
        if (u32(row) == lane) mine[0] = all;
    }
    if (lane < p.m) {
        const u64 pixel = matrix * p.m + lane, at = pixel * p.n + j;
        apply_epilogue<T, F>(p.epilogue, pixel, u32(j), at, 1, true, mine);
        static_cast<T*>(p.y)[at] = from_float<T>(mine[0]);
    }
}

#define SKINNY(MODULE, T, F)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256) MODULE##_skinny_##T(const __grid_constant__ GemmParams p) { \
        if (min(p.a_vector, p.b_vector) == u32(WIDTH<T>)) {                                                              \
            skinny<T, WIDTH<T>, F>(p);                                                                                 \
        } else {                                                                                                         \
            skinny<T, 1, F>(p);                                                                                        \
        }                                                                                                                \
    }
