// The mean absolute difference of two tensors and its gradient, which is 0 where they are equal.
//
//   y = Σ |x − target| / count,  dx = sign(x − target) dy / count
//
// Shapes    x, target, dx: count elements, any shape; y, dy: one.
// Types     f32, bf16, f16 in memory; f32 arithmetic and sums.
// Launch    256 threads. fwd: 4096 elements per block; more than one block write parts, which `sum` adds with one block.
//           bwd_x: one 128-bit vector per thread.
// Traffic   fwd reads x and target once, bwd reads both and writes dx: memory bound. Composed of difference, magnitude and mean
//           it is 6 tensors forward, 7 backward.
// Rejected  atomics on one number: one launch, but its bits change from run to run.
// Numerics  16 or 32 terms per thread, butterflies, then parts in order. NaN stays NaN.
// Tail      the last elements one at a time.

#include "common/mean_loss.cuh"

__device__ __forceinline__ float sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }

#define EVERY_PASS(T)                                                                                  \
    LOSS_ENTRY(l1_loss_fwd, T, (loss_parts<T>(p, [](float difference) { return fabsf(difference); }))) \
    LOSS_ENTRY(l1_loss_sum, T, loss_sum<T>(p))                                                         \
    LOSS_ENTRY(l1_loss_bwd_x, T, (loss_gradient<T>(p, [](float difference) { return sign(difference); })))

EVERY_PASS(f32)
EVERY_PASS(bf16)
EVERY_PASS(f16)
