// SwiGLU (Shazeer 2020), the gated unit of transformers' MLPs: y = silu(a) * b with silu(a) = a * s, s = 1 / (1 + e^-a).
// Gradient: da = dy * b * s * (1 + a * (1 - s)), db = dy * silu(a).
//
// Shapes    any, the same for all.
// Types     f32, bf16 stored; computed in f32.
// Launch    256 threads, 16 bytes of every tensor each.
// Limit     memory: forward reads two tensors and writes one, the gradient reads three and writes two. A flop or two per byte.
// Rejected  keeping s for the gradient: 4 bytes more per element written and read, to save one exponential.
// Numerics  __expf and a division: a relative error of some 2^-21. s is 0 where e^-a overflows, so y is 0 and not NaN.
// Tail      the last thread's elements one by one.

#include <cuda_bf16.h>

typedef unsigned long long u64;

struct ForwardParams {
    const void* a;
    const void* b;
    void* y;
    u64 count;
};

struct BackwardParams {
    const void* dy;
    const void* a;
    const void* b;
    void* da;
    void* db;
    u64 count;
};

__device__ __forceinline__ float widened(float x) { return x; }
__device__ __forceinline__ float widened(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T narrowed(float x) {
    if constexpr (sizeof(T) == 4) return x;
    else return __float2bfloat16_rn(x);
}

__device__ __forceinline__ float sigmoid(float a) { return 1.0f / (1.0f + __expf(-a)); }

// What one access holds. Tensors begin on 256 bytes, so that every thread's first element is aligned.
template <typename T>
struct alignas(16) Vector {
    static constexpr int LENGTH = 16 / sizeof(T);
    T of[LENGTH];
};

// Calls f(at, vectors) once with whole accesses, or f(at, elements) for each element of the tail.
template <typename T, typename F>
__device__ __forceinline__ void for_my_elements(u64 count, F f) {
    constexpr int LENGTH = Vector<T>::LENGTH;
    const u64 first = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * LENGTH;
    if (first + LENGTH <= count) {
        f(first, Vector<T>{});
    } else {
#pragma unroll 1
        for (u64 at = first; at < count; ++at) f(at, T{});
    }
}

template <typename T>
__device__ __forceinline__ void forward(const ForwardParams& p) {
    for_my_elements<T>(p.count, [&](u64 at, auto access) {
        using A = decltype(access);
        constexpr int LENGTH = sizeof(A) / sizeof(T);
        const A a = *reinterpret_cast<const A*>(static_cast<const T*>(p.a) + at);
        const A b = *reinterpret_cast<const A*>(static_cast<const T*>(p.b) + at);
        A y;
#pragma unroll
        for (int i = 0; i < LENGTH; ++i) {
            const float gate = widened(reinterpret_cast<const T*>(&a)[i]);
            const float up = widened(reinterpret_cast<const T*>(&b)[i]);
            reinterpret_cast<T*>(&y)[i] = narrowed<T>(gate * sigmoid(gate) * up);
        }
        *reinterpret_cast<A*>(static_cast<T*>(p.y) + at) = y;
    });
}

template <typename T>
__device__ __forceinline__ void backward(const BackwardParams& p) {
    for_my_elements<T>(p.count, [&](u64 at, auto access) {
        using A = decltype(access);
        constexpr int LENGTH = sizeof(A) / sizeof(T);
        const A dy = *reinterpret_cast<const A*>(static_cast<const T*>(p.dy) + at);
        const A a = *reinterpret_cast<const A*>(static_cast<const T*>(p.a) + at);
        const A b = *reinterpret_cast<const A*>(static_cast<const T*>(p.b) + at);
        A da, db;
#pragma unroll
        for (int i = 0; i < LENGTH; ++i) {
            const float upstream = widened(reinterpret_cast<const T*>(&dy)[i]);
            const float gate = widened(reinterpret_cast<const T*>(&a)[i]);
            const float up = widened(reinterpret_cast<const T*>(&b)[i]);
            const float s = sigmoid(gate);
            reinterpret_cast<T*>(&da)[i] = narrowed<T>(upstream * up * s * (1.0f + gate * (1.0f - s)));
            reinterpret_cast<T*>(&db)[i] = narrowed<T>(upstream * gate * s);
        }
        *reinterpret_cast<A*>(static_cast<T*>(p.da) + at) = da;
        *reinterpret_cast<A*>(static_cast<T*>(p.db) + at) = db;
    });
}

#define ENTRIES(T, SUFFIX) \
    extern "C" __global__ void __launch_bounds__(256) swiglu_fwd_##SUFFIX(const __grid_constant__ ForwardParams p) { \
        forward<T>(p); \
    } \
    extern "C" __global__ void __launch_bounds__(256) swiglu_bwd_##SUFFIX(const __grid_constant__ BackwardParams p) { \
        backward<T>(p); \
    }

ENTRIES(float, f32)
ENTRIES(__nv_bfloat16, bf16)
