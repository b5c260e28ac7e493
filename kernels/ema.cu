// target = (1 − weight) · target + weight · x for up to 64 pairs of tensors in one launch: averages of weights, running
// statistics, copies.
//
// Shapes    target, x: `count` elements each, any shape.
// Types     f32, bf16, f16, each pair alike; f32 arithmetic.
// Launch    256 threads, 4096 elements of one tensor per block; addresses by value. The weight may lie in device memory, so that a
//           captured step stays valid while it changes.
// Traffic   two reads and a write an element: memory bound.
// Rejected  one launch per tensor: a regressor has some four hundred.
// Numerics  two multiplications and a sum, contracted to one multiplication and one fma.
// Tail      a tensor's last elements one at a time.

#include "common/multi_tensor.cuh"

struct LerpParams {
    void* target[MAX_TENSORS];
    const void* x[MAX_TENSORS];
    u64 count[MAX_TENSORS];
    u32 first_block[MAX_TENSORS];
    const float* weight_at;  // or null
    float weight;
    u32 tensors;
};

template <typename T>
__device__ __forceinline__ void lerp(const LerpParams& list) {
    const u32 tensor = tensor_of_block(list.first_block, list.tensors);
    T* const target = static_cast<T*>(list.target[tensor]);
    const T* const x = static_cast<const T*>(list.x[tensor]);
    const float weight = list.weight_at != nullptr ? *list.weight_at : list.weight;
    for_each_in_chunk<WIDTH<T>>(blockIdx.x - list.first_block[tensor], list.count[tensor], [&](u64 at, auto width) {
        constexpr int W = decltype(width)::VALUE;
        float held[W], seen[W];
        load_floats(held, target + at);
        load_floats(seen, x + at);
#pragma unroll
        for (int i = 0; i < W; ++i) held[i] = fmaf(weight, seen[i], (1.0f - weight) * held[i]);
        store_floats(target + at, held);
    });
}

#define LERP(T)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(MULTI_TENSOR_THREADS) ema_lerp_##T(const __grid_constant__ LerpParams p) { \
        lerp<T>(p);                                                                                                  \
    }

LERP(f32)
LERP(bf16)
LERP(f16)
