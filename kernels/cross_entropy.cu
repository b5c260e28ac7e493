// The weighted mean of what rows of log-probabilities give their targets, and its gradient.
//
//   y = −Σ wᵢ x[i, tᵢ] / Σ wᵢ,  dx[i, tᵢ] = −wᵢ dy / Σ wᵢ,  with wᵢ = weight[tᵢ], or 1
//
// Shapes    x, dx: rows x cols; target: rows; weight: cols; y, dy: one. dx arrives full of zeros.
// Types     x, dx, weight, y, dy f32, bf16, f16; target i32; f32 sums.
// Launch    fwd: one block of 256 threads; it also stores Σ w. bwd_x: 256 threads, one per row.
// Traffic   fwd reads one element per row, bwd_x writes one: 32 B sectors each, latency bound at the sizes of batches.
// Rejected  fused with log_softmax: its output is what the gradient needs, and rows of classes are short.
// Numerics  terms per thread, butterflies, then warps in order. A target out of range, an error on the CPU, makes the loss NaN and,
//           where there are weights, every gradient; without them its row has a gradient of 0.
// Tail      none.

#include "common/warp.cuh"

struct CrossEntropyParams {
    const void* x;
    const i32* target;
    const void* weight;  // or null
    void* y;
    float* total;    // Σ w
    const void* dy;  // of the gradient
    void* dx;
    u64 rows;
    u32 cols;
    u32 unused;
};

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

// NaN for a target out of range.
template <typename T>
__device__ __forceinline__ float weight_of(const CrossEntropyParams& p, i32 target) {
    if (u32(target) >= p.cols) return __int_as_float(0x7fffffff);
    return p.weight != nullptr ? to_float(static_cast<const T*>(p.weight)[target]) : 1.0f;
}

template <typename T>
__device__ __forceinline__ void forward(const CrossEntropyParams& p) {
    __shared__ float of_warp[2][WARPS];
    float loss = 0.0f, total = 0.0f;
#pragma unroll 4
    for (u64 row = threadIdx.x; row < p.rows; row += THREADS) {
        const i32 target = p.target[row];
        const float weight = weight_of<T>(p, target);
        const u64 col = u32(target) < p.cols ? u64(target) : 0;
        loss = fmaf(-weight, to_float(static_cast<const T*>(p.x)[row * p.cols + col]), loss);
        total += weight;
    }
    loss = warp_sum(loss);
    total = warp_sum(total);
    if (threadIdx.x % 32 == 0) {
        of_warp[0][threadIdx.x / 32] = loss;
        of_warp[1][threadIdx.x / 32] = total;
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
#pragma unroll
    for (int warp = 1; warp < WARPS; ++warp) {
        loss += of_warp[0][warp];
        total += of_warp[1][warp];
    }
    *static_cast<T*>(p.y) = from_float<T>(loss / total);
    *p.total = total;
}

template <typename T>
__device__ __forceinline__ void backward(const CrossEntropyParams& p) {
    const u64 row = global_thread();
    if (row >= p.rows) return;
    const i32 target = p.target[row];
    if (u32(target) >= p.cols) return;
    const float scale = to_float(*static_cast<const T*>(p.dy)) / *p.total;
    static_cast<T*>(p.dx)[row * p.cols + u32(target)] = from_float<T>(-weight_of<T>(p, target) * scale);
}

#define ENTRY(NAME, T, FUNCTION)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy_##NAME##_##T(const __grid_constant__ CrossEntropyParams p) { \
        FUNCTION<T>(p);                                                                                                          \
    }
#define EVERY_PASS(T)      \
    ENTRY(fwd, T, forward) \
    ENTRY(bwd_x, T, backward)

EVERY_PASS(f32)
EVERY_PASS(bf16)
EVERY_PASS(f16)
