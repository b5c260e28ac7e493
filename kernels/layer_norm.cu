// y = (x − mean) / √(variance + eps) · weight + bias over the last axis, and its gradients.
//
//   with n = (x − mean) · scale and s = dy · weight:  dx = scale · (s − mean(s) − n · mean(s n)),
//   dweight = Σ over rows of dy · n,  dbias = Σ over rows of dy
//
// Shapes    x, y, dy, dx: rows x cols; weight, bias and their gradients: cols.
// Types     f32, bf16, f16 in memory; f32 arithmetic.
// Launch    256 threads. fwd, bwd_x: a warp a row, eight rows a block. bwd_parts: a block takes 32 packs of columns of a run of
//           rows, a warp every eighth row, warps added in order; bwd_sum adds the runs' parts, a thread a column.
// Traffic   fwd: x once from memory (three looks, two of them from L1), y once. bwd_x: x and dy once, dx once, and two numbers a row
//           for bwd_parts, which reads x and dy again: 5 passes where one kernel with accumulators for every column could
//           do 3, but only up to the width its registers hold.
// Rejected  Welford's running variance: a division an element, and lanes to be merged; two looks are exact enough and cheaper.
// Numerics  the mean of x − mean is taken off as well, so that rows far from zero keep their digits.
// Tail      cols not a whole number of 16-byte packs: one element a lane.

#include "common/warp.cuh"

struct LayerNormParams {
    const void *x, *weight, *bias;
    void* y;
    const void* dy;
    void* dx;
    float* rows_stats;  // mean and scale of every row: written by bwd_x, read by bwd_parts
    float* parts;       // runs x 2 x cols
    void *dweight, *dbias;
    u64 rows, cols;
    float eps;
    u32 whole;     // cols is a whole number of packs
    u32 run;       // rows of a part
    u32 runs;      // parts
    u32 tiles;     // of columns
    u32 unused;
};

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

struct Norm {
    float mean, scale;
};

template <typename T, int W>
__device__ __forceinline__ Norm norm_of(const T* x, u64 cols, float eps) {
    const u32 lane = threadIdx.x % 32;
    float sum = 0.0f;
    for (u64 col = lane * W; col < cols; col += 32 * W) {
        float v[W];
        load_floats(v, x + col);
#pragma unroll
        for (int i = 0; i < W; ++i) sum += v[i];
    }
    const float count = float(cols), mean = warp_sum(sum) / count;
    float rest = 0.0f, squares = 0.0f;
    for (u64 col = lane * W; col < cols; col += 32 * W) {
        float v[W];
        load_floats(v, x + col);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            const float centred = v[i] - mean;
            rest += centred;
            squares = fmaf(centred, centred, squares);
        }
    }
    rest = warp_sum(rest) / count;
    const float variance = fmaxf(warp_sum(squares) / count - rest * rest, 0.0f);
    return {mean + rest, 1.0f / sqrtf(variance + eps)};
}

template <typename T, int W>
__device__ __forceinline__ void forward(const LayerNormParams& p, u64 row) {
    const u32 lane = threadIdx.x % 32;
    const T* const x = static_cast<const T*>(p.x) + row * p.cols;
    T* const y = static_cast<T*>(p.y) + row * p.cols;
    const Norm norm = norm_of<T, W>(x, p.cols, p.eps);
    for (u64 col = lane * W; col < p.cols; col += 32 * W) {
        float v[W], w[W], b[W];
        load_floats(v, x + col);
        load_floats(w, static_cast<const T*>(p.weight) + col);
        load_floats(b, static_cast<const T*>(p.bias) + col);
#pragma unroll
        for (int i = 0; i < W; ++i) v[i] = fmaf((v[i] - norm.mean) * norm.scale, w[i], b[i]);
        store_floats(y + col, v);
    }
}

