// Sums over axes, one run of neighbouring axes at a time: [outer, axis, inner] -> [outer, parts, inner].
//
// Shapes    x: outer x axis x inner; y: outer x parts x inner, part i being the sum of `chunk` positions of the axis. One part is
//           the sum itself; more are summed by another launch, as are further runs.
// Types     f32, bf16, f16 in memory, f32 sums. What one launch hands to the next is f32 (`from_f32`, `to_f32`).
// Launch    256 threads. rows (inner = 1): one warp per part, eight per block. columns: one block per part and 32 vectors of the inner axis, a warp
//           every eighth position, warps added in order through shared memory.
// Traffic   x once: memory bound.
// Rejected  one pass over several runs: rare, and the second pass is small.
// Numerics  lanes, then butterflies, then parts: a fixed order, bit-identical from run to run.
// Tail      rows that are no multiple of the vector width: one element per lane.

#include "common/block.cuh"

struct SumParams {
    const void* x;
    void* y;
    u64 outer, axis, inner;
    u64 chunk, parts;
    u32 aligned;  // rows of x are a multiple of the vector width
    u32 tiles;    // of the inner axis
    u32 from_f32, to_f32;
};

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

template <typename In, typename Out, int W>
__device__ __forceinline__ void rows(const SumParams& p) {
    const u64 index = global_thread() / 32;
    const u32 lane = threadIdx.x % 32;
    if (index >= p.outer * p.parts) return;
    const u64 row = index / p.parts, begin = index % p.parts * p.chunk, end = min(begin + p.chunk, p.axis);
    const In* const x = static_cast<const In*>(p.x) + row * p.axis;
    float sum = 0.0f;
#pragma unroll 2
    for (u64 at = begin + lane * W; at < end; at += 32 * W) {
        float v[W];
        load_floats(v, x + at);
#pragma unroll
        for (int i = 0; i < W; ++i) sum += v[i];
    }
    sum = warp_sum(sum);
    if (lane == 0) static_cast<Out*>(p.y)[index] = from_float<Out>(sum);
}

template <typename In, typename Out, int W>
__device__ __forceinline__ void columns(const SumParams& p, float (&parts)[WARPS][256]) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u64 index = blockIdx.x / p.tiles, first = u64(blockIdx.x % p.tiles) * 32 * W, col = first + lane * W;
    const u64 row = index / p.parts, begin = index % p.parts * p.chunk, end = min(begin + p.chunk, p.axis);
    const In* const x = static_cast<const In*>(p.x) + row * p.axis * p.inner;
    float sum[W];
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] = 0.0f;
    if (col < p.inner) {
#pragma unroll 4
        for (u64 at = begin + warp; at < end; at += WARPS) {
            float v[W];
            load_floats(v, x + at * p.inner + col);
#pragma unroll
            for (int i = 0; i < W; ++i) sum[i] += v[i];
        }
    }
    put_columns(parts, sum);
    __syncthreads();
    const u32 at = threadIdx.x;
    if (at < 32 * W && first + at < p.inner) {
        static_cast<Out*>(p.y)[index * p.inner + first + at] = from_float<Out>(column_sum(parts, at));
    }
}

#define DISPATCH(FUNCTION, IN, OUT, ...)           \
    if (p.aligned) {                               \
        FUNCTION<IN, OUT, WIDTH<IN>>(__VA_ARGS__); \
    } else {                                       \
        FUNCTION<IN, OUT, 1>(__VA_ARGS__);         \
    }
#define BOTH_ENDS(FUNCTION, T, ...)                   \
    if (p.from_f32) {                                 \
        if (p.to_f32) {                               \
            DISPATCH(FUNCTION, f32, f32, __VA_ARGS__) \
        } else {                                      \
            DISPATCH(FUNCTION, f32, T, __VA_ARGS__)   \
        }                                             \
    } else if (p.to_f32) {                            \
        DISPATCH(FUNCTION, T, f32, __VA_ARGS__)       \
    } else {                                          \
        DISPATCH(FUNCTION, T, T, __VA_ARGS__)         \
    }
#define ENTRIES(T)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) sum_rows_##T(const __grid_constant__ SumParams p) { \
        BOTH_ENDS(rows, T, p)                                                                                  \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS) sum_columns_##T(const __grid_constant__ SumParams p) { \
        __shared__ float parts[WARPS][256];                                                                    \
        BOTH_ENDS(columns, T, p, parts)                                                                        \
    }

ENTRIES(f32)
ENTRIES(bf16)
ENTRIES(f16)
