// y = softmax(scale · q kᵀ) v for every head of every sequence, and its gradients, without ever storing the scores.
//
// Shapes    q: queries x d, k: keys x d, v: keys x e, y: queries x e, for each head and sequence. Rows, heads and sequences lie
//           at given strides, so the kernels read a packed [rows, 3 · heads · d] projection in place and write the packed
//           gradient: no permuted copies. Sequences either have one length, or lie one after another with their first
//           rows in `offsets` (a bag of slides with different patch counts in one launch).
// Types     f32, bf16, f16 in memory, f32 sums. f32 operands by 3xTF32, or by TF32 (`_tf32`).
// Launch    128 threads; a block takes 64 rows (queries in fwd and bwd_q, keys in bwd_kv), 16 per warp, of one head.
//           grid = (tiles of rows, heads). With offsets the grid is an upper bound from the number of rows alone, so that
//           it does not depend on values in device memory and a captured graph stays valid; surplus blocks return.
//           d and e up to 32, 64 or 128: one entry each; narrower heads are padded with zeros in shared memory.
// Traffic   fwd reads q once and k, v once per 64 queries (L2), writes y and a log-sum-exp per row; 4 · l · lk · d FLOP.
//           bwd_q recomputes the scores and needs 3 MMAs per tile, bwd_kv 4: 14 · l · lk · d FLOP where the least is 10.
//           The two extra MMAs buy a gradient of the queries without atomics: every output has one owner, every sum
//           one order, bit-identical from run to run.
// Rejected  a single backward kernel over keys that adds dq through global memory: 10 MMAs, but either atomics (bits
//           differ from run to run) or a semaphore per tile that serialises short sequences, which is what slides are.
//           Queries held in registers for d = 128: 32 more registers and one block per SM less.
//           64-row tiles instead of 128: with 1000 patches and 6 heads, 96 blocks instead of 48.
// Numerics  online softmax in base 2, exponent argument by one fma; ex2.approx errs by 2^-22. Probabilities are rounded to the
//           stored type before they meet v, their sum is not.
// Tail      rows and columns beyond the matrix are zero in shared memory; keys beyond the end have probability 0. Rows whose
//           length is not a multiple of 16 bytes are copied element by element.

#include "common/mma.cuh"
#include "common/warp.cuh"

struct AttentionParams {
    const void *q, *k, *v;
    void* y;
    float* lse;          // log Σ exp(scale · q kᵀ) per row
    const i32* offsets;  // sequences + 1 first rows, or null where all sequences are as long
    const void* dy;
    void *dq, *dk, *dv;
    float* delta;  // Σ dy · y per row: written by bwd_q, read by bwd_kv
    // Elements from one row, head, sequence to the next; dq, dk, dv and dy lie as q, k, v and y.
    u64 q_stride[3], k_stride[3], v_stride[3], y_stride[3];
    u64 lse_stride[2];  // from one head, sequence to the next; also of delta
    u32 queries, keys;  // of a sequence; with offsets, of all of them together
    u32 sequences, d, e;
    u32 aligned;  // rows begin on 16 bytes and are a multiple of that
    float scale;
    u32 unused;
};

constexpr int THREADS = 128;
constexpr int ROWS = 64;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(FULL_MASK, x, 1));
    return fmaxf(x, __shfl_xor_sync(FULL_MASK, x, 2));
}

// The rows a block owns: `first` .. of a sequence whose queries and keys begin at row `begin`.
struct WorkTile {
    u32 sequence, first;
    u64 begin;
    u32 queries, keys;
};

// False where the block is beyond the last sequence's last tile.
__device__ __forceinline__ bool find_work_tile(WorkTile& work, const AttentionParams& p, bool over_keys) {
    u32 tile = blockIdx.x;
    if (p.offsets == nullptr) {
        const u32 tiles = ((over_keys ? p.keys : p.queries) + ROWS - 1) / ROWS;
        work = {tile / tiles, tile % tiles * ROWS, 0, p.queries, p.keys};
        return true;
    }
    for (u32 s = 0; s < p.sequences; ++s) {
        const u32 begin = min(u32(p.offsets[s]), p.queries), end = min(max(u32(p.offsets[s + 1]), begin), p.queries);
        const u32 tiles = (end - begin + ROWS - 1) / ROWS;
        if (tile < tiles) {
            work = {0, tile * ROWS, begin, end - begin, end - begin};
            return true;
        }
        tile -= tiles;
    }
    return false;
}

