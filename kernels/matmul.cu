// y = op(a) · op(b) for every matrix of a batch, op being the identity or a transposition.
//
// Shapes    a: m x k (or stored k x m), b: k x n (or stored n x k), y: m x n; a batch of each, or one a or b for all.
// Types     f32, bf16, f16. f32 is multiplied in three TF32 products, or in one (`_tf32`, where precision tf32 is asked for).
// Launch    a block a tile of y: `large` 128 x 128 by 8 warps of 64 x 32, `small` 64 x 64 by 4 warps of 32 x 32; the inner axis
//           in steps of 64 bytes, three of them in flight. Grid: tiles in bands of eight rows, times batch, times splits.
//           Where tiles are fewer than the device can run at once the inner axis is split; `merge` adds the splits.
//           `few_rows` is for m <= 4 with b stored n x k: a warp forms one column's dot products.
// Limit     tensor cores for large sizes: 2 m n k FLOP over (m k n/128 + k n m/128 + m n) elements through L2. Below about 256
//           rows or columns memory: (m k + k n + m n) elements, and then few_rows and splits matter.
// Rejected  no padding of lines but a permutation of 16-byte pieces: the same conflict-free loads and 20 % less shared memory, yet
//           every address costs two more instructions for the outer-major layouts. A tile of 256 x 128: the f32 split does not
//           fit the registers. Storing fragments straight to global memory: half of every sector unused in 16-bit types.
// Numerics  f32 sums in an order given by k, the tile and the splits. Three TF32 products leave about 2^-21 relative to
//           Σ |a b|; infinite factors give NaN there, as their low halves are inf - inf. Tensor cores cut sums off towards
//           zero; for f32 every 8 products are summed by themselves and added with rounding to nearest, or a sum of 4000
//           would be short by 1e-4. Four additions for twelve products' worth of instructions; they hide behind the latter.
// Tail      beyond m, n, k operands are zero. Lines that are no multiple of 16 bytes are copied in pieces of 4, odd lines of
//           16-bit elements one by one. Indices: m, n, k below 2^31 each, offsets in 64 bit.

#include "common/product.cuh"

PRODUCTS(matmul, fwd_nn, true, false, NOTHING)
PRODUCTS(matmul, fwd_nt, true, true, NOTHING)
PRODUCTS(matmul, fwd_tn, false, false, NOTHING)
PRODUCTS(matmul, fwd_tt, false, true, NOTHING)
MERGES(matmul, NOTHING)
FEW_ROWS(matmul, f32, NOTHING)
FEW_ROWS(matmul, bf16, NOTHING)
FEW_ROWS(matmul, f16, NOTHING)
