// Elements in memory and in registers: storage is f32, bf16 or f16 (movement also u8 and i32), arithmetic is f32.
//
// Every tensor starts on a 256-byte boundary, so element 0 is aligned for the widest access; only tails are not.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

using bf16 = __nv_bfloat16;
using f16 = __half;
using f32 = float;
using u8 = unsigned char;
using i32 = int;
using u32 = unsigned int;
using u64 = unsigned long long;

// Elements in one 128-bit access.
template <typename T>
inline constexpr int WIDTH = 16 / int(sizeof(T));

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(f16 x) { return __half2float(x); }

// Rounds to nearest, ties to even.
template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) { return x; }
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }
template <>
__device__ __forceinline__ f16 from_float<f16>(float x) { return __float2half_rn(x); }

// N elements moved as one access of N * sizeof(T) bytes: 1, 2, 4, 8 or 16.
template <typename T, int N>
struct alignas(N * sizeof(T)) Vector {
    T at[N];
};

template <typename T, int N>
__device__ __forceinline__ Vector<T, N> load_vector(const T* from) {
    Vector<T, N> vector;
    constexpr int BYTES = N * int(sizeof(T));
    if constexpr (BYTES == 16) {
        *reinterpret_cast<uint4*>(&vector) = *reinterpret_cast<const uint4*>(from);
    } else if constexpr (BYTES == 8) {
        *reinterpret_cast<uint2*>(&vector) = *reinterpret_cast<const uint2*>(from);
    } else {
        vector = *reinterpret_cast<const Vector<T, N>*>(from);
    }
    return vector;
}

template <typename T, int N>
__device__ __forceinline__ void store_vector(T* to, const Vector<T, N>& vector) {
    constexpr int BYTES = N * int(sizeof(T));
    if constexpr (BYTES == 16) {
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&vector);
    } else if constexpr (BYTES == 8) {
        *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(&vector);
    } else {
        *reinterpret_cast<Vector<T, N>*>(to) = vector;
    }
}

// N elements as floats.
template <int N, typename T>
__device__ __forceinline__ void load_floats(float (&x)[N], const T* from) {
    const Vector<T, N> vector = load_vector<T, N>(from);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = to_float(vector.at[i]);
}

template <int N, typename T>
__device__ __forceinline__ void store_floats(T* to, const float (&x)[N]) {
    Vector<T, N> vector;
#pragma unroll
    for (int i = 0; i < N; ++i) vector.at[i] = from_float<T>(x[i]);
    store_vector<T, N>(to, vector);
}

// The thread's index in a one-dimensional grid.
__device__ __forceinline__ u64 global_thread() { return u64(blockIdx.x) * blockDim.x + threadIdx.x; }

// Applies `f` to every element, 128 bits per thread. Tail rule: the thread whose vector would cross `count` goes element by element.
template <typename T, typename F>
__device__ __forceinline__ void map_elements(const T* x, T* y, u64 count, F f) {
    constexpr int N = WIDTH<T>;
    const u64 first = global_thread() * N;
    if (first + N <= count) {
        float v[N];
        load_floats(v, x + first);
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] = f(v[i]);
        store_floats(y + first, v);
    } else {
#pragma unroll 1
        for (u64 i = first; i < count; ++i) y[i] = from_float<T>(f(to_float(x[i])));
    }
}