__device__ __forceinline__ u64 element(const u64 (&stride)[3], const WorkTile& work, u32 row) {
    return work.sequence * stride[2] + blockIdx.y * stride[1] + (work.begin + row) * stride[0];
}

__device__ __forceinline__ u64 row_index(const AttentionParams& p, const WorkTile& work, u32 row) {
    return work.sequence * p.lse_stride[1] + blockIdx.y * p.lse_stride[0] + work.begin + row;
}

// The two operands that are streamed, ROWS_PER_TILE rows of each at a time, double-buffered: one stage is multiplied while the
// next is being loaded.
template <typename T, int D, int ROWS_PER_TILE>
struct StreamedOperands {
    static constexpr int TILE = ROWS_PER_TILE * (D + TILE_PAD<T>);
    T* stages;  // two of both tiles
    const T *a, *b;
    u64 a_stride, b_stride;
    int rows, a_cols, b_cols;
    bool aligned;

    __device__ __forceinline__ T* stage(int tile) const { return stages + tile % 2 * 2 * TILE; }

    __device__ __forceinline__ void load(int tile) const {
        T* const at = stage(tile);
        const int first = tile * ROWS_PER_TILE, left = rows - first;
        load_tile<ROWS_PER_TILE, D, THREADS>(at, a + first * a_stride, a_stride, left, a_cols, aligned);
        load_tile<ROWS_PER_TILE, D, THREADS>(at + TILE, b + first * b_stride, b_stride, left, b_cols, aligned);
    }

    // `beside(tile, stage)` is called as a stage is asked for, `f(tile, tile of a, tile of b)` when it is there.
    template <typename Beside, typename F>
    __device__ __forceinline__ void each(Beside on_load, F f) const {
        const int tiles = (rows + ROWS_PER_TILE - 1) / ROWS_PER_TILE;
#pragma unroll 1
        for (int tile = -1; tile < tiles; ++tile) {
            if (tile + 1 < tiles) {
                load(tile + 1);
                on_load(tile + 1, stage(tile + 1));
            }
            cp_async_commit();
            if (tile < 0) continue;
            cp_async_wait<1>();
            __syncthreads();
            const T* const at = stage(tile);
            f(tile, at, at + TILE);
            __syncthreads();
        }
    }

    template <typename F>
    __device__ __forceinline__ void each(F f) const {
        each([](int, T*) {}, f);
    }
};

// Keys and values, for a block that owns queries.
template <int D, int KEYS, typename T>
__device__ __forceinline__ StreamedOperands<T, D, KEYS> keys_and_values(const AttentionParams& p, const WorkTile& work, T* stages) {
    const T* const k = static_cast<const T*>(p.k) + element(p.k_stride, work, 0);
    const T* const v = static_cast<const T*>(p.v) + element(p.v_stride, work, 0);
    return {stages, k, v, p.k_stride[0], p.v_stride[0], int(work.keys), int(p.d), int(p.e), p.aligned != 0};
}

// Writes a warp's 16 rows of accumulators, by way of `stage` (the warp's own 16 rows of a tile that nobody reads any more), in
// 128-bit vectors where rows are aligned.
template <int BLOCKS, typename T>
__device__ __forceinline__ void store_rows(T* to, u64 row_stride, T* stage, const float (&c)[BLOCKS][4], float factor0,
                                           float factor8, int rows, int cols, bool aligned) {
    constexpr int D = BLOCKS * 8, STRIDE = D + TILE_PAD<T>;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < BLOCKS; ++n) {
        T* at = stage + g * STRIDE + n * 8 + 2 * t;
        at[0] = from_float<T>(c[n][0] * factor0);
        at[1] = from_float<T>(c[n][1] * factor0);
        at[8 * STRIDE] = from_float<T>(c[n][2] * factor8);
        at[8 * STRIDE + 1] = from_float<T>(c[n][3] * factor8);
    }
    __syncwarp();
    if (aligned) {
        constexpr int W = WIDTH<T>, VECTORS = D / W;
#pragma unroll 1
        for (int i = lane; i < 16 * VECTORS; i += 32) {
            const int row = i / VECTORS, col = i % VECTORS * W;
            if (row < rows && col < cols) store_vector<T, W>(to + row * row_stride + col, load_vector<T, W>(stage + row * STRIDE + col));
        }
    } else {
#pragma unroll 1
        for (int i = lane; i < 16 * D; i += 32) {
            const int row = i / D, col = i % D;
            if (row < rows && col < cols) to[row * row_stride + col] = stage[row * STRIDE + col];
        }
    }
}

