// The convolutions inside a modulated one: what is read is scaled per image and channel, and so is what is written.
//
//     fwd   y_i = written_i ∘ conv(x_i ∘ read_i, weight)         style and demodulation around a convolution
//     up    y_i = written_i ∘ convᵀ(x_i ∘ read_i, weight)        the same around a transposed one; also fwd's input gradient
//     turn_kernel    y[c,t,k] = weight[k, taps − 1 − t, c]       the weight with which convᵀ enlarges
//
// Shapes    fwd, up: as conv2d.cu's forward map and input gradient, groups 1; read: n x channels of x, written: n x channels of y, or
//           none. turn_kernel: weight k taps c, y c taps k; taps = r s, turned by half. Filters before or after are
//           upfirdn2d's: factors per channel pass through them.
// Types     f32, bf16, f16. f32 is multiplied in three TF32 products, or in one (`_tf32`); turn_kernel moves what it finds.
// Launch    fwd, up: as conv2d.cu, but an element of x goes through registers to meet its factor. turn_kernel: 256 threads, a block
//           turns 32 k by 32 c of one tap through shared memory; grid = (tiles of c, tiles of k, taps).
// Limit     tensor cores as conv2d.cu; two passes over each of x and y fewer than with the factors applied on their own.
// Rejected  scaling the weight instead, a copy per image: k r s c elements each, more than x itself at low resolutions. Scaling
//           fragments: each of them then needs its channel's factor again from shared memory. Holding the next step's elements in
//           registers over the products of this one: 16 more of them, one block less on a multiprocessor, which is what hides
//           their latency now.
// Numerics  x ∘ read is rounded to the stored type, as if it had been stored; the sums are scaled in f32 and rounded once. Where the
//           inner axis is split each part is scaled.
// Tail      as conv2d.cu; turn_kernel's tiles at the edges are partly empty.

#include "common/conv.cuh"

struct StyledParams {
    ConvParams conv;
    const void* read;
    const void* written;  // or null
};

template <typename Tile>
__device__ __forceinline__ void styled_forward(const StyledParams& p) {
    using T = typename Tile::T;
    conv_forward<Tile, true>(p.conv, {static_cast<const T*>(p.read), static_cast<const T*>(p.written)});
}

template <typename Tile>
__device__ __forceinline__ void styled_transposed(const StyledParams& p) {
    using T = typename Tile::T;
    conv_input_gradient<Tile, true>(p.conv, {static_cast<const T*>(p.read), static_cast<const T*>(p.written)});
}

#define STYLED(ROLE, MAP, TILE, SIZE, NAME, T, EXACT)                                              \
    extern "C" __global__ void __launch_bounds__(TILE<Product<T COMMA EXACT>>::THREADS, TILE<Product<T COMMA EXACT>>::RESIDENT) \
        modulated_conv2d_##ROLE##_##SIZE##_##NAME(const __grid_constant__ StyledParams p) {        \
        MAP<TILE<Product<T COMMA EXACT>>>(p);                                                      \
    }
#define COMMA ,

#define STYLED_SIZES(ROLE, MAP, NAME, T, EXACT)         \
    STYLED(ROLE, MAP, LargeTile, large, NAME, T, EXACT) \
    STYLED(ROLE, MAP, SmallTile, small, NAME, T, EXACT)

#define STYLED_TYPES(ROLE, MAP)                \
    STYLED_SIZES(ROLE, MAP, bf16, bf16, false) \
    STYLED_SIZES(ROLE, MAP, f16, f16, false)   \
    STYLED_SIZES(ROLE, MAP, f32, f32, true)    \
    STYLED_SIZES(ROLE, MAP, tf32_f32, f32, false)

STYLED_TYPES(fwd, styled_forward)
STYLED_TYPES(up, styled_transposed)
MERGES(modulated_conv2d, EPILOGUE)

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
