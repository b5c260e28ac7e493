// A range of one axis (fwd), and a range put back among zeros (pad), its adjoint.
//
// Shapes    seen as rows over the axes before: fwd y[r, c] = x[r, from + c]; pad y[r, c] = x[r, c - from] inside the range.
// Types     any: nothing is computed.
// Launch    256 threads, one access of the result each: 16 bytes where widths and start allow it, down to one element.
// Limit     memory: what is kept is read once, the result written once.
// Rejected  memset, then a copy, for pad: writes the range twice.
// Numerics  bits are copied; zero bits are the number zero in every type.
// Tail      the launcher picks an access width that leaves none.

#include "common/index.cuh"

struct SliceParams {
    const void* x;
    void* y;
    u64 row_stride;  // of the other side's rows, in accesses
    u32 count;       // accesses of y
    u32 access_bytes;
    FastDivmod width;  // of y's rows, in accesses
    u32 from;          // the range's first access
    u32 len;           // the range's accesses
    u32 unused;
};

extern "C" __global__ void __launch_bounds__(256) slice_fwd(const __grid_constant__ SliceParams p) {
    const u32 i = u32(global_thread());
    if (i >= p.count) return;
    const Divmod at = p.width.divmod(i);
    with_access_type(p.access_bytes, [&](auto unit) {
        using U = decltype(unit);
        static_cast<U*>(p.y)[i] = static_cast<const U*>(p.x)[at.quotient * p.row_stride + p.from + at.remainder];
    });
}

extern "C" __global__ void __launch_bounds__(256) slice_pad(const __grid_constant__ SliceParams p) {
    const u32 i = u32(global_thread());
    if (i >= p.count) return;
    const Divmod at = p.width.divmod(i);
    const u32 inside = at.remainder - p.from;  // wraps below the range
    with_access_type(p.access_bytes, [&](auto unit) {
        using U = decltype(unit);
        U value = zero_access<U>();
        if (inside < p.len) value = static_cast<const U*>(p.x)[at.quotient * p.row_stride + inside];
        static_cast<U*>(p.y)[i] = value;
    });
}