template <typename M, int D, int KEYS>
__device__ __forceinline__ void forward(const AttentionParams& p) {
    using T = typename M::T;
    constexpr int STRIDE = D + TILE_PAD<T>;
    extern __shared__ __align__(16) unsigned char shared[];
    T* const q_tile = reinterpret_cast<T*>(shared);
    T* const kv_tiles = q_tile + ROWS * STRIDE;  // two stages of k and v

    WorkTile work;
    if (!find_work_tile(work, p, false)) return;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const bool aligned = p.aligned != 0;
    const auto streamed = keys_and_values<D, KEYS>(p, work, kv_tiles);

    const T* const q = static_cast<const T*>(p.q) + element(p.q_stride, work, work.first);
    load_tile<ROWS, D, THREADS>(q_tile, q, p.q_stride[0], int(work.queries - work.first), int(p.d), aligned);

    float out[D / 8][4];
#pragma unroll
    for (int n = 0; n < D / 8; ++n) out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0.0f;
    float row_max[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
    const float scale = fabsf(p.scale) * LOG2_E;
    streamed.each([&](int tile, const T* k_tile, const T* v_tile) {
        float s[KEYS / 8][4];
        warp_mma_nt<M, D>(s, q_tile + warp * 16 * STRIDE, k_tile);
        if (p.scale < 0.0f) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) s[n][i] = -s[n][i];
        }
        const int left = int(work.keys) - tile * KEYS;
        if (left < KEYS) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    if (n * 8 + 2 * t + i % 2 >= left) s[n][i] = -INFINITY;
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float new_max = row_max[half];
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) new_max = fmaxf(new_max, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
            new_max = quad_max(new_max);
            const float rescale = exp2_approx((row_max[half] - new_max) * scale), shift = new_max * scale;
            row_max[half] = new_max;
            sum[half] *= rescale;
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    s[n][i] = exp2_approx(fmaf(s[n][i], scale, -shift));
                    sum[half] += s[n][i];
                }
            }
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                out[n][2 * half] *= rescale;
                out[n][2 * half + 1] *= rescale;
            }
        }
        warp_mma_from_accumulators<M>(out, s, v_tile);
    });

    sum[0] = warp_sum<4>(sum[0]);
    sum[1] = warp_sum<4>(sum[1]);
    const u32 first = work.first + warp * 16;
    const int rows = int(work.queries) - int(first);
    if (t == 0) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = g + 8 * half;
            if (row < rows) p.lse[row_index(p, work, first + row)] = (row_max[half] * scale + log2f(sum[half])) * LN_2;
        }
    }
    T* const y = static_cast<T*>(p.y) + element(p.y_stride, work, first);
    store_rows(y, p.y_stride[0], q_tile + warp * 16 * STRIDE, out, 1.0f / sum[0], 1.0f / sum[1], rows, int(p.e), aligned);
}

