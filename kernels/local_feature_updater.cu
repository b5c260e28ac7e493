// The gate of the local feature updater (paper eq. 3-5) in the epilogue of its two projections, and its gradients.
//
//   fwd   y = sigmoid(q ∘ (r w_k)) ∘ (r w_v),  q one number per row
//   bwd   from dy: dk = d(r w_k), dv = d(r w_v) and dq; keys and values are formed again, not read back
//
// Shapes    r: rows x d (rows = patches x cells), w_k, w_v: d x d applied on the right, q: rows, y, dy, dk, dv: rows x d.
// Types     f32, bf16, f16 in memory, f32 sums. f32 operands by 3xTF32, or by TF32 (`_tf32`).
// Launch    128 threads; a block takes 64 rows x 64 columns of both projections, so that each tile of r is used twice
//           for one load. Blocks count through the columns first: neighbours share the rows, which stay in L2.
//           Four warps of 32 x 32; two stages of 64 bytes of k by cp.async.
// Traffic   fwd: r once per 64 columns (L2), y once; k and v never leave the registers: 3 tensors less written and 3 less
//           read than projections and gate apart. 4 rows d² FLOP. At d = 512 in bf16: 1024 FLOP per byte of r and y.
//           bwd: the same GEMMs, reads dy, writes dk and dv. Storing k and v instead would move 4 tensors to save
//           4 rows d² FLOP, the same time on an H100, and hold two more activations a fusion block.
// Rejected  one GEMM with w_k and w_v side by side (n = 2d): a column's key and value then end in different
//           blocks, and the gate needs both.
// Numerics  sigmoid by ex2.approx and rcp.approx, 2^-21 together. bwd sums dq over the columns of a block in registers, then
//           over blocks in order of columns (`sum_q`): no atomics.
// Tail      rows and columns beyond the matrix are zero in shared memory and not stored. Rows that are no multiple of
//           16 bytes are copied element by element.

#include "common/mma.cuh"

struct LocalGateParams {
    const void *q, *r, *w_k, *w_v;
    void* y;
    const void* dy;
    void *dk, *dv;
    float* parts;  // of dq: rows x tiles of columns
    u64 rows;
    u32 d;
    u32 aligned;  // rows are a multiple of 16 bytes
    u32 tiles;    // of columns
    u32 unused;
};

struct SumQParams {
    const float* parts;
    void* dq;
    u64 rows;
    u64 tiles;
};

constexpr int THREADS = 128;
constexpr int TILE = 64;  // rows and columns of a block
template <typename T>
constexpr int TILE_K = 64 / int(sizeof(T));  // K of a stage
constexpr int B_PAD = 8;

template <typename T>
struct Stage {
    T r[TILE * (TILE_K<T> + TILE_PAD<T>)];
    T w_k[TILE_K<T> * (TILE + B_PAD)];
    T w_v[TILE_K<T> * (TILE + B_PAD)];
};

template <typename T>
union Shared {
    Stage<T> stages[2];
    struct {
        T a[TILE * (TILE + B_PAD)];
        T b[TILE * (TILE + B_PAD)];
        float rows[2][TILE];
    } out;
};

__device__ __forceinline__ float sigmoid(float x) {
    float e, y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(x * -1.4426950408889634f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.0f + e));
    return y;
}

__device__ __forceinline__ u64 row_of(const LocalGateParams& p) { return u64(blockIdx.x / p.tiles) * TILE; }
__device__ __forceinline__ u32 col_of(const LocalGateParams& p) { return blockIdx.x % p.tiles * TILE; }

