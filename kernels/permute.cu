// y = x with its axes in another order, copied.
//
// Shapes    at most six axes after the launcher has folded those that stay neighbours and dropped those of extent one.
// Types     any of 1, 2 or 4 bytes: nothing is computed.
// Launch    rows: the innermost axis stays innermost; 256 threads, one access of y each (16 bytes where it and the strides allow
//           it). tiles: it does not; one block of 256 threads per tile of 32 x 32, read along x's contiguous axis and written
//           along y's, through shared memory.
// Limit     memory: every element read once and written once, both in whole sectors but for ragged edges.
// Rejected  tiles without shared memory, leaving it to cache: each sector is fetched by up to eight warps.
// Numerics  bits are copied.
// Tail      ragged tiles by predicate.

#include "common/index.cuh"

struct RowsParams {
    const void* x;
    void* y;
    u32 count;  // accesses of y
    u32 access_bytes;
    Axes axes;
    Strides strides;  // of x, in accesses
};

extern "C" __global__ void __launch_bounds__(256) permute_rows(const __grid_constant__ RowsParams p) {
    const u32 i = u32(global_thread());
    if (i >= p.count) return;
    const u64 from = offset(i, p.axes, p.strides);
    with_access_type(p.access_bytes, [&](auto unit) {
        using U = decltype(unit);
        static_cast<U*>(p.y)[i] = static_cast<const U*>(p.x)[from];
    });
}

struct TilesParams {
    const void* x;
    void* y;
    u32 fast, slow;            // extents of a plane: along x's contiguous axis, along y's
    u64 slow_step, fast_step;  // elements per step: of slow in x, of fast in y
    FastDivmod fast_tiles, slow_tiles;
    Axes axes;  // the other axes, over planes
    Strides x_strides, y_strides;
    u32 element_bytes, unused;
};

template <typename U>
__device__ __forceinline__ void transpose(const TilesParams& p) {
    constexpr int TILE = 32, PITCH = TILE + 4 / int(sizeof(U));  // an odd number of words: columns hit different banks
    __shared__ U tile[TILE * PITCH];
    const Divmod slow_tile = p.slow_tiles.divmod(blockIdx.x), fast_tile = p.fast_tiles.divmod(slow_tile.quotient);
    u64 x_at = 0, y_at = 0;
    for_each_axis(fast_tile.quotient, p.axes, [&](int axis, u32 at) {
        x_at += at * p.x_strides.of[axis];
        y_at += at * p.y_strides.of[axis];
    });
    const u32 fast_first = fast_tile.remainder * TILE, slow_first = slow_tile.remainder * TILE;
    const u32 along = threadIdx.x % TILE, across = threadIdx.x / TILE;
    const U* x = static_cast<const U*>(p.x) + x_at;
    U* y = static_cast<U*>(p.y) + y_at;
#pragma unroll
    for (u32 k = across; k < TILE; k += 8) {
        const u32 fast = fast_first + along, slow = slow_first + k;
        if (fast < p.fast && slow < p.slow) tile[k * PITCH + along] = x[slow * p.slow_step + fast];
    }
    __syncthreads();
#pragma unroll
    for (u32 k = across; k < TILE; k += 8) {
        const u32 fast = fast_first + k, slow = slow_first + along;
        if (fast < p.fast && slow < p.slow) y[fast * p.fast_step + slow] = tile[along * PITCH + k];
    }
}

extern "C" __global__ void __launch_bounds__(256) permute_tiles(const __grid_constant__ TilesParams p) {
    switch (p.element_bytes) {
        case 4: return transpose<u32>(p);
        case 2: return transpose<unsigned short>(p);
        default: return transpose<u8>(p);
    }
}