// dq = scale · ds k, with ds = p ∘ (dy vᵀ − delta).
template <typename M, int D, int KEYS>
__device__ __forceinline__ void backward_queries(const AttentionParams& p) {
    using T = typename M::T;
    constexpr int STRIDE = D + TILE_PAD<T>;
    extern __shared__ __align__(16) unsigned char shared[];
    T* const q_tile = reinterpret_cast<T*>(shared);
    T* const dy_tile = q_tile + ROWS * STRIDE;
    T* const kv_tiles = dy_tile + ROWS * STRIDE;

    WorkTile work;
    if (!find_work_tile(work, p, false)) return;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const bool aligned = p.aligned != 0;
    const auto streamed = keys_and_values<D, KEYS>(p, work, kv_tiles);
    const T* const q = static_cast<const T*>(p.q) + element(p.q_stride, work, work.first);
    const T* const dy = static_cast<const T*>(p.dy) + element(p.y_stride, work, work.first);
    const int block_rows = int(work.queries - work.first);
    load_tile<ROWS, D, THREADS>(q_tile, q, p.q_stride[0], block_rows, int(p.d), aligned);
    load_tile<ROWS, D, THREADS>(dy_tile, dy, p.y_stride[0], block_rows, int(p.e), aligned);

    // Σ dy · y of the warp's rows, while the first tiles are on their way.
    const u32 first = work.first + warp * 16;
    const int rows = int(work.queries) - int(first);
    const T* const y = static_cast<const T*>(p.y) + element(p.y_stride, work, first);
    const T* const dy_rows = static_cast<const T*>(p.dy) + element(p.y_stride, work, first);
    float lse[2] = {0.0f, 0.0f}, delta[2] = {0.0f, 0.0f};
#pragma unroll 1
    for (int row = 0; row < min(rows, 16); ++row) {
        float dot = 0.0f;
        for (int col = lane; col < int(p.e); col += 32) {
            const u64 at = row * p.y_stride[0] + col;
            dot = fmaf(to_float(y[at]), to_float(dy_rows[at]), dot);
        }
        dot = warp_sum(dot);
        const u64 index = row_index(p, work, first + row);
        if (lane == 0) p.delta[index] = dot;
        if (row % 8 == g) {
            const float at_row = p.lse[index] * LOG2_E;
            lse[0] = row < 8 ? at_row : lse[0];
            lse[1] = row < 8 ? lse[1] : at_row;
            delta[0] = row < 8 ? dot : delta[0];
            delta[1] = row < 8 ? delta[1] : dot;
        }
    }

    float dq[D / 8][4];
#pragma unroll
    for (int n = 0; n < D / 8; ++n) dq[n][0] = dq[n][1] = dq[n][2] = dq[n][3] = 0.0f;
    const float scale = p.scale * LOG2_E;
    streamed.each([&](int tile, const T* k_tile, const T* v_tile) {
        float s[KEYS / 8][4], ds[KEYS / 8][4];
        warp_mma_nt<M, D>(s, q_tile + warp * 16 * STRIDE, k_tile);
        warp_mma_nt<M, D>(ds, dy_tile + warp * 16 * STRIDE, v_tile);
        const int left = int(work.keys) - tile * KEYS;
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float probability = n * 8 + 2 * t + i % 2 < left ? exp2_approx(fmaf(s[n][i], scale, -lse[i / 2])) : 0.0f;
                ds[n][i] = probability * (ds[n][i] - delta[i / 2]);
            }
        }
        warp_mma_from_accumulators<M>(dq, ds, k_tile);
    });
    T* const out = static_cast<T*>(p.dq) + element(p.q_stride, work, first);
    store_rows(out, p.q_stride[0], q_tile + warp * 16 * STRIDE, dq, p.scale, p.scale, rows, int(p.d), aligned);
}

