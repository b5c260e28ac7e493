// y = clamp(gain · f(x · weightᵀ + bias)) + residual: the fully connected layer with its epilogue (common/epilogue.cuh).
//
// Shapes    x: rows x in, weight: out x in, bias: out (or none), y and residual: rows x out. As a GEMM: m = rows, n = out,
//           k = in.
// Types     f32, bf16, f16. f32 by 3xTF32, or by TF32 (`_tf32`, where precision tf32 is asked for).
// Launch    as gemm.cu's layout nt, in which both operands are K-major: `128x128` by 8 warps, `64x64` by 4 warps, K in steps of
//           64 bytes, three stages. With split-K, `splitk_reduce` adds the partial sums and applies the epilogue.
//           `skinny`, for at most four rows (styles, a slide's heads), gives one warp to each output.
// Limit     tensor cores; for few rows memory: the weight is read once, in * out elements.
// Traffic   of the epilogue: a residual is read once. A smooth activation (sigmoid, SiLU, GELU) writes its pre-activation beside y
//           while a gradient is wanted, rows * out elements more; recomputing it for the gradient would be the whole GEMM.
//           A separate activation would read and write rows * out elements, and so would a residual, which reads another.
// Rejected  accumulators initialised with the bias: the same, but it would have to be left out of all splits but one.
// Numerics  f32 accumulation and an f32 epilogue, one rounding.
// Tail      as gemm.cu.

#include "common/gemm.cuh"

GEMM_DTYPES(linear, fwd, true, true, SMOOTH)
SPLITK_REDUCE_DTYPES(linear, SMOOTH)
SKINNY(linear, f32, SMOOTH)
SKINNY(linear, bf16, SMOOTH)
SKINNY(linear, f16, SMOOTH)
