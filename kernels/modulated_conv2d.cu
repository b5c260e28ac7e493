// The convolutions inside a modulated one: what is read is scaled per image and channel, and so is what is written.
//
//     fwd       y_i = written_i ∘ conv(x_i ∘ read_i, weight)         style and demodulation around a convolution
//     up        y_i = written_i ∘ convᵀ(x_i ∘ read_i, weight)        the same around a transposed one; also fwd's input gradient
//     enlarge   y_i = written_i ∘ (convᵀ(x_i ∘ read_i, weight) * filter)
//     demodulate    written[i,k] = (Σ_c read[i,c]² Σ_t weight[k,t,c]² + epsilon)^(−1/2)
//     turn_kernel   y[c,t,k] = weight[k, taps − 1 − t, c]            the weight with which convᵀ enlarges
//
// Shapes    fwd, up: as conv2d.cu's forward map and input gradient, groups 1; read: n x channels of x, written: n x channels of y, or
//           none. enlarge: weight as fwd's, k 3 3 c, turned on the way; twice the size; a filter of 4 x 4 taps that is a column
//           times a row. Other filters are upfirdn2d's: factors per channel pass through them. turn_kernel: weight k taps c,
//           y c taps k; taps = r s, turned by half.
// Epilogue  of y: common/epilogue.cuh, after the factors; fwd, up and enlarge.
// Types     f32, bf16, f16. f32 is multiplied in three TF32 products, or in one (`_tf32`); turn_kernel moves what it finds.
// Launch    fwd, up: as conv2d.cu, but an element of x goes through registers to meet its factor. turn_kernel: 256 threads, a block
//           turns 32 k by 32 c of one tap through shared memory; grid = (tiles of c, tiles of k, taps).
//           enlarge: 128 threads a square of 16 x 16 pixels by 64 channels: its four classes of pixels are four products one
//           after another on the small tile, which meet in shared memory; of it the filter makes 13 x 13 pixels of y.
//           demodulate: 128 threads a channel of y; grid = channels of y.
// Limit     tensor cores as conv2d.cu; two passes over each of x and y fewer than with the factors applied on their own.
//           enlarge multiplies (16/13)² = 1.51 times as often as up, 9 c k times a pixel of x, and spares a store and a load of 4 k
//           elements for it: it pays while 0.51 · 18 c < 8 · element bytes · balance, `balance` the FLOP in the time of a byte
//           (128 in 16 bits: some 220 channels; 21 in f32: some 70). `at_once` in modulated_conv2d/enlarged.rs decides.
//           demodulate reads the weight once; the styles come from L2 for every channel.
// Rejected  scaling the weight instead, a copy per image: k r s c elements each, more than x itself at low resolutions. Scaling
//           fragments: each of them then needs its channel's factor again from shared memory. Holding the next step's elements in
//           registers over the products of this one: 16 more of them, one block less on a multiprocessor, which is what hides
//           their latency now. The filter folded into the weight, 6 x 6 taps in four phases of 3 x 3: 36 c k products a pixel of x
//           where enlarge has 13.6, to save the same bytes.
// Numerics  x ∘ read is rounded to the stored type, as if it had been stored, and so is what enlarge filters; the sums are scaled
//           in f32 and rounded once. Where the inner axis is split each part is scaled.
// Tail      as conv2d.cu; enlarge's squares beyond the image read zeros and store nothing; turn_kernel's tiles at the edges are
//           partly empty.

#include "common/conv.cuh"
#include "common/warp.cuh"

struct StyledParams {
    ConvParams conv;
    const void* read;
    const void* written;  // or null
};

template <typename Tile>
__device__ __forceinline__ void styled_forward(const StyledParams& p) {
    using T = typename Tile::T;
    conv_forward<Tile, true>(p.conv, {static_cast<const T*>(p.read), static_cast<const T*>(p.written)});
}

template <typename Tile>
__device__ __forceinline__ void styled_transposed(const StyledParams& p) {
    using T = typename Tile::T;
    conv_input_gradient<Tile, true>(p.conv, {static_cast<const T*>(p.read), static_cast<const T*>(p.written)});
}

