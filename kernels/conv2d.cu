// y[n,i,j,k] = Σ_{r,s,c} x[n, i·stride + r·dilation − padding, j·stride + s·dilation − padding, c] · weight[k,r,s,c], its
// input gradient (dgrad) and its weight gradient (wgrad).
//
// Shapes    x: n h w c, weight: k r s c/groups, y: n oh ow k, NHWC. Any kernel, stride, padding, dilation, groups.
// Types     f32, bf16, f16. f32 by 3xTF32, or by TF32 (`_tf32`, where precision tf32 is asked for).
// Epilogue  of y: common/epilogue.cuh, at the store or in `splitk_reduce`.
// Launch    implicit GEMM: one block per tile of the result, `128x128` by 8 warps, `64x64` by 4 warps, operand tiles gathered
//           straight from the images by cp.async, K in steps of 64 bytes, three stages. Grid: tiles in groups of eight rows,
//           times groups, times splits, times stride² sub-pixel phases for the input gradient. Where K is split (weight
//           gradients: it is all pixels) `splitk_reduce` adds the partial sums in their order.
//           A 1 x 1 convolution of stride 1 is a plain GEMM and runs as linear.cu and gemm.cu.
// Limit     tensor cores: 2 · n oh ow k r s c / groups FLOP each. With 64 channels or fewer memory: the bytes of x and y.
// Rejected  the address of every row kept in registers: 16 more of them, against one 16-byte load from shared memory. The input
//           gradient over dy with inserted zeros: stride² times the MMAs. Division by tap and channel with the hardware's
//           32-bit division: 20 instructions each where a multiplication by the reciprocal takes 3.
// Numerics  as gemm.cu: f32 accumulation in an order given by shapes and splits.
// Tail      what lies outside an image or beyond an extent is zero. A copy is 16 bytes where the channels of a group are a multiple
//           of that, else 4 bytes, else one element: three colour channels need no padding by the caller. Each extent is
//           below 2^31, as are pixels; offsets are 64 bit.

#include "common/conv.cuh"

template <typename Tile>
__device__ __forceinline__ void forward(const ConvParams& p) {
    conv_forward<Tile, false>(p, {});
}

template <typename Tile>
__device__ __forceinline__ void input_gradient(const ConvParams& p) {
    conv_input_gradient<Tile, false>(p, {});
}

#define CONV(ROLE, MAP, TILE, SIZE, NAME, T, MATH)                                                                       \
    extern "C" __global__ void __launch_bounds__(TILE<Mma<T COMMA MATH>>::THREADS, TILE<Mma<T COMMA MATH>>::MIN_BLOCKS_PER_SM) \
        conv2d_##ROLE##_##SIZE##_##NAME(const __grid_constant__ ConvParams p) {                                           \
        MAP<TILE<Mma<T COMMA MATH>>>(p);                                                                             \
    }
#define COMMA ,

#define CONV_TILES(ROLE, MAP, NAME, T, MATH)             \
    CONV(ROLE, MAP, Tile128x128, 128x128, NAME, T, MATH) \
    CONV(ROLE, MAP, Tile64x64, 64x64, NAME, T, MATH)

#define CONV_DTYPES(ROLE, MAP)                \
    CONV_TILES(ROLE, MAP, bf16, bf16, NATIVE) \
    CONV_TILES(ROLE, MAP, f16, f16, NATIVE)   \
    CONV_TILES(ROLE, MAP, f32, f32, TF32X3)   \
    CONV_TILES(ROLE, MAP, tf32_f32, f32, TF32)

CONV_DTYPES(fwd, forward)
CONV_DTYPES(bwd_x, input_gradient)
CONV_DTYPES(bwd_weight, conv_weight_gradient)
SPLITK_REDUCE_DTYPES(conv2d, PIECEWISE_LINEAR)
