// y = x repeated along axes of extent one: the adjoint of a sum.
//
// Shapes    y: `count` accesses over a box of at most six folded axes; x has a stride along every axis, 0 where it is broadcast.
// Types     any of 2 or 4 bytes: nothing is computed.
// Launch    256 threads, one access each: 16 bytes where the innermost extent allows it, down to one element.
// Limit     memory: x once (then from cache), y once.
// Rejected  one block per broadcast row, the row in registers: idle threads where rows are short.
// Numerics  bits are copied.
// Tail      the launcher picks an access width that leaves none.

#include "common/index.cuh"

struct BroadcastParams {
    const void* x;
    void* y;
    u32 count;  // accesses of y
    u32 access_bytes;
    u32 repeats;  // along the innermost axis: then x is read element by element
    u32 element_bytes;
    Axes axes;
    Strides strides;  // of x: in accesses, or in elements where it is broadcast
};

template <typename U>
__device__ __forceinline__ U filled(u32 word) {
    if constexpr (sizeof(U) == 16) return {word, word, word, word};
    else if constexpr (sizeof(U) == 8) return {word, word};
    else return U(word);
}

extern "C" __global__ void __launch_bounds__(256) broadcast_fwd(const __grid_constant__ BroadcastParams p) {
    const u32 i = u32(global_thread());
    if (i >= p.count) return;
    const u64 from = offset(i, p.axes, p.strides);
    with_access_type(p.access_bytes, [&](auto unit) {
        using U = decltype(unit);
        U* y = static_cast<U*>(p.y) + i;
        if (!p.repeats) {
            *y = static_cast<const U*>(p.x)[from];
        } else if (p.element_bytes == 2) {
            *y = filled<U>(static_cast<const unsigned short*>(p.x)[from] * 0x10001u);
        } else {
            *y = filled<U>(static_cast<const u32*>(p.x)[from]);
        }
    });
}
