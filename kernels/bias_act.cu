// y = clamp(gain · f(x + bias)) and its derivatives by x: y = t · gain · f⁽ᵏ⁾(x + bias), 0 where the value was clamped; and the
// derivative of a GEMM's or a convolution's epilogue, which follows from its result (common/epilogue.cuh).
//
// Shapes    x, t, y: count elements, rows of `cols`; bias: cols, or none.
// Types     f32, bf16, f16 in memory; f32 arithmetic.
// Launch    256 threads, one vec4 each where rows are a multiple of 4. The function is chosen once per launch,
//           not per element. bwd_epilogue: 256 threads, 128 bits each. bwd_epilogue_sums, where the bias wants its
//           gradient too: one block per 128 columns (32 where rows are no multiple of 4) of a run of rows, a warp every eighth
//           row; warps are added in order, bwd_epilogue_bias adds the runs, 32 columns per block.
// Traffic   order 0 reads x, writes y; orders 1 and 2 read t and x, bwd_epilogue t and the result: memory bound, at most some
//           40 instructions per element (gelu). bwd_epilogue_sums saves the pass over y that would add up its rows: 3 instead
//           of 4, and four bytes per column for every run.
// Rejected  an entry for each function: 72 entries of mostly the same loads and stores.
// Numerics  the functions are those of common/activation.cuh.
// Tail      the last thread with work goes element by element; so do all where bias rows are no multiple of 4.

#include "common/activation.cuh"
#include "common/block.cuh"

struct BiasActParams {
    const void *t, *x, *bias;  // t from order 1 on; bias or null
    void* y;
    u32 count, cols;  // fewer than 2^31 elements: longer tensors are several launches
    u32 activation;
    float alpha, gain;
    float clamp;  // infinite: none
    u32 aligned;  // rows are a multiple of 4, or there is no bias
    u32 unused;
};

template <u32 FUNCTION, int ORDER>
__device__ __forceinline__ float apply(const BiasActParams& p, float t, float x) {
    if constexpr (ORDER == 0) {
        const float y = p.gain * activation<FUNCTION>(x, p.alpha);
        return y > p.clamp ? p.clamp : y < -p.clamp ? -p.clamp : y;
    } else {
        if (p.clamp < INFINITY) {
            const float y = p.gain * activation<FUNCTION>(x, p.alpha);
            if (!(y > -p.clamp && y < p.clamp)) return 0.0f;
        }
        return t * p.gain * (ORDER == 1 ? derivative<FUNCTION>(x, p.alpha) : second_derivative<FUNCTION>(x));
    }
}

constexpr int W = 4;  // elements of a thread: eight copies of erf and its kin are too much code for little speed

