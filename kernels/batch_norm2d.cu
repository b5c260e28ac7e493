// Normalisation of every channel over all other axes, with the batch's statistics or given ones, and its gradients.
//
//   y = (x − mean) · scale · weight + bias,  scale = 1 / √(biased variance + eps)
//   dbias = Σ dy,  dweight = scale Σ dy (x − mean),
//   dx = weight · scale · (dy − Σ dy / rows − (x − mean) scale² Σ dy (x − mean) / rows); without the sums where statistics are given
//
// Shapes    x, y, dy, dx: rows x c (rows = n h w); everything else: c. Mean and variance (unbiased) come out in f32.
// Types     f32, bf16, f16 in memory; weight and bias together, and given statistics together, in f32 or the type of x;
//           f32 arithmetic.
// Launch    256 threads. parts, bwd_parts: one block per 32 vectors of channels of a run of rows, a warp every eighth row, warps merged in
//           order; stats, bwd_stats: one thread per channel merges the runs in order; normalise, bwd_x: one vector per thread.
// Traffic   fwd: x twice, y once; bwd: x and dy twice, dx once: memory bound.
// Rejected  one block per channel group over all rows: too few blocks for images of few channels.
// Numerics  each warp sums deviations from its first row, so that channels far from zero keep their digits; counts, means and squares
//           are merged as Chan, Golub and LeVeque (1979) do: deterministic, no atomics.
// Tail      c not a multiple of 16 bytes: one element per lane.

#include "common/block.cuh"

struct BatchNormParams {
    const void *x, *weight, *bias, *mean, *variance;
    void* y;
    const void* dy;
    void *dx, *dweight, *dbias;
    float *mean_out, *variance_out;
    float* parts;         // runs x 2 x c
    float* coefficients;  // 3 x c: scale, offset and factor of x − mean in dx
    u64 rows;
    u32 c, run, runs;
    u32 tiles;    // of channels
    u32 vectors;  // of all elements, one thread each
    float eps;
    float biased;  // what makes a variance the biased one
    u32 training;
    u32 aligned;     // c is a multiple of the vector width
    u32 f32_stats;   // mean and variance are f32
    u32 f32_affine;  // weight, bias and their gradients are f32
    u32 unused;
};

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