// dv = pᵀ dy and dk = scale · dsᵀ q.
template <typename M, int D, int QUERIES>
__device__ __forceinline__ void backward_keys(const AttentionParams& p) {
    using T = typename M::T;
    constexpr int STRIDE = D + TILE_PAD<T>;
    extern __shared__ __align__(16) unsigned char shared[];
    T* const k_tile = reinterpret_cast<T*>(shared);
    T* const v_tile = k_tile + ROWS * STRIDE;
    T* const q_tiles = v_tile + ROWS * STRIDE;  // two stages of q and dy

    WorkTile work;
    if (!find_work_tile(work, p, true)) return;
    const int warp = threadIdx.x / 32;
    const int t = threadIdx.x % 4;
    const bool aligned = p.aligned != 0;
    const T* const q = static_cast<const T*>(p.q) + element(p.q_stride, work, 0);
    const T* const dy = static_cast<const T*>(p.dy) + element(p.y_stride, work, 0);
    const auto row_tail = [](const T* tile, int row) {
        return reinterpret_cast<float*>(const_cast<T*>(tile + row * STRIDE + D));
    };
    const StreamedOperands<T, D, QUERIES> streamed{q_tiles, q, dy, p.q_stride[0], p.y_stride[0], int(work.queries), int(p.d), int(p.e), aligned};
    const auto statistics = [&](int tile, T* at) {
        const int first = tile * QUERIES, rows = int(work.queries) - first, row = threadIdx.x;
        if (row < QUERIES) {
            // Behind the rows, where tiles have room. Beyond the last query the probability is exp(-inf).
            const u64 index = row_index(p, work, first + row);
            *row_tail(at, row) = row < rows ? p.lse[index] * LOG2_E : INFINITY;
            *row_tail(at + QUERIES * STRIDE, row) = row < rows ? p.delta[index] : 0.0f;
        }
    };
    const T* const k = static_cast<const T*>(p.k) + element(p.k_stride, work, work.first);
    const T* const v = static_cast<const T*>(p.v) + element(p.v_stride, work, work.first);
    const int block_rows = int(work.keys - work.first);
    load_tile<ROWS, D, THREADS>(k_tile, k, p.k_stride[0], block_rows, int(p.d), aligned);
    load_tile<ROWS, D, THREADS>(v_tile, v, p.v_stride[0], block_rows, int(p.e), aligned);

    float dk[D / 8][4], dv[D / 8][4];
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
        dk[n][0] = dk[n][1] = dk[n][2] = dk[n][3] = 0.0f;
        dv[n][0] = dv[n][1] = dv[n][2] = dv[n][3] = 0.0f;
    }
    const float scale = p.scale * LOG2_E;
    streamed.each(statistics, [&](int, const T* q_tile, const T* dy_tile) {
        float s[QUERIES / 8][4], ds[QUERIES / 8][4];
        warp_mma_nt<M, D>(s, k_tile + warp * 16 * STRIDE, q_tile);
#pragma unroll
        for (int n = 0; n < QUERIES / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) s[n][i] = exp2_approx(fmaf(s[n][i], scale, -*row_tail(q_tile, n * 8 + 2 * t + i % 2)));
        warp_mma_from_accumulators<M>(dv, s, dy_tile);
        warp_mma_nt<M, D>(ds, v_tile + warp * 16 * STRIDE, dy_tile);
#pragma unroll
        for (int n = 0; n < QUERIES / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) ds[n][i] = s[n][i] * (ds[n][i] - *row_tail(dy_tile, n * 8 + 2 * t + i % 2));
        warp_mma_from_accumulators<M>(dk, ds, q_tile);
    });
    const u32 first = work.first + warp * 16;
    const int rows = int(work.keys) - int(first);
    T* const dk_rows = static_cast<T*>(p.dk) + element(p.k_stride, work, first);
    T* const dv_rows = static_cast<T*>(p.dv) + element(p.v_stride, work, first);
    store_rows(dk_rows, p.k_stride[0], k_tile + warp * 16 * STRIDE, dk, p.scale, p.scale, rows, int(p.d), aligned);
    store_rows(dv_rows, p.v_stride[0], v_tile + warp * 16 * STRIDE, dv, 1.0f, 1.0f, rows, int(p.e), aligned);
}

#define ENTRY(NAME, TYPE, MIN_BLOCKS_PER_SM, ...)                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS_PER_SM) attention_##NAME##_##TYPE(const __grid_constant__ AttentionParams p) { \
        __VA_ARGS__(p);                                                                                                       \
    }

// Rows of the operand that passes by, so that two stages of it fit beside the operand that stays.
#define WIDTHS(NAME, TYPE, MMA, FWD32, FWD64, FWD128, BWD32, BWD64, BWD128) \
    ENTRY(fwd_d32##NAME, TYPE, 4, forward<MMA, 32, FWD32>)                  \
    ENTRY(fwd_d64##NAME, TYPE, 2, forward<MMA, 64, FWD64>)                  \
    ENTRY(fwd_d128##NAME, TYPE, 2, forward<MMA, 128, FWD128>)               \
    ENTRY(bwd_q_d32##NAME, TYPE, 4, backward_queries<MMA, 32, BWD32>)       \
    ENTRY(bwd_q_d64##NAME, TYPE, 2, backward_queries<MMA, 64, BWD64>)       \
    ENTRY(bwd_q_d128##NAME, TYPE, 2, backward_queries<MMA, 128, BWD128>)    \
    ENTRY(bwd_kv_d32##NAME, TYPE, 3, backward_keys<MMA, 32, BWD32>)         \
    ENTRY(bwd_kv_d64##NAME, TYPE, 2, backward_keys<MMA, 64, BWD64>)         \
    ENTRY(bwd_kv_d128##NAME, TYPE, 2, backward_keys<MMA, 128, BWD128>)

using MmaF32 = Mma<f32, TF32X3>;
using MmaTf32 = Mma<f32, TF32>;

WIDTHS(, f32, MmaF32, 32, 32, 32, 32, 32, 16)
WIDTHS(_tf32, f32, MmaTf32, 32, 32, 32, 32, 32, 16)
WIDTHS(, bf16, Mma<bf16>, 64, 64, 64, 32, 32, 32)
WIDTHS(, f16, Mma<f16>, 64, 64, 64, 32, 32, 32)
