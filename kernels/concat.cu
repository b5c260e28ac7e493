// Tensors one after the other along an axis: one launch per tensor, each into its own range of y's rows.
//
// Shapes    seen as rows over the axes before: y[r, from + c] = x[r, c].
// Types     any: nothing is computed.
// Launch    256 threads, one access of x each: 16 bytes where widths and start allow it, down to one element.
// Limit     memory: every element read once and written once.
// Rejected  one launch for all tensors, the right one found by search: saves launches, but ties every tensor to the narrowest
//           access among them, and the usual case is a wide tensor beside one of few channels.
// Numerics  bits are copied.
// Tail      the launcher picks an access width that leaves none.

#include "common/index.cuh"

struct ConcatParams {
    const void* x;
    void* y;
    u64 row_stride;  // of y's rows, in accesses
    u32 count;       // accesses of x
    u32 access_bytes;
    FastDivmod width;  // of x's rows, in accesses
    u32 from;          // where they begin in y's rows
};

extern "C" __global__ void __launch_bounds__(256) concat_fwd(const __grid_constant__ ConcatParams p) {
    const u32 i = u32(global_thread());
    if (i >= p.count) return;
    const Divmod at = p.width.divmod(i);
    with_access_type(p.access_bytes, [&](auto unit) {
        using U = decltype(unit);
        static_cast<U*>(p.y)[at.quotient * p.row_stride + p.from + at.remainder] = static_cast<const U*>(p.x)[i];
    });
}
