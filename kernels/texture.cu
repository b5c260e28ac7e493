// Sums over images of what selectors see in grey levels: histogram (Otsu), Sobel gradient, energy of two separable filters (DoG, LoG).
//
//   histogram  counts[image][level] of the luma
//   gradient   Σ rint(256 sqrt(dx² + dy²)), 3 x 3 Sobel, border pixel repeated
//   band       mean of (Σ_i row_i * column_i * grey)², i = 0, 1, symmetric taps, mirrored border
//
// Shapes    pixels u8 [n, h, w, 3]; histogram u32 [n, 256]; gradient u64 [n]; band f32 [n].
// Launch    256 threads. histogram: a block takes 16384 pixels of one image; gradient: a tile of 64 x 16; band: 64 x 32.
// Traffic   pixels are read once (gradient 1.2 times, band at radius 8 1.9 times, from L2); nothing but sums is written.
// Limit     counted on the emulator in warp instructions per pixel, against 926 G/s of an H100 (132 SMs, 4 a clock, 1.755 GHz):
//           histogram 0.64: 1.4 T pixels/s, so the memory's 3.35 TB/s come first (1.1 T pixels/s);
//           gradient 2.6: 360 G pixels/s, 1.1 TB/s of RGB; of them 1.1 are loading with its border rule;
//           band at radius 8 6.1: 150 G pixels/s, 450 GB/s; 0.69 shared wavefronts per pixel would allow twice that. Taps are
//           constant operands of the FMA because the radius is known to the compiler: 8, 16 or 32, smaller kernels padded.
// Rejected  bytes instead of floats in the band's tile: half the shared memory, but a conversion for every tap. Taps by an index known
//           only at run time: one constant load for two FMA.
// Numerics  histogram and gradient are integers (sqrtf is correctly rounded): the CPU's numbers, in any order. band: f32 with FMA,
//           partial sums of the tiles added in their order: bit-identical from run to run.
// Tail      pixels beyond the image are loaded from within it and not counted.

#include "common/block.cuh"
#include "common/grey.cuh"

constexpr int THREADS = 256;

// ---------------------------------------------------------------------------------------------------------- histogram

struct HistogramParams {
    const u8* pixels;
    u32* counts;  // zero before
    u64 image_px;
    u32 blocks_each;  // of an image
    u32 unused;
};

constexpr u32 HISTOGRAM_PX = 16384, COPIES = 8;

extern "C" __global__ void __launch_bounds__(256) texture_histogram(const __grid_constant__ HistogramParams p) {
    __shared__ u32 counts[COPIES][256];
    for (u32 i = threadIdx.x; i < COPIES * 256; i += THREADS) counts[0][i] = 0;
    __syncthreads();
    u32* mine = counts[threadIdx.x % COPIES];
    const u32 image = blockIdx.x / p.blocks_each;
    const u64 first = u64(blockIdx.x % p.blocks_each) * HISTOGRAM_PX;
    const u32 count = u32(min(p.image_px - first, u64(HISTOGRAM_PX)));
    const u8* pixels = p.pixels + 3 * (image * p.image_px + first);
    // Four pixels are three words where the block's pixels begin at one.
    const u32 fours = u64(pixels) % 4 == 0 ? count / 4 : 0;
    const u32* words = reinterpret_cast<const u32*>(pixels);
    for (u32 i = threadIdx.x; i < fours; i += THREADS) {
        const u32 a = words[3 * i], b = words[3 * i + 1], c = words[3 * i + 2];
        atomicAdd(&mine[luma(a & 255, a >> 8 & 255, a >> 16 & 255)], 1);
        atomicAdd(&mine[luma(a >> 24, b & 255, b >> 8 & 255)], 1);
        atomicAdd(&mine[luma(b >> 16 & 255, b >> 24, c & 255)], 1);
        atomicAdd(&mine[luma(c >> 8 & 255, c >> 16 & 255, c >> 24)], 1);
    }
    for (u32 i = 4 * fours + threadIdx.x; i < count; i += THREADS) atomicAdd(&mine[luma_at(pixels + 3 * i)], 1);
    __syncthreads();
    u32 sum = 0;
#pragma unroll
    for (u32 copy = 0; copy < COPIES; ++copy) sum += counts[copy][threadIdx.x];
    if (sum > 0) atomicAdd(&p.counts[256 * image + threadIdx.x], sum);
}

