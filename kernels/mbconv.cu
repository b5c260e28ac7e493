// The mobile inverted bottleneck (MBConv) without its expanded tensor: what a forward pass writes of it is the depthwise
// convolution's result, once. mbconv_sm90.cu is one kernel for 16-bit types on Hopper.
//
//   expand_moments   mean and sum of squares about it of every 128 channels of every row of h = x weightᵀ; h is not stored
//   expand_fwd       d = depthwise(silu(norm(h))), h recomputed
//   squeeze_fwd      pooled = mean over pixels of silu(norm(d)), and mean and reciprocal deviation of every row of d
//   project_fwd      y = norm((silu(norm(d)) ∘ gate) weightᵀ) + residual
//
// norm is a layer normalisation over channels, (v − mean) / √(variance + eps) · weight + bias, or nothing. Without one,
// expand_moments has nothing to do.
//
// Shapes    x: images x h x w x inputs, expansion's weight: hidden x inputs, taps: side x side x hidden, d: images x oh x ow x
//           hidden, pooled, gate: images x hidden, projection's weight: out x hidden, y, residual: images x oh x ow x out.
// Types     f32, bf16, f16 in memory, f32 arithmetic. f32 operands by 3xTF32, or by TF32 (`_tf32`).
// Launch    expand: 256 threads; a block owns 128 channels of as many whole images as fit 128 rows (two of 8 x 8 pixels), so
//           that no neighbour of a depthwise window lies in another block. GEMM as in gemm.cu (128 x 128, three stages), the
//           activated tile in shared memory over the ring, each warp then slides along rows of it, four channels a lane.
//           squeeze: 256 threads and one block per image; a warp per row for the moments, then a thread per 16 bytes of channels.
//           project: 256 threads; 64 rows (f32: 32) times all columns, 512 at most (`n512`), or 128 where there are no more
//           (`n128`), so that every element is normalised and activated once, on its way from registers to shared memory, and
//           that a row's moments are at hand in the epilogue. Eight warps side by side, two stages.
// Traffic   of the hidden tensor, elements as often as they go by: d written, read, read: 3, where the separate kernels take 12
//           (h, its norm, its activation, the convolution, its norm, its activation: six writes, six reads). In bytes from
//           memory, 100 images of 8 x 8 pixels from 512 over 2048 to 512 channels in bf16: 113 MB instead of 365 MB. The emulator
//           counts 1.19 MB for 8 images from 64 over 256 to 64, whose separate kernels touch 3.69 MB.
// Limit     tensor cores: 2 rows inputs hidden FLOP for the expansion, the same again for its moments, 2 rows hidden out for the
//           projection.
// Rejected  the moments from x alone (Σ_c h_c² = x (weightᵀ weight) xᵀ): a quarter of the FLOP, but a product with its own
//           rounding: where weights are nearly dependent it loses the variance of 16-bit operands. Storing h with its moments: five
//           passes over the hidden tensor instead of three. The normalised activation in every block of columns of the
//           projection: two special functions an element and block, longer than the MMAs of 128 columns.
// Numerics  h, its norm and its activation are f32 until the tile is rounded once to the stored type; moments by two passes over
//           registers, slices of 128 channels joined in their order. expf within 2 ulp, divisions correctly rounded.
// Tail      rows and columns beyond a matrix are zero in shared memory, beyond hidden nothing is stored; channels that are no
//           multiple of four (in squeeze and project of 16 bytes) go one at a time.

#include "common/mbconv.cuh"

struct ExpandParams {
    const void *x, *weight;
    const void *norm_weight, *norm_bias;  // [hidden], or null
    float* moments;                       // [slices, rows, 2], or null
    const void* taps;
    void* d;
    u32 images, h, w, oh, ow;
    u32 side, stride;
    u32 inputs, hidden;
    u32 images_per_block;
    u32 slices;         // of 128 channels
    u32 vector;         // elements per copy of rows of x and weight
    u32 four_channels;  // hidden is a multiple of four
    float eps;
};

struct SqueezeParams {
    const void* d;
    const void *norm_weight, *norm_bias;  // [c], or null
    void* pooled;
    float* moments;  // [images, pixels, 2]: mean, reciprocal deviation
    u32 images, pixels, c;
    u32 aligned;  // c is a multiple of 16 bytes
    float eps;
    u32 unused;
};

struct ProjectParams {
    const void* d;
    const float* moments;
    const void *norm_weight, *norm_bias;  // [c], or null
    const void *gate, *weight;
    const void *out_weight, *out_bias;  // [out], or null
    const void* residual;               // as y, or null
    void* y;
    u64 rows;
    u32 pixels, c, out;
    u32 tiles;        // of columns
    u32 vector;       // elements per copy of rows of weight
    u32 aligned;      // rows of d are a multiple of 16 bytes
    u32 aligned_out;  // and those of y
    float out_eps;
};