template <typename T, u32 FUNCTION, int ORDER>
__device__ __forceinline__ void each(const BiasActParams& p) {
    const T *const t = static_cast<const T*>(p.t), *const x = static_cast<const T*>(p.x);
    const T* const bias = static_cast<const T*>(p.bias);
    T* const y = static_cast<T*>(p.y);
    const u32 first = (blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (first >= p.count) return;
    const bool aligned = p.aligned && first + W <= p.count;
    float v[W], s[W], b[W];
#pragma unroll
    for (int i = 0; i < W; ++i) v[i] = s[i] = b[i] = 0.0f;
    if (aligned) {
        load_floats(v, x + first);
        if (bias != nullptr) load_floats(b, bias + first % p.cols);
        if constexpr (ORDER > 0) load_floats(s, t + first);
    } else {
#pragma unroll
        for (int i = 0; i < W; ++i) {
            if (first + i < p.count) {
                v[i] = to_float(x[first + i]);
                if (bias != nullptr) b[i] = to_float(bias[(first + i) % p.cols]);
                if constexpr (ORDER > 0) s[i] = to_float(t[first + i]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < W; ++i) v[i] = apply<FUNCTION, ORDER>(p, s[i], v[i] + b[i]);
    if (aligned) {
        store_floats(y + first, v);
    } else {
#pragma unroll
        for (int i = 0; i < W; ++i) {
            if (first + i < p.count) y[first + i] = from_float<T>(v[i]);
        }
    }
}

template <typename T, int ORDER>
__device__ __forceinline__ void choose(const BiasActParams& p) {
    switch (p.activation) {
        case RELU: return each<T, RELU, ORDER>(p);
        case LEAKY_RELU: return each<T, LEAKY_RELU, ORDER>(p);
        case SIGMOID: return each<T, SIGMOID, ORDER>(p);
        case TANH: return each<T, TANH, ORDER>(p);
        case SILU: return each<T, SILU, ORDER>(p);
        case GELU: return each<T, GELU, ORDER>(p);
        case SOFTPLUS: return each<T, SOFTPLUS, ORDER>(p);
        case HARDSWISH: return each<T, HARDSWISH, ORDER>(p);
        default: return each<T, LINEAR, ORDER>(p);
    }
}

// The gradient of a piecewise-linear epilogue: y = t · derivative, which follows from the sign of `result` and is 0 where it was
// clamped.
struct EpilogueGradientParams {
    const void *t, *result;
    void* y;
    u64 count;
    float pos_scale, neg_scale;  // gain times the derivative above and below zero
    float clamp;                 // as `result` can hold it; infinite: none
    u32 unused;
};

template <typename T>
__device__ __forceinline__ void epilogue_gradient(const EpilogueGradientParams& p) {
    const T *const t = static_cast<const T*>(p.t), *const result = static_cast<const T*>(p.result);
    T* const y = static_cast<T*>(p.y);
    const auto gradient = [&](float t, float result) {
        const bool clamped = p.clamp < INFINITY && fabsf(result) >= p.clamp;
        return clamped ? 0.0f : t * (result > 0.0f ? p.pos_scale : p.neg_scale);
    };
    constexpr int N = WIDTH<T>;
    const u64 first = global_thread() * N;
    if (first + N <= p.count) {
        float a[N], b[N];
        load_floats(a, t + first);
        load_floats(b, result + first);
#pragma unroll
        for (int i = 0; i < N; ++i) a[i] = gradient(a[i], b[i]);
        store_floats(y + first, a);
    } else {
#pragma unroll 1
        for (u64 i = first; i < p.count; ++i) y[i] = from_float<T>(gradient(to_float(t[i]), to_float(result[i])));
    }
}

#define ENTRY(NAME, T, ORDER)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) bias_act_##NAME##_##T(const __grid_constant__ BiasActParams p) { \
        choose<T, ORDER>(p);                                                                                             \
    }
#define EVERY_ORDER(T) \
    ENTRY(fwd, T, 0)   \
    ENTRY(bwd_x, T, 1) \
    ENTRY(bwd_bwd_x, T, 2)

EVERY_ORDER(f32)
EVERY_ORDER(bf16)
EVERY_ORDER(f16)

#define EPILOGUE_GRADIENT(T)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256) bias_act_bwd_epilogue_##T(const __grid_constant__ EpilogueGradientParams p) { \
        epilogue_gradient<T>(p);                                                                                                   \
    }
EPILOGUE_GRADIENT(f32)
EPILOGUE_GRADIENT(bf16)
EPILOGUE_GRADIENT(f16)

// The same and the sums of its columns. `from` is the result of a piecewise-linear activation, the pre-activation of a smooth one.
struct EpilogueSumsParams {
    const void *t, *from;
    void* y;
    float* parts;  // runs x cols
    void* sums;    // cols
    u64 rows;
    u32 cols;
    u32 run, runs;  // rows of a part, parts
    u32 tiles;      // of columns
    u32 aligned;    // rows are a multiple of 4
    u32 activation;
    float pos_scale, neg_scale;  // gain times the derivative above and below zero; with a smooth activation pos_scale is the gain
    float clamp;                 // as `from` can hold it; infinite: none
    u32 unused;
};

constexpr int WARPS = 8;

template <u32 FUNCTION>
__device__ __forceinline__ float epilogue_derivative(const EpilogueSumsParams& p, float from) {
    if constexpr (FUNCTION == LINEAR) {
        const bool clamped = p.clamp < INFINITY && fabsf(from) >= p.clamp;
        return clamped ? 0.0f : from > 0.0f ? p.pos_scale : p.neg_scale;
    } else {
        const bool clamped = p.clamp < INFINITY && fabsf(p.pos_scale * activation<FUNCTION>(from, 0.0f)) > p.clamp;
        return clamped ? 0.0f : p.pos_scale * derivative<FUNCTION>(from, 0.0f);
    }
}

template <typename T, int W, u32 FUNCTION>
__device__ __forceinline__ void epilogue_sums(const EpilogueSumsParams& p, float (&parts)[WARPS][128]) {
    const u32 warp = threadIdx.x / 32, first = blockIdx.x % p.tiles * 32 * W, col = first + threadIdx.x % 32 * W;
    const u64 run = blockIdx.x / p.tiles, begin = run * p.run, end = min(begin + p.run, p.rows);
    const T *const t = static_cast<const T*>(p.t) + col, *const from = static_cast<const T*>(p.from) + col;
    T* const y = static_cast<T*>(p.y) + col;
    float sums[W] = {};
    if (col < p.cols) {
#pragma unroll 1
        for (u64 row = begin + warp; row < end; row += WARPS) {
            float a[W], b[W];
            load_floats(a, t + row * p.cols);
            load_floats(b, from + row * p.cols);
#pragma unroll
            for (int i = 0; i < W; ++i) {
                a[i] *= epilogue_derivative<FUNCTION>(p, b[i]);
                sums[i] += a[i];
            }
            store_floats(y + row * p.cols, a);
        }
    }
    put_columns(parts, sums);
    __syncthreads();
    if (threadIdx.x < 32 * W && first + threadIdx.x < p.cols) p.parts[run * p.cols + first + threadIdx.x] = column_sum(parts, threadIdx.x);
}

template <typename T, int W>
__device__ __forceinline__ void choose_epilogue(const EpilogueSumsParams& p, float (&parts)[WARPS][128]) {
    switch (p.activation) {
        case SIGMOID: return epilogue_sums<T, W, SIGMOID>(p, parts);
        case SILU: return epilogue_sums<T, W, SILU>(p, parts);
        case GELU: return epilogue_sums<T, W, GELU>(p, parts);
        case HARDSWISH: return epilogue_sums<T, W, HARDSWISH>(p, parts);
        default: return epilogue_sums<T, W, LINEAR>(p, parts);
    }
}

#define EPILOGUE_SUMS(T)                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) bias_act_bwd_epilogue_sums_##T(const __grid_constant__ EpilogueSumsParams p) { \
        __shared__ float parts[WARPS][128];                                                                                         \
        if (p.aligned) {                                                                                                              \
            choose_epilogue<T, 4>(p, parts);                                                                                        \
        } else {                                                                                                                    \
            choose_epilogue<T, 1>(p, parts);                                                                                        \
        }                                                                                                                           \
    }                                                                                                                               \
    extern "C" __global__ void __launch_bounds__(256) bias_act_bwd_epilogue_bias_##T(const __grid_constant__ EpilogueSumsParams p) { \
        add_runs(static_cast<T*>(p.sums), p.parts, p.runs, p.cols);                                                                 \
    }
EPILOGUE_SUMS(f32)
EPILOGUE_SUMS(bf16)
EPILOGUE_SUMS(f16)
