// matmul.cu's and linear.cu's products for compute capability 9.0: operands by the tensor memory accelerator, products of whole
// warpgroups that read them from shared memory.
//
// Shapes    a: m x k (or stored k x m), b: k x n (or stored n x k), y: m x n, a batch of each or one for all; bias: n, or none.
// Types     bf16, f16. Stored lines are multiples of 16 bytes, which the accelerator wants; other products run as matmul.cu.
// Launch    384 threads: a warpgroup that only starts copies and gives its registers away, and two that multiply, 64 rows of the
//           tile each. `wide` 128 x 256, `narrow` 128 x 128; inner steps of 64, four in flight, each with a barrier `full` (its bytes
//           have landed) and a barrier `empty` (eight warps are done with it). Tiles in bands of eight rows, times batch, times
//           splits; matmul.cu's `merge` adds the splits. A block for each multiprocessor, which takes every grid-th tile: the
//           steps of its next one arrive while results of the last one are stored. The accelerator stores them, 64 columns of
//           16 rows at a time, where rows of y are whole 16 bytes, else the warps do.
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
    TensorMap out;   // y in boxes of 64 columns by 16 rows, where `boxes`
    void* y;          // [batch, m, n]
    float* partials;  // [splits, batch, m, n], or null where the inner axis is not split
    Epilogue epilogue;  // of linear's layout
    u32 m, n, k, batch;
    u32 tiles_m, tiles_n;
    u32 tiles;                 // in all: tiles of y, times batch, times splits
    u32 inner_each;            // inner indices of a split, a multiple of 64
    u32 a_batched, b_batched;  // 0 where one matrix serves all
    u32 y_vector;              // 4 where every row of y begins on four elements, else 1
    u32 boxes;                 // rows of y are whole 16 bytes: the accelerator stores them
    u32 unused[2];             // to 64 bytes, as the maps want it
};

constexpr int ROWS = 128, DEPTH = 64, STAGES = 4, CONSUMERS = 2, WARPS = CONSUMERS * 4;
constexpr int BOX_BYTES = 64 * 128;  // 64 lines of 128 bytes
constexpr int OUT_BYTES = 16 * 128;  // a warp's rows of 64 results
constexpr int SUM_BYTES = 16 * 128;  // a warp's rows of 32 sums

// What a block does with one of its tiles.
struct Work {
    u32 m, n, matrix, split, begin;
    int steps;
};

template <int COLS>
__device__ __forceinline__ Work work_of(const HopperParams& p, u32 tile) {
    const TilePlace place = tile_place(p.tiles_m, p.tiles_n, tile);
    const u32 split = place.z / p.batch, begin = split * p.inner_each, end = min(p.k, begin + p.inner_each);
    return {place.m * ROWS, place.n * COLS, place.z % p.batch, split, begin, int((end - begin + DEPTH - 1) / DEPTH)};
}

// A warp's 16 rows of results, 32 columns at a time through shared memory: what follows a sum has whole sectors. `sums` and `out`
// are the warp's own; both are permuted so that no access meets a bank twice.
template <typename T, int COLS, Following F>
__device__ __forceinline__ void store_results(const HopperParams& p, const Work& work, const float (&c)[COLS / 2], u32 row,
                                              unsigned char* sums, unsigned char* out) {
    const int lane = int(threadIdx.x) % 32;
    const u64 corner = (u64(work.matrix) * p.m + row) * p.n + work.n;
    const bool aligned = p.y_vector == 4, boxes = p.boxes != 0 && p.partials == nullptr;
    const int cols = int(p.n - work.n);
    // A loop, so that what follows is there once, and within it a choice of registers.
#pragma unroll 1
    for (int part = 0; part < COLS / 32; ++part) {
#pragma unroll
        for (int i = 0; i < COLS / 2; i += 4) {
            if (i / 16 != part) continue;
            const int piece = (i % 16 / 2 + lane % 4 / 2) ^ lane / 4 % 4 * 2;
            unsigned char* at = sums + lane / 4 * 128 + piece * 16 + lane % 2 * 8;
            *reinterpret_cast<float2*>(at) = make_float2(c[i], c[i + 1]);
            *reinterpret_cast<float2*>(at + 8 * 128) = make_float2(c[i + 2], c[i + 3]);
        }
        // The box before has left.
        if (boxes && part % 2 == 0 && lane == 0) stores_have_read();
        __syncwarp();
        const int col = part * 32 + lane % 8 * 4;
#pragma unroll 1
        for (int r = lane / 8; r < 16; r += 4) {
            const float4 v = *reinterpret_cast<const float4*>(sums + r * 128 + (lane % 8 ^ r % 4 * 2) * 16);
            float values[4] = {v.x, v.y, v.z, v.w};
            const u64 at = corner + u64(r) * p.n + col;
            const bool there = row + r < p.m && col < cols;
            if (p.partials != nullptr) {
                if (there) store_four(p.partials + u64(work.split) * p.batch * p.m * p.n + at, values, cols - col, aligned);
                continue;
            }
            if (there) follow<T, F>(p.epilogue, u64(work.matrix) * p.m + row + r, work.n + col, at, cols - col, aligned, values);
            if (boxes) {
                const int piece = (part % 2 * 4 + lane % 8 / 2) ^ r % 8;
                store_floats(reinterpret_cast<T*>(out + r * 128 + piece * 16 + lane % 2 * 8), values);
            } else if (there) {
                store_four(static_cast<T*>(p.y) + at, values, cols - col, aligned);
            }
        }
        if (boxes && part % 2 == 1) shared_for_accelerator();
        __syncwarp();
        if (boxes && part % 2 == 1 && lane == 0) {
            store_box(p.out, shared_address(out), int(work.n) + (part - 1) * 32, int(row), int(work.matrix));
            stores_commit();
        }
    }
}

