// y = softmax(x) over the last axis, and its gradient dx = y ∘ (dy − Σ dy ∘ y).
//
// Shapes    x, y, dy, dx: rows x cols.
// Types     f32, bf16, f16 in memory; f32 arithmetic.
// Launch    256 threads. A warp a row (`fwd`, `bwd_x`), eight rows a block; rows longer than 2048 get a block each (`fwd_wide`,
//           `bwd_x_wide`). 16 bytes a lane where rows are whole packs, else one element.
// Traffic   rows of up to 1024 columns (512 in the gradient) are held in registers: every operand once, memory bound. Longer
//           rows are read twice, from L1 or L2 the second time.
// Rejected  maximum and sum in two looks: a third look at rows that do not fit L1.
// Numerics  held rows: the maximum first. Longer ones: maximum and sum of exponentials together, rescaled as the maximum
//           rises. expf within 2 ulp. NaN is not lost.
// Tail      columns beyond the row are skipped; a row of -inf gives NaN, as the definition does.

#include "common/block.cuh"
#include "common/row.cuh"

struct SoftmaxParams {
    const void* x;   // dy in the gradient
    const void* y;   // of the gradient
    void* out;
    u64 rows, cols;
    u32 whole;  // cols is a whole number of packs
    u32 unused;
};

constexpr int THREADS = 256;

// A maximum and the sum of exponentials below it.
struct Sum {
    float top, sum;
};

__device__ __forceinline__ Sum join(Sum a, Sum b) {
    const float top = larger(a.top, b.top);
    // -inf of both sides: nothing seen yet.
    const float keep_a = a.top == top ? 1.0f : expf(a.top - top), keep_b = b.top == top ? 1.0f : expf(b.top - top);
    return {top, a.sum * keep_a + b.sum * keep_b};
}

// The statistics of a row over `STEP` threads, of which this is number `me`.
template <typename T, int W>
__device__ __forceinline__ Sum look(const T* x, u64 cols, u32 me, u32 step) {
    Sum all = {-INFINITY, 0.0f};
    for (u64 col = u64(me) * W; col < cols; col += u64(step) * W) {
        float v[W];
        load_floats(v, x + col);
        float top = v[0];
#pragma unroll
        for (int i = 1; i < W; ++i) top = larger(top, v[i]);
        Sum some = {top, 0.0f};
#pragma unroll
        for (int i = 0; i < W; ++i) some.sum += v[i] == top ? 1.0f : expf(v[i] - top);
        all = join(all, some);
    }
    return all;
}

__device__ __forceinline__ Sum warp_join(Sum x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        x = join(x, {__shfl_xor_sync(EVERY_LANE, x.top, step), __shfl_xor_sync(EVERY_LANE, x.sum, step)});
    }
    return x;
}

template <typename T, int W>
__device__ __forceinline__ void write(const T* x, T* y, u64 cols, u32 me, u32 step, Sum all) {
    const float scale = 1.0f / all.sum;
    for (u64 col = u64(me) * W; col < cols; col += u64(step) * W) {
        float v[W];
        load_floats(v, x + col);
#pragma unroll
        for (int i = 0; i < W; ++i) v[i] = expf(v[i] - all.top) * scale;
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
__device__ __forceinline__ void forward_held(const T* x, T* y, u32 cols) {
    float v[K];
    load_row<W>(v, x, cols, -INFINITY);
    float top = v[0], sum = 0.0f;
#pragma unroll
    for (int k = 1; k < K; ++k) top = larger(top, v[k]);
    top = warp_max(top);
#pragma unroll
    for (int k = 0; k < K; ++k) {
        v[k] = in_row<W>(k, cols) ? expf(v[k] - top) : 0.0f;
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
    if (p.cols <= 256) return forward_held<T, W, 8>(x, static_cast<T*>(p.out) + row * p.cols, u32(p.cols));
    if (p.cols <= 1024) return forward_held<T, W, 32>(x, static_cast<T*>(p.out) + row * p.cols, u32(p.cols));
    write<T, W>(x, static_cast<T*>(p.out) + row * p.cols, p.cols, lane, 32, warp_join(look<T, W>(x, p.cols, lane, 32)));
}

template <typename T, int W>
__device__ __forceinline__ void forward_wide(const SoftmaxParams& p, u64 row, u32 me) {
    __shared__ Sum of_warp[THREADS / 32];
    const T* const x = static_cast<const T*>(p.x) + row * p.cols;
    const Sum mine = warp_join(look<T, W>(x, p.cols, me, THREADS));
    if (me % 32 == 0) of_warp[me / 32] = mine;
    __syncthreads();
    Sum all = of_warp[0];
#pragma unroll 1
    for (int warp = 1; warp < THREADS / 32; ++warp) all = join(all, of_warp[warp]);
    write<T, W>(x, static_cast<T*>(p.out) + row * p.cols, p.cols, me, THREADS, all);
}

template <typename T, int W, int K>
__device__ __forceinline__ void backward_held(const T* dy, const T* y, T* dx, u32 cols) {
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
    if (p.cols <= 256) return backward_held<T, W, 8>(dy, y, dx, u32(p.cols));
    if (p.cols <= 512) return backward_held<T, W, 16>(dy, y, dx, u32(p.cols));
    const float sum = warp_sum(dot<T, W>(dy, y, p.cols, lane, 32));
    write_gradient<T, W>(dy, y, static_cast<T*>(p.out) + row * p.cols, p.cols, lane, 32, sum);
}

template <typename T, int W>
__device__ __forceinline__ void backward_wide(const SoftmaxParams& p, u64 row, u32 me) {
    const T *const dy = static_cast<const T*>(p.x) + row * p.cols, *const y = static_cast<const T*>(p.y) + row * p.cols;
    const float sum = block_sum<THREADS>(dot<T, W>(dy, y, p.cols, me, THREADS));
    write_gradient<T, W>(dy, y, static_cast<T*>(p.out) + row * p.cols, p.cols, me, THREADS, sum);
}

#define NARROW(NAME, T, FUNCTION)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS) softmax_##NAME##_##T(const __grid_constant__ SoftmaxParams p) { \
        const u64 row = global_thread() / 32;                                                                              \
        if (row >= p.rows) return;                                                                                         \
        if (p.whole) {                                                                                                     \
            FUNCTION<T, WIDTH<T>>(p, row, threadIdx.x % 32);                                                               \
        } else {                                                                                                           \
            FUNCTION<T, 1>(p, row, threadIdx.x % 32);                                                                      \
        }                                                                                                                  \
    }
#define WIDE(NAME, T, FUNCTION)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS) softmax_##NAME##_##T(const __grid_constant__ SoftmaxParams p) { \
        if (p.whole) {                                                                                                     \
            FUNCTION<T, WIDTH<T>>(p, blockIdx.x, threadIdx.x);                                                             \
        } else {                                                                                                           \
            FUNCTION<T, 1>(p, blockIdx.x, threadIdx.x);                                                                    \
        }                                                                                                                  \
    }
#define EVERY_PASS(T)                    \
    NARROW(fwd, T, forward)              \
    NARROW(bwd_x, T, backward)           \
    WIDE(fwd_wide, T, forward_wide)      \
    WIDE(bwd_x_wide, T, backward_wide)

EVERY_PASS(f32)
EVERY_PASS(bf16)
EVERY_PASS(f16)