// Keys and values of a warp's 32 x 32, two m16 fragments.
template <typename M>
__device__ __forceinline__ void project(const LocalGateParams& p, Shared<typename M::T>& shared, float (&k)[2][4][4],
                                        float (&v)[2][4][4]) {
    using T = typename M::T;
    constexpr int TILE_K = ::TILE_K<T>;
    const u64 first_row = row_of(p);
    const u32 first_col = col_of(p);
    const int rows = int(min(p.rows - first_row, u64(TILE))), cols = int(p.d - first_col), d = int(p.d);
    const bool aligned = p.aligned != 0;
    const T* const r = static_cast<const T*>(p.r) + first_row * p.d;
    const T* const w_k = static_cast<const T*>(p.w_k) + first_col;
    const T* const w_v = static_cast<const T*>(p.w_v) + first_col;
    const int warp = threadIdx.x / 32, warp_row = warp / 2 * 32, warp_col = warp % 2 * 32;
#pragma unroll
    for (int band = 0; band < 2; ++band)
#pragma unroll
        for (int n = 0; n < 4; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) k[band][n][i] = v[band][n][i] = 0.0f;
    const int stages = (d + TILE_K - 1) / TILE_K;
#pragma unroll 1
    for (int at = -1; at < stages; ++at) {
        if (at + 1 < stages) {
            Stage<T>& stage = shared.stages[(at + 1) % 2];
            const int k_index = (at + 1) * TILE_K;
            load_tile<TILE, TILE_K, THREADS>(stage.r, r + k_index, p.d, rows, d - k_index, aligned);
            load_tile<TILE_K, TILE, THREADS, B_PAD>(stage.w_k, w_k + u64(k_index) * p.d, p.d, d - k_index, cols, aligned);
            load_tile<TILE_K, TILE, THREADS, B_PAD>(stage.w_v, w_v + u64(k_index) * p.d, p.d, d - k_index, cols, aligned);
        }
        cp_async_commit();
        if (at < 0) continue;
        cp_async_wait<1>();
        __syncthreads();
        const Stage<T>& stage = shared.stages[at % 2];
        constexpr int A_STRIDE = TILE_K + TILE_PAD<T>, B_STRIDE = TILE + B_PAD;
#pragma unroll 1
        for (int k_index = 0; k_index < TILE_K; k_index += M::K) {
            const typename M::A a0 = M::load_a(stage.r + warp_row * A_STRIDE + k_index, A_STRIDE);
            const typename M::A a1 = M::load_a(stage.r + (warp_row + 16) * A_STRIDE + k_index, A_STRIDE);
#pragma unroll
            for (int n = 0; n < 4; n += 2) {
                const typename M::B key = M::load_b_mn_major(stage.w_k + k_index * B_STRIDE + warp_col + n * 8, B_STRIDE);
                M::mma(k[0][n], k[0][n + 1], a0, key);
                M::mma(k[1][n], k[1][n + 1], a1, key);
                const typename M::B value = M::load_b_mn_major(stage.w_v + k_index * B_STRIDE + warp_col + n * 8, B_STRIDE);
                M::mma(v[0][n], v[0][n + 1], a0, value);
                M::mma(v[1][n], v[1][n + 1], a1, value);
            }
        }
        __syncthreads();
    }
    cp_async_wait<0>();
}

// Calls f(band, half, row within the block) for the four rows a lane holds elements of.
template <typename F>
__device__ __forceinline__ void each_row(F f) {
    const int warp_row = threadIdx.x / 64 * 32, g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int band = 0; band < 2; ++band)
#pragma unroll
        for (int half = 0; half < 2; ++half) f(band, half, warp_row + band * 16 + half * 8 + g);
}

template <typename T>
__device__ __forceinline__ float row_query(const LocalGateParams& p, int row) {
    const u64 at = row_of(p) + row;
    return at < p.rows ? to_float(static_cast<const T*>(p.q)[at]) : 0.0f;
}

template <typename M>
__device__ __forceinline__ void forward(const LocalGateParams& p) {
    using T = typename M::T;
    __shared__ __align__(16) Shared<T> shared;
    float k[2][4][4], v[2][4][4];
    project<M>(p, shared, k, v);
    const int lane_col = threadIdx.x / 32 % 2 * 32 + threadIdx.x % 4 * 2;
    constexpr int STRIDE = TILE + B_PAD;
    each_row([&](int band, int half, int row) {
        const float q = row_query<T>(p, row);
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            const float first = sigmoid(q * k[band][n][2 * half]) * v[band][n][2 * half];
            const float second = sigmoid(q * k[band][n][2 * half + 1]) * v[band][n][2 * half + 1];
            store_pair(shared.out.a + row * STRIDE + n * 8 + lane_col, first, second);
        }
    });
    __syncthreads();
    const u64 first_row = row_of(p);
    const u32 first_col = col_of(p);
    const int rows = int(min(p.rows - first_row, u64(TILE))), cols = int(p.d - first_col);
    T* const y = static_cast<T*>(p.y) + first_row * p.d + first_col;
    store_tile<TILE, TILE, THREADS, B_PAD>(y, shared.out.a, p.d, rows, cols, p.aligned != 0);
}