// Arrays are of f32 and T: one vector of T is more than 16 bytes of f32, so wide loads of f32 are split.
__device__ __forceinline__ void load_floats(float (&x)[8], const float* from) {
    float low[4], high[4];
    load_floats(low, from);
    load_floats(high, from + 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = low[i], x[i + 4] = high[i];
}

// W neighbours of a vector that is f32 or T.
template <typename T, int W>
__device__ __forceinline__ void load_channels(float (&v)[W], const void* from, u32 channel, bool is_f32) {
    if (is_f32) load_floats(v, static_cast<const float*>(from) + channel);
    else load_floats(v, static_cast<const T*>(from) + channel);
}

template <typename T, int W>
__device__ __forceinline__ void load_stats(const BatchNormParams& p, u32 channel, float (&mean)[W], float (&scale)[W]) {
    load_channels<T>(mean, p.mean, channel, p.f32_stats);
    load_channels<T>(scale, p.variance, channel, p.f32_stats);
#pragma unroll
    for (int i = 0; i < W; ++i) scale[i] = 1.0f / sqrtf(fmaf(scale[i], p.biased, p.eps));
}

template <typename T, int W>
__device__ __forceinline__ void moments(const BatchNormParams& p, float (&shared)[2][WARPS][256]) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u64 run = blockIdx.x / p.tiles, begin = run * p.run, end = min(begin + p.run, p.rows);
    const u32 first = blockIdx.x % p.tiles * 32 * W, channel = first + lane * W;
    const T* const x = static_cast<const T*>(p.x) + channel;
    float centre[W], sum[W], squares[W];
#pragma unroll
    for (int i = 0; i < W; ++i) centre[i] = sum[i] = squares[i] = 0.0f;
    const u64 mine = begin + warp < end ? (end - begin - warp + WARPS - 1) / WARPS : 0;
    if (channel < p.c && mine > 0) {
        load_floats(centre, x + (begin + warp) * p.c);
#pragma unroll 4
        for (u64 row = begin + warp; row < end; row += WARPS) {
            float v[W];
            load_floats(v, x + row * p.c);
#pragma unroll
            for (int i = 0; i < W; ++i) {
                const float apart = v[i] - centre[i];
                sum[i] += apart;
                squares[i] = fmaf(apart, apart, squares[i]);
            }
        }
    }
    const float count = mine > 0 ? float(mine) : 1.0f;
#pragma unroll
    for (int i = 0; i < W; ++i) {
        shared[0][warp][lane * W + i] = centre[i] + sum[i] / count;
        shared[1][warp][lane * W + i] = fmaxf(squares[i] - sum[i] * sum[i] / count, 0.0f);
    }
    __syncthreads();
    const u32 at = threadIdx.x;
    if (at < 32 * W && first + at < p.c) {
        float rows = 0.0f, mean = 0.0f, square = 0.0f;
        for (u32 i = 0; i < WARPS && begin + i < end; ++i) {
            const float more = float((end - begin - i + WARPS - 1) / WARPS), apart = shared[0][i][at] - mean;
            const float share = more / (rows + more);
            mean = fmaf(apart, share, mean);
            square += shared[1][i][at] + apart * apart * rows * share;
            rows += more;
        }
        p.parts[run * 2 * p.c + first + at] = mean;
        p.parts[(run * 2 + 1) * p.c + first + at] = square;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) batch_norm2d_stats(const __grid_constant__ BatchNormParams p) {
    const u64 channel = global_thread();
    if (channel >= p.c) return;
    float rows = 0.0f, mean = 0.0f, square = 0.0f;
    for (u64 run = 0; run < p.runs; ++run) {
        const float more = float(min(u64(p.run), p.rows - run * p.run));
        const float apart = p.parts[run * 2 * p.c + channel] - mean, share = more / (rows + more);
        mean = fmaf(apart, share, mean);
        square += p.parts[(run * 2 + 1) * p.c + channel] + apart * apart * rows * share;
        rows += more;
    }
    p.mean_out[channel] = mean;
    p.variance_out[channel] = square / (rows - 1.0f);
}

template <typename T, int W>
__device__ __forceinline__ void normalise(const BatchNormParams& p) {
    const u32 vector = blockIdx.x * THREADS + threadIdx.x;
    if (vector >= p.vectors) return;
    const u32 channel = vector % (p.c / W) * W;
    const u64 at = u64(vector) * W;
    float v[W], mean[W], scale[W], weight[W], bias[W];
    load_floats(v, static_cast<const T*>(p.x) + at);
    load_stats<T, W>(p, channel, mean, scale);
    load_channels<T>(weight, p.weight, channel, p.f32_affine);
    load_channels<T>(bias, p.bias, channel, p.f32_affine);
#pragma unroll
    for (int i = 0; i < W; ++i) v[i] = fmaf(v[i] - mean[i], scale[i] * weight[i], bias[i]);
    store_floats(static_cast<T*>(p.y) + at, v);
}

template <typename T, int W>
__device__ __forceinline__ void backward_parts(const BatchNormParams& p, float (&shared)[2][WARPS][256]) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u64 run = blockIdx.x / p.tiles, begin = run * p.run, end = min(begin + p.run, p.rows);
    const u32 first = blockIdx.x % p.tiles * 32 * W, channel = first + lane * W;
    float sum[W], along[W];
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] = along[i] = 0.0f;
    if (channel < p.c) {
        float mean[W], scale[W];
        load_stats<T, W>(p, channel, mean, scale);
#pragma unroll 2
        for (u64 row = begin + warp; row < end; row += WARPS) {
            float v[W], d[W];
            load_floats(v, static_cast<const T*>(p.x) + row * p.c + channel);
            load_floats(d, static_cast<const T*>(p.dy) + row * p.c + channel);
#pragma unroll
            for (int i = 0; i < W; ++i) {
                sum[i] += d[i];
                along[i] = fmaf(d[i], v[i] - mean[i], along[i]);
            }
        }
    }
    put_columns(shared[0], sum);
    put_columns(shared[1], along);
    __syncthreads();
    const u32 at = threadIdx.x;
    if (at < 32 * W && first + at < p.c) {
#pragma unroll
        for (int which = 0; which < 2; ++which) p.parts[(run * 2 + which) * p.c + first + at] = column_sum(shared[which], at);
    }
}