template <typename T, int COLS, bool A_INNER, bool B_INNER, Following F>
__device__ __forceinline__ void hopper_product(const HopperParams& p) {
    constexpr int A_BYTES = ROWS * DEPTH * 2, B_BYTES = COLS * DEPTH * 2, STAGE_BYTES = A_BYTES + B_BYTES;
    // Stages first, on 1024 bytes as the permutation of 16-byte pieces wants it; then results, sums, barriers.
    const u32 ring = (shared_address(block_memory) + 1023) / 1024 * 1024;
    unsigned char* out = block_memory + (ring - shared_address(block_memory)) + STAGES * STAGE_BYTES;
    unsigned char* sums = out + WARPS * OUT_BYTES;
    const u32 full = shared_address(sums) + WARPS * SUM_BYTES, empty = full + STAGES * 8;

    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; ++stage) {
            barrier_init(full + stage * 8, 1);
            barrier_init(empty + stage * 8, WARPS);
        }
        barriers_ready();
    }
    __syncthreads();

    // Steps so far, over all tiles of the block: the ring goes on from tile to tile.
    u32 filled = 0;
    const int group = int(threadIdx.x) / 128;
    if (group == 0) {
        fewer_registers<40>();
        if (threadIdx.x != 0) return;
        prefetch(p.a);
        prefetch(p.b);
#pragma unroll 1
        for (u32 tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
            const Work work = work_of<COLS>(p, tile);
            const int m = int(work.m), n = int(work.n);
            const int a_matrix = int(p.a_batched * work.matrix), b_matrix = int(p.b_batched * work.matrix);
#pragma unroll 1
            for (int step = 0; step < work.steps; ++step, ++filled) {
                const u32 stage = filled % STAGES;
                const int k = int(work.begin) + step * DEPTH;
                if (filled >= STAGES) barrier_wait(empty + stage * 8, (filled / STAGES - 1) % 2);
                const u32 a = ring + stage * STAGE_BYTES, b = a + A_BYTES, landed = full + stage * 8;
                barrier_expect(landed, STAGE_BYTES);
                if constexpr (A_INNER) {
                    copy_box(a, p.a, k, m, a_matrix, landed);
                } else {
                    for (int i = 0; i < ROWS / 64; ++i) copy_box(a + i * BOX_BYTES, p.a, m + i * 64, k, a_matrix, landed);
                }
                if constexpr (B_INNER) {
                    copy_box(b, p.b, k, n, b_matrix, landed);
                } else {
                    for (int i = 0; i < COLS / 64; ++i) copy_box(b + i * BOX_BYTES, p.b, n + i * 64, k, b_matrix, landed);
                }
            }
        }
        return;
    }

    more_registers<232>();
    const int consumer = group - 1, warp = int(threadIdx.x) % 128 / 32, lane = int(threadIdx.x) % 32;
    out += (consumer * 4 + warp) * OUT_BYTES;
    sums += (consumer * 4 + warp) * SUM_BYTES;
    // From 16 inner indices to the next: along a line, or over 16 lines.
    constexpr u32 A_NEXT = A_INNER ? 32 : 16 * 128, B_NEXT = B_INNER ? 32 : 16 * 128;
#pragma unroll 1
    for (u32 tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        const Work work = work_of<COLS>(p, tile);
        float c[COLS / 2];
#pragma unroll
        for (int i = 0; i < COLS / 2; ++i) c[i] = 0.0f;
#pragma unroll 1
        for (int step = 0; step < work.steps; ++step, ++filled) {
            const u32 stage = filled % STAGES;
            const u32 a = ring + stage * STAGE_BYTES + consumer * BOX_BYTES, b = ring + stage * STAGE_BYTES + A_BYTES;
            barrier_wait(full + stage * 8, filled / STAGES % 2);
            products_begin();
#pragma unroll
            for (int i = 0; i < DEPTH / 16; ++i) {
                warpgroup_multiply<T, A_INNER, B_INNER>(c, tile_descriptor(a + i * A_NEXT, BOX_BYTES), tile_descriptor(b + i * B_NEXT, BOX_BYTES));
            }
            products_commit();
            products_wait<1>();
            // The step before is done.
            if (step > 0 && lane == 0) barrier_arrive(empty + (filled - 1) % STAGES * 8);
        }
        products_wait<0>();
        if (lane == 0) barrier_arrive(empty + (filled - 1) % STAGES * 8);
        // While the next tile's first steps are on their way.
        store_results<T, COLS, F>(p, work, c, work.m + consumer * 64 + warp * 16, sums, out);
    }
    // Shared memory is not to go before it has been read.
    if (lane == 0) stores_have_read();
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
