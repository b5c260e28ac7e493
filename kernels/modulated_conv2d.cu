// The convolutions inside a modulated one: inputs are scaled per image and channel by the styles, outputs by the demodulation
// coefficients (dcoefs).
//
//     fwd             y_i = dcoefs_i ∘ conv(x_i ∘ styles_i, weight)
//     transposed      y_i = dcoefs_i ∘ convᵀ(x_i ∘ styles_i, weight)              also fwd's input gradient
//     fused_upsample  y_i = dcoefs_i ∘ (convᵀ(x_i ∘ styles_i, weight) * filter)   upsampling 2x in one pass
//     demodulate      dcoefs[i,k] = (Σ_c styles[i,c]² Σ_t weight[k,t,c]² + epsilon)^(−1/2)
//     flip_weight     y[c,t,k] = weight[k, taps − 1 − t, c]                       the weight with which convᵀ upsamples
//
// Shapes    fwd, transposed: as conv2d.cu's forward map and input gradient, groups 1; styles: n x channels of x, dcoefs: n x
//           channels of y, or none. fused_upsample: weight as fwd's, k 3 3 c, flipped on the way; twice the size; a separable
//           filter of 4 x 4 taps. Other filters are upfirdn2d's: factors per channel commute with them. flip_weight: weight
//           k taps c, y c taps k; taps = r s, rotated by 180 degrees.
// Epilogue  of y: common/epilogue.cuh, after the dcoefs; fwd, transposed and fused_upsample.
// Types     f32, bf16, f16. f32 by 3xTF32, or by TF32 (`_tf32`); flip_weight moves what it finds.
// Launch    fwd, transposed: as conv2d.cu, but an element of x goes through registers to be multiplied by its style. flip_weight:
//           256 threads, one block per tile of 32 k by 32 c of one tap, through shared memory; grid = (tiles of c, tiles of k, taps).
//           fused_upsample: 128 threads per patch of 16 x 16 pixels by 64 channels: its four sub-pixel phases are four GEMMs one
//           after another on the 64x64 tile, interleaved in shared memory, of which the filter makes 13 x 13 pixels of y.
//           demodulate: 128 threads per channel of y; grid = channels of y.
// Limit     tensor cores as conv2d.cu; two passes over each of x and y fewer than with styles and dcoefs applied on their own.
//           fused_upsample multiplies (16/13)² = 1.51 times as often as transposed, 9 c k times per pixel of x, and saves a store
//           and a load of 4 k elements: it pays while 0.51 · 18 c < 8 · element bytes · balance, `balance` the FLOP in the time
//           of a byte (128 in 16 bits: some 220 channels; 21 in f32: some 70). `heuristics::fuses_upsample` decides.
//           demodulate reads the weight once; the styles come from L2 for every channel.
// Rejected  scaling the weight instead, a copy per image: k r s c elements each, more than x itself at low resolutions. Scaling
//           fragments: each of them then needs its channel's style again from shared memory. Holding the next stage's elements in
//           registers over the MMAs of this one: 16 more of them, one block per SM less, which is what hides
//           their latency now. The filter folded into the weight, 6 x 6 taps in four phases of 3 x 3: 36 c k products per pixel
//           of x where fused_upsample has 13.6, to save the same bytes.
// Numerics  x ∘ styles is rounded to the stored type, as if it had been stored, and so is what fused_upsample filters; accumulators
//           are scaled by dcoefs in f32 and rounded once. With split-K each partial sum is scaled.
// Tail      as conv2d.cu; fused_upsample's patches read zeros beyond the image and store nothing there; flip_weight's tiles at the
//           edges are partly empty.

#include "common/conv.cuh"
#include "common/warp.cuh"

struct ModulatedParams {
    ConvParams conv;
    const void* styles;
    const void* dcoefs;  // or null
};

template <typename Tile>
__device__ __forceinline__ void modulated_forward(const ModulatedParams& p) {
    using T = typename Tile::T;
    conv_forward<Tile, true>(p.conv, {static_cast<const T*>(p.styles), static_cast<const T*>(p.dcoefs)});
}

template <typename Tile>
__device__ __forceinline__ void modulated_transposed(const ModulatedParams& p) {
    using T = typename Tile::T;
    conv_input_gradient<Tile, true>(p.conv, {static_cast<const T*>(p.styles), static_cast<const T*>(p.dcoefs)});
}