// ----------------------------------------------------------------------------------------------------------- gradient

struct GradientParams {
    GreyBatch batch;
    u64* sums;  // zero before
};

constexpr int GRADIENT_W = 64, GRADIENT_H = 16, GRADIENT_PITCH = 68, STRIP = 4;

extern "C" __global__ void __launch_bounds__(256) texture_gradient(const __grid_constant__ GradientParams p) {
    __shared__ u8 grey[(GRADIENT_H + 2) * GRADIENT_PITCH];
    __shared__ u32 of_warp[THREADS / 32];
    const Tile tile = tile_at<GRADIENT_W, GRADIENT_H>(p.batch, blockIdx.x);
    load_grey<GRADIENT_W + 2, GRADIENT_H + 2, GRADIENT_PITCH, THREADS>(grey, p.batch, tile.image, tile.x - 1, tile.y - 1, repeated);
    __syncthreads();
    // A thread walks down four pixels of a column; of three rows it holds the smoothed level and the derivative.
    const int column = int(threadIdx.x) % GRADIENT_W, first = int(threadIdx.x) / GRADIENT_W * STRIP;
    const int rows = tile.x + column < int(p.batch.width_px) ? min(STRIP, int(p.batch.height_px) - tile.y - first) : 0;
    int smooth[3], slope[3];
    u32 sum = 0;
#pragma unroll
    for (int i = 0; i < STRIP + 2; ++i) {
        const u8* at = grey + (first + i) * GRADIENT_PITCH + column;
        const int left = at[0], here = at[1], right = at[2];
        smooth[i % 3] = left + 2 * here + right;
        slope[i % 3] = right - left;
        if (i >= 2 && i - 2 < rows) {
            const int dx = slope[(i - 2) % 3] + 2 * slope[(i - 1) % 3] + slope[i % 3];
            const int dy = smooth[i % 3] - smooth[(i - 2) % 3];
            sum += u32(__float2int_rn(256.0f * sqrtf(float(dx * dx + dy * dy))));
        }
    }
    // A tile's steps fit into 32 bits: 1024 pixels of at most 1443 * 256.
    sum = __reduce_add_sync(0xffffffffu, sum);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < THREADS / 32; ++warp) sum += of_warp[warp];
        atomicAdd(&p.sums[tile.image], u64(sum));
    }
}

// --------------------------------------------------------------------------------------------------------------- band

constexpr int TAPS = 33;  // from the centre to the largest radius

struct BandParams {
    GreyBatch batch;
    float* parts;  // one per tile
    float down[TAPS][2], along[TAPS][2];
};

struct BandSumParams {
    const float* parts;
    float* energies;
    u32 n, parts_each;
    float scale;
    u32 unused;
};

constexpr int BAND_W = 64, BAND_H = 32;

template <int R>
struct Band {
    static constexpr int COLUMNS = (BAND_W + 2 * R + 3) / 4 * 4, ROWS = BAND_H + 2 * R;
    // Rows of the filtered columns are padded by 4 floats, for the threads of the second pass.
    static constexpr int PITCH = COLUMNS + 4;
    static constexpr int BYTES = (ROWS * COLUMNS + 2 * BAND_H * PITCH) * int(sizeof(float));
};

