// y = x · weightᵀ + bias: the fully connected layer.
//
// Shapes    x: rows x in, weight: out x in, bias: out (or none), y: rows x out. As products: m = rows, n = out, k = in.
// Types     f32, bf16, f16. f32 is multiplied in three TF32 products, or in one (`_tf32`, where precision tf32 is asked for).
// Launch    as matmul.cu's product with b transposed, the layout in which both operands are contiguous along the inner axis: `large`
//           128 x 128 by 8 warps, `small` 64 x 64 by 4 warps, the inner axis in steps of 64 bytes with three in flight.
//           Where the inner axis is split, `merge` adds the splits, then the bias. `few_rows`, for at most four rows (styles, a
//           slide's heads), gives a warp to each output.
// Limit     tensor cores; for few rows memory: the weight is read once, in * out elements.
// Rejected  the bias as the accumulators' first value: the same, but it would have to be left out of all splits but one.
// Numerics  f32 sums, the bias added last in f32, one rounding.
// Tail      as matmul.cu.

#include "common/product.cuh"

PRODUCTS(linear, fwd, true, true)
MERGES(linear, EPILOGUE)
FEW_ROWS(linear, f32)
FEW_ROWS(linear, bf16)
FEW_ROWS(linear, f16)
