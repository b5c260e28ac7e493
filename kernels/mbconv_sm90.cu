// mbconv.cu's three passes and the gate between them as one kernel for compute capability 9.0: what is read is x, the weights and
// the residual, what is written is y.
//
//   h = x weightᵀ, d = depthwise(silu(norm(h))), s = silu(norm(d)), gate = sigmoid(excite(silu(reduce(mean of s over pixels)))),
//   y = norm((s ∘ gate) projectᵀ) + residual
//
// Shapes    as in mbconv.cu; reduce: squeeze x hidden and its bias, excite: hidden x squeeze and its bias.
// Types     bf16, f16 in memory, f32 arithmetic.
// Launch    a cluster of 8 blocks (`c8`: hidden up to 2048) or 4 (`c4`: up to 1024) of 256 threads owns as many whole images as fit
//           128 rows, 8 at most. A block owns 256 hidden channels of all of them, from the expansion to the gate, then a share of
//           the columns of y (512 / cluster). Through the cluster's shared memory go: moments of rows (three times), the partial
//           sums of `reduce`, and at last the gated tensor, from which every block reads all channels for its columns.
//           GEMMs by mma.sync as in gemm.cu, 128 x 256 and 128 x 64 (c4: 128 x 128), three stages.
// Traffic   of the hidden tensor nothing in global memory; weights once per cluster, from L2. In bytes from memory, 100 images of
//           8 x 8 pixels from 512 over 2048 to 512 channels: 18 MB, where mbconv.cu moves 113 and the separate kernels 365.
// Limit     tensor cores: 2 rows hidden (inputs + out) FLOP, less than two thirds of what mbconv.cu's passes multiply.
// Rejected  partial products of all columns per block, added over the cluster: 128 x 512 sums of 4 bytes from each block, against
//           128 x 256 elements of 2 bytes.
// Numerics  as mbconv.cu; the activated tensors are rounded where mbconv.cu's tile and d are, and once more with the gate.
// Tail      inputs, hidden and out are multiples of 8. Blocks whose channels or columns do not exist take part in barriers alone.

#include "common/cluster.cuh"
#include "common/mbconv.cuh"

struct BlockParams {
    const void *x, *weight, *taps;
    const void *reduce, *reduce_bias, *excite, *excite_bias;
    const void* project;
    const void *norm0_weight, *norm0_bias;  // [hidden], or null
    const void *norm1_weight, *norm1_bias;  // as these
    const void *norm2_weight, *norm2_bias;  // [out], or null
    const void* residual;                   // as y, or null
    void* y;
    u32 images, h, w, oh, ow;
    u32 side, stride;
    u32 inputs, hidden, squeeze, out;
    u32 images_per_block;
    float eps0, eps1, eps2;
    u32 unused;
};

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int ROWS = 128, CHANNELS = 256, LD = CHANNELS + 8;
constexpr int MOST_IMAGES = 8, MOST_SQUEEZE = 256;
constexpr int RING_BYTES = 3 * (ROWS + CHANNELS) * 80;  // of the expansion: the larger of both, and than the activated tile

template <typename P>
struct ExpandTile : Tile<P, ROWS, CHANNELS, 2, 4> {
    static constexpr int MIN_BLOCKS_PER_SM = 1;
};

// Small things; their places are the same in every block of the cluster.
struct Held {
    float pooled[MOST_IMAGES][CHANNELS];  // then gates
    float partial[MOST_IMAGES][MOST_SQUEEZE];
    float reduced[MOST_IMAGES][MOST_SQUEEZE];
    float moments[3][ROWS][2];
    float2 norm_of[ROWS];
};

// Mean and reciprocal deviation of rows whose moments lie in the blocks of the cluster, `each` of `total` columns in one.
template <int CLUSTER>
__device__ __forceinline__ void join(Held& held, int which, int rows, int total, int each, float eps) {
    cluster_sync();
    const int row = int(threadIdx.x);
    if (row < rows) {
        Joined all;
        for (int rank = 0; rank < CLUSTER && rank * each < total; ++rank) {
            all.add(load_cluster_float2(shared_of(held.moments[which][row], rank)), float(min(total - rank * each, each)));
        }
        held.norm_of[row] = all.norm(eps);
    }
    __syncthreads();
}

// The gated tensor as it lies in the blocks of the cluster; a step's values are loaded while the step before is multiplied.
template <typename Tile>
struct OfCluster {
    using T = typename Tile::T;
    static constexpr int W = WIDTH<T>, VECTORS = Tile::K / W, EACH = Tile::M * VECTORS / Tile::THREADS;

    const T* mine;
    int rows, channels;
    mutable uint4 values[EACH];

    __device__ __forceinline__ OfCluster(const T* mine, int rows, int channels) : mine(mine), rows(rows), channels(channels) { fetch(0); }

