// y[n,i,j,k] = Σ_{r,s,c} x[n, i·stride + r·dilation − padding, j·stride + s·dilation − padding, c] · weight[k,r,s,c], its
// input gradient and its weight gradient.
//
// Shapes    x: n h w c, weight: k r s c/groups, y: n oh ow k, all channels last. Any kernel, stride, padding, dilation, groups.
// Types     f32, bf16, f16. f32 is multiplied in three TF32 products, or in one (`_tf32`, where precision tf32 is asked for).
// Epilogue  of y: common/epilogue.cuh, at the store or where splits are added.
// Launch    implicit products: a block a tile of the result, `large` 128 x 128 by 8 warps, `small` 64 x 64 by 4 warps, operand
//           tiles gathered straight from the images by cp.async, three steps of 64 bytes in flight. Grid: tiles in bands of
//           eight rows, times groups, times splits of the inner axis, times stride² classes of pixels for the input gradient.
//           Where the inner axis is split (weight gradients: it is all pixels) `merge` adds the splits in their order.
//           A 1 x 1 convolution of stride 1 is a plain product and runs as linear.cu and matmul.cu.
// Limit     tensor cores: 2 · n oh ow k r s c / groups FLOP each. With 64 channels or fewer memory: the bytes of x and y.
// Rejected  the address of every row kept in registers: 16 more of them, against one 16-byte load from shared memory. The input
//           gradient over dy with inserted zeros: stride² times the products. Division by tap and channel with the hardware's
//           32-bit division: 20 instructions each where a multiplication by the reciprocal takes 3.
// Numerics  as matmul.cu: f32 sums in an order given by shapes and splits.
// Tail      what lies outside an image or beyond an extent is zero. A copy is 16 bytes where the channels of a group are whole
//           multiples of that, else 4 bytes, else one element: three colour channels need no padding by the caller. Each extent is
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

#define CONV(ROLE, MAP, TILE, SIZE, NAME, T, EXACT)                                                                       \
    extern "C" __global__ void __launch_bounds__(TILE<Product<T COMMA EXACT>>::THREADS, TILE<Product<T COMMA EXACT>>::RESIDENT) \
        conv2d_##ROLE##_##SIZE##_##NAME(const __grid_constant__ ConvParams p) {                                           \
        MAP<TILE<Product<T COMMA EXACT>>>(p);                                                                             \
    }
#define COMMA ,

#define CONV_SIZES(ROLE, MAP, NAME, T, EXACT)        \
    CONV(ROLE, MAP, LargeTile, large, NAME, T, EXACT) \
    CONV(ROLE, MAP, SmallTile, small, NAME, T, EXACT)

#define CONVS(ROLE, MAP)                   \
    CONV_SIZES(ROLE, MAP, bf16, bf16, false) \
    CONV_SIZES(ROLE, MAP, f16, f16, false)   \
    CONV_SIZES(ROLE, MAP, f32, f32, true)    \
    CONV_SIZES(ROLE, MAP, tf32_f32, f32, false)

CONVS(fwd, forward)
CONVS(bwd_x, input_gradient)
CONVS(bwd_weight, conv_weight_gradient)
MERGES(conv2d, EPILOGUE)