#define STYLED(ROLE, MAP, TILE, SIZE, NAME, T, EXACT)                                              \
    extern "C" __global__ void __launch_bounds__(TILE<Product<T COMMA EXACT>>::THREADS, TILE<Product<T COMMA EXACT>>::RESIDENT) \
        modulated_conv2d_##ROLE##_##SIZE##_##NAME(const __grid_constant__ StyledParams p) {        \
        MAP<TILE<Product<T COMMA EXACT>>>(p);                                                      \
    }
#define COMMA ,

#define STYLED_SIZES(ROLE, MAP, NAME, T, EXACT)         \
    STYLED(ROLE, MAP, LargeTile, large, NAME, T, EXACT) \
    STYLED(ROLE, MAP, SmallTile, small, NAME, T, EXACT)

#define STYLED_TYPES(ROLE, MAP)                \
    STYLED_SIZES(ROLE, MAP, bf16, bf16, false) \
    STYLED_SIZES(ROLE, MAP, f16, f16, false)   \
    STYLED_SIZES(ROLE, MAP, f32, f32, true)    \
    STYLED_SIZES(ROLE, MAP, tf32_f32, f32, false)

STYLED_TYPES(fwd, styled_forward)
STYLED_TYPES(up, styled_transposed)
MERGES(modulated_conv2d, EPILOGUE)

// ------------------------------------------------------------------------------------------------ enlarging at once

// A square of the enlarged image before it is filtered, in shared memory, and the square of y that a filter of four taps a side
// makes of it.
constexpr int PATCH = 16, FIR = 4, KEPT = PATCH - FIR + 1;

struct EnlargeParams {
    ConvParams conv;  // x: n h w c, weight: k 3 3 c, y: n oh ow k; tiles_m: squares, tiles_n: 64 channels of y each
    const void* read;
    const void* written;  // or null
    u32 squares_h, squares_w;
    i32 before;        // pixels by which the filter's window begins above and left of its pixel
    u32 unused;
    float taps[2 * FIR];  // the column, then the row, as a correlation has them
};

// B of a class of pixels: inner index (tap, channel of x), column channel of y. The taps are every second of the kernel's.
template <typename Tile>
struct WeightRows {
    using T = typename Tile::T;
    const T* weight;  // the tile's first channel of y
    u32 first_r, first_s;
    Divisor channels;
    TapDivisor taps;
    int cols;
    u32 vector;

    __device__ __forceinline__ void load(T* tile, int k, int end) const {
        with_copy_width<T>(vector, [&](auto width) { copy<width.value>(tile, k, end); });
    }

    template <int VEC>
    __device__ __forceinline__ void copy(T* tile, int k, int end) const {
        constexpr int LINE = Tile::template LINE<true, Tile::N>;
        for_each_vector<VEC, Tile::N, Tile::K, Tile::THREADS>([&](int line, int col) {
            const u32 inner = u32(k + col), tap = channels.divide(inner), channel = inner - tap * channels.value;
            const u32 tap_h = taps.divide(tap), tap_w = tap - tap_h * taps.value;
            const u32 index = (first_r + 2 * tap_h) * 3 + first_s + 2 * tap_w;
            const bool there = int(inner) < end && line < cols;
            const u64 at = (u64(line) * 9 + index) * channels.value + channel;
            copy_elements<VEC>(tile + line * LINE + col, there ? weight + at : weight, there);
        });
    }
};

