// What the MBConv kernels share: moments of the rows of a tile, and the depthwise convolution of a tile in shared memory.
#pragma once

#include "activation.cuh"
#include "mainloop.cuh"
#include "warp.cuh"

// What a lane holds of its rows: of 16-row blocks of a warp those at lane / 4 and eight below.
template <typename Tile>
struct RowMoments {
    float mean[Tile::BLOCKS_M][2], squares[Tile::BLOCKS_M][2];
};

template <typename Tile>
using RowParts = float[2][Tile::WARPS_N][Tile::M];

// Mean and sum of squares about it over the `cols` columns that exist of the block's tile. Columns beyond them are zero.
template <typename Tile>
__device__ __forceinline__ RowMoments<Tile> row_moments(const Accumulators<Tile>& c, int cols, RowParts<Tile>& parts) {
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, column = warp % Tile::WARPS_N;
    const int m = warp / Tile::WARPS_N * Tile::WARP_M + lane / 4, n = column * Tile::WARP_N + lane % 4 * 2;
    RowMoments<Tile> all;
#pragma unroll
    for (int pass = 0; pass < 2; ++pass) {
#pragma unroll
        for (int i = 0; i < Tile::BLOCKS_M; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float sum = 0.0f;
#pragma unroll
                for (int j = 0; j < Tile::BLOCKS_N; ++j) {
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        const float value = c[i][j][half * 2 + e];
                        if (pass == 0) {
                            sum += value;
                        } else if (n + j * 8 + e < cols) {
                            const float centred = value - all.mean[i][half];
                            sum = fmaf(centred, centred, sum);
                        }
                    }
                }
                sum = warp_sum<4>(sum);
                if (lane % 4 == 0) parts[pass][column][m + i * 16 + half * 8] = sum;
            }
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < Tile::BLOCKS_M; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float sum = 0.0f;
#pragma unroll
                for (int part = 0; part < Tile::WARPS_N; ++part) sum += parts[pass][part][m + i * 16 + half * 8];
                if (pass == 0) {
                    all.mean[i][half] = sum / float(cols);
                } else {
                    all.squares[i][half] = sum;
                }
            }
        }
    }
    return all;
}

// Moments of a row from those of its slices, in their order: mean and sum of squares about it of `more` columns at a time.
struct Joined {
    float count = 0.0f, mean = 0.0f, squares = 0.0f;

    __device__ __forceinline__ void add(const float2& of, float more) {
        const float difference = of.x - mean, share = more / (count + more);
        squares += fmaf(difference * difference, count * share, of.y);
        mean = fmaf(difference, share, mean);
        count += more;
    }

    // Mean and reciprocal deviation.
    __device__ __forceinline__ float2 norm(float eps) const { return make_float2(mean, 1.0f / sqrtf(squares / count + eps)); }
};

// The moments of the rows of a block's tile that exist, two floats a row.
template <typename Tile>
__device__ __forceinline__ void store_moments(float* to, const RowMoments<Tile>& of, int rows) {
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    if (warp % Tile::WARPS_N != 0 || lane % 4 != 0) return;
    const int m = warp / Tile::WARPS_N * Tile::WARP_M + lane / 4;
#pragma unroll
    for (int i = 0; i < Tile::BLOCKS_M; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = m + i * 16 + half * 8;
            if (row < rows) *reinterpret_cast<float2*>(to + row * 2) = make_float2(of.mean[i][half], of.squares[i][half]);
        }
    }
}

// W channels from `tile`, weighted, into a sum.
template <int W>
__device__ __forceinline__ void add_tap(float (&sum)[W], const float (&x)[W], const float (&tap)[W]) {
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] = fmaf(x[i], tap[i], sum[i]);
}

// A row of results of a 3 x 3 kernel of stride 1: every pixel of the three rows around it is read once.
template <typename T, int W, int LD>
__device__ __forceinline__ void slide(T* to, const T* rows, const float (&tap)[9][W], bool above, bool below, u32 width, u64 c) {
    float before[W] = {}, here[W] = {};
#pragma unroll 1
    for (u32 j = 0; j < width; ++j) {
        float after[W] = {};
#pragma unroll
        for (int r = 0; r < 3; ++r) {
            if ((r == 0 && !above) || (r == 2 && !below)) continue;
            float x[W];
            load_floats(x, rows + (int(j) + (r - 1) * int(width)) * LD);
            add_tap(before, x, tap[r * 3 + 2]);
            add_tap(here, x, tap[r * 3 + 1]);
            add_tap(after, x, tap[r * 3]);
        }
        if (j > 0) store_floats(to + (j - 1) * c, before);
#pragma unroll
        for (int i = 0; i < W; ++i) before[i] = here[i], here[i] = after[i];
    }
    store_floats(to + (width - 1) * c, before);
}

// Extents of a depthwise convolution; an odd side, padded by half of it.
struct Windows {
    u32 h, w, oh, ow, side, stride;
};

// The convolution of `cols` channels of whole images in a tile whose rows are LD elements apart, rows of results warp by warp.
// `taps` and `d` begin at the tile's first channel.
template <typename T, int W, int LD, int WARPS>
__device__ __forceinline__ void depthwise(const Windows& g, u32 images, u32 cols, const T* taps, u64 taps_ld, const T* tile, T* d, u64 d_ld) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, rows = images * g.oh;
    const int padding = int(g.side / 2);