#define MODULATED(ROLE, MAP, TILE, SIZE, NAME, T, MATH)                                              \
    extern "C" __global__ void __launch_bounds__(TILE<Mma<T COMMA MATH>>::THREADS, TILE<Mma<T COMMA MATH>>::MIN_BLOCKS_PER_SM) \
        modulated_conv2d_##ROLE##_##SIZE##_##NAME(const __grid_constant__ ModulatedParams p) {        \
        MAP<TILE<Mma<T COMMA MATH>>>(p);                                                      \
    }
#define COMMA ,

#define MODULATED_TILES(ROLE, MAP, NAME, T, MATH)             \
    MODULATED(ROLE, MAP, Tile128x128, 128x128, NAME, T, MATH) \
    MODULATED(ROLE, MAP, Tile64x64, 64x64, NAME, T, MATH)

#define MODULATED_DTYPES(ROLE, MAP)                \
    MODULATED_TILES(ROLE, MAP, bf16, bf16, NATIVE) \
    MODULATED_TILES(ROLE, MAP, f16, f16, NATIVE)   \
    MODULATED_TILES(ROLE, MAP, f32, f32, TF32X3)   \
    MODULATED_TILES(ROLE, MAP, tf32_f32, f32, TF32)

MODULATED_DTYPES(fwd, modulated_forward)
MODULATED_DTYPES(transposed, modulated_transposed)
SPLITK_REDUCE_DTYPES(modulated_conv2d, PIECEWISE_LINEAR)

// ------------------------------------------------------------------------------------------------ upsampling in one pass

// The side of a patch of the upsampled image in shared memory before it is filtered, of the filter, and of the patch of y it makes.
constexpr int PATCH = 16, FIR = 4, OUTPUT = PATCH - FIR + 1;

struct FusedUpsampleParams {
    ConvParams conv;  // x: n h w c, weight: k 3 3 c, y: n oh ow k; tiles_m: patches, tiles_n: 64 channels of y each
    const void* styles;
    const void* dcoefs;  // or null
    u32 patches_h, patches_w;
    i32 pad_before;  // pixels by which the filter's window begins above and left of its pixel
    u32 unused;
    float taps[2 * FIR];  // the column, then the row, as a correlation has them
};

// B of a sub-pixel phase: k index (tap, channel of x), column channel of y. The taps are every second of the kernel's.
template <typename Tile>
struct WeightKMajor {
    using T = typename Tile::T;
    const T* weight;  // the tile's first channel of y
    u32 first_r, first_s;
    FastDivmod channels;
    TapDivmod taps;
    int cols;
    u32 vector;

    __device__ __forceinline__ void load(T* tile, int k, int end) const {
        with_copy_width<T>(vector, [&](auto width) { copy<width.value>(tile, k, end); });
    }

    template <int VEC>
    __device__ __forceinline__ void copy(T* tile, int k, int end) const {
        constexpr int LD = Tile::template LD<true, Tile::N>;
        for_each_vector<VEC, Tile::N, Tile::K, Tile::THREADS>([&](int tile_row, int col) {
            const u32 k_index = u32(k + col), tap = channels.div(k_index), channel = k_index - tap * channels.value;
            const u32 tap_h = taps.div(tap), tap_w = tap - tap_h * taps.value;
            const u32 index = (first_r + 2 * tap_h) * 3 + first_s + 2 * tap_w;
            const bool there = int(k_index) < end && tile_row < cols;
            const u64 at = (u64(tile_row) * 9 + index) * channels.value + channel;
            copy_elements<VEC>(tile + tile_row * LD + col, there ? weight + at : weight, there);
        });
    }
};

