// y = x − log Σ eˣ over the last axis, and its gradient dx = dy − eʸ Σ dy.
//
// Shapes    x, y, dy, dx: rows x cols.
// Types     f32, bf16, f16 in memory; f32 arithmetic.
// Launch    256 threads. One warp per row (`fwd`, `bwd_x`), eight rows per block; rows longer than 2048 get a block each (`fwd_block_per_row`,
//           `bwd_x_block_per_row`). 16 B per lane where rows are a multiple of that, else one element.
// Traffic   rows of up to 1024 columns are held in registers forward: read once, written once, memory bound. Longer ones, and dy
//           in the gradient, are read twice, from L1 or L2 the second time.
// Rejected  the logarithm of what softmax stores: -inf where a probability is below the smallest number.
// Numerics  x − maximum first, then minus log Σ; expf and logf within 2 ulp. NaN propagates.
// Tail      columns beyond the row are skipped; a row of -inf gives NaN, as the definition does.

#include "common/block.cuh"
#include "common/online_softmax.cuh"
#include "common/row.cuh"

struct LogSoftmaxParams {
    const void* x;  // dy in the gradient
    const void* y;  // of the gradient
    void* out;
    u64 rows, cols;
    u32 aligned;  // cols is a multiple of the vector width
    u32 unused;
};

constexpr int THREADS = 256;

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
        v[k] -= row_max;
        sum += in_row<W>(k, cols) ? expf(v[k]) : 0.0f;
    }
    const float log_sum = logf(warp_sum(sum));
#pragma unroll
    for (int k = 0; k < K; ++k) v[k] -= log_sum;
    store_row<W>(y, v, cols);
}

// y = f(x, other), column by column, by `step` threads.
template <typename T, int W, typename F>
__device__ __forceinline__ void for_each_column(const T* x, const T* other, T* y, u64 cols, u32 me, u32 step, F f) {
#pragma unroll 1
    for (u64 col = u64(me) * W; col < cols; col += u64(step) * W) {
        float a[W], b[W];
        load_floats(a, x + col);
        load_floats(b, other + col);
#pragma unroll
        for (int i = 0; i < W; ++i) a[i] = f(a[i], b[i]);
        store_floats(y + col, a);
    }
}

template <typename T, int W>
__device__ __forceinline__ void store_log_softmax(const T* x, T* y, u64 cols, u32 me, u32 step, OnlineSoftmax all) {
    const float log_sum = logf(all.sum);
    for_each_column<T, W>(x, x, y, cols, me, step, [&](float x, float) { return x - all.max - log_sum; });
}

template <typename T, int W>
__device__ __forceinline__ void forward(const LogSoftmaxParams& p, u64 row, u32 lane) {
    const T* const x = static_cast<const T*>(p.x) + row * p.cols;
    T* const y = static_cast<T*>(p.out) + row * p.cols;
    if (p.cols <= 256) return forward_in_registers<T, W, 8>(x, y, u32(p.cols));
    if (p.cols <= 1024) return forward_in_registers<T, W, 32>(x, y, u32(p.cols));
    store_log_softmax<T, W>(x, y, p.cols, lane, 32, warp_merge(row_stats<T, W>(x, p.cols, lane, 32)));
}

template <typename T, int W>
__device__ __forceinline__ void forward_block_per_row(const LogSoftmaxParams& p, u64 row, u32 me) {
    __shared__ OnlineSoftmax of_warp[THREADS / 32];
    const T* const x = static_cast<const T*>(p.x) + row * p.cols;
    const OnlineSoftmax mine = warp_merge(row_stats<T, W>(x, p.cols, me, THREADS));
    if (me % 32 == 0) of_warp[me / 32] = mine;
    __syncthreads();
    OnlineSoftmax all = of_warp[0];
#pragma unroll 1
    for (int warp = 1; warp < THREADS / 32; ++warp) all = merge(all, of_warp[warp]);
    store_log_softmax<T, W>(x, static_cast<T*>(p.out) + row * p.cols, p.cols, me, THREADS, all);
}

// This thread's part of Σ dy.
template <typename T, int W>
__device__ __forceinline__ float sum_of(const T* dy, u64 cols, u32 me, u32 step) {
    float sum = 0.0f;
#pragma unroll 2
    for (u64 col = u64(me) * W; col < cols; col += u64(step) * W) {
        float v[W];
        load_floats(v, dy + col);
#pragma unroll
        for (int i = 0; i < W; ++i) sum += v[i];
    }
    return sum;
}

template <typename T, int W>
__device__ __forceinline__ void store_gradient(const LogSoftmaxParams& p, u64 row, u32 me, u32 step, float sum) {
    const T *const dy = static_cast<const T*>(p.x) + row * p.cols, *const y = static_cast<const T*>(p.y) + row * p.cols;
    T* const dx = static_cast<T*>(p.out) + row * p.cols;
    for_each_column<T, W>(dy, y, dx, p.cols, me, step, [&](float dy, float y) { return dy - expf(y) * sum; });
}

template <typename T, int W>
__device__ __forceinline__ void backward(const LogSoftmaxParams& p, u64 row, u32 lane) {
    const T* const dy = static_cast<const T*>(p.x) + row * p.cols;
    store_gradient<T, W>(p, row, lane, 32, warp_sum(sum_of<T, W>(dy, p.cols, lane, 32)));
}

template <typename T, int W>
__device__ __forceinline__ void backward_block_per_row(const LogSoftmaxParams& p, u64 row, u32 me) {
    const T* const dy = static_cast<const T*>(p.x) + row * p.cols;
    store_gradient<T, W>(p, row, me, THREADS, block_sum<THREADS>(sum_of<T, W>(dy, p.cols, me, THREADS)));
}

#define ENTRY(NAME, T, FUNCTION, ROW, ME)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS) log_softmax_##NAME##_##T(const __grid_constant__ LogSoftmaxParams p) { \
        const u64 row = ROW;                                                                                                 \
        if (row >= p.rows) return;                                                                                           \
        if (p.aligned) {                                                                                                     \
            FUNCTION<T, WIDTH<T>>(p, row, ME);                                                                               \
        } else {                                                                                                             \
            FUNCTION<T, 1>(p, row, ME);                                                                                      \
        }                                                                                                                    \
    }
#define EVERY_PASS(T)                                                                    \
    ENTRY(fwd, T, forward, global_thread() / 32, threadIdx.x % 32)                       \
    ENTRY(bwd_x, T, backward, global_thread() / 32, threadIdx.x % 32)                    \
    ENTRY(fwd_block_per_row, T, forward_block_per_row, blockIdx.x, threadIdx.x)          \
    ENTRY(bwd_x_block_per_row, T, backward_block_per_row, blockIdx.x, threadIdx.x)

EVERY_PASS(f32)
EVERY_PASS(bf16)
EVERY_PASS(f16)