    __device__ __forceinline__ void fetch(int k) const {
        const int channel = k + int(threadIdx.x) % VECTORS * W;
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int row = int(threadIdx.x) / VECTORS + i * (Tile::THREADS / VECTORS);
            values[i] = make_uint4(0, 0, 0, 0);
            if (row < rows && channel < channels) {
                values[i] = load_cluster_16(shared_of(mine + row * LD + channel % CHANNELS, channel / CHANNELS));
            }
        }
    }

    __device__ __forceinline__ void load(T* tile, int k, int) const {
        constexpr int TILE_LD = Tile::template LD<true, Tile::M>;
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int row = int(threadIdx.x) / VECTORS + i * (Tile::THREADS / VECTORS);
            *reinterpret_cast<uint4*>(tile + row * TILE_LD + int(threadIdx.x) % VECTORS * W) = values[i];
        }
        fetch(k + Tile::K);
    }
};

template <typename M, int CLUSTER>
__device__ __forceinline__ void block(const BlockParams& p) {
    using T = typename M::T;
    using Expand = ExpandTile<M>;
    using Out = Tile<M, ROWS, 512 / CLUSTER, 4, 2>;
    constexpr int W = WIDTH<T>;
    __shared__ Held held;
    __shared__ union {
        RowParts<Expand> expand;
        RowParts<Out> out;
    } parts;
    T* const ring = reinterpret_cast<T*>(dynamic_smem);
    T* const d = reinterpret_cast<T*>(dynamic_smem + RING_BYTES);  // [ROWS][LD]
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const u32 rank = cluster_rank();
    const u32 image = blockIdx.x / CLUSTER * p.images_per_block, images = min(p.images - image, p.images_per_block);
    const int rows = int(images * p.h * p.w), d_rows = int(images * p.oh * p.ow);
    const int cols = max(min(int(p.hidden) - int(rank) * CHANNELS, CHANNELS), 0);
    const u64 channel = cols > 0 ? rank * CHANNELS : 0;

    {
        Accumulators<Expand> c;
        const T* x = static_cast<const T*>(p.x) + u64(image) * p.h * p.w * p.inputs;
        const MatrixOperand<Expand, true, ROWS> a{x, p.inputs, rows, u32(W)};
        const MatrixOperand<Expand, true, CHANNELS> b{static_cast<const T*>(p.weight) + channel * p.inputs, p.inputs, cols, u32(W)};
        mainloop<Expand, true, true>(c, ring, 0, int(p.inputs), a, b);
        const bool norm = p.norm0_weight != nullptr;
        if (int(threadIdx.x) < ROWS) held.norm_of[threadIdx.x] = make_float2(0.0f, 1.0f);
        if (norm) {
            store_moments<Expand>(held.moments[0][0], row_moments<Expand>(c, max(cols, 1), parts.expand), rows);
            join<CLUSTER>(held, 0, rows, int(p.hidden), CHANNELS, p.eps0);
        } else {
            __syncthreads();
        }
        const T* weight = norm ? static_cast<const T*>(p.norm0_weight) + channel : nullptr;
        const T* bias = norm ? static_cast<const T*>(p.norm0_bias) + channel : nullptr;
        activate_tile<Expand, LD>(ring, c, held.norm_of, weight, bias, cols);
    }
    __syncthreads();
    const Windows windows{p.h, p.w, p.oh, p.ow, p.side, p.stride};
    depthwise<T, 4, LD, WARPS>(windows, images, cols, static_cast<const T*>(p.taps) + channel, p.hidden, ring, d, LD);
    __syncthreads();

    const bool norm = p.norm1_weight != nullptr;
    if (norm) {
        for (int row = warp; row < d_rows; row += WARPS) {
            float x[W] = {}, sum = 0.0f, squares = 0.0f;
            const bool there = lane * W < cols;
            if (there) load_floats(x, d + row * LD + lane * W);
#pragma unroll
            for (int i = 0; i < W; ++i) sum += x[i];
            const float mean = warp_sum(sum) / float(max(cols, 1));
#pragma unroll
            for (int i = 0; i < W; ++i) squares = fmaf(x[i] - mean, there ? x[i] - mean : 0.0f, squares);
            squares = warp_sum(squares);
            if (lane == 0) held.moments[1][row][0] = mean, held.moments[1][row][1] = squares;
        }
        join<CLUSTER>(held, 1, d_rows, int(p.hidden), CHANNELS, p.eps1);
    } else {
        if (int(threadIdx.x) < ROWS) held.norm_of[threadIdx.x] = make_float2(0.0f, 1.0f);
        __syncthreads();
    }

    // A thread per channel.
    const int own = int(threadIdx.x), pixels = int(p.oh * p.ow);
    if (own < cols) {
        const float weight = norm ? to_float(static_cast<const T*>(p.norm1_weight)[channel + own]) : 1.0f;
        const float bias = norm ? to_float(static_cast<const T*>(p.norm1_bias)[channel + own]) : 0.0f;
        for (u32 i = 0; i < images; ++i) {
            float sum = 0.0f;
#pragma unroll 4
            for (int row = int(i) * pixels; row < int(i + 1) * pixels; ++row) {
                const float2 of = held.norm_of[row];
                T& at = d[row * LD + own];
                const float s = activation<SILU>(fmaf((to_float(at) - of.x) * of.y, weight, bias), 0.0f);
                sum += s;
                at = from_float<T>(s);
            }
            held.pooled[i][own] = sum / float(pixels);
        }
    }
    __syncthreads();

    // What this block's channels give to the vectors between squeeze and excitation.
    for (int q = warp; q < int(p.squeeze); q += WARPS) {
        float weight[W] = {};
        if (lane * W < cols) load_floats(weight, static_cast<const T*>(p.reduce) + u64(q) * p.hidden + channel + lane * W);
        for (u32 i = 0; i < images; ++i) {
            float sum = 0.0f;
            if (lane * W < cols) {
#pragma unroll
                for (int j = 0; j < W; ++j) sum = fmaf(weight[j], held.pooled[i][lane * W + j], sum);
            }
            sum = warp_sum(sum);
            if (lane == 0) held.partial[i][q] = sum;
        }
    }
    cluster_sync();
    for (int i = int(threadIdx.x); i < int(images * p.squeeze); i += THREADS) {
        const int of = i / int(p.squeeze), q = i % int(p.squeeze);
        float sum = to_float(static_cast<const T*>(p.reduce_bias)[q]);
        for (int other = 0; other < CLUSTER && other * CHANNELS < int(p.hidden); ++other) {
            sum += load_cluster_float(shared_of(&held.partial[of][q], other));
        }
        held.reduced[of][q] = activation<SILU>(sum, 0.0f);
    }
    __syncthreads();
    for (int at = warp; at < cols; at += WARPS) {
        const T* weight = static_cast<const T*>(p.excite) + (channel + at) * p.squeeze;
        const float bias = to_float(static_cast<const T*>(p.excite_bias)[channel + at]);
        for (u32 i = 0; i < images; ++i) {
            float sum = 0.0f;
            for (int q = lane; q < int(p.squeeze); q += 32) sum = fmaf(to_float(weight[q]), held.reduced[i][q], sum);
            sum = warp_sum(sum);
            if (lane == 0) held.pooled[i][at] = sigmoid(sum + bias);
        }
    }
    __syncthreads();
    if (own < cols) {
        for (int row = 0; row < d_rows; ++row) {
            T& at = d[row * LD + own];
            at = from_float<T>(to_float(at) * held.pooled[row / pixels][own]);
        }
    }
    cluster_sync();

    // This block's columns of y.
    const int first = int(rank) * Out::N, out_cols = max(min(int(p.out) - first, Out::N), 0);
    const u64 column = out_cols > 0 ? first : 0;
    Accumulators<Out> c;
    const OfCluster<Out> a(d, d_rows, int(p.hidden));
    const MatrixOperand<Out, true, Out::N> b{static_cast<const T*>(p.project) + column * p.hidden, p.hidden, out_cols, u32(W)};
    mainloop<Out, true, true>(c, ring, 0, int(p.hidden), a, b);
    if (p.norm2_weight != nullptr) {
        store_moments<Out>(held.moments[2][0], row_moments<Out>(c, max(out_cols, 1), parts.out), d_rows);
        join<CLUSTER>(held, 2, d_rows, int(p.out), Out::N, p.eps2);
        const int m = warp / Out::WARPS_N * Out::WARP_M + lane / 4;
        if (out_cols > 0) {
            const T* weight = static_cast<const T*>(p.norm2_weight) + column;
            normalise<Out>(c, weight, static_cast<const T*>(p.norm2_bias) + column, out_cols, [&](int i, int half) {
                return held.norm_of[min(m + i * 16 + half * 8, d_rows - 1)];
            });
        }
    }
    stage_results<Out>(ring, c);
    __syncthreads();
    const u64 corner = u64(image) * pixels * p.out + column;
    const T* residual = p.residual == nullptr ? nullptr : static_cast<const T*>(p.residual) + corner;
    store_results<Out, W>(ring, static_cast<T*>(p.y) + corner, residual, p.out, d_rows, out_cols);
    // Others may still read this block's shared memory.
    cluster_sync();
}

#define ENTRY(CLUSTER, T)                                                                                                     \
    extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)                                  \
        mbconv_sm90_c##CLUSTER##_fwd_##T(const __grid_constant__ BlockParams p) {                                             \
        block<Mma<T>, CLUSTER>(p);                                                                                            \
    }

ENTRY(4, bf16)
ENTRY(8, bf16)
ENTRY(4, f16)
ENTRY(8, f16)
