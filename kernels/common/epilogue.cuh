// What follows the sum of a product or a convolution, while it is still in registers:
//
//     y = clamp(gain · f(sum + strength · noise + bias)) + residual
//
// f is a line bent at zero (linear, ReLU, leaky ReLU): a choice between two factors, so that one entry serves all three and
// what is not there costs a uniform branch. Its derivative is read off the sign of y, and whether y was clamped off its size:
// nothing but y is kept for the gradient, hence no residual behind a bend or a clamp. With CURVED, f may also be sigmoid,
// SiLU or GELU, whose derivatives need the function's argument: it is written to `before` where a gradient will be wanted.
#pragma once

#include "activation.cuh"

struct Epilogue {
    const void* bias;      // [channels], or null
    const void* noise;     // [pixels], one value for all channels of a pixel, or null
    const void* strength;  // [1], where there is noise
    const void* residual;  // as y, or null
    void* before;          // as y, or null; CURVED alone
    float above, below;    // gain times slope, above zero and below
    float clamp;           // infinite: none
    u32 function;          // CURVED alone: SIGMOID, SILU and GELU, all else by `above` and `below`
};

// `left` of N elements, zeros beyond them: one access where `whole`.
template <typename T, int N>
__device__ __forceinline__ void load_some(float (&v)[N], const T* from, int left, bool whole) {
    if (whole) {
        load_floats(v, from);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] = i < left ? to_float(from[i]) : 0.0f;
    }
}

template <u32 FUNCTION, int N>
__device__ __forceinline__ void curve(float (&v)[N], float gain) {
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = gain * value<FUNCTION>(v[i], 0.0f);
}

// f, the function chosen once for all N.
template <bool CURVED, int N>
__device__ __forceinline__ void bend_all(const Epilogue& e, float (&v)[N]) {
    if (CURVED && e.function == SIGMOID) {
        curve<SIGMOID>(v, e.above);
    } else if (CURVED && e.function == SILU) {
        curve<SILU>(v, e.above);
    } else if (CURVED && e.function == GELU) {
        curve<GELU>(v, e.above);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] *= v[i] < 0.0f ? e.below : e.above;
    }
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = v[i] > e.clamp ? e.clamp : v[i] < -e.clamp ? -e.clamp : v[i];
}

// N neighbouring sums of one pixel: channels from `channel`, elements of y from `at`. `left` of them are there; `whole` says that
// all are, and aligned for one access.
template <typename T, bool CURVED = false, int N>
__device__ __forceinline__ void finish(const Epilogue& e, u64 pixel, u32 channel, u64 at, int left, bool whole, float (&v)[N]) {
    if (e.noise != nullptr) {
        const float noise = to_float(static_cast<const T*>(e.noise)[pixel]) * to_float(*static_cast<const T*>(e.strength));
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] += noise;
    }
    if (e.bias != nullptr) {
        float bias[N];
        load_some(bias, static_cast<const T*>(e.bias) + channel, left, whole);
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] += bias[i];
    }
    if constexpr (CURVED) {
        if (e.before != nullptr) {
            T* before = static_cast<T*>(e.before) + at;
            if (whole) {
                store_floats(before, v);
            } else {
#pragma unroll
                for (int i = 0; i < N; ++i) {
                    if (i < left) before[i] = from_float<T>(v[i]);
                }
            }
        }
    }
    bend_all<CURVED>(e, v);
    if (e.residual != nullptr) {
        float residual[N];
        load_some(residual, static_cast<const T*>(e.residual) + at, left, whole);
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] += residual[i];
    }
}

// What an entry does to its sums: known when it is compiled, so that the dear functions are only where they are used.
enum Following { NOTHING, EPILOGUE, CURVED_EPILOGUE };

template <typename T, Following F, int N>
__device__ __forceinline__ void follow(const Epilogue& e, u64 pixel, u32 channel, u64 at, int left, bool whole, float (&v)[N]) {
    if constexpr (F != NOTHING) finish<T, F == CURVED_EPILOGUE>(e, pixel, channel, at, left, whole, v);
}
