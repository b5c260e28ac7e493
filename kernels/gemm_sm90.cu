// gemm.cu's and linear.cu's GEMM for compute capability 9.0: TMA brings the operands, wgmma reads them from shared memory.
//
// Shapes    a: m x k (or stored k x m), b: k x n (or stored n x k), y: m x n, a batch of each or one for all; bias: n, or none.
// Types     bf16, f16. Leading dimensions are multiples of 16 bytes, as TMA requires; other problems run as gemm.cu.
// Launch    384 threads, warp-specialised: a producer warpgroup that only issues TMA loads and gives its registers away, and two
//           consumer warpgroups with 64 rows of the tile each. Tiles `128x256` and `128x128`; K in steps of 64, four stages, each
//           with an mbarrier `full` (its bytes have arrived) and `empty` (eight warps have read it). Tiles in groups of eight rows,
//           times batch, times splits; `splitk_reduce` adds the partial sums. Persistent: one block per SM, which takes every
//           grid-th tile; loads of its next one arrive while results of the last are stored. TMA stores them, 64 columns
//           of 16 rows at a time, where rows of y are a multiple of 16 bytes, else the warps do.
// Limit     tensor cores, 2 m n k FLOP; 989 TFLOP/s in 16 bits. mma.sync reaches two thirds of that at best, wgmma all but
//           what power allows. A step of `128x256` moves 48 KiB for 4.2 MFLOP, 87 FLOP/B from L2.
// Rejected  waiting for each step's wgmma before the next step's are issued: the tensor cores idle for the mbarrier's latency at
//           every step; now one step is always queued behind the one in flight.
// Numerics  f32 accumulation over k in steps of 16, one rounding at the end.
// Tail      TMA fills boxes beyond an operand with zeros and counts their bytes all the same; results beyond y are not stored.

#include "common/epilogue.cuh"
#include "common/mainloop.cuh"
#include "common/tma.cuh"
#include "common/wgmma.cuh"

struct Sm90GemmParams {
    TensorMap a, b;     // contiguous axis first, then the other, then the batch
    TensorMap out;      // y in boxes of 64 columns by 16 rows, where `tma_store_y`
    void* y;            // [batch, m, n]
    float* partials;    // [splits, batch, m, n], or null without split-K
    Epilogue epilogue;  // of linear's layout
    u32 m, n, k, batch;
    u32 tiles_m, tiles_n;
    u32 tiles;                 // in all: tiles of y, times batch, times splits
    u32 k_per_split;           // a multiple of TILE_K
    u32 a_batched, b_batched;  // 0 where one matrix serves all
    u32 y_vector;              // 4 where every row of y begins on four elements, else 1
    u32 tma_store_y;           // rows of y are a multiple of 16 bytes
    u32 unused[2];             // to 64 bytes, the alignment of a TensorMap
};

constexpr int TILE_M = 128, TILE_K = 64, STAGES = 4, CONSUMERS = 2, WARPS = CONSUMERS * 4;
constexpr int BOX_BYTES = 64 * 128;     // 64 rows of 128 bytes
constexpr int OUT_BYTES = 16 * 128;     // 16 rows of 64 results of a warp
constexpr int STAGED_BYTES = 16 * 128;  // 16 rows of 32 accumulators of a warp

// What a block does with one of its tiles.
struct WorkTile {
    u32 m, n, matrix, split, begin;
    int steps;
};

template <int TILE_N>
__device__ __forceinline__ WorkTile work_tile(const Sm90GemmParams& p, u32 tile) {
    const TileCoord coord = tile_coord(p.tiles_m, p.tiles_n, tile);
    const u32 split = coord.z / p.batch, begin = split * p.k_per_split, end = min(p.k, begin + p.k_per_split);
    return {coord.m * TILE_M, coord.n * TILE_N, coord.z % p.batch, split, begin, int((end - begin + TILE_K - 1) / TILE_K)};
}

