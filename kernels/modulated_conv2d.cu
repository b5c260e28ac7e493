// What the resampled convolutions need beside conv2d.cu and upfirdn2d.cu: the kernel of a transposed convolution.
//
//     y[c,t,k] = weight[k, taps − 1 − t, c]
//
// Shapes    weight: k taps c, y: c taps k; taps = r s, turned by half.
// Types     f32, bf16, f16, moved as they are.
// Launch    256 threads as 32 x 8; a block turns 32 k by 32 c of one tap through shared memory, so that both sides are read and
//           written in lines. grid = (tiles of c, tiles of k, taps).
// Limit     memory: k taps c elements read and written once; a weight, never an image.
// Tried     reading the turned weight in the convolution itself: its columns are then `taps c` apart, one element a sector.
// Tail      tiles at the edges are partly empty.

#include "common/element.cuh"

struct TurnParams {
    const void* weight;
    void* y;
    u32 k, taps, c, unused;
};

template <typename T>
__device__ __forceinline__ void turn(const TurnParams& p, T (&tile)[32][33]) {
    const u32 column = threadIdx.x % 32, first = threadIdx.x / 32, tap = blockIdx.z;
    const u32 k0 = blockIdx.y * 32, c0 = blockIdx.x * 32;
    const T* weight = static_cast<const T*>(p.weight);
    T* y = static_cast<T*>(p.y);
    for (u32 row = first; row < 32; row += 8) {
        if (k0 + row < p.k && c0 + column < p.c) {
            tile[row][column] = weight[(u64(k0 + row) * p.taps + p.taps - 1 - tap) * p.c + c0 + column];
        }
    }
    __syncthreads();
    for (u32 row = first; row < 32; row += 8) {
        if (c0 + row < p.c && k0 + column < p.k) y[(u64(c0 + row) * p.taps + tap) * p.k + k0 + column] = tile[column][row];
    }
}

#define TURN(T)                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) modulated_conv2d_turn_kernel_##T(const __grid_constant__ TurnParams p) {   \
        __shared__ T tile[32][33];                                                                                               \
        turn<T>(p, tile);                                                                                                        \
    }
TURN(f32)
TURN(bf16)
TURN(f16)
