// Tensors one after the other along an axis: one launch a tensor, each into its own range of y's rows.
//
// Shapes    seen as rows over the axes before: y[r, from + c] = x[r, c].
// Types     any: nothing is computed.
// Launch    256 threads, one unit of x each: 16 bytes where widths and start allow it, down to one element.
// Limit     memory: every element read once and written once.
// Rejected  one launch for all tensors, the right one found by search: saves launches, but ties every tensor to the smallest
//           unit among them, and the usual case is a wide tensor beside one of few channels.
// Numerics  bits are copied.
// Tail      units are whole by the launcher's choice.

#include "common/index.cuh"

struct ConcatParams {
    const void* x;
    void* y;
    u64 pitch;  // of y's rows, in units
    u32 count;  // units of x
    u32 unit_bytes;
    Divisor width;  // of x's rows, in units
    u32 from;       // where they begin in y's rows
};

extern "C" __global__ void __launch_bounds__(256) concat_fwd(const __grid_constant__ ConcatParams p) {
    const u32 i = u32(global_thread());
    if (i >= p.count) return;
    const Division at = p.width.split(i);
    with_unit(p.unit_bytes, [&](auto unit) {
        using U = decltype(unit);
        static_cast<U*>(p.y)[at.quotient * p.pitch + p.from + at.remainder] = static_cast<const U*>(p.x)[i];
    });
}