// A warp's 16 rows of results, 32 columns at a time through shared memory, so that the epilogue accesses whole sectors. `staged` and
// `out` are the warp's own; both are swizzled: no access has bank conflicts.
template <typename T, int TILE_N, EpilogueKind F>
__device__ __forceinline__ void store_results(const Sm90GemmParams& p, const WorkTile& work, const float (&c)[TILE_N / 2], u32 row,
                                              unsigned char* staged, unsigned char* out) {
    const int lane = int(threadIdx.x) % 32;
    const u64 corner = (u64(work.matrix) * p.m + row) * p.n + work.n;
    const bool aligned = p.y_vector == 4, tma_store_y = p.tma_store_y != 0 && p.partials == nullptr;
    const int cols = int(p.n - work.n);
    // A loop, so that the epilogue is instantiated once, and within it a choice among registers.
#pragma unroll 1
    for (int part = 0; part < TILE_N / 32; ++part) {
#pragma unroll
        for (int i = 0; i < TILE_N / 2; i += 4) {
            if (i / 16 != part) continue;
            const int chunk = (i % 16 / 2 + lane % 4 / 2) ^ lane / 4 % 4 * 2;
            unsigned char* at = staged + lane / 4 * 128 + chunk * 16 + lane % 2 * 8;
            *reinterpret_cast<float2*>(at) = make_float2(c[i], c[i + 1]);
            *reinterpret_cast<float2*>(at + 8 * 128) = make_float2(c[i + 2], c[i + 3]);
        }
        // The store before has read `out`.
        if (tma_store_y && part % 2 == 0 && lane == 0) tma_store_wait_read();
        __syncwarp();
        const int col = part * 32 + lane % 8 * 4;
#pragma unroll 1
        for (int r = lane / 8; r < 16; r += 4) {
            const float4 v = *reinterpret_cast<const float4*>(staged + r * 128 + (lane % 8 ^ r % 4 * 2) * 16);
            float values[4] = {v.x, v.y, v.z, v.w};
            const u64 at = corner + u64(r) * p.n + col;
            const bool there = row + r < p.m && col < cols;
            if (p.partials != nullptr) {
                if (there) store_vec4(p.partials + u64(work.split) * p.batch * p.m * p.n + at, values, cols - col, aligned);
                continue;
            }
            if (there) apply_epilogue<T, F>(p.epilogue, u64(work.matrix) * p.m + row + r, work.n + col, at, cols - col, aligned, values);
            if (tma_store_y) {
                const int chunk = (part % 2 * 4 + lane % 8 / 2) ^ r % 8;
                store_floats(reinterpret_cast<T*>(out + r * 128 + chunk * 16 + lane % 2 * 8), values);
            } else if (there) {
                store_vec4(static_cast<T*>(p.y) + at, values, cols - col, aligned);
            }
        }
        if (tma_store_y && part % 2 == 1) fence_proxy_async();
        __syncwarp();
        if (tma_store_y && part % 2 == 1 && lane == 0) {
            tma_store(p.out, shared_address(out), int(work.n) + (part - 1) * 32, int(row), int(work.matrix));
            tma_store_commit();
        }
    }
}

template <typename T, int TILE_N, bool A_K_MAJOR, bool B_K_MAJOR, EpilogueKind F>
__device__ __forceinline__ void gemm_sm90(const Sm90GemmParams& p) {
    constexpr int A_BYTES = TILE_M * TILE_K * 2, B_BYTES = TILE_N * TILE_K * 2, STAGE_BYTES = A_BYTES + B_BYTES;
    // Stages first, aligned to 1024 bytes for the 128-byte swizzle; then results, accumulators, mbarriers.
    const u32 ring = (shared_address(dynamic_smem) + 1023) / 1024 * 1024;
    unsigned char* out = dynamic_smem + (ring - shared_address(dynamic_smem)) + STAGES * STAGE_BYTES;
    unsigned char* staged = out + WARPS * OUT_BYTES;
    const u32 full = shared_address(staged) + WARPS * STAGED_BYTES, empty = full + STAGES * 8;

    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; ++stage) {
            mbarrier_init(full + stage * 8, 1);
            mbarrier_init(empty + stage * 8, WARPS);
        }
        fence_mbarrier_init();
    }
    __syncthreads();

    // K steps so far, over all tiles of the block: the ring of stages runs on from tile to tile.
    u32 filled = 0;
    const int group = int(threadIdx.x) / 128;
    if (group == 0) {
        setmaxnreg_dec<40>();
        if (threadIdx.x != 0) return;
        prefetch_tensormap(p.a);
        prefetch_tensormap(p.b);
#pragma unroll 1
        for (u32 tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
            const WorkTile work = work_tile<TILE_N>(p, tile);
            const int m = int(work.m), n = int(work.n);
            const int a_matrix = int(p.a_batched * work.matrix), b_matrix = int(p.b_batched * work.matrix);
#pragma unroll 1
            for (int step = 0; step < work.steps; ++step, ++filled) {
                const u32 stage = filled % STAGES;
                const int k = int(work.begin) + step * TILE_K;
                if (filled >= STAGES) mbarrier_wait(empty + stage * 8, (filled / STAGES - 1) % 2);
                const u32 a = ring + stage * STAGE_BYTES, b = a + A_BYTES, landed = full + stage * 8;
                mbarrier_arrive_expect_tx(landed, STAGE_BYTES);
                if constexpr (A_K_MAJOR) {
                    tma_load(a, p.a, k, m, a_matrix, landed);
                } else {
                    for (int i = 0; i < TILE_M / 64; ++i) tma_load(a + i * BOX_BYTES, p.a, m + i * 64, k, a_matrix, landed);
                }
                if constexpr (B_K_MAJOR) {
                    tma_load(b, p.b, k, n, b_matrix, landed);
                } else {
                    for (int i = 0; i < TILE_N / 64; ++i) tma_load(b + i * BOX_BYTES, p.b, n + i * 64, k, b_matrix, landed);
                }
            }
        }
        return;
    }

    setmaxnreg_inc<232>();
    const int consumer = group - 1, warp = int(threadIdx.x) % 128 / 32, lane = int(threadIdx.x) % 32;
    out += (consumer * 4 + warp) * OUT_BYTES;
    staged += (consumer * 4 + warp) * STAGED_BYTES;
    // From one k16 step to the next: along a row, or over 16 rows.
    constexpr u32 A_NEXT = A_K_MAJOR ? 32 : 16 * 128, B_NEXT = B_K_MAJOR ? 32 : 16 * 128;