#pragma unroll 1
    for (u32 col = lane * W; col < cols; col += 32 * W) {
        if (g.side == 3 && g.stride == 1) {
            float tap[9][W];
#pragma unroll
            for (int i = 0; i < 9; ++i) load_floats(tap[i], taps + i * taps_ld + col);
#pragma unroll 1
            for (u32 row = warp; row < rows; row += WARPS) {
                const u32 i = row % g.oh;
                slide<T, W, LD>(d + row * g.ow * d_ld + col, tile + row * g.w * LD + col, tap, i > 0, i + 1 < g.oh, g.ow, d_ld);
            }
            continue;
        }
#pragma unroll 1
        for (u32 row = warp; row < rows; row += WARPS) {
            const T* image = tile + row / g.oh * g.h * g.w * LD + col;
            const int top = int(row % g.oh * g.stride) - padding;
#pragma unroll 1
            for (u32 j = 0; j < g.ow; ++j) {
                const int left = int(j * g.stride) - padding;
                float sum[W] = {};
#pragma unroll 1
                for (int r = 0; r < int(g.side); ++r) {
                    if (u32(top + r) >= g.h) continue;
#pragma unroll 1
                    for (int q = 0; q < int(g.side); ++q) {
                        if (u32(left + q) >= g.w) continue;
                        float x[W], tap[W];
                        load_floats(x, image + ((top + r) * g.w + left + q) * LD);
                        load_floats(tap, taps + (r * g.side + q) * taps_ld + col);
                        add_tap(sum, x, tap);
                    }
                }
                store_floats(d + (row * g.ow + j) * d_ld + col, sum);
            }
        }
    }
}

// silu(norm(c)) of a block's tile, rounded, into a tile of its own in shared memory; `norm_of` has mean and reciprocal deviation of its
// rows, `weight` and `bias` begin at its first column, null where there is no norm. Columns beyond `cols` become silu(0).
template <typename Tile, int LD>
__device__ __forceinline__ void activate_tile(typename Tile::T* tile, const Accumulators<Tile>& c, const float2* norm_of,
                                              const typename Tile::T* weight, const typename Tile::T* bias, int cols) {
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int m = warp / Tile::WARPS_N * Tile::WARP_M + lane / 4, n = warp % Tile::WARPS_N * Tile::WARP_N + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < Tile::BLOCKS_N; ++j) {
        float scale[2] = {1.0f, 1.0f}, shift[2] = {};
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int col = n + j * 8 + e;
            if (weight != nullptr && col < cols) scale[e] = to_float(weight[col]), shift[e] = to_float(bias[col]);
        }
#pragma unroll
        for (int i = 0; i < Tile::BLOCKS_M; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = m + i * 16 + half * 8;
                const float2 of = norm_of[row];
                float v[2];
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    v[e] = activation<SILU>(fmaf((c[i][j][half * 2 + e] - of.x) * of.y, scale[e], shift[e]), 0.0f);
                }
                store_pair(tile + row * LD + n + j * 8, v[0], v[1]);
            }
        }
    }
}

// c = norm(c) over columns; `norm_of(block, half)` is mean and reciprocal deviation of a lane's rows.
template <typename Tile, typename F>
__device__ __forceinline__ void normalise(Accumulators<Tile>& c, const typename Tile::T* weight, const typename Tile::T* bias, int cols, F norm_of) {
    const int n = int(threadIdx.x) / 32 % Tile::WARPS_N * Tile::WARP_N + int(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int j = 0; j < Tile::BLOCKS_N; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int col = min(n + j * 8 + e, cols - 1);
            const float scale = to_float(weight[col]), shift = to_float(bias[col]);
#pragma unroll
            for (int i = 0; i < Tile::BLOCKS_M; ++i) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float2 of = norm_of(i, half);
                    float& v = c[i][j][half * 2 + e];
                    v = fmaf((v - of.x) * of.y, scale, shift);
                }
            }
        }
    }
}

// A tile of results, through shared memory, and the residual (null: none) to `y`, both from the tile's corner on, rows `ld` apart.
template <typename Tile, int W>
__device__ __forceinline__ void store_results(const typename Tile::T* staged, typename Tile::T* y,
                                              const typename Tile::T* residual, u64 ld, int rows, int cols) {
    constexpr int VECTORS = Tile::N / W, LD = Tile::N + TILE_PAD<typename Tile::T>;
#pragma unroll 1
    for (int i = int(threadIdx.x); i < Tile::M * VECTORS; i += Tile::THREADS) {
        const int row = i / VECTORS, col = i % VECTORS * W;
        if (row >= rows || col >= cols) continue;
        const u64 at = row * ld + col;
        float v[W];
        load_floats(v, staged + row * LD + col);
        if (residual != nullptr) {
            float more[W];
            load_floats(more, residual + at);
#pragma unroll
            for (int j = 0; j < W; ++j) v[j] += more[j];
        }
        store_floats(y + at, v);
    }
}

// Accumulators, rounded, into a tile in shared memory.
template <typename Tile>
__device__ __forceinline__ void stage_results(typename Tile::T* staged, const Accumulators<Tile>& c) {
    constexpr int LD = Tile::N + TILE_PAD<typename Tile::T>;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int m = warp / Tile::WARPS_N * Tile::WARP_M + lane / 4, n = warp % Tile::WARPS_N * Tile::WARP_N + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < Tile::BLOCKS_M; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::BLOCKS_N; ++j) {
            typename Tile::T* const to = staged + (m + i * 16) * LD + n + j * 8;
            store_pair(to, c[i][j][0], c[i][j][1]);
            store_pair(to + 8 * LD, c[i][j][2], c[i][j][3]);
        }
    }
}
