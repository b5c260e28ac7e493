// The epilogue of a GEMM or a convolution, applied to accumulators while they are in registers:
//
//     y = clamp(gain · f(sum + strength · noise + bias)) + residual
//
// PIECEWISE_LINEAR: f is linear, ReLU or leaky ReLU, a choice between two scales, so that one entry serves all three and an
// absent term costs a uniform branch. Its derivative follows from the sign of y, and whether y was clamped from its magnitude:
// only y is kept for the gradient, hence no residual after an activation or a clamp. SMOOTH: f may also be sigmoid, SiLU, GELU or
// hardswish, whose derivatives need the pre-activation: it is an auxiliary output, written where a gradient will be wanted.
#pragma once

#include "activation.cuh"

struct Epilogue {
    const void* bias;            // [channels], or null
    const void* noise;           // [pixels], one value for all channels of a pixel, or null
    const void* strength;        // [1], where there is noise
    const void* residual;        // as y, or null
    void* pre_activation;        // as y, or null; SMOOTH only
    float pos_scale, neg_scale;  // gain times the derivative above and below zero
    float clamp;                 // infinite: none
    u32 activation;              // SMOOTH only: SIGMOID, SILU, GELU, HARDSWISH; any other by pos_scale and neg_scale
};

// What an entry does to its accumulators: a compile-time choice, so that the expensive functions are only where they are used.
enum EpilogueKind { NONE, PIECEWISE_LINEAR, SMOOTH };

// `left` of N elements, zeros beyond them: one access where `aligned`.
template <typename T, int N>
__device__ __forceinline__ void load_partial(float (&v)[N], const T* from, int left, bool aligned) {
    if (aligned) {
        load_floats(v, from);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] = i < left ? to_float(from[i]) : 0.0f;
    }
}

template <u32 FUNCTION, int N>
__device__ __forceinline__ void smooth_activation(float (&v)[N], float gain) {
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = gain * activation<FUNCTION>(v[i], 0.0f);
}

// f, chosen once for all N.
template <EpilogueKind E, int N>
__device__ __forceinline__ void activate(const Epilogue& e, float (&v)[N]) {
    if (E == SMOOTH && e.activation == SIGMOID) {
        smooth_activation<SIGMOID>(v, e.pos_scale);
    } else if (E == SMOOTH && e.activation == SILU) {
        smooth_activation<SILU>(v, e.pos_scale);
    } else if (E == SMOOTH && e.activation == GELU) {
        smooth_activation<GELU>(v, e.pos_scale);
    } else if (E == SMOOTH && e.activation == HARDSWISH) {
        smooth_activation<HARDSWISH>(v, e.pos_scale);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] *= v[i] < 0.0f ? e.neg_scale : e.pos_scale;
    }
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = v[i] > e.clamp ? e.clamp : v[i] < -e.clamp ? -e.clamp : v[i];
}

// N neighbouring accumulators of one pixel: channels from `channel`, elements of y from `at`. `left` of them exist; `aligned` says
// that all do, and that one access takes them.
template <typename T, EpilogueKind E, int N>
__device__ __forceinline__ void apply_epilogue(const Epilogue& e, u64 pixel, u32 channel, u64 at, int left, bool aligned, float (&v)[N]) {
    if constexpr (E != NONE) {
        if (e.noise != nullptr) {
            const float noise = to_float(static_cast<const T*>(e.noise)[pixel]) * to_float(*static_cast<const T*>(e.strength));
#pragma unroll
            for (int i = 0; i < N; ++i) v[i] += noise;
        }
        if (e.bias != nullptr) {
            float bias[N];
            load_partial(bias, static_cast<const T*>(e.bias) + channel, left, aligned);
#pragma unroll
            for (int i = 0; i < N; ++i) v[i] += bias[i];
        }
        if constexpr (E == SMOOTH) {
            if (e.pre_activation != nullptr) {
                T* pre_activation = static_cast<T*>(e.pre_activation) + at;
                if (aligned) {
                    store_floats(pre_activation, v);
                } else {
#pragma unroll
                    for (int i = 0; i < N; ++i) {
                        if (i < left) pre_activation[i] = from_float<T>(v[i]);
                    }
                }
            }
        }
        activate<E>(e, v);
        if (e.residual != nullptr) {
            float residual[N];
            load_partial(residual, static_cast<const T*>(e.residual) + at, left, aligned);
#pragma unroll
            for (int i = 0; i < N; ++i) v[i] += residual[i];
        }
    }
}
