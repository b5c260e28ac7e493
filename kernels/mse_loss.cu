// The mean squared difference of two tensors and its gradient.
//
//   y = Σ (x − target)² / count,  dx = 2 (x − target) dy / count
//
// Shapes    x, target, dx: count elements, any shape; y, dy: one.
// Types     f32, bf16, f16 in memory; f32 arithmetic and sums.
// Launch    256 threads. fwd: 4096 elements per block; more than one block write parts, which `sum` adds with one block.
//           bwd_x: one 128-bit vector per thread.
// Traffic   fwd reads x and target once, bwd reads both and writes dx: memory bound. Composed of difference, square and mean it
//           is 6 tensors forward, 7 backward.
// Rejected  atomics on one number: one launch, but its bits change from run to run.
// Numerics  16 or 32 terms per thread, butterflies, then parts in order.
// Tail      the last elements one at a time.

#include "common/mean_loss.cuh"

#define EVERY_PASS(T)                                                                                         \
    LOSS_ENTRY(mse_loss_fwd, T, (loss_parts<T>(p, [](float difference) { return difference * difference; }))) \
    LOSS_ENTRY(mse_loss_sum, T, loss_sum<T>(p))                                                               \
    LOSS_ENTRY(mse_loss_bwd_x, T, (loss_gradient<T>(p, [](float difference) { return 2.0f * difference; })))

EVERY_PASS(f32)
EVERY_PASS(bf16)
EVERY_PASS(f16)
