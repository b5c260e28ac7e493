// A range of one axis (fwd), and a range put back among zeros (pad), its adjoint.
//
// Shapes    seen as rows over the axes before: fwd y[r, c] = x[r, from + c]; pad y[r, c] = x[r, c - from] inside the range.
// Types     any: nothing is computed.
// Launch    256 threads, one unit of the result each: 16 bytes where widths and start allow it, down to one element.
// Limit     memory: what is kept is read once, the result written once.
// Rejected  memset, then a copy, for pad: writes the range twice.
// Numerics  bits are copied; zero bits are the number zero in every type.
// Tail      units are whole by the launcher's choice.

#include "common/index.cuh"

struct SliceParams {
    const void* x;
    void* y;
    u64 pitch;  // of the other side's rows, in units
    u32 count;  // units of y
    u32 unit_bytes;
    Divisor width;  // of y's rows, in units
    u32 from;       // the range's first unit
    u32 len;        // the range's units
    u32 unused;
};

extern "C" __global__ void __launch_bounds__(256) slice_fwd(const __grid_constant__ SliceParams p) {
    const u32 i = u32(global_thread());
    if (i >= p.count) return;
    const Division at = p.width.split(i);
    with_unit(p.unit_bytes, [&](auto unit) {
        using U = decltype(unit);
        static_cast<U*>(p.y)[i] = static_cast<const U*>(p.x)[at.quotient * p.pitch + p.from + at.remainder];
    });
}

extern "C" __global__ void __launch_bounds__(256) slice_pad(const __grid_constant__ SliceParams p) {
    const u32 i = u32(global_thread());
    if (i >= p.count) return;
    const Division at = p.width.split(i);
    const u32 inside = at.remainder - p.from;  // wraps below the range
    with_unit(p.unit_bytes, [&](auto unit) {
        using U = decltype(unit);
        U value = zero_unit<U>();
        if (inside < p.len) value = static_cast<const U*>(p.x)[at.quotient * p.pitch + inside];
        static_cast<U*>(p.y)[i] = value;
    });
}
