// The Euclidean norm of many tensors together.
//
// Shapes    up to 64 tensors per launch of `squares`, `count` elements each; one number comes out.
// Types     f32, bf16, f16; f32 sums.
// Launch    squares: 256 threads, 4096 elements of one tensor per block; addresses by value; one part per block.
//           root: one block adds the parts of all launches in a fixed order.
// Traffic   every element once: memory bound.
// Rejected  atomics on one sum: faster by the second launch, but its bits change from run to run.
// Numerics  16 squares per thread, then butterflies, then parts: errors grow with the logarithm of the count.
// Tail      a tensor's last elements one at a time.

#include "common/block.cuh"
#include "common/multi_tensor.cuh"

struct SquaresParams {
    const void* x[MAX_TENSORS];
    u64 count[MAX_TENSORS];
    u32 first_block[MAX_TENSORS];
    float* parts;  // of this launch
    u32 tensors;
    u32 unused;
};

struct RootParams {
    const float* parts;
    float* norm;
    u64 count;
};

template <typename T>
__device__ __forceinline__ void squares(const SquaresParams& list) {
    const u32 tensor = tensor_of_block(list.first_block, list.tensors);
    const T* const x = static_cast<const T*>(list.x[tensor]);
    float sum = 0.0f;
    for_each_in_chunk<WIDTH<T>>(blockIdx.x - list.first_block[tensor], list.count[tensor], [&](u64 at, auto width) {
        constexpr int W = decltype(width)::VALUE;
        float v[W];
        load_floats(v, x + at);
#pragma unroll
        for (int i = 0; i < W; ++i) sum = fmaf(v[i], v[i], sum);
    });
    sum = block_sum<MULTI_TENSOR_THREADS>(sum);
    if (threadIdx.x == 0) list.parts[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(MULTI_TENSOR_THREADS) global_norm_root(const __grid_constant__ RootParams p) {
    float sum = 0.0f;
    for (u64 i = threadIdx.x; i < p.count; i += MULTI_TENSOR_THREADS) sum += p.parts[i];
    sum = block_sum<MULTI_TENSOR_THREADS>(sum);
    if (threadIdx.x == 0) *p.norm = sqrtf(sum);
}

#define SQUARES(T)                                                                                                               \
    extern "C" __global__ void __launch_bounds__(MULTI_TENSOR_THREADS) global_norm_squares_##T(const __grid_constant__ SquaresParams p) { \
        squares<T>(p);                                                                                                           \
    }

SQUARES(f32)
SQUARES(bf16)
SQUARES(f16)
