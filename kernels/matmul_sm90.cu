// matmul.cu's and linear.cu's products for compute capability 9.0: operands by the tensor memory accelerator, products of whole
// warpgroups that read them from shared memory.
//
// Shapes    a: m x k (or stored k x m), b: k x n (or stored n x k), y: m x n, a batch of each or one for all; bias: n, or none.
// Types     bf16, f16. Stored lines are multiples of 16 bytes, which the accelerator wants; other products run as matmul.cu.
// Launch    384 threads: a warpgroup that only starts copies and gives its registers away, and two that multiply, 64 rows of the
//           tile each. `wide` 128 x 256, `narrow` 128 x 128 a block; inner steps of 64, four in flight, each with a barrier `full` (its
//           bytes have landed) and a barrier `empty` (eight warps are done with it). Grid: tiles in bands of eight rows, times
//           batch, times splits; matmul.cu's `merge` adds the splits.
// Limit     tensor cores, 2 m n k FLOP; 989 TFLOP/s in 16 bits. mma.sync reaches two thirds of that at best, wgmma all but
//           power. A step of `wide` moves 48 KiB for 4.2 MFLOP, 87 FLOP/B from L2.
// Rejected  waiting for each step's products before the next step's are started: the tensor cores idle for the barrier's
//           latency at every step; now one step is always queued behind the one at work.
// Numerics  f32 sums over k in steps of 16, one rounding at the end.
// Tail      boxes beyond an operand arrive as zeros and count all the same; results beyond y are not stored.

#include "common/epilogue.cuh"
#include "common/hopper.cuh"
#include "common/mma.cuh"

struct HopperParams {
    TensorMap a, b;  // contiguous axis first, then lines, then matrices
    void* y;          // [batch, m, n]
    float* partials;  // [splits, batch, m, n], or null where the inner axis is not split
    Epilogue epilogue;  // of linear's layout
    u32 m, n, k, batch;
    u32 tiles_m, tiles_n;
    u32 inner_each;            // inner indices of a split, a multiple of 64
    u32 a_batched, b_batched;  // 0 where one matrix serves all
    u32 y_vector;              // 4 where every row of y begins on four elements, else 1
    u32 unused[4];             // to 64 bytes, as the maps want it
};

constexpr int ROWS = 128, DEPTH = 64, STAGES = 4, CONSUMERS = 2;
constexpr int BOX_BYTES = 64 * 128;  // 64 lines of 128 bytes
constexpr int OUT_LINE = 36;         // floats: 32 and padding

template <typename T, int COLS, bool A_INNER, bool B_INNER, Following F>
__device__ __forceinline__ void hopper_product(const HopperParams& p) {
    constexpr int A_BYTES = ROWS * DEPTH * 2, B_BYTES = COLS * DEPTH * 2, STAGE_BYTES = A_BYTES + B_BYTES;
    // Stages first, on 1024 bytes as the permutation of 16-byte pieces wants it; then the results' way out; then barriers.
    const u32 ring = (shared_address(block_memory) + 1023) / 1024 * 1024;
    unsigned char* after_ring = block_memory + (ring - shared_address(block_memory)) + STAGES * STAGE_BYTES;
    float* out = reinterpret_cast<float*>(after_ring);
    const u32 full = ring + STAGES * STAGE_BYTES + CONSUMERS * 4 * 16 * OUT_LINE * 4, empty = full + STAGES * 8;

    const TilePlace place = tile_place(p.tiles_m, p.tiles_n);
    const u32 matrix = place.z % p.batch, split = place.z / p.batch;
    const u32 m = place.m * ROWS, n = place.n * COLS;
    const u32 begin = split * p.inner_each, end = min(p.k, begin + p.inner_each);
    const int steps = int((end - begin + DEPTH - 1) / DEPTH);

    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; ++stage) {
            barrier_init(full + stage * 8, 1);
            barrier_init(empty + stage * 8, CONSUMERS * 4);
        }
        barriers_ready();
    }
    __syncthreads();

    const int group = int(threadIdx.x) / 128;
    if (group == 0) {
        fewer_registers<40>();
        if (threadIdx.x != 0) return;
        prefetch(p.a);
        prefetch(p.b);
        const int a_matrix = int(p.a_batched * matrix), b_matrix = int(p.b_batched * matrix);
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            const int stage = step % STAGES, k = int(begin) + step * DEPTH;
            if (step >= STAGES) barrier_wait(empty + stage * 8, (step / STAGES - 1) % 2);
            const u32 a = ring + stage * STAGE_BYTES, b = a + A_BYTES, landed = full + stage * 8;
            barrier_expect(landed, STAGE_BYTES);
            if constexpr (A_INNER) {
                copy_box(a, p.a, k, int(m), a_matrix, landed);
            } else {
                for (int i = 0; i < ROWS / 64; ++i) copy_box(a + i * BOX_BYTES, p.a, int(m) + i * 64, k, a_matrix, landed);
            }
            if constexpr (B_INNER) {
                copy_box(b, p.b, k, int(n), b_matrix, landed);
            } else {
                for (int i = 0; i < COLS / 64; ++i) copy_box(b + i * BOX_BYTES, p.b, int(n) + i * 64, k, b_matrix, landed);
            }
        }
        return;
    }

    more_registers<232>();
    const int consumer = group - 1, warp = int(threadIdx.x) % 128 / 32, lane = int(threadIdx.x) % 32;
    // From 16 inner indices to the next: along a line, or over 16 lines.
    constexpr u32 A_NEXT = A_INNER ? 32 : 16 * 128, B_NEXT = B_INNER ? 32 : 16 * 128;
    float c[COLS / 2];