constexpr int THREADS = 256, WARPS = THREADS / 32;

// ------------------------------------------------------------------------------------------------ expansion

// What a block of the expansion owns.
struct Share {
    u32 image, images;   // first, how many
    u32 slice, channel;  // first channel
    int rows, cols;      // that exist
};

__device__ __forceinline__ Share share(const ExpandParams& p, int n) {
    // Volatile, so that it is worked out again behind the main loop and takes none of its registers.
    u32 block;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
    Share s;
    s.slice = block % p.slices;
    s.image = block / p.slices * p.images_per_block;
    s.images = min(p.images - s.image, p.images_per_block);
    s.channel = s.slice * u32(n);
    s.rows = int(s.images * p.h * p.w);
    s.cols = min(int(p.hidden - s.channel), n);
    return s;
}

template <typename Tile>
__device__ __forceinline__ void expand(Accumulators<Tile>& c, const ExpandParams& p) {
    using T = typename Tile::T;
    const Share s = share(p, Tile::N);
    const T* x = static_cast<const T*>(p.x) + u64(s.image) * p.h * p.w * p.inputs;
    const T* weight = static_cast<const T*>(p.weight) + u64(s.channel) * p.inputs;
    const MatrixOperand<Tile, true, Tile::M> a{x, p.inputs, s.rows, p.vector};
    const MatrixOperand<Tile, true, Tile::N> b{weight, p.inputs, s.cols, p.vector};
    mainloop<Tile, true, true>(c, reinterpret_cast<T*>(dynamic_smem), 0, int(p.inputs), a, b);
}

template <typename Tile>
__device__ __forceinline__ void expand_moments(const ExpandParams& p) {
    __shared__ RowParts<Tile> parts;
    Accumulators<Tile> c;
    expand<Tile>(c, p);
    const Share s = share(p, Tile::N);
    const u64 first = (u64(s.slice) * p.images + s.image) * p.h * p.w;
    store_moments<Tile>(p.moments + first * 2, row_moments<Tile>(c, s.cols, parts), s.rows);
}

// Mean and reciprocal deviation of a row of h, its slices joined in their order.
__device__ __forceinline__ float2 joined(const ExpandParams& p, u64 row, int slice_channels) {
    Joined all;
    const u64 rows = u64(p.images) * p.h * p.w;
#pragma unroll 4
    for (u32 slice = 0; slice < p.slices; ++slice) {
        const float2 of = *reinterpret_cast<const float2*>(p.moments + (slice * rows + row) * 2);
        all.add(of, float(min(int(p.hidden) - int(slice) * slice_channels, slice_channels)));
    }
    return all.norm(p.eps);
}

template <typename Tile>
__device__ __forceinline__ void expand_fwd(const ExpandParams& p) {
    using T = typename Tile::T;
    constexpr int LD = Tile::N + TILE_PAD<T>;
    __shared__ float2 norm_of[Tile::M];  // mean, reciprocal deviation
    const bool norm = p.norm_weight != nullptr;
    if (threadIdx.x < Tile::M) {
        const Share s = share(p, Tile::N);
        const u64 row = u64(s.image) * p.h * p.w + threadIdx.x;
        norm_of[threadIdx.x] = norm && int(threadIdx.x) < s.rows ? joined(p, row, Tile::N) : make_float2(0.0f, 1.0f);
    }
    Accumulators<Tile> c;
    expand<Tile>(c, p);

    const Share s = share(p, Tile::N);
    T* tile = reinterpret_cast<T*>(dynamic_smem);
    const T* weight = norm ? static_cast<const T*>(p.norm_weight) + s.channel : nullptr;
    const T* bias = norm ? static_cast<const T*>(p.norm_bias) + s.channel : nullptr;
    activate_tile<Tile, LD>(tile, c, norm_of, weight, bias, s.cols);
    __syncthreads();
    const Windows windows{p.h, p.w, p.oh, p.ow, p.side, p.stride};
    const T* taps = static_cast<const T*>(p.taps) + s.channel;
    T* d = static_cast<T*>(p.d) + u64(s.image) * p.oh * p.ow * p.hidden + s.channel;
    if (p.four_channels) {
        depthwise<T, 4, LD, WARPS>(windows, s.images, s.cols, taps, p.hidden, tile, d, p.hidden);
    } else {
        depthwise<T, 1, LD, WARPS>(windows, s.images, s.cols, taps, p.hidden, tile, d, p.hidden);
    }
}

// ------------------------------------------------------------------------------------------------ squeeze

template <typename T, int W>
__device__ __forceinline__ void squeeze(const SqueezeParams& p) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const T* d = static_cast<const T*>(p.d) + u64(blockIdx.x) * p.pixels * p.c;
    float* moments = p.moments + u64(blockIdx.x) * p.pixels * 2;
    const bool norm = p.norm_weight != nullptr;
