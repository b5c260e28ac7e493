// y = softmax(x) over the last axis, and its gradient dx = y ∘ (dy − Σ dy ∘ y).
//
// Shapes    x, y, dy, dx: rows x cols.
// Types     f32, bf16, f16 in memory; f32 arithmetic.
// Launch    256 threads. One warp per row (`fwd`, `bwd_x`), eight rows per block; rows longer than 2048 get a block each (`fwd_block_per_row`,
//           `bwd_x_block_per_row`). 16 B per lane where rows are a multiple of that, else one element.
// Traffic   rows of up to 2048 columns (1024 in the gradient) are held in registers: every operand once, memory bound. Longer
//           rows are read twice, from L1 or L2 the second time. Each tier of registers has its own code: 384 columns are 12 of 16
//           registers a lane, not of 32.
// Rejected  maximum and sum in two passes: a third pass over rows that do not fit L1.
// Numerics  rows in registers: the maximum first. Longer ones: online softmax, the sum rescaled as the maximum rises. expf
//           within 2 ulp for f32; ex2.approx for 16 bits. NaN propagates.
// Tail      columns beyond the row are skipped; a row of -inf gives NaN, as the definition does.

#include "common/block.cuh"
#include "common/online_softmax.cuh"
#include "common/row.cuh"

struct SoftmaxParams {
    const void* x;  // dy in the gradient
    const void* y;  // of the gradient
    void* out;
    u64 rows, cols;
    u32 aligned;  // cols is a multiple of the vector width
    u32 unused;
};

constexpr int THREADS = 256;

template <typename T, int W>
__device__ __forceinline__ void store_softmax(const T* x, T* y, u64 cols, u32 me, u32 step, OnlineSoftmax all) {
    const float scale = 1.0f / all.sum;
    for (u64 col = u64(me) * W; col < cols; col += u64(step) * W) {
        float v[W];
        load_floats(v, x + col);
#pragma unroll
        for (int i = 0; i < W; ++i) v[i] = exp_for<T>(v[i] - all.max) * scale;
        store_floats(y + col, v);
    }
}

template <typename T, int W>
__device__ __forceinline__ float dot(const T* dy, const T* y, u64 cols, u32 me, u32 step) {
    float sum = 0.0f;
    for (u64 col = u64(me) * W; col < cols; col += u64(step) * W) {
        float a[W], b[W];
        load_floats(a, dy + col);
        load_floats(b, y + col);
#pragma unroll
        for (int i = 0; i < W; ++i) sum = fmaf(a[i], b[i], sum);
    }
    return sum;
}

template <typename T, int W>
__device__ __forceinline__ void write_gradient(const T* dy, const T* y, T* dx, u64 cols, u32 me, u32 step, float dot) {
    for (u64 col = u64(me) * W; col < cols; col += u64(step) * W) {
        float a[W], b[W];
        load_floats(a, dy + col);
        load_floats(b, y + col);
#pragma unroll
        for (int i = 0; i < W; ++i) a[i] = b[i] * (a[i] - dot);
        store_floats(dx + col, a);
    }
}

template <typename T, int W, int K>
__device__ __forceinline__ void forward_in_registers(const T* x, T* y, u32 cols) {
    float v[K];
    load_row<W>(v, x, cols, -INFINITY);
    float row_max = v[0], sum = 0.0f;
#pragma unroll
    for (int k = 1; k < K; ++k) row_max = larger(row_max, v[k]);
    row_max = warp_max(row_max);
#pragma unroll
    for (int k = 0; k < K; ++k) {
        // Beyond the row is -inf, which adds 0.
        v[k] = exp_for<T>(v[k] - row_max);
        sum += v[k];
    }
    const float scale = 1.0f / warp_sum(sum);
#pragma unroll
    for (int k = 0; k < K; ++k) v[k] *= scale;
    store_row<W>(y, v, cols);
}

template <typename T, int W>
__device__ __forceinline__ void forward(const SoftmaxParams& p, u64 row, u32 lane) {
    const T* const x = static_cast<const T*>(p.x) + row * p.cols;
    T* const y = static_cast<T*>(p.out) + row * p.cols;
    if (p.cols <= 256) return forward_in_registers<T, W, 8>(x, y, u32(p.cols));
    if (p.cols <= 512) return forward_in_registers<T, W, 16>(x, y, u32(p.cols));
    if (p.cols <= 1024) return forward_in_registers<T, W, 32>(x, y, u32(p.cols));
    // One element a load, 2048 columns are 64 loads: twice the code for rows that nobody aligns.
    if (W > 1 && p.cols <= 2048) return forward_in_registers<T, W, 64>(x, y, u32(p.cols));
    store_softmax<T, W>(x, y, p.cols, lane, 32, warp_merge(row_stats<T, W>(x, p.cols, lane, 32)));
}