#pragma unroll
    for (int i = 0; i < COLS / 2; ++i) c[i] = 0.0f;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        const int stage = step % STAGES;
        const u32 a = ring + stage * STAGE_BYTES + consumer * BOX_BYTES, b = ring + stage * STAGE_BYTES + A_BYTES;
        barrier_wait(full + stage * 8, step / STAGES % 2);
        products_begin();
#pragma unroll
        for (int i = 0; i < DEPTH / 16; ++i) {
            warpgroup_multiply<T, A_INNER, B_INNER>(c, tile_descriptor(a + i * A_NEXT, BOX_BYTES), tile_descriptor(b + i * B_NEXT, BOX_BYTES));
        }
        products_commit();
        products_wait<1>();
        // The step before is done.
        if (step > 0 && lane == 0) barrier_arrive(empty + (step - 1) % STAGES * 8);
    }
    products_wait<0>();

    // Sixteen rows a warp, 32 columns at a time, through shared memory: whole sectors.
    const u32 row = m + consumer * 64 + warp * 16;
    const u64 corner = (u64(matrix) * p.m + row) * p.n + n;
    float* mine = out + (consumer * 4 + warp) * 16 * OUT_LINE;
    const bool aligned = p.y_vector == 4;
    // A loop, so that the epilogue is there once, and within it a choice of registers.
#pragma unroll 1
    for (int part = 0; part < COLS / 32; ++part) {
#pragma unroll
        for (int i = 0; i < COLS / 2; i += 4) {
            if (i / 16 != part) continue;
            float* at = mine + lane / 4 * OUT_LINE + i % 16 * 2 + lane % 4 * 2;
            *reinterpret_cast<float2*>(at) = make_float2(c[i], c[i + 1]);
            *reinterpret_cast<float2*>(at + 8 * OUT_LINE) = make_float2(c[i + 2], c[i + 3]);
        }
        __syncwarp();
        const int col = part * 32 + lane % 8 * 4, cols = int(p.n - n);
#pragma unroll 1
        for (u32 r = lane / 8; r < 16; r += 4) {
            if (row + r >= p.m) break;
            const float4 v = *reinterpret_cast<const float4*>(mine + r * OUT_LINE + lane % 8 * 4);
            float values[4] = {v.x, v.y, v.z, v.w};
            const u64 at = corner + u64(r) * p.n + col;
            if (p.partials != nullptr) {
                store_four(p.partials + u64(split) * p.batch * p.m * p.n + at, values, cols - col, aligned);
            } else {
                if (col < cols) follow<T, F>(p.epilogue, u64(matrix) * p.m + row + r, n + col, at, cols - col, aligned, values);
                store_four(static_cast<T*>(p.y) + at, values, cols - col, aligned);
            }
        }
        __syncwarp();
    }
}

#define HOPPER(LAYOUT, A_INNER, B_INNER, F, WIDTH_NAME, COLS, T)                                                            \
    extern "C" __global__ void __launch_bounds__(384, 1) matmul_sm90_fwd_##LAYOUT##_##WIDTH_NAME##_##T(                    \
        const __grid_constant__ HopperParams p) {                                                                          \
        hopper_product<T, COLS, A_INNER, B_INNER, F>(p);                                                                   \
    }
#define HOPPER_WIDTHS(LAYOUT, A_INNER, B_INNER, F, T)       \
    HOPPER(LAYOUT, A_INNER, B_INNER, F, wide, 256, T)       \
    HOPPER(LAYOUT, A_INNER, B_INNER, F, narrow, 128, T)
#define HOPPER_LAYOUT(LAYOUT, A_INNER, B_INNER, F)          \
    HOPPER_WIDTHS(LAYOUT, A_INNER, B_INNER, F, bf16)        \
    HOPPER_WIDTHS(LAYOUT, A_INNER, B_INNER, F, f16)

HOPPER_LAYOUT(nn, true, false, NOTHING)
HOPPER_LAYOUT(nt, true, true, CURVED_EPILOGUE)
HOPPER_LAYOUT(tn, false, false, NOTHING)
HOPPER_LAYOUT(tt, false, true, NOTHING)
