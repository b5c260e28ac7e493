// The one main loop of matrix products and convolutions: C = A · B for a tile of C per block, on tensor cores.
//
// Operand tiles come into shared memory through cp.async in a ring of STAGES; whoever includes this says, with a function
// (tile, first inner index), how a tile of A or B is brought in: from a plain matrix, or gathered from an image. A tile lies
// in shared memory as it lies in global memory:
//   inner-major   a line per row of A (column of B), the inner index contiguous:  fragments by ldmatrix
//   outer-major   a line per inner index, rows of A (columns of B) contiguous:    fragments by ldmatrix.trans
// f32 fragments are read as 32-bit words. Lines are padded so that no fragment load meets a bank twice: by 16 bytes when
// inner-major (80-byte lines), by 8 elements when outer-major.
//
// A copy is 16 bytes where every line allows it, else 4 bytes, else, for 16-bit elements at odd places, one element through a
// register. What lies beyond an operand is zero, so any size is right.
//
// The result passes through shared memory once more, 32 rows a warp at a time, so that global stores are whole sectors.
#pragma once

#include "divisor.cuh"
#include "tile.cuh"

// The tile of C a block owns and how its warps share it.
template <typename P_, int M_, int N_, int WARPS_M_, int WARPS_N_>
struct Tile {
    using P = P_;
    using T = typename P::T;
    static constexpr int M = M_, N = N_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_;
    static constexpr int THREADS = WARPS_M * WARPS_N * 32;
    static constexpr int K = 64 / int(sizeof(T));
    static constexpr int STAGES = 3;
    // Blocks a multiprocessor should hold: f32's fragments and sums take the registers of the second large one.
    static constexpr int RESIDENT = sizeof(T) == 4 ? (M < 128 ? 3 : 1) : (M < 128 ? 4 : 2);
    static constexpr int WARP_M = M / WARPS_M, WARP_N = N / WARPS_N;
    static constexpr int BLOCKS_M = WARP_M / 16, BLOCKS_N = WARP_N / 8;

    // Elements from line to line.
    template <bool INNER, int OUTER>
    static constexpr int LINE = INNER ? K + 16 / int(sizeof(T)) : OUTER + 8;
    template <bool INNER, int OUTER>
    static constexpr int ELEMS = (INNER ? OUTER : K) * LINE<INNER, OUTER>;
    // What one stage of both operands takes.
    template <bool A_INNER, bool B_INNER>
    static constexpr int STAGE = ELEMS<A_INNER, M> + ELEMS<B_INNER, N>;
};

template <typename P>
using LargeTile = Tile<P, 128, 128, 2, 4>;
template <typename P>
using SmallTile = Tile<P, 64, 64, 2, 2>;

// VEC elements from global to shared memory, or zeros.
template <int VEC, typename T>
__device__ __forceinline__ void copy_elements(T* to, const T* from, bool there) {
    constexpr int BYTES = VEC * int(sizeof(T));
    if constexpr (BYTES == 16) {
        copy_async_16(to, from, there);
    } else if constexpr (BYTES == 4) {
        const int bytes = there ? 4 : 0;
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
    } else {
        *to = there ? *from : from_float<T>(0.0f);
    }
}

template <int N>
struct Constant {
    static constexpr int value = N;
};

// Calls f with the constant `vector`: elements of 16 bytes, of 4 bytes or one.
template <typename T, typename F>
__device__ __forceinline__ void with_copy_width(u32 vector, F f) {
    if (vector == u32(WIDTH<T>)) {
        f(Constant<WIDTH<T>>{});
    } else if (sizeof(T) == 2 && vector == 2) {
        f(Constant<4 / int(sizeof(T))>{});
    } else {
        f(Constant<1>{});
    }
}

// Calls f(line, col) for every VEC elements of a tile of LINES x COLS; a thread always has the same column.
template <int VEC, int LINES, int COLS, int THREADS, typename F>
__device__ __forceinline__ void for_each_vector(F f) {
    constexpr int PER_LINE = COLS / VEC, STEP = THREADS / PER_LINE;
    static_assert(THREADS % PER_LINE == 0 && LINES % STEP == 0);
    const int col = int(threadIdx.x) % PER_LINE * VEC, first = int(threadIdx.x) / PER_LINE;
    // Narrow copies are many and rare: a loop keeps the code short.
#pragma unroll(LINES / STEP <= 4 ? LINES / STEP : 2)
    for (int i = 0; i < LINES / STEP; ++i) f(first + i * STEP, col);
}