template <typename T, int W>
__device__ __forceinline__ void forward_block_per_row(const SoftmaxParams& p, u64 row, u32 me) {
    __shared__ OnlineSoftmax of_warp[THREADS / 32];
    const T* const x = static_cast<const T*>(p.x) + row * p.cols;
    const OnlineSoftmax mine = warp_merge(row_stats<T, W>(x, p.cols, me, THREADS));
    if (me % 32 == 0) of_warp[me / 32] = mine;
    __syncthreads();
    OnlineSoftmax all = of_warp[0];
#pragma unroll 1
    for (int warp = 1; warp < THREADS / 32; ++warp) all = merge(all, of_warp[warp]);
    store_softmax<T, W>(x, static_cast<T*>(p.out) + row * p.cols, p.cols, me, THREADS, all);
}

template <typename T, int W, int K>
__device__ __forceinline__ void backward_in_registers(const T* dy, const T* y, T* dx, u32 cols) {
    float d[K], v[K], sum = 0.0f;
    load_row<W>(d, dy, cols);
    load_row<W>(v, y, cols);
#pragma unroll
    for (int k = 0; k < K; ++k) sum = fmaf(d[k], v[k], sum);
    sum = warp_sum(sum);
#pragma unroll
    for (int k = 0; k < K; ++k) v[k] *= d[k] - sum;
    store_row<W>(dx, v, cols);
}

template <typename T, int W>
__device__ __forceinline__ void backward(const SoftmaxParams& p, u64 row, u32 lane) {
    const T *const dy = static_cast<const T*>(p.x) + row * p.cols, *const y = static_cast<const T*>(p.y) + row * p.cols;
    T* const dx = static_cast<T*>(p.out) + row * p.cols;
    if (p.cols <= 256) return backward_in_registers<T, W, 8>(dy, y, dx, u32(p.cols));
    if (p.cols <= 512) return backward_in_registers<T, W, 16>(dy, y, dx, u32(p.cols));
    if (W > 1 && p.cols <= 1024) return backward_in_registers<T, W, 32>(dy, y, dx, u32(p.cols));
    const float sum = warp_sum(dot<T, W>(dy, y, p.cols, lane, 32));
    write_gradient<T, W>(dy, y, static_cast<T*>(p.out) + row * p.cols, p.cols, lane, 32, sum);
}

template <typename T, int W>
__device__ __forceinline__ void backward_block_per_row(const SoftmaxParams& p, u64 row, u32 me) {
    const T *const dy = static_cast<const T*>(p.x) + row * p.cols, *const y = static_cast<const T*>(p.y) + row * p.cols;
    const float sum = block_sum<THREADS>(dot<T, W>(dy, y, p.cols, me, THREADS));
    write_gradient<T, W>(dy, y, static_cast<T*>(p.out) + row * p.cols, p.cols, me, THREADS, sum);
}

#define WARP_PER_ROW(NAME, T, FUNCTION)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS) softmax_##NAME##_##T(const __grid_constant__ SoftmaxParams p) { \
        const u64 row = global_thread() / 32;                                                                              \
        if (row >= p.rows) return;                                                                                         \
        if (p.aligned) {                                                                                                     \
            FUNCTION<T, WIDTH<T>>(p, row, threadIdx.x % 32);                                                               \
        } else {                                                                                                           \
            FUNCTION<T, 1>(p, row, threadIdx.x % 32);                                                                      \
        }                                                                                                                  \
    }
#define BLOCK_PER_ROW(NAME, T, FUNCTION)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS) softmax_##NAME##_##T(const __grid_constant__ SoftmaxParams p) { \
        if (p.aligned) {                                                                                                     \
            FUNCTION<T, WIDTH<T>>(p, blockIdx.x, threadIdx.x);                                                             \
        } else {                                                                                                           \
            FUNCTION<T, 1>(p, blockIdx.x, threadIdx.x);                                                                    \
        }                                                                                                                  \
    }
#define EVERY_PASS(T)                                          \
    WARP_PER_ROW(fwd, T, forward)                              \
    WARP_PER_ROW(bwd_x, T, backward)                           \
    BLOCK_PER_ROW(fwd_block_per_row, T, forward_block_per_row) \
    BLOCK_PER_ROW(bwd_x_block_per_row, T, backward_block_per_row)

EVERY_PASS(f32)
EVERY_PASS(bf16)
EVERY_PASS(f16)
