// Squeeze and excitation folded into the passes around it (MBConv): the squeeze into the activation that writes its input,
// the excitation into the projection that reads its output.
//
//   silu_pool_fwd    s = silu(x),  pooled = mean of s over pixels
//   silu_pool_bwd    dx = silu'(x) ∘ (ds + dpooled / pixels)
//   project_fwd      y = (s ∘ gate) weightᵀ, gate one number per channel and image
//   project_bwd      from da = dy weight: ds = da ∘ gate, dgate = Σ over pixels of da ∘ s, a = s ∘ gate (for dweight = dyᵀ a)
//
// Shapes    x, s, ds, da, a: n x pixels x c; pooled, gate: n x c; weight: out x c; y: n x pixels x out.
// Types     f32, bf16, f16 in memory, f32 arithmetic. f32 operands by 3xTF32, or by TF32 (`_tf32`).
// Launch    silu_pool_fwd, project_bwd: 256 threads, one block per image and 32 vectors of channels, each warp every eighth
//           pixel, warps added in order through shared memory. silu_pool_bwd: 256 threads, one vector per thread.
//           project_fwd: 128 threads, 64 x 64 outputs, four warps of 32 x 32; weight by cp.async, s through registers, where
//           the gate multiplies it between the load and the store to shared memory. Blocks count through columns first.
// Traffic   forward 3 passes over the hidden tensor (read x, write s, read s) instead of 6; backward 6 instead of 11.
//           project_fwd 2 rows c out FLOP; everything else is memory bound.
// Rejected  silu inside the projection too, so that s is never written: each block of columns computes it again, two
//           special-function instructions per element, which at 512 outputs take longer than the MMAs.
//           Pooling inside the depthwise kernel: the normalisation between them needs whole rows or whole batches first.
// Numerics  expf within 2 ulp, divisions correctly rounded. s ∘ gate is rounded to the stored type, as a tensor would be.
// Tail      rows and columns beyond the matrix are zero in shared memory; c not a multiple of 16 bytes: one element
//           at a time.

#include "common/block.cuh"
#include "common/mma.cuh"

struct PoolParams {
    const void* x;
    void* s;
    void* pooled;
    const void *ds, *dpooled;
    void* dx;
    u64 images, pixels, c;
    u32 aligned;  // c is a multiple of 16 bytes
    u32 tiles;    // of channels
};

struct ProjectParams {
    const void *s, *gate, *weight;
    void* y;
    u64 rows, pixels;  // rows = images x pixels
    u32 c, out;
    u32 aligned;      // rows of s are a multiple of 16 bytes
    u32 aligned_out;  // and those of y
    u32 tiles;        // of columns
    u32 unused;
};

struct ExciteParams {
    const void *da, *s, *gate;
    void *ds, *dgate, *a;
    u64 images, pixels, c;
    u32 aligned, tiles;
};

constexpr int POOL_THREADS = 256;
constexpr int WARPS = POOL_THREADS / 32;

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

__device__ __forceinline__ float silu_slope(float x) {
    const float gate = 1.0f / (1.0f + expf(-x));
    return gate * (1.0f + x * (1.0f - gate));
}

// Calls f(element index, channel, W sums) for the pixels of an image that a warp takes, then writes the sums over all
// pixels, scaled, to `to`.
template <typename T, int W, typename F>
__device__ __forceinline__ void pool(float (&parts)[WARPS][32 * WIDTH<T>], u32 tiles, u64 pixels, u64 c, float scale, T* to, F f) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u64 image = blockIdx.x / tiles, first = u64(blockIdx.x % tiles) * 32 * W, channel = first + lane * W;
    float sum[W];
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] = 0.0f;
    if (channel < c) {
#pragma unroll 2
        for (u64 pixel = warp; pixel < pixels; pixel += WARPS) f((image * pixels + pixel) * c + channel, image * c + channel, sum);
    }
    put_columns(parts, sum);
    __syncthreads();
    const u32 at = threadIdx.x;
    if (at < 32 * W && first + at < c) to[image * c + first + at] = from_float<T>(column_sum(parts, at) * scale);
}

template <typename T, int W>
__device__ __forceinline__ void activate(const PoolParams& p, float (&parts)[WARPS][32 * WIDTH<T>]) {
    const float scale = 1.0f / float(p.pixels);
    pool<T, W>(parts, p.tiles, p.pixels, p.c, scale, static_cast<T*>(p.pooled), [&](u64 at, u64, float(&sum)[W]) {
        float x[W];
        load_floats(x, static_cast<const T*>(p.x) + at);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            x[i] = silu(x[i]);
            sum[i] += x[i];
        }
        store_floats(static_cast<T*>(p.s) + at, x);
    });
}