template <typename T, int W>
__device__ __forceinline__ void backward(const LayerNormParams& p, u64 row) {
    const u32 lane = threadIdx.x % 32;
    const T *const x = static_cast<const T*>(p.x) + row * p.cols, *const dy = static_cast<const T*>(p.dy) + row * p.cols;
    const T* const weight = static_cast<const T*>(p.weight);
    T* const dx = static_cast<T*>(p.dx) + row * p.cols;
    const Norm norm = norm_of<T, W>(x, p.cols, p.eps);
    float sum = 0.0f, along = 0.0f;
    for (u64 col = lane * W; col < p.cols; col += 32 * W) {
        float v[W], w[W], d[W];
        load_floats(v, x + col);
        load_floats(w, weight + col);
        load_floats(d, dy + col);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            const float s = d[i] * w[i];
            sum += s;
            along = fmaf(s, (v[i] - norm.mean) * norm.scale, along);
        }
    }
    const float count = float(p.cols);
    sum = warp_sum(sum) / count;
    along = warp_sum(along) / count;
    for (u64 col = lane * W; col < p.cols; col += 32 * W) {
        float v[W], w[W], d[W];
        load_floats(v, x + col);
        load_floats(w, weight + col);
        load_floats(d, dy + col);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            const float n = (v[i] - norm.mean) * norm.scale;
            v[i] = norm.scale * ((d[i] * w[i] - sum) - n * along);
        }
        store_floats(dx + col, v);
    }
    if (lane == 0) {
        p.rows_stats[2 * row] = norm.mean;
        p.rows_stats[2 * row + 1] = norm.scale;
    }
}

template <typename T, int W>
__device__ __forceinline__ void backward_parts(const LayerNormParams& p, float (&parts)[2][WARPS][32 * WIDTH<T>]) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u64 run = blockIdx.x / p.tiles, first = u64(blockIdx.x % p.tiles) * 32 * W, col = first + lane * W;
    const u64 begin = run * p.run, end = min(begin + p.run, p.rows);
    float dweight[W], dbias[W];
#pragma unroll
    for (int i = 0; i < W; ++i) dweight[i] = dbias[i] = 0.0f;
    if (col < p.cols) {
#pragma unroll 2
        for (u64 row = begin + warp; row < end; row += WARPS) {
            const float mean = p.rows_stats[2 * row], scale = p.rows_stats[2 * row + 1];
            float v[W], d[W];
            load_floats(v, static_cast<const T*>(p.x) + row * p.cols + col);
            load_floats(d, static_cast<const T*>(p.dy) + row * p.cols + col);
#pragma unroll
            for (int i = 0; i < W; ++i) {
                dweight[i] = fmaf(d[i], (v[i] - mean) * scale, dweight[i]);
                dbias[i] += d[i];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < W; ++i) {
        parts[0][warp][lane * W + i] = dweight[i];
        parts[1][warp][lane * W + i] = dbias[i];
    }
    __syncthreads();
    const u32 at = threadIdx.x;
    if (at < 32 * W && first + at < p.cols) {
#pragma unroll
        for (int which = 0; which < 2; ++which) {
            float total = 0.0f;
#pragma unroll
            for (int i = 0; i < WARPS; ++i) total += parts[which][i][at];
            p.parts[(run * 2 + which) * p.cols + first + at] = total;
        }
    }
}

template <typename T>
__device__ __forceinline__ void backward_sum(const LayerNormParams& p) {
    const u64 col = global_thread();
    if (col >= p.cols) return;
    float dweight = 0.0f, dbias = 0.0f;
    for (u64 run = 0; run < p.runs; ++run) {
        dweight += p.parts[run * 2 * p.cols + col];
        dbias += p.parts[(run * 2 + 1) * p.cols + col];
    }
    static_cast<T*>(p.dweight)[col] = from_float<T>(dweight);
    static_cast<T*>(p.dbias)[col] = from_float<T>(dbias);
}

#define ENTRY(NAME, T, ...)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_##NAME##_##T(const __grid_constant__ LayerNormParams p) { \
        __VA_ARGS__                                                                                                           \
    }
#define BY_ROW(FUNCTION, T)                      \
    const u64 row = global_thread() / 32;        \
    if (row >= p.rows) return;                   \
    if (p.whole) {                               \
        FUNCTION<T, WIDTH<T>>(p, row);           \
    } else {                                     \
        FUNCTION<T, 1>(p, row);                  \
    }
#define EVERY_PASS(T)                                                     \
    ENTRY(fwd, T, BY_ROW(forward, T))                                     \
    ENTRY(bwd_x, T, BY_ROW(backward, T))                                  \
    ENTRY(bwd_parts, T, __shared__ float parts[2][WARPS][32 * WIDTH<T>];  \
          if (p.whole) { backward_parts<T, WIDTH<T>>(p, parts); }         \
          else { backward_parts<T, 1>(p, parts); })                       \
    ENTRY(bwd_sum, T, backward_sum<T>(p);)

EVERY_PASS(f32)
EVERY_PASS(bf16)
EVERY_PASS(f16)
