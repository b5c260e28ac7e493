// The mobile inverted bottleneck (MBConv) without its expanded tensor: what a forward pass writes of it is the depthwise
// convolution's result, once.
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
//           (h, its norm, its activation, the convolution, its norm, its activation: six writes, six reads).
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

#include "common/activation.cuh"
#include "common/mainloop.cuh"
#include "common/warp.cuh"

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

// ------------------------------------------------------------------------------------------------ moments of rows

// What a lane holds of its rows: of 16-row blocks of a warp those at lane / 4 and eight below.
template <typename Tile>
struct RowMoments {
    float mean[Tile::BLOCKS_M][2], squares[Tile::BLOCKS_M][2];
};

template <typename Tile>
using RowParts = float[2][Tile::WARPS_N][Tile::M];

// Mean and sum of squares about it over the `cols` columns that exist of the block's tile. Columns beyond them are zero.
template <typename Tile>
__device__ __forceinline__ RowMoments<Tile> row_moments(const Accumulators<Tile>& c, int cols, RowParts<Tile>& parts) {
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, column = warp % Tile::WARPS_N;
    const int m = warp / Tile::WARPS_N * Tile::WARP_M + lane / 4, n = column * Tile::WARP_N + lane % 4 * 2;
    RowMoments<Tile> all;
#pragma unroll
    for (int pass = 0; pass < 2; ++pass) {
#pragma unroll
        for (int i = 0; i < Tile::BLOCKS_M; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float sum = 0.0f;
#pragma unroll
                for (int j = 0; j < Tile::BLOCKS_N; ++j) {
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        const float value = c[i][j][half * 2 + e];
                        if (pass == 0) {
                            sum += value;
                        } else if (n + j * 8 + e < cols) {
                            const float centred = value - all.mean[i][half];
                            sum = fmaf(centred, centred, sum);
                        }
                    }
                }
                sum = warp_sum<4>(sum);
                if (lane % 4 == 0) parts[pass][column][m + i * 16 + half * 8] = sum;
            }
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < Tile::BLOCKS_M; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float sum = 0.0f;
#pragma unroll
                for (int part = 0; part < Tile::WARPS_N; ++part) sum += parts[pass][part][m + i * 16 + half * 8];
                if (pass == 0) {
                    all.mean[i][half] = sum / float(cols);
                } else {
                    all.squares[i][half] = sum;
                }
            }
        }
    }
    return all;
}

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
    const RowMoments<Tile> of = row_moments<Tile>(c, s.cols, parts);
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    if (warp % Tile::WARPS_N != 0 || lane % 4 != 0) return;
    const int m = warp / Tile::WARPS_N * Tile::WARP_M + lane / 4;
    const u64 pixels = p.h * p.w, first = u64(s.slice) * p.images * pixels + s.image * pixels;
#pragma unroll
    for (int i = 0; i < Tile::BLOCKS_M; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = m + i * 16 + half * 8;
            if (row < s.rows) {
                *reinterpret_cast<float2*>(p.moments + (first + row) * 2) = make_float2(of.mean[i][half], of.squares[i][half]);
            }
        }
    }
}

// Mean and reciprocal deviation of a row of h, its slices joined in their order.
__device__ __forceinline__ float2 joined(const ExpandParams& p, u64 row, int slice_channels) {
    float count = 0.0f, mean = 0.0f, squares = 0.0f;
    const u64 rows = u64(p.images) * p.h * p.w;
#pragma unroll 4
    for (u32 slice = 0; slice < p.slices; ++slice) {
        const float2 of = *reinterpret_cast<const float2*>(p.moments + (slice * rows + row) * 2);
        const float more = float(min(int(p.hidden) - int(slice) * slice_channels, slice_channels));
        const float difference = of.x - mean, share = more / (count + more);
        squares += fmaf(difference * difference, count * share, of.y);
        mean = fmaf(difference, share, mean);
        count += more;
    }
    return make_float2(mean, 1.0f / sqrtf(squares / float(p.hidden) + p.eps));
}

// W channels from `tile`, weighted, into a sum.
template <int W>
__device__ __forceinline__ void add_tap(float (&sum)[W], const float (&x)[W], const float (&tap)[W]) {
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] = fmaf(x[i], tap[i], sum[i]);
}