template <typename Tile>
__device__ __forceinline__ void enlarge(const EnlargeParams& e) {
    using T = typename Tile::T;
    static_assert(Tile::M == PATCH / 2 * (PATCH / 2));
    const ConvParams& p = e.conv;
    const TilePlace place = tile_place(p.tiles_m, p.tiles_n);
    const u32 across = place.m / e.squares_w, sample = across / e.squares_h, first = place.n * Tile::N;
    const int top = int(across - sample * e.squares_h) * KEPT, left = int(place.m - across * e.squares_w) * KEPT;
    const int cols = int(p.k - first);
    T* const patch = ring_of<Tile>() + Tile::STAGES * Tile::template STAGE<true, true>;
    Window* windows = reinterpret_cast<Window*>(block_memory);
    if (threadIdx.x < Tile::M) samples_of<Tile>()[threadIdx.x] = sample;

    // Pixels by the parity of row and column: each class meets its own taps alone, which see neighbouring pixels of x.
#pragma unroll 1
    for (int part = 0; part < 4; ++part) {
        const int row0 = top - e.before + part / 2, column0 = left - e.before + part % 2;
        const u32 odd_h = row0 & 1, odd_w = column0 & 1, taps_h = 2 - odd_h, taps_w = 2 - odd_w;
        if (threadIdx.x < Tile::M) {
            const int row = row0 + int(threadIdx.x) / (PATCH / 2) * 2, column = column0 + int(threadIdx.x) % (PATCH / 2) * 2;
            windows[threadIdx.x] = {u64(sample) * p.h * p.w * p.c, (row >> 1) - int(1 - odd_h), (column >> 1) - int(1 - odd_w)};
        }
        __syncthreads();
        const TapDivisor taps(taps_w);
        const GatheredRows<Tile, true> a{static_cast<const T*>(p.a), static_cast<const T*>(e.read), windows, int(p.h), int(p.w), p.c, 1, 1,
                                         p.channels, taps, p.a_vector};
        const WeightRows<Tile> b{static_cast<const T*>(p.b) + u64(first) * 9 * p.c, odd_h, odd_w, p.channels, taps, cols, p.b_vector};
        Accumulators<Tile> c;
        multiply<Tile, true, true>(c, ring_of<Tile>(), 0, int(taps_h * taps_w * p.c), a, b);
        for_each_four<Tile>(c, ring_of<Tile>(), [&](int row, int col, const float4& v) {
            const float values[4] = {v.x, v.y, v.z, v.w};
            const int pixel = (row / (PATCH / 2) * 2 + part / 2) * PATCH + row % (PATCH / 2) * 2 + part % 2;
            store_floats(patch + pixel * Tile::N + col, values);
        });
        __syncthreads();
    }

    // Two columns of y and four channels a thread, down the square: every row is filtered along itself once.
    const int col = int(threadIdx.x) % (Tile::N / 4) * 4, column = int(threadIdx.x) / (Tile::N / 4) * 2;
    if (column >= KEPT || col >= cols) return;
    float factor[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    const bool whole = p.y_vector == 4;
    if (e.written != nullptr) load_some(factor, static_cast<const T*>(e.written) + u64(sample) * p.k + first + col, cols - col, whole);
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
            if (column + next >= KEPT || y_column >= int(p.ow)) continue;
            float values[4] = {};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
#pragma unroll
                for (int i = 0; i < FIR; ++i) values[j] = fmaf(e.taps[i], along[i][next][j], values[j]);
                values[j] *= factor[j];
            }
            const u64 pixel = (u64(sample) * p.oh + y_row) * p.ow + y_column, at = pixel * p.k + first + col;
            finish<T>(p.epilogue, pixel, first + col, at, cols - col, whole, values);
            store_four(static_cast<T*>(p.y) + at, values, cols - col, whole);
        }
    }
}

#define ENLARGE(NAME, T, EXACT)                                                                                       \
    extern "C" __global__ void __launch_bounds__(SmallTile<Product<T COMMA EXACT>>::THREADS, 2)                     \
        modulated_conv2d_enlarge_##NAME(const __grid_constant__ EnlargeParams p) {                                   \
        enlarge<SmallTile<Product<T COMMA EXACT>>>(p);                                                               \
    }
ENLARGE(bf16, bf16, false)
ENLARGE(f16, f16, false)
ENLARGE(f32, f32, true)
ENLARGE(tf32_f32, f32, false)

// ------------------------------------------------------------------------------------------------ factors, weights

struct DemodulateParams {
    const void* weight;  // [k, taps, c]
    const void* style;   // [n, c]
    void* y;             // [n, k]
    u32 n, k, taps, c;
    u32 vector;  // channels of a load
    float epsilon;
};

// A block a channel of y: the squares of its weights summed over the taps go to shared memory, then a warp an image.
template <int N, typename T>
__device__ __forceinline__ void demodulate(const DemodulateParams& p) {
    float* const energy = reinterpret_cast<float*>(block_memory);
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

struct TurnParams {
    const void* weight;
    void* y;
    u32 k, taps, c, unused;
};

template <typename T>
__device__ __forceinline__ void turn(const TurnParams& p, T (&tile)[32][33]) {
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

#define TURN(T)                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) modulated_conv2d_turn_kernel_##T(const __grid_constant__ TurnParams p) {   \
        __shared__ T tile[32][33];                                                                                               \
        turn<T>(p, tile);                                                                                                        \
    }
TURN(f32)
TURN(bf16)
TURN(f16)