#pragma unroll 1
    for (u32 pixel = warp; pixel < p.pixels; pixel += WARPS) {
        float2 of = make_float2(0.0f, 1.0f);
        if (norm) {
            const T* row = d + u64(pixel) * p.c;
            float sum = 0.0f;
            for (u32 col = lane * W; col < p.c; col += 32 * W) {
                float x[W];
                load_floats(x, row + col);
#pragma unroll
                for (int i = 0; i < W; ++i) sum += x[i];
            }
            of.x = warp_sum(sum) / float(p.c);
            float squares = 0.0f;
            for (u32 col = lane * W; col < p.c; col += 32 * W) {
                float x[W];
                load_floats(x, row + col);
#pragma unroll
                for (int i = 0; i < W; ++i) squares = fmaf(x[i] - of.x, x[i] - of.x, squares);
            }
            of.y = 1.0f / sqrtf(warp_sum(squares) / float(p.c) + p.eps);
        }
        if (lane == 0) *reinterpret_cast<float2*>(moments + pixel * 2) = of;
    }
    __syncthreads();
#pragma unroll 1
    for (u32 col = threadIdx.x * W; col < p.c; col += THREADS * W) {
        float weight[W], bias[W], sum[W];
#pragma unroll
        for (int i = 0; i < W; ++i) weight[i] = 1.0f, bias[i] = sum[i] = 0.0f;
        if (norm) {
            load_floats(weight, static_cast<const T*>(p.norm_weight) + col);
            load_floats(bias, static_cast<const T*>(p.norm_bias) + col);
        }
#pragma unroll 4
        for (u32 pixel = 0; pixel < p.pixels; ++pixel) {
            const float2 of = *reinterpret_cast<const float2*>(moments + pixel * 2);
            float x[W];
            load_floats(x, d + u64(pixel) * p.c + col);
#pragma unroll
            for (int i = 0; i < W; ++i) sum[i] += activation<SILU>(fmaf((x[i] - of.x) * of.y, weight[i], bias[i]), 0.0f);
        }
#pragma unroll
        for (int i = 0; i < W; ++i) sum[i] /= float(p.pixels);
        store_floats(static_cast<T*>(p.pooled) + u64(blockIdx.x) * p.c + col, sum);
    }
}

// ------------------------------------------------------------------------------------------------ projection

// Warps side by side, so that each has all rows; two stages, so that two blocks of 128 columns share an SM and 512 columns fit
// the shared memory of every device.
template <typename P, int M, int N>
struct ProjectTile : Tile<P, M, N, 1, WARPS> {
    static constexpr int STAGES = 2;
    static constexpr int MIN_BLOCKS_PER_SM = N > 128 ? 1 : 2;
};

// silu(norm(d)) ∘ gate, made between registers and shared memory; a step's values are loaded while the step before is multiplied.
template <typename Tile>
struct Gated {
    using T = typename Tile::T;
    static constexpr int W = WIDTH<T>, LD = Tile::template LD<true, Tile::M>, VECTORS = Tile::K / W;

    const ProjectParams& p;
    const T *d, *gate;  // of this thread's row
    float2 of;
    int row, col;
    bool there;
    mutable Vector<T, W> value, by, weight, bias;

    __device__ __forceinline__ Gated(const ProjectParams& p, u64 first_row, int rows) : p(p) {
        row = int(threadIdx.x) / VECTORS;
        col = int(threadIdx.x) % VECTORS * W;
        there = row < min(rows, Tile::M);
        const u64 at = first_row + (there ? row : 0);
        d = static_cast<const T*>(p.d) + at * p.c;
        gate = static_cast<const T*>(p.gate) + at / p.pixels * p.c;
        of = *reinterpret_cast<const float2*>(p.moments + at * 2);
        fetch(0);
    }

    // What `load` of step `k` will need.
    __device__ __forceinline__ void fetch(int k) const {
        if (!p.aligned || !there || k + col >= int(p.c)) return;
        value = load_vector<T, W>(d + k + col);
        by = load_vector<T, W>(gate + k + col);
        if (p.norm_weight != nullptr) {
            weight = load_vector<T, W>(static_cast<const T*>(p.norm_weight) + k + col);
            bias = load_vector<T, W>(static_cast<const T*>(p.norm_bias) + k + col);
        }
    }

    __device__ __forceinline__ float gated(T value, T by, T weight, T bias) const {
        float v = to_float(value);
        if (p.norm_weight != nullptr) v = fmaf((v - of.x) * of.y, to_float(weight), to_float(bias));
        return activation<SILU>(v, 0.0f) * to_float(by);
    }