template <typename Tile>
__device__ __forceinline__ void fused_upsample(const FusedUpsampleParams& e) {
    using T = typename Tile::T;
    static_assert(Tile::M == PATCH / 2 * (PATCH / 2));
    const ConvParams& p = e.conv;
    const TileCoord tile = tile_coord(p.tiles_m, p.tiles_n);
    const u32 across = tile.m / e.patches_w, sample = across / e.patches_h, first = tile.n * Tile::N;
    const int top = int(across - sample * e.patches_h) * OUTPUT, left = int(tile.m - across * e.patches_w) * OUTPUT;
    const int cols = int(p.k - first);
    T* const patch = ring_of<Tile>() + Tile::STAGES * Tile::template STAGE_ELEMS<true, true>;
    Window* windows = reinterpret_cast<Window*>(dynamic_smem);
    if (threadIdx.x < Tile::M) samples_of<Tile>()[threadIdx.x] = sample;

    // Sub-pixel phases, the parities of row and column: each has taps of its own, which see neighbouring pixels of x.
#pragma unroll 1
    for (int part = 0; part < 4; ++part) {
        const int row0 = top - e.pad_before + part / 2, column0 = left - e.pad_before + part % 2;
        const u32 odd_h = row0 & 1, odd_w = column0 & 1, taps_h = 2 - odd_h, taps_w = 2 - odd_w;
        if (threadIdx.x < Tile::M) {
            const int row = row0 + int(threadIdx.x) / (PATCH / 2) * 2, column = column0 + int(threadIdx.x) % (PATCH / 2) * 2;
            windows[threadIdx.x] = {u64(sample) * p.h * p.w * p.c, (row >> 1) - int(1 - odd_h), (column >> 1) - int(1 - odd_w)};
        }
        __syncthreads();
        const TapDivmod taps(taps_w);
        const Im2colRows<Tile, true> a{static_cast<const T*>(p.a), static_cast<const T*>(e.styles), windows, int(p.h), int(p.w), p.c, 1, 1,
                                         p.channels, taps, p.a_vector};
        const WeightKMajor<Tile> b{static_cast<const T*>(p.b) + u64(first) * 9 * p.c, odd_h, odd_w, p.channels, taps, cols, p.b_vector};
        Accumulators<Tile> c;
        mainloop<Tile, true, true>(c, ring_of<Tile>(), 0, int(taps_h * taps_w * p.c), a, b);
        for_each_vec4<Tile>(c, ring_of<Tile>(), [&](int row, int col, const float4& v) {
            const float values[4] = {v.x, v.y, v.z, v.w};
            const int pixel = (row / (PATCH / 2) * 2 + part / 2) * PATCH + row % (PATCH / 2) * 2 + part % 2;
            store_floats(patch + pixel * Tile::N + col, values);
        });
        __syncthreads();
    }

    // Two columns of y and four channels per thread, down the patch: every row is filtered along itself once.
    const int col = int(threadIdx.x) % (Tile::N / 4) * 4, column = int(threadIdx.x) / (Tile::N / 4) * 2;
    if (column >= OUTPUT || col >= cols) return;
    float factor[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    const bool aligned = p.y_vector == 4;
    if (e.dcoefs != nullptr) load_partial(factor, static_cast<const T*>(e.dcoefs) + u64(sample) * p.k + first + col, cols - col, aligned);
    float along[FIR][2][4] = {};
#pragma unroll 1
    for (int row = 0; row < PATCH; ++row) {
#pragma unroll
        for (int i = 0; i + 1 < FIR; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) along[i][0][j] = along[i + 1][0][j], along[i][1][j] = along[i + 1][1][j];
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) along[FIR - 1][0][j] = along[FIR - 1][1][j] = 0.0f;
#pragma unroll
        for (int tap = 0; tap <= FIR; ++tap) {
            float v[4];
            load_floats(v, patch + (row * PATCH + min(column + tap, PATCH - 1)) * Tile::N + col);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                if (tap < FIR) along[FIR - 1][0][j] = fmaf(e.taps[FIR + tap], v[j], along[FIR - 1][0][j]);
                if (tap > 0) along[FIR - 1][1][j] = fmaf(e.taps[FIR + tap - 1], v[j], along[FIR - 1][1][j]);
            }
        }
        const int y_row = top + row - (FIR - 1);
        if (row < FIR - 1 || y_row >= int(p.oh)) continue;
#pragma unroll
        for (int next = 0; next < 2; ++next) {
            const int y_column = left + column + next;
            if (column + next >= OUTPUT || y_column >= int(p.ow)) continue;
            float values[4] = {};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
#pragma unroll
                for (int i = 0; i < FIR; ++i) values[j] = fmaf(e.taps[i], along[i][next][j], values[j]);
                values[j] *= factor[j];
            }
            const u64 pixel = (u64(sample) * p.oh + y_row) * p.ow + y_column, at = pixel * p.k + first + col;
            apply_epilogue<T, PIECEWISE_LINEAR>(p.epilogue, pixel, first + col, at, cols - col, aligned, values);
            store_vec4(static_cast<T*>(p.y) + at, values, cols - col, aligned);
        }
    }
}

#define FUSED_UPSAMPLE(NAME, T, MATH)                                                                                       \
    extern "C" __global__ void __launch_bounds__(Tile64x64<Mma<T COMMA MATH>>::THREADS, 2)                     \
        modulated_conv2d_fused_upsample_##NAME(const __grid_constant__ FusedUpsampleParams p) {                                   \
        fused_upsample<Tile64x64<Mma<T COMMA MATH>>>(p);                                                               \
    }
