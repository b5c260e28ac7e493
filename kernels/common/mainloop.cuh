// The mainloop of GEMM and implicit GEMM: C = A · B for a tile of C per block, on tensor cores.
//
// Operand tiles come into shared memory through cp.async in a ring of STAGES; whoever includes this says, with a function
// (tile, first k), how a tile of A or B is loaded: from a matrix, or gathered from an image. A tile lies in shared memory
// as it lies in global memory:
//   K-major    a row per row of A (column of B), k contiguous:                 fragments by ldmatrix
//   MN-major   a row per k, rows of A (columns of B) contiguous:               fragments by ldmatrix.trans
// f32 fragments are read as 32-bit words. Rows are padded so that fragment loads are free of bank conflicts: by 16 bytes when
// K-major (80-byte rows), by 8 elements when MN-major.
//
// A copy is 16 bytes where the leading dimension allows it, else 4 bytes, else, for 16-bit elements at odd places, one element
// through a register. What lies beyond an operand is zero, so any size is right.
//
// The result passes through shared memory once more, 32 rows of a warp at a time, so that global stores are whole sectors.
#pragma once

#include "fast_divmod.cuh"
#include "mma.cuh"

// The tile of C a block owns and how its warps share it.
template <typename P_, int M_, int N_, int WARPS_M_, int WARPS_N_>
struct Tile {
    using P = P_;
    using T = typename P::T;
    static constexpr int M = M_, N = N_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_;
    static constexpr int THREADS = WARPS_M * WARPS_N * 32;
    static constexpr int K = 64 / int(sizeof(T));
    static constexpr int STAGES = 3;
    // 3xTF32's fragments and accumulators take the registers of a second 128 x 128 block.
    static constexpr int MIN_BLOCKS_PER_SM = sizeof(T) == 4 ? (M < 128 ? 3 : 1) : (M < 128 ? 4 : 2);
    static constexpr int WARP_M = M / WARPS_M, WARP_N = N / WARPS_N;
    static constexpr int BLOCKS_M = WARP_M / 16, BLOCKS_N = WARP_N / 8;

    // Leading dimension in shared memory, elements.
    template <bool K_MAJOR, int MN>
    static constexpr int LD = K_MAJOR ? K + 16 / int(sizeof(T)) : MN + 8;
    template <bool K_MAJOR, int MN>
    static constexpr int TILE_ELEMS = (K_MAJOR ? MN : K) * LD<K_MAJOR, MN>;
    // What one stage of both operands takes.
    template <bool A_K_MAJOR, bool B_K_MAJOR>
    static constexpr int STAGE_ELEMS = TILE_ELEMS<A_K_MAJOR, M> + TILE_ELEMS<B_K_MAJOR, N>;
};

template <typename P>
using Tile128x128 = Tile<P, 128, 128, 2, 4>;
template <typename P>
using Tile64x64 = Tile<P, 64, 64, 2, 2>;

