// A row in the registers of a warp: lane l has columns 32 k + l W .. of every k that is a multiple of W, so that each access is W
// elements per lane and the row is read from memory once, however often it is used.
#pragma once

#include "warp.cuh"

// Whether register k of this lane stands for one of `cols` columns.
template <int W>
__device__ __forceinline__ bool in_row(int k, u32 cols) {
    return u32(k / W * W * 32) + threadIdx.x % 32 * W < cols;
}

// Registers beyond the row become `beyond`. `cols` is at most 32 K, and a multiple of W.
template <int W, int K, typename T>
__device__ __forceinline__ void load_row(float (&v)[K], const T* row, u32 cols, float beyond = 0.0f) {
#pragma unroll
    for (int k = 0; k < K; k += W) {
        float vector[W];
#pragma unroll
        for (int i = 0; i < W; ++i) vector[i] = beyond;
        if (in_row<W>(k, cols)) load_floats(vector, row + k * 32 + threadIdx.x % 32 * W);
#pragma unroll
        for (int i = 0; i < W; ++i) v[k + i] = vector[i];
    }
}

template <int W, int K, typename T>
__device__ __forceinline__ void store_row(T* row, const float (&v)[K], u32 cols) {
#pragma unroll
    for (int k = 0; k < K; k += W) {
        float vector[W];
#pragma unroll
        for (int i = 0; i < W; ++i) vector[i] = v[k + i];
        if (in_row<W>(k, cols)) store_floats(row + k * 32 + threadIdx.x % 32 * W, vector);
    }
}