FUSED_UPSAMPLE(bf16, bf16, NATIVE)
FUSED_UPSAMPLE(f16, f16, NATIVE)
FUSED_UPSAMPLE(f32, f32, TF32X3)
FUSED_UPSAMPLE(tf32_f32, f32, TF32)

// ------------------------------------------------------------------------------------------------ demodulation, weights

struct DemodulateParams {
    const void* weight;  // [k, taps, c]
    const void* style;   // [n, c]
    void* y;             // [n, k]
    u32 n, k, taps, c;
    u32 vector;  // channels of a load
    float epsilon;
};

// One block per channel of y: the squares of its weights summed over the taps go to shared memory, then one warp per image.
template <int N, typename T>
__device__ __forceinline__ void demodulate(const DemodulateParams& p) {
    float* const energy = reinterpret_cast<float*>(dynamic_smem);
    const T* const weight = static_cast<const T*>(p.weight) + u64(blockIdx.x) * p.taps * p.c;
    for (u32 channel = threadIdx.x * N; channel < p.c; channel += blockDim.x * N) {
        float sum[N] = {};
#pragma unroll 3
        for (u32 tap = 0; tap < p.taps; ++tap) {
            float w[N];
            load_floats(w, weight + u64(tap) * p.c + channel);
#pragma unroll
            for (int i = 0; i < N; ++i) sum[i] = fmaf(w[i], w[i], sum[i]);
        }
#pragma unroll
        for (int i = 0; i < N; ++i) energy[channel + i] = sum[i];
    }
    __syncthreads();
    const u32 lane = threadIdx.x % 32;
    for (u32 image = threadIdx.x / 32; image < p.n; image += blockDim.x / 32) {
        const T* const style = static_cast<const T*>(p.style) + u64(image) * p.c;
        float sum = 0.0f;
        for (u32 channel = lane * N; channel < p.c; channel += 32 * N) {
            float s[N];
            load_floats(s, style + channel);
#pragma unroll
            for (int i = 0; i < N; ++i) sum = fmaf(s[i] * s[i], energy[channel + i], sum);
        }
        sum = warp_sum(sum);
        if (lane == 0) static_cast<T*>(p.y)[u64(image) * p.k + blockIdx.x] = from_float<T>(1.0f / sqrtf(sum + p.epsilon));
    }
}

#define DEMODULATE(T)                                                                                                             \
    extern "C" __global__ void __launch_bounds__(128) modulated_conv2d_demodulate_##T(const __grid_constant__ DemodulateParams p) { \
        if (p.vector == u32(WIDTH<T>)) demodulate<WIDTH<T>, T>(p);                                                                \
        else demodulate<1, T>(p);                                                                                                 \
    }
DEMODULATE(f32)
DEMODULATE(bf16)
DEMODULATE(f16)

struct FlipWeightParams {
    const void* weight;
    void* y;
    u32 k, taps, c, unused;
};

template <typename T>
__device__ __forceinline__ void flip_weight(const FlipWeightParams& p, T (&tile)[32][33]) {
    const u32 column = threadIdx.x % 32, first = threadIdx.x / 32, tap = blockIdx.z;
    const u32 k0 = blockIdx.y * 32, c0 = blockIdx.x * 32;
    const T* weight = static_cast<const T*>(p.weight);
    T* y = static_cast<T*>(p.y);
    for (u32 row = first; row < 32; row += 8) {
        if (k0 + row < p.k && c0 + column < p.c) {
            tile[row][column] = weight[(u64(k0 + row) * p.taps + p.taps - 1 - tap) * p.c + c0 + column];
        }
    }
    __syncthreads();
    for (u32 row = first; row < 32; row += 8) {
        if (c0 + row < p.c && k0 + column < p.k) y[(u64(c0 + row) * p.taps + tap) * p.k + k0 + column] = tile[column][row];
    }
}

#define FLIP_WEIGHT(T)                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) modulated_conv2d_flip_weight_##T(const __grid_constant__ FlipWeightParams p) {   \
        __shared__ T tile[32][33];                                                                                               \
        flip_weight<T>(p, tile);                                                                                                        \
    }
FLIP_WEIGHT(f32)
FLIP_WEIGHT(bf16)
FLIP_WEIGHT(f16)
