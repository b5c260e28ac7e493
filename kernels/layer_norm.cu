// y = (x − mean) / √(variance + eps) · weight + bias over the last axis, and its gradients.
//
//   with n = (x − mean) · scale and s = dy · weight:  dx = scale · (s − mean(s) − n · mean(s n)),
//   dweight = Σ over rows of dy · n,  dbias = Σ over rows of dy
//
// Shapes    x, y, dy, dx: rows x cols; weight, bias and their gradients: cols.
// Types     f32, bf16, f16 in memory; f32 arithmetic.
// Launch    256 threads. fwd: one warp per row, eight rows per block. bwd (up to 512 columns): one block per run of rows, a warp every
//           eighth of them, with the gradients of weight and bias of every column in its registers; warps are added in order.
//           Longer rows: bwd_x, one warp per row, then bwd_parts, one block per 32 vectors of columns of a run. bwd_sum adds the
//           runs' parts, 32 columns per block.
// Traffic   fwd: x once (held in registers up to 512 columns, else two more passes from L1), y once. bwd: x, dy and dx once, and
//           eight bytes per column for every run of at most 264. Longer rows: x and dy twice, two numbers per row in between.
//           Memory bound: eight flops per element.
// Rejected  Welford's running variance: a division per element, and lanes to be merged; two passes are exact enough and cheaper.
// Numerics  the mean of x − mean is taken off as well, so that rows far from zero keep their digits.
// Tail      cols not a multiple of 16 bytes: one element per lane.

#include "common/block.cuh"
#include "common/row.cuh"

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
    u32 aligned;  // cols is a multiple of the vector width
    u32 run;      // rows of a part
    u32 runs;     // parts
    u32 tiles;    // of columns
    u32 unused;
};

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int MAX_REGISTER_COLS = 512;  // columns of a row that a warp holds in registers

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

// As above, of a row held in registers.
template <int W, int K>
__device__ __forceinline__ Norm norm_of(const float (&v)[K], u32 cols, float eps) {
    float sum = 0.0f, rest = 0.0f, squares = 0.0f;
#pragma unroll
    for (int k = 0; k < K; ++k) sum += v[k];  // zeros beyond the row
    const float count = float(cols), mean = warp_sum(sum) / count;
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const float centred = in_row<W>(k, cols) ? v[k] - mean : 0.0f;
        rest += centred;
        squares = fmaf(centred, centred, squares);
    }
    rest = warp_sum(rest) / count;
    const float variance = fmaxf(warp_sum(squares) / count - rest * rest, 0.0f);
    return {mean + rest, 1.0f / sqrtf(variance + eps)};
}

template <typename T, int W, int K>
__device__ __forceinline__ void forward_in_registers(const LayerNormParams& p, const T* x, T* y) {
    const u32 cols = u32(p.cols);
    float v[K];
    load_row<W>(v, x, cols);
    const Norm norm = norm_of<W>(v, cols, p.eps);
#pragma unroll
    for (int k = 0; k < K; k += W) {
        if (!in_row<W>(k, cols)) continue;
        const u32 col = k * 32 + threadIdx.x % 32 * W;
        float w[W], b[W];
        load_floats(w, static_cast<const T*>(p.weight) + col);
        load_floats(b, static_cast<const T*>(p.bias) + col);
#pragma unroll
        for (int i = 0; i < W; ++i) w[i] = fmaf((v[k + i] - norm.mean) * norm.scale, w[i], b[i]);
        store_floats(y + col, w);
    }
}