// A plain matrix, `outer` rows of A or columns of B by `inner`, lines `pitch` elements apart.
template <typename Tile, bool INNER, int OUTER>
struct PlainOperand {
    using T = typename Tile::T;
    const T* at;  // the block's first row (column), inner index 0
    u64 pitch;
    int outer;  // rows (columns) left from there
    u32 vector;

    __device__ __forceinline__ void load(T* tile, int k, int end) const {
        with_copy_width<T>(vector, [&](auto width) { copy<width.value>(tile, k, end); });
    }

    template <int VEC>
    __device__ __forceinline__ void copy(T* tile, int k, int end) const {
        constexpr int LINE = Tile::template LINE<INNER, OUTER>;
        constexpr int LINES = INNER ? OUTER : Tile::K, COLS = INNER ? Tile::K : OUTER;
        const int lines = INNER ? outer : end - k, cols = INNER ? end - k : outer;
        const T* from = at + (INNER ? u64(k) : u64(k) * pitch);
        for_each_vector<VEC, LINES, COLS, Tile::THREADS>([&](int line, int col) {
            const bool there = line < lines && col < cols;
            copy_elements<VEC>(tile + line * LINE + col, there ? from + line * pitch + col : at, there);
        });
    }
};

// ------------------------------------------------------------------------------------------------ fragments

template <bool INNER, int LINE, typename T, bool EXACT>
__device__ __forceinline__ typename Product<T, EXACT>::A left_fragment(Product<T, EXACT>, const T* tile, int m, int k) {
    using P = Product<T, EXACT>;
    const int lane = int(threadIdx.x) % 32;
    if constexpr (INNER) {
        return P::load_a(tile + m * LINE + k, LINE);
    } else if constexpr (sizeof(T) == 2) {
        typename P::A a;
        ldmatrix_transposed(a.at, tile + (k + lane / 16 * 8 + lane % 8) * LINE + m + lane / 8 % 2 * 8);
        return a;
    } else {
        typename P::A a;
        const T* at = tile + (k + lane % 4) * LINE + m + lane / 4;
        P::split(a.high[0], a.low[0], at[0]);
        P::split(a.high[1], a.low[1], at[8]);
        P::split(a.high[2], a.low[2], at[4 * LINE]);
        P::split(a.high[3], a.low[3], at[4 * LINE + 8]);
        return a;
    }
}

// Two blocks of 8 columns.
template <bool INNER, int LINE, typename T, bool EXACT>
__device__ __forceinline__ typename Product<T, EXACT>::B right_fragment(Product<T, EXACT>, const T* tile, int n, int k) {
    using P = Product<T, EXACT>;
    if constexpr (INNER) {
        return P::load_b_rows(tile + n * LINE + k, LINE);
    } else if constexpr (sizeof(T) == 2) {
        return P::load_b_cols(tile + k * LINE + n, LINE);
    } else {
        const int lane = int(threadIdx.x) % 32;
        typename P::B b;
#pragma unroll
        for (int block = 0; block < 2; ++block) {
            const T* at = tile + (k + lane % 4) * LINE + n + block * 8 + lane / 4;
            P::split(b.high[block][0], b.low[block][0], at[0]);
            P::split(b.high[block][1], b.low[block][1], at[4 * LINE]);
        }
        return b;
    }
}

// ------------------------------------------------------------------------------------------------ the main loop

template <typename Tile>
using Accumulators = float[Tile::BLOCKS_M][Tile::BLOCKS_N][4];

// c = A · B over the inner indices begin .. end. `memory` holds STAGES stages. Ends with all warps past their last read.
template <typename Tile, bool A_INNER, bool B_INNER, typename A, typename B>
__device__ __forceinline__ void multiply(Accumulators<Tile>& c, typename Tile::T* memory, int begin, int end, const A& a, const B& b) {
    using T = typename Tile::T;
    using P = typename Tile::P;
    constexpr int STAGES = Tile::STAGES, K = Tile::K, STAGE = Tile::template STAGE<A_INNER, B_INNER>;
    constexpr int A_ELEMS = Tile::template ELEMS<A_INNER, Tile::M>;
    constexpr int A_LINE = Tile::template LINE<A_INNER, Tile::M>, B_LINE = Tile::template LINE<B_INNER, Tile::N>;
    const int warp = int(threadIdx.x) / 32;
    const int m = warp / Tile::WARPS_N * Tile::WARP_M, n = warp % Tile::WARPS_N * Tile::WARP_N;
    const int steps = (end - begin + K - 1) / K;

#pragma unroll
    for (int i = 0; i < Tile::BLOCKS_M; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::BLOCKS_N; ++j) c[i][j][0] = c[i][j][1] = c[i][j][2] = c[i][j][3] = 0.0f;
    }
    // One call site for the copies: `stage` runs ahead of the products by STAGES - 1.
    int filled = 0;