template <int R>
__device__ __forceinline__ void band(const BandParams& p) {
    using B = Band<R>;
    extern __shared__ float4 shared[];
    float* grey = reinterpret_cast<float*>(shared);
    float* filtered = grey + B::ROWS * B::COLUMNS;  // [2][BAND_H][PITCH]
    const Tile tile = tile_at<BAND_W, BAND_H>(p.batch, blockIdx.x);
    load_grey<B::COLUMNS, B::ROWS, B::COLUMNS, THREADS>(grey, p.batch, tile.image, tile.x - R, tile.y - R, mirrored);
    __syncthreads();
    // Down the columns: four columns and four rows per thread, each row read once.
#pragma unroll 1
    for (int item = int(threadIdx.x); item < B::COLUMNS / 4 * (BAND_H / 4); item += THREADS) {
        const int column = item % (B::COLUMNS / 4) * 4, row = item / (B::COLUMNS / 4) * 4;
        float a[4][4] = {}, b[4][4] = {};
#pragma unroll
        for (int j = 0; j < 4 + 2 * R; ++j) {
            const float4 line = *reinterpret_cast<const float4*>(grey + (row + j) * B::COLUMNS + column);
            const float v[4] = {line.x, line.y, line.z, line.w};
#pragma unroll
            for (int o = 0; o < 4; ++o) {
                const int k = j - R - o < 0 ? R + o - j : j - R - o;
                if (k > R) continue;
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    a[o][i] = fmaf(p.down[k][0], v[i], a[o][i]);
                    b[o][i] = fmaf(p.down[k][1], v[i], b[o][i]);
                }
            }
        }
#pragma unroll
        for (int o = 0; o < 4; ++o) {
            float* to = filtered + (row + o) * B::PITCH + column;
            *reinterpret_cast<float4*>(to) = make_float4(a[o][0], a[o][1], a[o][2], a[o][3]);
            *reinterpret_cast<float4*>(to + BAND_H * B::PITCH) = make_float4(b[o][0], b[o][1], b[o][2], b[o][3]);
        }
    }
    __syncthreads();
    // Along the rows: four neighbours per thread.
    float energy = 0.0f;
#pragma unroll 1
    for (int item = int(threadIdx.x); item < BAND_W / 4 * BAND_H; item += THREADS) {
        const int column = item % (BAND_W / 4) * 4, row = item / (BAND_W / 4);
        float sums[4] = {};
#pragma unroll
        for (int filter = 0; filter < 2; ++filter) {
            const float* line = filtered + (filter * BAND_H + row) * B::PITCH + column;
#pragma unroll
            for (int j4 = 0; j4 < 4 + 2 * R; j4 += 4) {
                const float4 vector = *reinterpret_cast<const float4*>(line + j4);
                const float v[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
                for (int o = 0; o < 4; ++o) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        const int j = j4 + i, k = j - R - o < 0 ? R + o - j : j - R - o;
                        if (k <= R) sums[o] = fmaf(p.along[k][filter], v[i], sums[o]);
                    }
                }
            }
        }
        if (tile.y + row < int(p.batch.height_px)) {
#pragma unroll
            for (int o = 0; o < 4; ++o) {
                if (tile.x + column + o < int(p.batch.width_px)) energy = fmaf(sums[o], sums[o], energy);
            }
        }
    }
    energy = block_sum<THREADS>(energy);
    if (threadIdx.x == 0) p.parts[blockIdx.x] = energy;
}

extern "C" __global__ void __launch_bounds__(256) texture_band8(const __grid_constant__ BandParams p) { band<8>(p); }
extern "C" __global__ void __launch_bounds__(256) texture_band16(const __grid_constant__ BandParams p) { band<16>(p); }
extern "C" __global__ void __launch_bounds__(256) texture_band32(const __grid_constant__ BandParams p) { band<32>(p); }

// One block an image; every thread adds its share in order.
extern "C" __global__ void __launch_bounds__(256) texture_band_sum(const __grid_constant__ BandSumParams p) {
    const float* parts = p.parts + u64(blockIdx.x) * p.parts_each;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < p.parts_each; i += THREADS) sum += parts[i];
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) p.energies[blockIdx.x] = sum * p.scale;
}