template <typename T>
__device__ __forceinline__ void backward_stats(const BatchNormParams& p) {
    const u64 channel = global_thread();
    if (channel >= p.c) return;
    float sum = 0.0f, along = 0.0f;
    for (u64 run = 0; run < p.runs; ++run) {
        sum += p.parts[run * 2 * p.c + channel];
        along += p.parts[(run * 2 + 1) * p.c + channel];
    }
    float mean[1], scale[1], weight[1];
    load_stats<T, 1>(p, u32(channel), mean, scale);
    load_channels<T>(weight, p.weight, u32(channel), p.f32_affine);
    if (p.f32_affine) {
        static_cast<float*>(p.dbias)[channel] = sum;
        static_cast<float*>(p.dweight)[channel] = along * scale[0];
    } else {
        static_cast<T*>(p.dbias)[channel] = from_float<T>(sum);
        static_cast<T*>(p.dweight)[channel] = from_float<T>(along * scale[0]);
    }
    const float batch = p.training ? 1.0f / float(p.rows) : 0.0f;
    p.coefficients[channel] = weight[0] * scale[0];
    p.coefficients[p.c + channel] = sum * batch;
    p.coefficients[2 * u64(p.c) + channel] = along * scale[0] * scale[0] * batch;
}

template <typename T, int W>
__device__ __forceinline__ void backward(const BatchNormParams& p) {
    const u32 vector = blockIdx.x * THREADS + threadIdx.x;
    if (vector >= p.vectors) return;
    const u32 channel = vector % (p.c / W) * W;
    const u64 at = u64(vector) * W;
    float v[W], d[W], mean[W], scale[W], gain[W], offset[W], slope[W];
    load_floats(v, static_cast<const T*>(p.x) + at);
    load_floats(d, static_cast<const T*>(p.dy) + at);
    load_stats<T, W>(p, channel, mean, scale);
    load_floats(gain, p.coefficients + channel);
    load_floats(offset, p.coefficients + p.c + channel);
    load_floats(slope, p.coefficients + 2 * u64(p.c) + channel);
#pragma unroll
    for (int i = 0; i < W; ++i) v[i] = gain[i] * ((d[i] - offset[i]) - (v[i] - mean[i]) * slope[i]);
    store_floats(static_cast<T*>(p.dx) + at, v);
}

#define ENTRY(NAME, T, ...)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS) batch_norm2d_##NAME##_##T(const __grid_constant__ BatchNormParams p) { \
        __VA_ARGS__                                                                                                           \
    }
#define EVERY_PASS(T)                                                                                           \
    ENTRY(parts, T, __shared__ float shared[2][WARPS][256];                                                     \
          if (p.aligned) { moments<T, WIDTH<T>>(p, shared); } else { moments<T, 1>(p, shared); })               \
    ENTRY(normalise, T, if (p.aligned) { normalise<T, WIDTH<T>>(p); } else { normalise<T, 1>(p); })             \
    ENTRY(bwd_parts, T, __shared__ float shared[2][WARPS][256];                                                 \
          if (p.aligned) { backward_parts<T, WIDTH<T>>(p, shared); } else { backward_parts<T, 1>(p, shared); }) \
    ENTRY(bwd_stats, T, backward_stats<T>(p);)                                                                  \
    ENTRY(bwd_x, T, if (p.aligned) { backward<T, WIDTH<T>>(p); } else { backward<T, 1>(p); })

EVERY_PASS(f32)
EVERY_PASS(bf16)
EVERY_PASS(f16)