#pragma unroll 1
    for (int step = 1 - STAGES; step < steps; ++step) {
        if (step >= 0) {
            copies_wait<STAGES - 2>();
            __syncthreads();
        }
        const int ahead = step + STAGES - 1;
        if (ahead < steps) {
            T* stage = memory + filled * STAGE;
            a.load(stage, begin + ahead * K, end);
            b.load(stage + A_ELEMS, begin + ahead * K, end);
        }
        copies_commit();
        filled = filled + 1 == STAGES ? 0 : filled + 1;
        if (step < 0) continue;
        // The slot after the one just filled is the oldest: the one to use now.
        const T* stage = memory + filled * STAGE;
#pragma unroll
        for (int k = 0; k < K; k += P::K) {
            typename P::B right[Tile::BLOCKS_N / 2];
#pragma unroll
            for (int j = 0; j < Tile::BLOCKS_N / 2; ++j) {
                right[j] = right_fragment<B_INNER, B_LINE>(P{}, stage + A_ELEMS, n + j * 16, k);
            }
#pragma unroll
            for (int i = 0; i < Tile::BLOCKS_M; ++i) {
                const typename P::A left = left_fragment<A_INNER, A_LINE>(P{}, stage, m + i * 16, k);
#pragma unroll
                for (int j = 0; j < Tile::BLOCKS_N / 2; ++j) P::add(c[i][2 * j], c[i][2 * j + 1], left, right[j]);
            }
        }
    }
    copies_wait<0>();
    __syncthreads();
}

// Calls f(row, column, four values) for every four neighbouring elements of the block's tile.
// ONCE, for a long f, puts it into the code once; else it is there for every two blocks, which takes fewer registers.
template <typename Tile, bool ONCE = false, typename F>
__device__ __forceinline__ void for_each_four(const Accumulators<Tile>& c, void* memory, F f) {
    constexpr int LINE = Tile::WARP_N + 4, PER_ROW = Tile::WARP_N / 4, ROWS = 32 / PER_ROW;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int m = warp / Tile::WARPS_N * Tile::WARP_M, n = warp % Tile::WARPS_N * Tile::WARP_N;
    constexpr int OUT = 2 * 16;
    static_assert(Tile::WARP_M % OUT == 0, "whole pairs of blocks");
    float* mine = static_cast<float*>(memory) + warp * OUT * LINE;
#pragma unroll(ONCE ? 1 : Tile::BLOCKS_M)
    for (int i = 0; i < Tile::BLOCKS_M; i += 2) {
        // Registers have no index: a choice among all of them.
#pragma unroll
        for (int block = 0; block < Tile::BLOCKS_M; ++block) {
            if (block / 2 * 2 != i) continue;
#pragma unroll
            for (int j = 0; j < Tile::BLOCKS_N; ++j) {
                float* at = mine + (block % 2 * 16 + lane / 4) * LINE + j * 8 + lane % 4 * 2;
                *reinterpret_cast<float2*>(at) = make_float2(c[block][j][0], c[block][j][1]);
                *reinterpret_cast<float2*>(at + 8 * LINE) = make_float2(c[block][j][2], c[block][j][3]);
            }
        }
        __syncwarp();
#pragma unroll 1
        for (int row = lane / PER_ROW; row < OUT; row += ROWS) {
            const float4 v = *reinterpret_cast<const float4*>(mine + row * LINE + lane % PER_ROW * 4);
            f(m + i * 16 + row, n + lane % PER_ROW * 4, v);
        }
        __syncwarp();
    }
}

// A block's place among tiles: eight rows of tiles are walked column by column, so that what runs together shares operands
// in the L2 cache.
struct TilePlace {
    u32 m, n, z;
};

__device__ __forceinline__ TilePlace tile_place(u32 tiles_m, u32 tiles_n, u32 index = blockIdx.x) {
    constexpr u32 BAND = 8;
    const u32 each = tiles_m * tiles_n, z = index / each, t = index % each;
    const u32 first = t / (BAND * tiles_n) * BAND, rows = min(tiles_m - first, BAND), within = t % (BAND * tiles_n);
    return {first + within % rows, within / rows, z};
}

// Four results at `to`: one store where all are there and aligned, else one by one. `left` columns remain in the row.
template <typename T>
__device__ __forceinline__ void store_four(T* to, const float (&v)[4], int left, bool aligned) {
    if (aligned) {
        if (left > 0) store_floats(to, v);
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (i < left) to[i] = from_float<T>(v[i]);
        }
    }
}

extern __shared__ __align__(16) unsigned char block_memory[];