template <typename T, int W>
__device__ __forceinline__ void forward(const LayerNormParams& p, u64 row) {
    const u32 lane = threadIdx.x % 32;
    const T* const x = static_cast<const T*>(p.x) + row * p.cols;
    T* const y = static_cast<T*>(p.y) + row * p.cols;
    if (p.cols <= MAX_REGISTER_COLS) return forward_in_registers<T, W, MAX_REGISTER_COLS / 32>(p, x, y);
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
__device__ __forceinline__ void backward_in_registers(const LayerNormParams& p, float (&shared)[WARPS][MAX_REGISTER_COLS]) {
    constexpr int K = MAX_REGISTER_COLS / 32, STEP = W < 4 ? W : 4;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, cols = u32(p.cols);
    const u64 begin = u64(blockIdx.x) * p.run, end = min(begin + p.run, p.rows);
    const float count = float(cols);
    float weight[K], dweight[K], dbias[K];
    load_row<W>(weight, static_cast<const T*>(p.weight), cols);
#pragma unroll
    for (int k = 0; k < K; ++k) dweight[k] = dbias[k] = 0.0f;
    for (u64 row = begin + warp; row < end; row += WARPS) {
        float v[K], d[K], sum = 0.0f, along = 0.0f;
        load_row<W>(v, static_cast<const T*>(p.x) + row * p.cols, cols);
        load_row<W>(d, static_cast<const T*>(p.dy) + row * p.cols, cols);
        const Norm norm = norm_of<W>(v, cols, p.eps);
#pragma unroll
        for (int k = 0; k < K; ++k) {
            v[k] = (v[k] - norm.mean) * norm.scale;  // d is zero beyond the row
            const float s = d[k] * weight[k];
            sum += s;
            along = fmaf(s, v[k], along);
            dweight[k] = fmaf(d[k], v[k], dweight[k]);
            dbias[k] += d[k];
        }
        sum = warp_sum(sum) / count;
        along = warp_sum(along) / count;
#pragma unroll
        for (int k = 0; k < K; ++k) v[k] = norm.scale * ((d[k] * weight[k] - sum) - v[k] * along);
        store_row<W>(static_cast<T*>(p.dx) + row * p.cols, v, cols);
    }
#pragma unroll
    for (int which = 0; which < 2; ++which) {
        if (which == 1) __syncthreads();  // the other gradient has been read
#pragma unroll
        for (int k = 0; k < K; k += STEP) {
            float vector[STEP];
#pragma unroll
            for (int i = 0; i < STEP; ++i) vector[i] = which == 0 ? dweight[k + i] : dbias[k + i];
            store_floats(&shared[warp][k / W * W * 32 + lane * W + k % W], vector);
        }
        __syncthreads();
        for (u32 col = threadIdx.x; col < cols; col += THREADS) {
            p.parts[(u64(blockIdx.x) * 2 + which) * cols + col] = column_sum(shared, col);
        }
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
    put_columns(parts[0], dweight);
    put_columns(parts[1], dbias);
    __syncthreads();
    const u32 at = threadIdx.x;
    if (at < 32 * W && first + at < p.cols) {
#pragma unroll
        for (int which = 0; which < 2; ++which) p.parts[(run * 2 + which) * p.cols + first + at] = column_sum(parts[which], at);
    }
}

template <typename T>
__device__ __forceinline__ void backward_sum(const LayerNormParams& p) {
    __shared__ float shared[2][WARPS][32];
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u64 col = u64(blockIdx.x) * 32 + lane;
    float dweight = 0.0f, dbias = 0.0f;
    if (col < p.cols) {
#pragma unroll 4
        for (u64 run = warp; run < p.runs; run += WARPS) {
            dweight += p.parts[run * 2 * p.cols + col];
            dbias += p.parts[(run * 2 + 1) * p.cols + col];
        }
    }
    shared[0][warp][lane] = dweight;
    shared[1][warp][lane] = dbias;
    __syncthreads();
    if (warp < 2 && col < p.cols) {
        static_cast<T*>(warp == 0 ? p.dweight : p.dbias)[col] = from_float<T>(column_sum(shared[warp], lane));
    }
}

#define ENTRY(NAME, T, ...)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_##NAME##_##T(const __grid_constant__ LayerNormParams p) { \
        __VA_ARGS__                                                                                                           \
    }
#define BY_ROW(FUNCTION, T)               \
    const u64 row = global_thread() / 32; \
    if (row >= p.rows) return;            \
    if (p.aligned) {                      \
        FUNCTION<T, WIDTH<T>>(p, row);    \
    } else {                              \
        FUNCTION<T, 1>(p, row);           \
    }
#define EVERY_PASS(T)                                                              \
    ENTRY(fwd, T, BY_ROW(forward, T))                                              \
    ENTRY(bwd, T, __shared__ __align__(16) float shared[WARPS][MAX_REGISTER_COLS]; \
          if (p.aligned) { backward_in_registers<T, WIDTH<T>>(p, shared); }        \
          else { backward_in_registers<T, 1>(p, shared); })                        \
    ENTRY(bwd_x, T, BY_ROW(backward, T))                                           \
    ENTRY(bwd_parts, T, __shared__ float parts[2][WARPS][32 * WIDTH<T>];           \
          if (p.aligned) { backward_parts<T, WIDTH<T>>(p, parts); }                \
          else { backward_parts<T, 1>(p, parts); })                                \
    ENTRY(bwd_sum, T, backward_sum<T>(p);)

EVERY_PASS(f32)
EVERY_PASS(bf16)
EVERY_PASS(f16)