#pragma unroll 1
    for (u32 tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        const WorkTile work = work_tile<TILE_N>(p, tile);
        float c[TILE_N / 2];
#pragma unroll
        for (int i = 0; i < TILE_N / 2; ++i) c[i] = 0.0f;
#pragma unroll 1
        for (int step = 0; step < work.steps; ++step, ++filled) {
            const u32 stage = filled % STAGES;
            const u32 a = ring + stage * STAGE_BYTES + consumer * BOX_BYTES, b = ring + stage * STAGE_BYTES + A_BYTES;
            mbarrier_wait(full + stage * 8, filled / STAGES % 2);
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < TILE_K / 16; ++i) {
                wgmma<T, A_K_MAJOR, B_K_MAJOR>(c, smem_descriptor(a + i * A_NEXT, BOX_BYTES), smem_descriptor(b + i * B_NEXT, BOX_BYTES));
            }
            wgmma_commit_group();
            wgmma_wait_group<1>();
            // The step before is done.
            if (step > 0 && lane == 0) mbarrier_arrive(empty + (filled - 1) % STAGES * 8);
        }
        wgmma_wait_group<0>();
        if (lane == 0) mbarrier_arrive(empty + (filled - 1) % STAGES * 8);
        // While the next tile's first stages are being loaded.
        store_results<T, TILE_N, F>(p, work, c, work.m + consumer * 64 + warp * 16, staged, out);
    }
    // Shared memory is not to go before it has been read.
    if (lane == 0) tma_store_wait_read();
}

#define GEMM_SM90(LAYOUT, A_K_MAJOR, B_K_MAJOR, F, TILE, TILE_N, T)                                                            \
    extern "C" __global__ void __launch_bounds__(384, 1) gemm_sm90_##LAYOUT##_##TILE##_##T(                    \
        const __grid_constant__ Sm90GemmParams p) {                                                                          \
        gemm_sm90<T, TILE_N, A_K_MAJOR, B_K_MAJOR, F>(p);                                                                   \
    }
#define GEMM_SM90_TILES(LAYOUT, A_K_MAJOR, B_K_MAJOR, F, T)     \
    GEMM_SM90(LAYOUT, A_K_MAJOR, B_K_MAJOR, F, 128x256, 256, T) \
    GEMM_SM90(LAYOUT, A_K_MAJOR, B_K_MAJOR, F, 128x128, 128, T)
#define GEMM_SM90_DTYPES(LAYOUT, A_K_MAJOR, B_K_MAJOR, F)  \
    GEMM_SM90_TILES(LAYOUT, A_K_MAJOR, B_K_MAJOR, F, bf16) \
    GEMM_SM90_TILES(LAYOUT, A_K_MAJOR, B_K_MAJOR, F, f16)

GEMM_SM90_DTYPES(nn, true, false, NONE)
GEMM_SM90_DTYPES(nt, true, true, SMOOTH)
GEMM_SM90_DTYPES(tn, false, false, NONE)
GEMM_SM90_DTYPES(tt, false, true, NONE)
