// y = x at another element type.
//
// Shapes    x, y: count elements, any shape, contiguous.
// Types     between any two of f32, bf16, f16, u8, i32.
// Launch    256 threads, one vector each: 128 bits of the wider type, so that neither side wastes part of a sector.
// Limit     memory: count * (sizeof(X) + sizeof(Y)) bytes.
// Rejected  vectors of 128 bits of the narrower type: two accesses of the wider one, each touching half of every sector.
// Numerics  to a float: nearest, ties to even. To an integer: nearest, ties to even, saturating; NaN becomes 0.
// Tail      the last thread goes element by element.

#include "common/element.cuh"

struct CastParams {
    const void* x;
    void* y;
    u64 count;
};

template <typename Y>
__device__ __forceinline__ Y to_integer(int x);
template <>
__device__ __forceinline__ i32 to_integer<i32>(int x) { return x; }
template <>
__device__ __forceinline__ u8 to_integer<u8>(int x) { return u8(min(max(x, 0), 255)); }

template <typename T>
inline constexpr bool INTEGER = false;
template <>
inline constexpr bool INTEGER<u8> = true;
template <>
inline constexpr bool INTEGER<i32> = true;

template <typename Y, typename X>
__device__ __forceinline__ Y convert(X x) {
    if constexpr (INTEGER<X> && INTEGER<Y>) return to_integer<Y>(int(x));
    else if constexpr (INTEGER<X>) return from_float<Y>(float(x));
    else if constexpr (INTEGER<Y>) return to_integer<Y>(__float2int_rn(to_float(x)));
    else return from_float<Y>(to_float(x));
}

template <typename X, typename Y>
__device__ __forceinline__ void cast(const CastParams& p) {
    constexpr int N = 16 / int(sizeof(X) > sizeof(Y) ? sizeof(X) : sizeof(Y));
    const X* x = static_cast<const X*>(p.x);
    Y* y = static_cast<Y*>(p.y);
    const u64 first = global_thread() * N;
    if (first + N <= p.count) {
        const Vector<X, N> from = load_vector<X, N>(x + first);
        Vector<Y, N> to;
#pragma unroll
        for (int i = 0; i < N; ++i) to.at[i] = convert<Y>(from.at[i]);
        store_vector<Y, N>(y + first, to);
    } else {
#pragma unroll 1
        for (u64 i = first; i < p.count; ++i) y[i] = convert<Y>(x[i]);
    }
}

#define CAST(X, Y)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) cast_from_##X##_##Y(const __grid_constant__ CastParams p) {  \
        cast<X, Y>(p);                                                                                                 \
    }

CAST(f32, bf16) CAST(f32, f16) CAST(f32, u8) CAST(f32, i32)
CAST(bf16, f32) CAST(bf16, f16) CAST(bf16, u8) CAST(bf16, i32)
CAST(f16, f32) CAST(f16, bf16) CAST(f16, u8) CAST(f16, i32)
CAST(u8, f32) CAST(u8, bf16) CAST(u8, f16) CAST(u8, i32)
CAST(i32, f32) CAST(i32, bf16) CAST(i32, f16) CAST(i32, u8)
