// y = clamp(gain · f(x + bias)) and its derivatives by x: y = t · gain · f⁽ᵏ⁾(x + bias), 0 where the value was clamped.
//
// Shapes    x, t, y: count elements, rows of `cols`; bias: cols, or none.
// Types     f32, bf16, f16 in memory; f32 arithmetic.
// Launch    256 threads, four elements each; bias packs where rows are whole packs. The function is chosen once a launch,
//           not once an element.
// Traffic   order 0 reads x, writes y; orders 1 and 2 read t and x: memory bound, at most some 40 instructions an element (gelu).
// Rejected  an entry for each function: 72 entries of mostly the same loads and stores.
// Numerics  expf, tanhf, erff, log1pf of the full-range library, within a few ulp. ReLUs keep NaN.
// Tail      the last thread with work goes element by element; so do all where bias rows are not whole packs.

#include "common/element.cuh"

struct BiasActParams {
    const void *t, *x, *bias;  // t from order 1 on; bias or null
    void* y;
    u32 count, cols;  // fewer than 2^31 elements: longer tensors are several launches
    u32 function;
    float alpha, gain;
    float clamp;  // infinite: none
    u32 whole;    // rows are a multiple of 4, or there is no bias
    u32 unused;
};

enum Function : u32 { LINEAR, RELU, LEAKY_RELU, SIGMOID, TANH, SILU, GELU, SOFTPLUS };

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float normal_below(float x) { return 0.5f * erfcf(x * -0.70710678118654752f); }
__device__ __forceinline__ float normal_density(float x) { return 0.3989422804014327f * expf(-0.5f * x * x); }

// Value, first and second derivative of each function side by side.
template <u32 FUNCTION>
__device__ __forceinline__ float value(float x, float alpha) {
    if constexpr (FUNCTION == RELU) return x < 0.0f ? 0.0f : x;
    if constexpr (FUNCTION == LEAKY_RELU) return x * (x < 0.0f ? alpha : 1.0f);
    if constexpr (FUNCTION == SIGMOID) return sigmoid(x);
    if constexpr (FUNCTION == TANH) return tanhf(x);
    if constexpr (FUNCTION == SILU) return x / (1.0f + expf(-x));
    if constexpr (FUNCTION == GELU) return x * normal_below(x);
    if constexpr (FUNCTION == SOFTPLUS) return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
    return x;
}

template <u32 FUNCTION>
__device__ __forceinline__ float slope(float x, float alpha) {
    if constexpr (FUNCTION == RELU) return x > 0.0f ? 1.0f : 0.0f;
    if constexpr (FUNCTION == LEAKY_RELU) return x > 0.0f ? 1.0f : alpha;
    if constexpr (FUNCTION == SIGMOID) {
        const float s = sigmoid(x);
        return s * (1.0f - s);
    }
    if constexpr (FUNCTION == TANH) {
        const float t = tanhf(x);
        return fmaf(-t, t, 1.0f);
    }
    if constexpr (FUNCTION == SILU) {
        const float s = sigmoid(x);
        return s * fmaf(x, 1.0f - s, 1.0f);
    }
    if constexpr (FUNCTION == GELU) return fmaf(x, normal_density(x), normal_below(x));
    if constexpr (FUNCTION == SOFTPLUS) return sigmoid(x);
    return 1.0f;
}

template <u32 FUNCTION>
__device__ __forceinline__ float bend(float x) {
    if constexpr (FUNCTION == SIGMOID || FUNCTION == SOFTPLUS) {
        const float s = sigmoid(x), first = s * (1.0f - s);
        return FUNCTION == SIGMOID ? first * (1.0f - 2.0f * s) : first;
    }
    if constexpr (FUNCTION == TANH) {
        const float t = tanhf(x);
        return -2.0f * t * fmaf(-t, t, 1.0f);
    }
    if constexpr (FUNCTION == SILU) {
        const float s = sigmoid(x);
        return s * (1.0f - s) * (2.0f + x * (1.0f - 2.0f * s));
    }
    if constexpr (FUNCTION == GELU) return normal_density(x) * (2.0f - x * x);
    return 0.0f;
}

template <u32 FUNCTION, int ORDER>
__device__ __forceinline__ float apply(const BiasActParams& p, float t, float x) {
    if constexpr (ORDER == 0) {
        const float y = p.gain * value<FUNCTION>(x, p.alpha);
        return y > p.clamp ? p.clamp : y < -p.clamp ? -p.clamp : y;
    } else {
        if (p.clamp < INFINITY) {
            const float y = p.gain * value<FUNCTION>(x, p.alpha);
            if (!(y > -p.clamp && y < p.clamp)) return 0.0f;
        }
        return t * p.gain * (ORDER == 1 ? slope<FUNCTION>(x, p.alpha) : bend<FUNCTION>(x));
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
    const bool whole = p.whole && first + W <= p.count;
    float v[W], s[W], b[W];
#pragma unroll
    for (int i = 0; i < W; ++i) v[i] = s[i] = b[i] = 0.0f;
    if (whole) {
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
    if (whole) {
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
    switch (p.function) {
        case RELU: return each<T, RELU, ORDER>(p);
        case LEAKY_RELU: return each<T, LEAKY_RELU, ORDER>(p);
        case SIGMOID: return each<T, SIGMOID, ORDER>(p);
        case TANH: return each<T, TANH, ORDER>(p);
        case SILU: return each<T, SILU, ORDER>(p);
        case GELU: return each<T, GELU, ORDER>(p);
        case SOFTPLUS: return each<T, SOFTPLUS, ORDER>(p);
        default: return each<T, LINEAR, ORDER>(p);
    }
}

#define ENTRY(NAME, T, ORDER)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) bias_act_##NAME##_##T(const __grid_constant__ BiasActParams p) { \
        choose<T, ORDER>(p);                                                                                             \
    }
#define EVERY_ORDER(T)    \
    ENTRY(fwd, T, 0)      \
    ENTRY(bwd_x, T, 1)    \
    ENTRY(bwd_bwd_x, T, 2)

EVERY_ORDER(f32)
EVERY_ORDER(bf16)
EVERY_ORDER(f16)