// A row of results of a 3 x 3 kernel of stride 1: every pixel of the three rows around it is read once.
template <typename T, int W, int LD>
__device__ __forceinline__ void slide(T* to, const T* rows, const float (&tap)[9][W], bool above, bool below, u32 width, u64 c) {
    float before[W] = {}, here[W] = {};
#pragma unroll 1
    for (u32 j = 0; j < width; ++j) {
        float after[W] = {};
#pragma unroll
        for (int r = 0; r < 3; ++r) {
            if ((r == 0 && !above) || (r == 2 && !below)) continue;
            float x[W];
            load_floats(x, rows + (int(j) + (r - 1) * int(width)) * LD);
            add_tap(before, x, tap[r * 3 + 2]);
            add_tap(here, x, tap[r * 3 + 1]);
            add_tap(after, x, tap[r * 3]);
        }
        if (j > 0) store_floats(to + (j - 1) * c, before);
#pragma unroll
        for (int i = 0; i < W; ++i) before[i] = here[i], here[i] = after[i];
    }
    store_floats(to + (width - 1) * c, before);
}

// The depthwise convolution of the activated tile, rows of results warp by warp.
template <typename T, int W, int N, int LD>
__device__ __forceinline__ void depthwise(const ExpandParams& p, const Share& s, const T* tile) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, rows = s.images * p.oh;
    const int padding = int(p.side / 2);
    const u64 c = p.hidden;
#pragma unroll 1
    for (u32 col = lane * W; col < u32(s.cols); col += 32 * W) {
        const T* taps = static_cast<const T*>(p.taps) + s.channel + col;
        T* d = static_cast<T*>(p.d) + u64(s.image) * p.oh * p.ow * c + s.channel + col;
        if (p.side == 3 && p.stride == 1) {
            float tap[9][W];
#pragma unroll
            for (int i = 0; i < 9; ++i) load_floats(tap[i], taps + i * c);
#pragma unroll 1
            for (u32 row = warp; row < rows; row += WARPS) {
                const u32 i = row % p.oh;
                slide<T, W, LD>(d + row * p.ow * c, tile + row * p.w * LD + col, tap, i > 0, i + 1 < p.oh, p.ow, c);
            }
            continue;
        }
#pragma unroll 1
        for (u32 row = warp; row < rows; row += WARPS) {
            const T* image = tile + row / p.oh * p.h * p.w * LD + col;
            const int top = int(row % p.oh * p.stride) - padding;
#pragma unroll 1
            for (u32 j = 0; j < p.ow; ++j) {
                const int left = int(j * p.stride) - padding;
                float sum[W] = {};
#pragma unroll 1
                for (int r = 0; r < int(p.side); ++r) {
                    if (u32(top + r) >= p.h) continue;
#pragma unroll 1
                    for (int q = 0; q < int(p.side); ++q) {
                        if (u32(left + q) >= p.w) continue;
                        float x[W], tap[W];
                        load_floats(x, image + ((top + r) * p.w + left + q) * LD);
                        load_floats(tap, taps + (r * p.side + q) * c);
                        add_tap(sum, x, tap);
                    }
                }
                store_floats(d + (row * p.ow + j) * c, sum);
            }
        }
    }
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
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int m = warp / Tile::WARPS_N * Tile::WARP_M + lane / 4, n = warp % Tile::WARPS_N * Tile::WARP_N + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < Tile::BLOCKS_N; ++j) {
        float weight[2] = {1.0f, 1.0f}, bias[2] = {};
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int col = n + j * 8 + e;
            if (norm && col < s.cols) {
                weight[e] = to_float(static_cast<const T*>(p.norm_weight)[s.channel + col]);
                bias[e] = to_float(static_cast<const T*>(p.norm_bias)[s.channel + col]);
            }
        }
