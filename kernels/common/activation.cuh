// The activation functions and their derivatives, in f32, by the full-range library: within a few ulp. ReLUs keep NaN.
#pragma once

#include "element.cuh"

// As launch code numbers them.
enum Function : u32 { LINEAR, RELU, LEAKY_RELU, SIGMOID, TANH, SILU, GELU, SOFTPLUS, HARDSWISH };

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float normal_cdf(float x) { return 0.5f * erfcf(x * -0.70710678118654752f); }
__device__ __forceinline__ float normal_pdf(float x) { return 0.3989422804014327f * expf(-0.5f * x * x); }

// Value, first and second derivative of each function side by side.
template <u32 FUNCTION>
__device__ __forceinline__ float activation(float x, float alpha) {
    if constexpr (FUNCTION == RELU) return x < 0.0f ? 0.0f : x;
    if constexpr (FUNCTION == LEAKY_RELU) return x * (x < 0.0f ? alpha : 1.0f);
    if constexpr (FUNCTION == SIGMOID) return sigmoid(x);
    if constexpr (FUNCTION == TANH) return tanhf(x);
    if constexpr (FUNCTION == SILU) return x / (1.0f + expf(-x));
    if constexpr (FUNCTION == GELU) return x * normal_cdf(x);
    if constexpr (FUNCTION == SOFTPLUS) return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
    if constexpr (FUNCTION == HARDSWISH) return x * (fminf(fmaxf(x + 3.0f, 0.0f), 6.0f) / 6.0f);
    return x;
}

template <u32 FUNCTION>
__device__ __forceinline__ float derivative(float x, float alpha) {
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
    if constexpr (FUNCTION == GELU) return fmaf(x, normal_pdf(x), normal_cdf(x));
    if constexpr (FUNCTION == SOFTPLUS) return sigmoid(x);
    if constexpr (FUNCTION == HARDSWISH) return x < -3.0f ? 0.0f : x > 3.0f ? 1.0f : (x + x + 3.0f) / 6.0f;
    return 1.0f;
}

template <u32 FUNCTION>
__device__ __forceinline__ float second_derivative(float x) {
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
    if constexpr (FUNCTION == GELU) return normal_pdf(x) * (2.0f - x * x);
    if constexpr (FUNCTION == HARDSWISH) return fabsf(x) <= 3.0f ? 1.0f / 3.0f : 0.0f;
    return 0.0f;
}
