// GEMM: y = op(a) · op(b) for every matrix of a batch, op being the identity or a transposition.
//
// Shapes    a: m x k (or stored k x m), b: k x n (or stored n x k), y: m x n; a batch of each, or one a or b for all. Entries
//           are named by layout, n as written and t transposed: `nn`, `nt`, `tn`, `tt`, row-major.
// Types     f32, bf16, f16. f32 by 3xTF32, or by TF32 (`_tf32`, where precision tf32 is asked for).
// Launch    one block per tile of y: `128x128` by 8 warps of 64 x 32, `64x64` by 4 warps of 32 x 32; K in steps of 64 bytes,
//           three stages of cp.async. Grid: tiles in groups of eight rows, times batch, times splits. Split-K where tiles are
//           fewer than the device can run at once; `splitk_reduce` adds the partial sums.
//           `skinny` is for m <= 4 with layout nt: one warp per column of y, its lanes along k (a GEMV for each row).
// Limit     tensor cores for large sizes: 2 m n k FLOP over (m k n/128 + k n m/128 + m n) elements through L2. Below about 256
//           rows or columns memory: (m k + k n + m n) elements, where skinny and split-K matter.
// Rejected  a swizzle in place of padded rows: the same conflict-free loads and 20 % less shared memory, but each address costs
//           two more instructions for MN-major operands. A tile of 256 x 128: 3xTF32 does not fit the registers. Storing fragments
//           straight to global memory: half of every sector unused in 16-bit types.
// Numerics  f32 accumulation in an order given by k, the tile and the splits. 3xTF32 leaves about 2^-21 relative to Σ |a b|;
//           infinite operands give NaN there, as their low halves are inf - inf. Tensor cores truncate f32 sums; in 3xTF32
//           every k8 step is accumulated from zero and added with rounding to nearest, or a sum of 4000 would be short by 1e-4.
//           Four additions for twelve MMAs' worth of instructions; they hide behind the latter.
// Tail      operands are zero beyond m, n, k. Rows that are no multiple of 16 bytes are copied 4 bytes at a time, odd rows of
//           16-bit elements one by one. m, n, k are below 2^31 each, offsets are 64 bit.

#include "common/gemm.cuh"

GEMM_DTYPES(gemm, nn, true, false, NONE)
GEMM_DTYPES(gemm, nt, true, true, NONE)
GEMM_DTYPES(gemm, tn, false, false, NONE)
GEMM_DTYPES(gemm, tt, false, true, NONE)
SPLITK_REDUCE_DTYPES(gemm, NONE)
SKINNY(gemm, f32, NONE)
SKINNY(gemm, bf16, NONE)
SKINNY(gemm, f16, NONE)