template <typename T, int W>
__device__ __forceinline__ void deactivate(const PoolParams& p) {
    const u64 at = global_thread() * W, image_elements = p.pixels * p.c;
    if (at >= p.images * image_elements) return;
    float x[W], ds[W], dpooled[W];
    load_floats(x, static_cast<const T*>(p.x) + at);
    load_floats(ds, static_cast<const T*>(p.ds) + at);
    load_floats(dpooled, static_cast<const T*>(p.dpooled) + at / image_elements * p.c + at % p.c);
    const float scale = 1.0f / float(p.pixels);
#pragma unroll
    for (int i = 0; i < W; ++i) x[i] = silu_slope(x[i]) * fmaf(dpooled[i], scale, ds[i]);
    store_floats(static_cast<T*>(p.dx) + at, x);
}

template <typename T, int W>
__device__ __forceinline__ void unexcite(const ExciteParams& p, float (&parts)[WARPS][32 * WIDTH<T>]) {
    pool<T, W>(parts, p.tiles, p.pixels, p.c, 1.0f, static_cast<T*>(p.dgate), [&](u64 at, u64 channel, float(&sum)[W]) {
        float da[W], s[W], gate[W];
        load_floats(da, static_cast<const T*>(p.da) + at);
        load_floats(s, static_cast<const T*>(p.s) + at);
        load_floats(gate, static_cast<const T*>(p.gate) + channel);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            sum[i] = fmaf(da[i], s[i], sum[i]);
            da[i] *= gate[i];
            s[i] *= gate[i];
        }
        store_floats(static_cast<T*>(p.ds) + at, da);
        store_floats(static_cast<T*>(p.a) + at, s);
    });
}

constexpr int THREADS = 128;
constexpr int TILE = 64;  // rows and columns of a block
template <typename T>
constexpr int TILE_K = 64 / int(sizeof(T));  // K of a stage

template <typename T>
union Shared {
    struct {
        T s[TILE * (TILE_K<T> + TILE_PAD<T>)];
        T weight[TILE * (TILE_K<T> + TILE_PAD<T>)];
    } stages[2];
    T y[TILE * (TILE + TILE_PAD<T>)];
};