template <typename M>
__device__ __forceinline__ void backward(const LocalGateParams& p) {
    using T = typename M::T;
    __shared__ __align__(16) Shared<T> shared;
    float k[2][4][4], v[2][4][4];
    project<M>(p, shared, k, v);
    constexpr int STRIDE = TILE + B_PAD;
    const u64 first_row = row_of(p);
    const u32 first_col = col_of(p);
    const int rows = int(min(p.rows - first_row, u64(TILE))), cols = int(p.d - first_col);
    const bool aligned = p.aligned != 0;
    const u64 corner = first_row * p.d + first_col;
    load_tile<TILE, TILE, THREADS, B_PAD>(shared.out.a, static_cast<const T*>(p.dy) + corner, p.d, rows, cols, aligned);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    // dy of a pair is read and dk written in its place by the same lane.
    const int side = threadIdx.x / 32 % 2, lane_col = side * 32 + threadIdx.x % 4 * 2;
    each_row([&](int band, int half, int row) {
        const float q = row_query<T>(p, row);
        float dq = 0.0f;
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            T* const a = shared.out.a + row * STRIDE + n * 8 + lane_col;
            float dk[2], dv[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float dy = to_float(a[i]), key = k[band][n][2 * half + i], open = sigmoid(q * key);
                const float dscore = dy * v[band][n][2 * half + i] * open * (1.0f - open);
                dv[i] = dy * open;
                dk[i] = dscore * q;
                dq = fmaf(dscore, key, dq);
            }
            store_pair(a, dk[0], dk[1]);
            store_pair(shared.out.b + row * STRIDE + n * 8 + lane_col, dv[0], dv[1]);
        }
        dq += __shfl_xor_sync(0xffffffffu, dq, 1);
        dq += __shfl_xor_sync(0xffffffffu, dq, 2);
        if (threadIdx.x % 4 == 0) shared.out.rows[side][row] = dq;
    });
    __syncthreads();
    store_tile<TILE, TILE, THREADS, B_PAD>(static_cast<T*>(p.dk) + corner, shared.out.a, p.d, rows, cols, aligned);
    store_tile<TILE, TILE, THREADS, B_PAD>(static_cast<T*>(p.dv) + corner, shared.out.b, p.d, rows, cols, aligned);
    const int row = threadIdx.x;
    if (row < rows) p.parts[(first_row + row) * p.tiles + blockIdx.x % p.tiles] = shared.out.rows[0][row] + shared.out.rows[1][row];
}

template <typename T>
__device__ __forceinline__ void sum_q(const SumQParams& p) {
    const u64 row = global_thread();
    if (row >= p.rows) return;
    float sum = 0.0f;
    for (u64 i = 0; i < p.tiles; ++i) sum += p.parts[row * p.tiles + i];
    static_cast<T*>(p.dq)[row] = from_float<T>(sum);
}

#define ENTRY(NAME, THREADS, PARAMS, ...)                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS) local_feature_updater_##NAME(const __grid_constant__ PARAMS p) { \
        __VA_ARGS__(p);                                                                                                  \
    }
#define EVERY_PASS(TYPE, NAME, ...)                                           \
    ENTRY(fwd##NAME##_##TYPE, THREADS, LocalGateParams, forward<__VA_ARGS__>) \
    ENTRY(bwd##NAME##_##TYPE, THREADS, LocalGateParams, backward<__VA_ARGS__>)

EVERY_PASS(f32, , Mma<f32, TF32X3>)
EVERY_PASS(f32, _tf32, Mma<f32, TF32>)
EVERY_PASS(bf16, , Mma<bf16>)
EVERY_PASS(f16, , Mma<f16>)
ENTRY(sum_q_f32, 256, SumQParams, sum_q<f32>)
ENTRY(sum_q_bf16, 256, SumQParams, sum_q<bf16>)
ENTRY(sum_q_f16, 256, SumQParams, sum_q<f16>)