    __device__ __forceinline__ void load(T* tile, int k, int end) const {
        if (row >= Tile::M) return;
        T* to = tile + row * LD + col;
        if (p.aligned) {
            Vector<T, W> made;
#pragma unroll
            for (int i = 0; i < W; ++i) {
                const bool exists = there && k + col < end;
                made.at[i] = from_float<T>(exists ? gated(value.at[i], by.at[i], weight.at[i], bias.at[i]) : 0.0f);
            }
            store_vector<T, W>(to, made);
            fetch(k + Tile::K);
        } else {
#pragma unroll 1
            for (int i = 0; i < W; ++i) {
                const int at = k + col + i;
                float v = 0.0f;
                if (there && at < end) {
                    const bool norm = p.norm_weight != nullptr;
                    const T weight = norm ? static_cast<const T*>(p.norm_weight)[at] : T{};
                    v = gated(d[at], gate[at], weight, norm ? static_cast<const T*>(p.norm_bias)[at] : T{});
                }
                to[i] = from_float<T>(v);
            }
        }
    }
};

template <typename Tile>
__device__ __forceinline__ void project(const ProjectParams& p) {
    using T = typename Tile::T;
    __shared__ RowParts<Tile> parts;
    const u64 first_row = u64(blockIdx.x / p.tiles) * Tile::M;
    const u32 first_col = blockIdx.x % p.tiles * Tile::N;
    const int rows = int(min(p.rows - first_row, u64(Tile::M))), cols = min(int(p.out - first_col), Tile::N);
    const Gated<Tile> a(p, first_row, rows);
    const MatrixOperand<Tile, true, Tile::N> b{static_cast<const T*>(p.weight) + u64(first_col) * p.c, p.c, cols, p.vector};
    Accumulators<Tile> c;
    mainloop<Tile, true, true>(c, reinterpret_cast<T*>(dynamic_smem), 0, int(p.c), a, b);

    if (p.out_weight != nullptr) {
        // A row is in one block: the host sees to it.
        const RowMoments<Tile> of = row_moments<Tile>(c, cols, parts);
        normalise<Tile>(c, static_cast<const T*>(p.out_weight), static_cast<const T*>(p.out_bias), cols, [&](int i, int half) {
            return make_float2(of.mean[i][half], 1.0f / sqrtf(of.squares[i][half] / float(cols) + p.out_eps));
        });
    }
    T* tile = reinterpret_cast<T*>(dynamic_smem);
    stage_results<Tile>(tile, c);
    __syncthreads();
    const u64 corner = first_row * p.out + first_col;
    T* y = static_cast<T*>(p.y) + corner;
    const T* residual = p.residual == nullptr ? nullptr : static_cast<const T*>(p.residual) + corner;
    if (p.aligned_out) {
        store_results<Tile, WIDTH<T>>(tile, y, residual, p.out, rows, cols);
    } else {
        store_results<Tile, 1>(tile, y, residual, p.out, rows, cols);
    }
}

// ------------------------------------------------------------------------------------------------ entries

#define ENTRY(NAME, TILE, PARAMS, FUNCTION)                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, TILE::MIN_BLOCKS_PER_SM)                   \
        mbconv_##NAME(const __grid_constant__ PARAMS p) {                                            \
        FUNCTION<TILE>(p);                                                                           \
    }

// Rows of a block of the projection: 3xTF32's fragments leave no registers for 64, and the result of 64 f32 rows no memory.
#define PRODUCTS(NAME, T, MATH, ROWS)                                                                \
    using Expand_##NAME = Tile128x128<Mma<T, MATH>>;                                                 \
    using Narrow_##NAME = ProjectTile<Mma<T, MATH>, ROWS, 128>;                                      \
    using Wide_##NAME = ProjectTile<Mma<T, MATH>, ROWS, 512>;                                        \
    ENTRY(expand_moments_##NAME, Expand_##NAME, ExpandParams, expand_moments)                        \
    ENTRY(expand_fwd_##NAME, Expand_##NAME, ExpandParams, expand_fwd)                                \
    ENTRY(project_n128_fwd_##NAME, Narrow_##NAME, ProjectParams, project)                            \
    ENTRY(project_n512_fwd_##NAME, Wide_##NAME, ProjectParams, project)

PRODUCTS(f32, f32, TF32X3, 32)
PRODUCTS(tf32_f32, f32, TF32, 32)
PRODUCTS(bf16, bf16, NATIVE, 64)
PRODUCTS(f16, f16, NATIVE, 64)

#define SQUEEZE(T)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS) mbconv_squeeze_fwd_##T(const __grid_constant__ SqueezeParams p) { \
        if (p.aligned) {                                                                                                 \
            squeeze<T, WIDTH<T>>(p);                                                                                     \
        } else {                                                                                                         \
            squeeze<T, 1>(p);                                                                                            \
        }                                                                                                                \
    }

SQUEEZE(f32)
SQUEEZE(bf16)
SQUEEZE(f16)
