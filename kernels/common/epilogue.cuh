// What follows the sum of a product or a convolution, while it is still in registers:
//
//     y = clamp(gain · f(sum + strength · noise + bias)) + residual
//
// f is a line bent at zero (linear, ReLU, leaky ReLU): a choice between two factors, so that one entry serves all three and
// what is not there costs a uniform branch. Its derivative is read off the sign of y, and whether y was clamped off its size:
// nothing but y is kept for the gradient, hence no residual behind a bend or a clamp. With CURVED, f may also be SiLU or GELU,
// whose derivatives need the function's argument: it is written to `before` where a gradient will be wanted.
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
    u32 function;          // CURVED alone: SILU and GELU, all else by `above` and `below`
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

template <bool CURVED>
__device__ __forceinline__ float bent(const Epilogue& e, float x) {
    float y = x * (x < 0.0f ? e.below : e.above);
    if constexpr (CURVED) {
        if (e.function == SILU) y = e.above * value<SILU>(x, 0.0f);
        if (e.function == GELU) y = e.above * value<GELU>(x, 0.0f);
    }
    return y > e.clamp ? e.clamp : y < -e.clamp ? -e.clamp : y;
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
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = bent<CURVED>(e, v[i]);
    if (e.residual != nullptr) {
        float residual[N];
        load_some(residual, static_cast<const T*>(e.residual) + at, left, whole);
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] += residual[i];
    }
}