// VEC elements from global to shared memory, or zeros.
template <int VEC, typename T>
__device__ __forceinline__ void copy_elements(T* to, const T* from, bool there) {
    constexpr int BYTES = VEC * int(sizeof(T));
    if constexpr (BYTES == 16) {
        cp_async_16(to, from, there);
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

// Calls f(row, col) for every VEC elements of a tile of ROWS x COLS; a thread always has the same column.
template <int VEC, int ROWS, int COLS, int THREADS, typename F>
__device__ __forceinline__ void for_each_vector(F f) {
    constexpr int PER_ROW = COLS / VEC, STEP = THREADS / PER_ROW;
    static_assert(THREADS % PER_ROW == 0 && ROWS % STEP == 0);
    const int col = int(threadIdx.x) % PER_ROW * VEC, first = int(threadIdx.x) / PER_ROW;
    // Narrow copies are many and rare: a loop keeps the code short.
#pragma unroll(ROWS / STEP <= 4 ? ROWS / STEP : 2)
    for (int i = 0; i < ROWS / STEP; ++i) f(first + i * STEP, col);
}

// A matrix in global memory, K-major or MN-major, leading dimension `ld`.
template <typename Tile, bool K_MAJOR, int MN>
struct MatrixOperand {
    using T = typename Tile::T;
    const T* at;  // the block's first row (column), k = 0
    u64 ld;
    int mn_left;  // rows (columns) left from there
    u32 vector;

    __device__ __forceinline__ void load(T* tile, int k, int end) const {
        with_copy_width<T>(vector, [&](auto width) { copy<width.value>(tile, k, end); });
    }

    template <int VEC>
    __device__ __forceinline__ void copy(T* tile, int k, int end) const {
        constexpr int LD = Tile::template LD<K_MAJOR, MN>;
        constexpr int ROWS = K_MAJOR ? MN : Tile::K, COLS = K_MAJOR ? Tile::K : MN;
        const int rows = K_MAJOR ? mn_left : end - k, cols = K_MAJOR ? end - k : mn_left;
        const T* from = at + (K_MAJOR ? u64(k) : u64(k) * ld);
        for_each_vector<VEC, ROWS, COLS, Tile::THREADS>([&](int row, int col) {
            const bool there = row < rows && col < cols;
            copy_elements<VEC>(tile + row * LD + col, there ? from + row * ld + col : at, there);
        });
    }
};

// ------------------------------------------------------------------------------------------------ fragments

template <bool K_MAJOR, int LD, typename T, MmaMath MATH>
__device__ __forceinline__ typename Mma<T, MATH>::A a_fragment(Mma<T, MATH>, const T* tile, int m, int k) {
    using P = Mma<T, MATH>;
    const int lane = int(threadIdx.x) % 32;
    if constexpr (K_MAJOR) {
        return P::load_a(tile + m * LD + k, LD);
    } else if constexpr (sizeof(T) == 2) {
        typename P::A a;
        ldmatrix_transposed(a.at, tile + (k + lane / 16 * 8 + lane % 8) * LD + m + lane / 8 % 2 * 8);
        return a;
    } else {
        typename P::A a;
        const T* at = tile + (k + lane % 4) * LD + m + lane / 4;
        P::split(a.high[0], a.low[0], at[0]);
        P::split(a.high[1], a.low[1], at[8]);
        P::split(a.high[2], a.low[2], at[4 * LD]);
        P::split(a.high[3], a.low[3], at[4 * LD + 8]);
        return a;
    }
}

// Two blocks of 8 columns.
template <bool K_MAJOR, int LD, typename T, MmaMath MATH>
__device__ __forceinline__ typename Mma<T, MATH>::B b_fragment(Mma<T, MATH>, const T* tile, int n, int k) {
    using P = Mma<T, MATH>;
    if constexpr (K_MAJOR) {
        return P::load_b_k_major(tile + n * LD + k, LD);
    } else if constexpr (sizeof(T) == 2) {
        return P::load_b_mn_major(tile + k * LD + n, LD);
    } else {
        const int lane = int(threadIdx.x) % 32;
        typename P::B b;
#pragma unroll
        for (int block = 0; block < 2; ++block) {
            const T* at = tile + (k + lane % 4) * LD + n + block * 8 + lane / 4;
            P::split(b.high[block][0], b.low[block][0], at[0]);
            P::split(b.high[block][1], b.low[block][1], at[4 * LD]);
        }
        return b;
    }
}

// ------------------------------------------------------------------------------------------------ the main loop

template <typename Tile>
using Accumulators = float[Tile::BLOCKS_M][Tile::BLOCKS_N][4];

// c = A · B over k in begin .. end. `memory` holds STAGES stages. Ends with all warps past their last read.
template <typename Tile, bool A_K_MAJOR, bool B_K_MAJOR, typename A, typename B>
__device__ __forceinline__ void mainloop(Accumulators<Tile>& c, typename Tile::T* memory, int begin, int end, const A& a, const B& b) {
    using T = typename Tile::T;
    using P = typename Tile::P;
    constexpr int STAGES = Tile::STAGES, K = Tile::K, STAGE_ELEMS = Tile::template STAGE_ELEMS<A_K_MAJOR, B_K_MAJOR>;
    constexpr int A_ELEMS = Tile::template TILE_ELEMS<A_K_MAJOR, Tile::M>;
    constexpr int A_LD = Tile::template LD<A_K_MAJOR, Tile::M>, B_LD = Tile::template LD<B_K_MAJOR, Tile::N>;
    const int warp = int(threadIdx.x) / 32;
    const int m = warp / Tile::WARPS_N * Tile::WARP_M, n = warp % Tile::WARPS_N * Tile::WARP_N;
    const int steps = (end - begin + K - 1) / K;

#pragma unroll
    for (int i = 0; i < Tile::BLOCKS_M; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::BLOCKS_N; ++j) c[i][j][0] = c[i][j][1] = c[i][j][2] = c[i][j][3] = 0.0f;
    }
    // One call site for the copies: `stage` runs ahead of the MMAs by STAGES - 1.
    int filled = 0;
#pragma unroll 1
    for (int step = 1 - STAGES; step < steps; ++step) {
        if (step >= 0) {
            cp_async_wait<STAGES - 2>();
            __syncthreads();
        }
        const int ahead = step + STAGES - 1;
        if (ahead < steps) {
            T* stage = memory + filled * STAGE_ELEMS;
            a.load(stage, begin + ahead * K, end);
            b.load(stage + A_ELEMS, begin + ahead * K, end);
        }
        cp_async_commit();
        filled = filled + 1 == STAGES ? 0 : filled + 1;
        if (step < 0) continue;
        // The slot after the one just filled is the oldest: the one to use now.
        const T* stage = memory + filled * STAGE_ELEMS;
#pragma unroll
        for (int k = 0; k < K; k += P::K) {
            typename P::B right[Tile::BLOCKS_N / 2];
#pragma unroll
            for (int j = 0; j < Tile::BLOCKS_N / 2; ++j) {
                right[j] = b_fragment<B_K_MAJOR, B_LD>(P{}, stage + A_ELEMS, n + j * 16, k);
            }
#pragma unroll
            for (int i = 0; i < Tile::BLOCKS_M; ++i) {
                const typename P::A left = a_fragment<A_K_MAJOR, A_LD>(P{}, stage, m + i * 16, k);
#pragma unroll
                for (int j = 0; j < Tile::BLOCKS_N / 2; ++j) P::mma(c[i][2 * j], c[i][2 * j + 1], left, right[j]);
            }
        }
    }
    cp_async_wait<0>();
    __syncthreads();
}

// Calls f(row, column, four values) for every four neighbouring elements of the block's tile.
// ONCE, for a long f, puts it into the code once; else it is there for every two blocks, which takes fewer registers.
template <typename Tile, bool ONCE = false, typename F>
__device__ __forceinline__ void for_each_vec4(const Accumulators<Tile>& c, void* memory, F f) {
    constexpr int LD = Tile::WARP_N + 4, PER_ROW = Tile::WARP_N / 4, ROWS = 32 / PER_ROW;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int m = warp / Tile::WARPS_N * Tile::WARP_M, n = warp % Tile::WARPS_N * Tile::WARP_N;
    constexpr int OUT = 2 * 16;
    static_assert(Tile::WARP_M % OUT == 0, "aligned pairs of blocks");
    float* mine = static_cast<float*>(memory) + warp * OUT * LD;
#pragma unroll(ONCE ? 1 : Tile::BLOCKS_M)
    for (int i = 0; i < Tile::BLOCKS_M; i += 2) {
        // Registers have no index: a choice among all of them.
#pragma unroll
        for (int block = 0; block < Tile::BLOCKS_M; ++block) {
            if (block / 2 * 2 != i) continue;
#pragma unroll
            for (int j = 0; j < Tile::BLOCKS_N; ++j) {
                float* at = mine + (block % 2 * 16 + lane / 4) * LD + j * 8 + lane % 4 * 2;
                *reinterpret_cast<float2*>(at) = make_float2(c[block][j][0], c[block][j][1]);
                *reinterpret_cast<float2*>(at + 8 * LD) = make_float2(c[block][j][2], c[block][j][3]);
            }
        }
        __syncwarp();
#pragma unroll 1
        for (int row = lane / PER_ROW; row < OUT; row += ROWS) {
            const float4 v = *reinterpret_cast<const float4*>(mine + row * LD + lane % PER_ROW * 4);
            f(m + i * 16 + row, n + lane % PER_ROW * 4, v);
        }
        __syncwarp();
    }
}

// The tile a block owns, in grouped order: GROUP_M rows of tiles column by column, so that concurrent blocks share operands
// in the L2 cache.
struct TileCoord {
    u32 m, n, z;
};

__device__ __forceinline__ TileCoord tile_coord(u32 tiles_m, u32 tiles_n, u32 index = blockIdx.x) {
    constexpr u32 GROUP_M = 8;
    const u32 tiles_per_z = tiles_m * tiles_n, z = index / tiles_per_z, t = index % tiles_per_z;
    const u32 first = t / (GROUP_M * tiles_n) * GROUP_M, rows = min(tiles_m - first, GROUP_M), within = t % (GROUP_M * tiles_n);
    return {first + within % rows, within / rows, z};
}

// Four results at `to`: one store where all exist and are aligned, else one by one. `left` columns remain in the row.
template <typename T>
__device__ __forceinline__ void store_vec4(T* to, const float (&v)[4], int left, bool aligned) {
    if (aligned) {
        if (left > 0) store_floats(to, v);
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (i < left) to[i] = from_float<T>(v[i]);
        }
    }
}

extern __shared__ __align__(16) unsigned char dynamic_smem[];
