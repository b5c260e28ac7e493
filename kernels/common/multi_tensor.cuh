// Multi-tensor apply: many tensors in one launch. Their addresses come by value, each block takes TENSOR_CHUNK elements of one of them.
#pragma once

#include "element.cuh"

// Elements per block, and tensors per launch: what 4 KB of parameters hold.
constexpr int TENSOR_CHUNK = 4096;
constexpr int MAX_TENSORS = 64;
constexpr int MULTI_TENSOR_THREADS = 256;

// The tensor this block belongs to: the last whose first block is not beyond it.
__device__ __forceinline__ u32 tensor_of_block(const u32 (&first_block)[MAX_TENSORS], u32 tensors) {
    u32 low = 0, high = tensors;
    while (high - low > 1) {
        const u32 middle = (low + high) / 2;
        if (first_block[middle] <= blockIdx.x) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// A number of elements known to the compiler, so that vectors stay in registers.
template <int N>
struct Width {
    static constexpr int VALUE = N;
};

// Calls f(first element, Width) for this thread's elements of a chunk: W at a time, the tensor's last ones singly.
template <int W, typename F>
__device__ __forceinline__ void for_each_in_chunk(u32 chunk, u64 count, F f) {
    const u64 begin = u64(chunk) * TENSOR_CHUNK;
#pragma unroll 1
    for (int i = 0; i < TENSOR_CHUNK / (MULTI_TENSOR_THREADS * W); ++i) {
        const u64 at = begin + (u64(i) * MULTI_TENSOR_THREADS + threadIdx.x) * W;
        if (at + W <= count) {
            f(at, Width<W>{});
        } else {
#pragma unroll 1
            for (u64 j = at; j < count; ++j) f(j, Width<1>{});
        }
    }
}
