// Where an element lies: strided loop nests, accesses of 1 to 16 bytes.
#pragma once

#include "fast_divmod.cuh"

// The axes of a box. Extents 0 .. inner - 1 are those of the inner axes, innermost first; the outermost has none. Strides
// stand in the same order, that of the outermost axis always in the last slot.
constexpr int INNER_AXES = 5;

struct Axes {
    FastDivmod extent[INNER_AXES];
    u32 inner;
};

struct Strides {
    u64 of[INNER_AXES + 1];
};

// Calls f(slot, coordinate) for every axis of the i-th position of the box.
template <typename F>
__device__ __forceinline__ void for_each_axis(u32 i, const Axes& axes, F f) {
#pragma unroll
    for (int axis = 0; axis < INNER_AXES; ++axis) {
        if (axis >= axes.inner) break;
        const Divmod at = axes.extent[axis].divmod(i);
        f(axis, at.remainder);
        i = at.quotient;
    }
    f(INNER_AXES, i);
}

__device__ __forceinline__ u64 offset(u32 i, const Axes& axes, const Strides& strides) {
    u64 at = 0;
    for_each_axis(i, axes, [&](int axis, u32 coordinate) { at += coordinate * strides.of[axis]; });
    return at;
}

// Calls f with a value of the type of that many bytes: 16, 8, 4, 2 or 1.
template <typename F>
__device__ __forceinline__ void with_access_type(u32 bytes, F f) {
    switch (bytes) {
        case 16: return f(uint4{});
        case 8: return f(uint2{});
        case 4: return f(u32{});
        case 2: return f((unsigned short)0);
        default: return f(u8{});
    }
}

template <typename U>
__device__ __forceinline__ U zero_access() {
    if constexpr (sizeof(U) == 16) return {0, 0, 0, 0};
    else if constexpr (sizeof(U) == 8) return {0, 0};
    else return 0;
}

// A pixel of NHWC images and the vector of channels in it that a thread works on.
struct Pixel {
    u32 n, i, j, vector;
};

// Divmods of a linear index over [n, rows, cols, vectors].
struct Pixels {
    FastDivmod vectors, cols, rows;
};

__device__ __forceinline__ Pixel pixel(u32 index, const Pixels& of) {
    const Divmod vector = of.vectors.divmod(index);
    const Divmod col = of.cols.divmod(vector.quotient);
    const Divmod row = of.rows.divmod(col.quotient);
    return {row.quotient, row.remainder, col.remainder, vector.remainder};
}