template <typename M>
__device__ __forceinline__ void project(const ProjectParams& p) {
    using T = typename M::T;
    constexpr int TILE_K = ::TILE_K<T>, W = WIDTH<T>, VECTORS = TILE_K / W, STRIDE = TILE_K + TILE_PAD<T>;
    constexpr int VECTORS_PER_THREAD = TILE * VECTORS / THREADS;  // of s
    __shared__ __align__(16) Shared<T> shared;
    const u64 first_row = u64(blockIdx.x / p.tiles) * TILE;
    const u32 first_col = blockIdx.x % p.tiles * TILE;
    const int rows = int(min(p.rows - first_row, u64(TILE))), cols = int(p.out - first_col), c = int(p.c);
    const bool aligned = p.aligned != 0;
    const T* const s = static_cast<const T*>(p.s) + first_row * p.c;
    const T* const gate = static_cast<const T*>(p.gate);
    const T* const weight = static_cast<const T*>(p.weight) + u64(first_col) * p.c;
    const int warp = threadIdx.x / 32, warp_row = warp / 2 * 32, warp_col = warp % 2 * 32;

    u64 gate_row[VECTORS_PER_THREAD];  // where the gates of this thread's rows begin
#pragma unroll
    for (int i = 0; i < VECTORS_PER_THREAD; ++i) {
        const int row = (int(threadIdx.x) + i * THREADS) / VECTORS;
        gate_row[i] = (first_row + min(row, rows - 1)) / p.pixels * p.c;
    }
    float y[2][4][4];
#pragma unroll
    for (int band = 0; band < 2; ++band)
#pragma unroll
        for (int n = 0; n < 4; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) y[band][n][i] = 0.0f;

    const int stages = (c + TILE_K - 1) / TILE_K;
#pragma unroll 1
    for (int at = -1; at < stages; ++at) {
        const bool more = at + 1 < stages;
        const int k_index = (at + 1) * TILE_K;
        auto& next = shared.stages[(at + 1) % 2];
        Vector<T, W> values[VECTORS_PER_THREAD], gates[VECTORS_PER_THREAD];
        if (more) {
            load_tile<TILE, TILE_K, THREADS>(next.weight, weight + k_index, p.c, cols, c - k_index, aligned);
            cp_async_commit();
            if (aligned) {
#pragma unroll
                for (int i = 0; i < VECTORS_PER_THREAD; ++i) {
                    const int vector = int(threadIdx.x) + i * THREADS, row = vector / VECTORS, col = k_index + vector % VECTORS * W;
                    if (row < rows && col < c) {
                        values[i] = load_vector<T, W>(s + row * u64(p.c) + col);
                        gates[i] = load_vector<T, W>(gate + gate_row[i] + col);
                    } else {
#pragma unroll
                        for (int j = 0; j < W; ++j) values[i].at[j] = gates[i].at[j] = from_float<T>(0.0f);
                    }
                }
            }
        }
        if (at >= 0) {
            const auto& stage = shared.stages[at % 2];
#pragma unroll 1
            for (int k = 0; k < TILE_K; k += M::K) {
                const typename M::A a0 = M::load_a(stage.s + warp_row * STRIDE + k, STRIDE);
                const typename M::A a1 = M::load_a(stage.s + (warp_row + 16) * STRIDE + k, STRIDE);
#pragma unroll
                for (int n = 0; n < 4; n += 2) {
                    const typename M::B b = M::load_b_k_major(stage.weight + (warp_col + n * 8) * STRIDE + k, STRIDE);
                    M::mma(y[0][n], y[0][n + 1], a0, b);
                    M::mma(y[1][n], y[1][n + 1], a1, b);
                }
            }
        }
        if (more) {
            if (aligned) {
#pragma unroll
                for (int i = 0; i < VECTORS_PER_THREAD; ++i) {
                    const int vector = int(threadIdx.x) + i * THREADS;
#pragma unroll
                    for (int j = 0; j < W; ++j) {
                        values[i].at[j] = from_float<T>(to_float(values[i].at[j]) * to_float(gates[i].at[j]));
                    }
                    store_vector<T, W>(next.s + vector / VECTORS * STRIDE + vector % VECTORS * W, values[i]);
                }
            } else {
#pragma unroll 1
                for (int i = int(threadIdx.x); i < TILE * TILE_K; i += THREADS) {
                    const int row = i / TILE_K, col = k_index + i % TILE_K;
                    float value = 0.0f;
                    if (row < rows && col < c) {
                        value = to_float(s[row * u64(p.c) + col]) * to_float(gate[(first_row + row) / p.pixels * p.c + col]);
                    }
                    next.s[row * STRIDE + i % TILE_K] = from_float<T>(value);
                }
            }
        }
        cp_async_wait<0>();
        __syncthreads();
    }

    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    constexpr int OUT_STRIDE = TILE + TILE_PAD<T>;
#pragma unroll
    for (int band = 0; band < 2; ++band)
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            T* const to = shared.y + (warp_row + band * 16 + g) * OUT_STRIDE + warp_col + n * 8 + 2 * t;
            store_pair(to, y[band][n][0], y[band][n][1]);
            store_pair(to + 8 * OUT_STRIDE, y[band][n][2], y[band][n][3]);
        }
    __syncthreads();
    T* const to = static_cast<T*>(p.y) + first_row * p.out + first_col;
    store_tile<TILE, TILE, THREADS>(to, shared.y, p.out, rows, cols, p.aligned_out != 0);
}

#define ENTRY(NAME, THREADS, PARAMS, ...)                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) squeeze_excite_##NAME(const __grid_constant__ PARAMS p) { \
        __VA_ARGS__                                                                                               \
    }

#define POOLED(NAME, T, PARAMS, FUNCTION)                     \
    ENTRY(NAME##_##T, POOL_THREADS, PARAMS,                   \
          __shared__ float parts[WARPS][32 * WIDTH<T>];       \
          if (p.aligned) { FUNCTION<T, WIDTH<T>>(p, parts); } \
          else { FUNCTION<T, 1>(p, parts); })

#define EVERY_PASS(T)                                    \
    POOLED(silu_pool_fwd, T, PoolParams, activate)       \
    POOLED(project_bwd, T, ExciteParams, unexcite)       \
    ENTRY(silu_pool_bwd_##T, POOL_THREADS, PoolParams,   \
          if (p.aligned) { deactivate<T, WIDTH<T>>(p); } \
          else { deactivate<T, 1>(p); })

EVERY_PASS(f32)
EVERY_PASS(bf16)
EVERY_PASS(f16)

using MmaF32 = Mma<f32, TF32X3>;
using MmaTf32 = Mma<f32, TF32>;
ENTRY(project_fwd_f32, THREADS, ProjectParams, project<MmaF32>(p);)
ENTRY(project_fwd_tf32_f32, THREADS, ProjectParams, project<MmaTf32>(p);)
ENTRY(project_fwd_bf16, THREADS, ProjectParams, project<Mma<bf16>>(p);)
ENTRY(project_fwd_f16, THREADS, ProjectParams, project<Mma<f16>>(p);)
