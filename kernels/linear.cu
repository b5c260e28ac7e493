// y = clamp(gain · f(x · weightᵀ + bias)) + residual: the fully connected layer and what follows it (common/epilogue.cuh).
//
// Shapes    x: rows x in, weight: out x in, bias: out (or none), y and residual: rows x out. As products: m = rows, n = out,
//           k = in.
// Types     f32, bf16, f16. f32 is multiplied in three TF32 products, or in one (`_tf32`, where precision tf32 is asked for).
// Launch    as matmul.cu's product with b transposed, the layout in which both operands are contiguous along the inner axis: `large`
//           128 x 128 by 8 warps, `small` 64 x 64 by 4 warps, the inner axis in steps of 64 bytes with three in flight.
//           Where the inner axis is split, `merge` adds the splits, then does what follows. `few_rows`, for at most four rows (styles, a
//           slide's heads), gives a warp to each output.
// Limit     tensor cores; for few rows memory: the weight is read once, in * out elements.
// Traffic   of what follows: a residual is read once. A curve (sigmoid, SiLU, GELU) writes its arguments beside y while a
//           gradient is wanted, rows * out elements more; forming them again for the gradient would be the whole product.
//           The activation on its own would read and write rows * out elements, and so would a residual, which reads another.
// Rejected  the bias as the accumulators' first value: the same, but it would have to be left out of all splits but one.
// Numerics  f32 sums and all that follows in f32, one rounding.
// Tail      as matmul.cu.

#include "common/product.cuh"

PRODUCTS(linear, fwd, true, true, CURVED_EPILOGUE)
MERGES(linear, CURVED_EPILOGUE)
FEW_ROWS(linear, f32, CURVED_EPILOGUE)
FEW_ROWS(linear, bf16, CURVED_EPILOGUE)
FEW_ROWS(linear, f16, CURVED_EPILOGUE)
