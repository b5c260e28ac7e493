// Rows picked by index (fwd), and rows added up by index (scatter_add), its adjoint.
//
// Shapes    fwd: x [rows, width], indices [n], y [n, width]. scatter_add: x [n, width], indices [n], y [rows, width].
// Types     fwd: any, nothing is computed. scatter_add: f32, bf16, f16 in memory, f32 sums. Indices are i32.
// Launch    fwd: 256 threads, one access of y each, 16 bytes where the width allows it. scatter_add: one block of 256 threads per row
//           of y and 256 vectors of columns; the block scans all indices, 256 at a time, and keeps those of its row.
// Limit     fwd: memory, 2 * n * width. scatter_add: the same, beside rows * n index reads from L2; for the thousands of rows
//           that patches and genes are here, those are small beside the columns.
// Rejected  float atomics for scatter_add: the order, so the last bits, would differ from run to run. Sorting the indices
//           first: pays beyond some ten thousand rows only.
// Numerics  a row named several times receives its terms in the order of the indices.
// Tail      the launcher picks access widths that leave none. An index out of range gives a row of NaN (of ones bits) in
//           fwd, and adds to nothing in scatter_add.

#include "common/index.cuh"
#include "common/warp.cuh"

struct GatherParams {
    const void* x;
    const i32* indices;
    void* y;
    u32 count;  // accesses of y
    u32 access_bytes;
    FastDivmod width;  // in accesses
    u32 rows;
};

template <typename U>
__device__ __forceinline__ U ones() {
    if constexpr (sizeof(U) == 16) return {~0u, ~0u, ~0u, ~0u};
    else if constexpr (sizeof(U) == 8) return {~0u, ~0u};
    else return U(~0u);
}

extern "C" __global__ void __launch_bounds__(256) gather_fwd(const __grid_constant__ GatherParams p) {
    const u32 i = u32(global_thread());
    if (i >= p.count) return;
    const Divmod at = p.width.divmod(i);
    const u32 row = u32(p.indices[at.quotient]);
    with_access_type(p.access_bytes, [&](auto unit) {
        using U = decltype(unit);
        U value = ones<U>();
        if (row < p.rows) value = static_cast<const U*>(p.x)[u64(row) * p.width.value + at.remainder];
        static_cast<U*>(p.y)[i] = value;
    });
}

struct ScatterParams {
    const void* x;
    const i32* indices;
    void* y;
    u64 width;  // in elements
    u32 count;  // indices
    u32 wide;   // columns go in vectors of 128 bits, not one by one
};

template <int N, typename T>
__device__ __forceinline__ void scatter(const ScatterParams& p) {
    __shared__ u32 mine[256];
    __shared__ u32 of_warp[8];
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u64 column = (u64(blockIdx.y) * 256 + threadIdx.x) * N;
    const bool works = column < p.width;
    float sum[N];
#pragma unroll
    for (int k = 0; k < N; ++k) sum[k] = 0.0f;
    for (u32 base = 0; base < p.count; base += 256) {
        const u32 position = base + threadIdx.x;
        const bool hit = position < p.count && u32(p.indices[position]) == blockIdx.x;
        const u32 hits = __ballot_sync(FULL_MASK, hit);
        if (lane == 0) of_warp[warp] = __popc(hits);
        __syncthreads();
        u32 before = 0, all = 0;
#pragma unroll
        for (u32 w = 0; w < 8; ++w) {
            if (w < warp) before += of_warp[w];
            all += of_warp[w];
        }
        if (hit) mine[before + __popc(hits & ((1u << lane) - 1))] = position;
        __syncthreads();
        if (works) {
            for (u32 k = 0; k < all; ++k) {
                float x[N];
                load_floats(x, static_cast<const T*>(p.x) + mine[k] * p.width + column);
#pragma unroll
                for (int j = 0; j < N; ++j) sum[j] += x[j];
            }
        }
        // The next hits are written behind a barrier that everybody passes after reading these.
    }
    if (works) store_floats(static_cast<T*>(p.y) + blockIdx.x * p.width + column, sum);
}

#define SCATTER(T)                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) gather_scatter_add_##T(const __grid_constant__ ScatterParams p) { \
        if (p.wide) scatter<WIDTH<T>, T>(p);                                                                                \
        else scatter<1, T>(p);                                                                                              \
    }

SCATTER(f32)
SCATTER(bf16)
SCATTER(f16)