#pragma unroll
        for (int i = 0; i < Tile::BLOCKS_M; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = m + i * 16 + half * 8;
                const float2 of = norm_of[row];
                float v[2];
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    v[e] = activation<SILU>(fmaf((c[i][j][half * 2 + e] - of.x) * of.y, weight[e], bias[e]), 0.0f);
                }
                store_pair(tile + row * LD + n + j * 8, v[0], v[1]);
            }
        }
    }
    __syncthreads();
    if (p.four_channels) {
        depthwise<T, 4, Tile::N, LD>(p, s, tile);
    } else {
        depthwise<T, 1, Tile::N, LD>(p, s, tile);
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

// What lies in the staged tile, and the residual, to y.
template <int M, int N, int W, typename T>
__device__ __forceinline__ void store_rows(const ProjectParams& p, const T* tile, u64 corner, int rows, int cols) {
    constexpr int VECTORS = N / W, LD = N + TILE_PAD<T>;
#pragma unroll 1
    for (int i = int(threadIdx.x); i < M * VECTORS; i += THREADS) {
        const int row = i / VECTORS, col = i % VECTORS * W;
        if (row >= rows || col >= cols) continue;
        const u64 at = corner + u64(row) * p.out + col;
        float v[W];
        load_floats(v, tile + row * LD + col);
        if (p.residual != nullptr) {
            float residual[W];
            load_floats(residual, static_cast<const T*>(p.residual) + at);
#pragma unroll
            for (int j = 0; j < W; ++j) v[j] += residual[j];
        }
        store_floats(static_cast<T*>(p.y) + at, v);
    }
}

template <typename Tile>
__device__ __forceinline__ void project(const ProjectParams& p) {
    using T = typename Tile::T;
    constexpr int LD = Tile::N + TILE_PAD<T>;
    __shared__ RowParts<Tile> parts;
    const u64 first_row = u64(blockIdx.x / p.tiles) * Tile::M;
    const u32 first_col = blockIdx.x % p.tiles * Tile::N;
    const int rows = int(min(p.rows - first_row, u64(Tile::M))), cols = min(int(p.out - first_col), Tile::N);
    const Gated<Tile> a(p, first_row, rows);
    const MatrixOperand<Tile, true, Tile::N> b{static_cast<const T*>(p.weight) + u64(first_col) * p.c, p.c, cols, p.vector};
    Accumulators<Tile> c;
    mainloop<Tile, true, true>(c, reinterpret_cast<T*>(dynamic_smem), 0, int(p.c), a, b);

    const int n = int(threadIdx.x) / 32 * Tile::WARP_N + int(threadIdx.x) % 4 * 2, m = int(threadIdx.x) % 32 / 4;
    if (p.out_weight != nullptr) {
        // A row is in one block: the host sees to it.
        RowMoments<Tile> of = row_moments<Tile>(c, cols, parts);
#pragma unroll
        for (int i = 0; i < Tile::BLOCKS_M; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) of.squares[i][half] = 1.0f / sqrtf(of.squares[i][half] / float(cols) + p.out_eps);
        }
#pragma unroll
        for (int j = 0; j < Tile::BLOCKS_N; ++j) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int col = min(n + j * 8 + e, cols - 1);
                const float weight = to_float(static_cast<const T*>(p.out_weight)[col]);
                const float bias = to_float(static_cast<const T*>(p.out_bias)[col]);
#pragma unroll
                for (int i = 0; i < Tile::BLOCKS_M; ++i) {
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        float& v = c[i][j][half * 2 + e];
                        v = fmaf((v - of.mean[i][half]) * of.squares[i][half], weight, bias);
                    }
                }
            }
        }
    }
    T* tile = reinterpret_cast<T*>(dynamic_smem);
#pragma unroll
    for (int i = 0; i < Tile::BLOCKS_M; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::BLOCKS_N; ++j) {
            T* const to = tile + (m + i * 16) * LD + n + j * 8;
            store_pair(to, c[i][j][0], c[i][j][1]);
            store_pair(to + 8 * LD, c[i][j][2], c[i][j][3]);
        }
    }
    __syncthreads();
    const u64 corner = first_row * p.out + first_col;
    if (p.aligned_out) {
        store_rows<Tile::M, Tile::N, WIDTH<T>>(p, tile, corner, rows, cols);
    } else {
        store_rows<Tile::M, Tile::N, 1>(p, tile, corner, rows, cols);
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
