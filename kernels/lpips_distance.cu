// LPIPS's comparison of one layer: unit length over channels, squared difference, channel weights, mean over pixels.
//
//   u = a / (|a| + 1e-10),  t = b / (|b| + 1e-10),  |x| = sqrt(Σ x² + 1e-30)
//   distance = mean over pixels of Σ_c weight_c (u_c − t_c)²
//
// Shapes    a, b: n x pixels x c, weight: c, distance: n.
// Types     f32, bf16, f16 in memory, f32 arithmetic.
// Launch    256 threads, one warp per pixel: lanes lie across the channels, 16 bytes each where c is a multiple of that.
//           fwd: blocks of 64 pixels (8 per warp) write one partial sum each, `sum` adds the parts of an image in order.
//           bwd_x: as fwd, dx of whichever operand is called a; the other gradient is the same kernel with a and b exchanged.
// Traffic   fwd reads a and b from memory once (the second pass over a pixel's channels, at most 3 KB, comes from L1);
//           the composed form moves 13 tensors. bwd reads a and b, writes da. Memory bound: 10 FLOP per element.
// Rejected  one pass with five sums (Σa², Σb², Σwa², Σwab, Σwb²): alike images, which training makes, cancel all digits.
// Numerics  sqrtf and division correctly rounded; warp sums by butterflies, parts in order: bit-identical from run to run.
//           The addend under the root changes no value and gives a pixel without any activation gradient 0, not 0/0.
// Tail      c not a multiple of the vector width: one channel per lane. Pixels beyond the image add nothing.

#include "common/block.cuh"

struct DistanceParams {
    const void *a, *b, *weight;
    float* parts;           // n x parts_per_image
    const void* ddistance;  // n
    void* da;
    u64 pixels;
    u32 c;
    u32 parts_per_image;  // blocks an image takes
    u32 aligned;          // c is a multiple of 16 bytes
    u32 unused;
};

struct SumParams {
    const float* parts;
    void* distance;
    u64 n, parts_per_image;
    float scale;
    u32 unused;
};

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int PIXELS = 64;  // of a block

// Calls f(channel, W values of x, W values of y) for a lane's channels.
template <int W, typename T, typename F>
__device__ __forceinline__ void each_channel(const T* x, const T* y, u32 c, F f) {
#pragma unroll 2
    for (u32 at = threadIdx.x % 32 * W; at < c; at += 32 * W) {
        float xs[W], ys[W];
        load_floats(xs, x + at);
        load_floats(ys, y + at);
        f(at, xs, ys);
    }
}

__device__ __forceinline__ float length(float squares) { return sqrtf(squares + 1e-30f); }

// Reciprocals of the lengths with their addend, and the plain length of a.
struct Lengths {
    float inverse_a, inverse_b, a;
};

template <int W, typename T>
__device__ __forceinline__ Lengths lengths(const T* a, const T* b, u32 c) {
    float aa = 0.0f, bb = 0.0f;
    each_channel<W>(a, b, c, [&](u32, const float(&x)[W], const float(&y)[W]) {
#pragma unroll
        for (int i = 0; i < W; ++i) {
            aa = fmaf(x[i], x[i], aa);
            bb = fmaf(y[i], y[i], bb);
        }
    });
    const float la = length(warp_sum(aa)), lb = length(warp_sum(bb));
    return {1.0f / (la + 1e-10f), 1.0f / (lb + 1e-10f), la};
}

template <typename T, int W>
__device__ __forceinline__ float compare(const DistanceParams& p, u64 image, u64 first) {
    const T* const weight = static_cast<const T*>(p.weight);
    float sum = 0.0f;
    for (u32 i = threadIdx.x / 32; i < PIXELS && first + i < p.pixels; i += WARPS) {
        const u64 at = (image * p.pixels + first + i) * p.c;
        const T *const a = static_cast<const T*>(p.a) + at, *const b = static_cast<const T*>(p.b) + at;
        const Lengths l = lengths<W>(a, b, p.c);
        each_channel<W>(a, b, p.c, [&](u32 channel, const float(&x)[W], const float(&y)[W]) {
            float w[W];
            load_floats(w, weight + channel);
#pragma unroll
            for (int i = 0; i < W; ++i) {
                const float difference = x[i] * l.inverse_a - y[i] * l.inverse_b;
                sum = fmaf(w[i] * difference, difference, sum);
            }
        });
    }
    return sum;
}

template <typename T>
__device__ __forceinline__ void forward(const DistanceParams& p) {
    const u64 image = blockIdx.x / p.parts_per_image, first = u64(blockIdx.x % p.parts_per_image) * PIXELS;
    const float sum = block_sum<THREADS>(p.aligned ? compare<T, WIDTH<T>>(p, image, first) : compare<T, 1>(p, image, first));
    if (threadIdx.x == 0) p.parts[blockIdx.x] = sum;
}

template <typename T>
__device__ __forceinline__ void sum_parts(const SumParams& p) {
    const u64 image = global_thread() / 32;
    if (image >= p.n) return;
    float sum = 0.0f;
    for (u64 i = threadIdx.x % 32; i < p.parts_per_image; i += 32) sum += p.parts[image * p.parts_per_image + i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) static_cast<T*>(p.distance)[image] = from_float<T>(sum * p.scale);
}

// With e_c = 2 weight_c (u_c − t_c) ddistance / pixels:  da_c = e_c / (|a| + ε) − a_c Σ e a / (|a| (|a| + ε)²).
template <typename T, int W>
__device__ __forceinline__ void gradient(const DistanceParams& p, u64 image, u64 first) {
    const T* const weight = static_cast<const T*>(p.weight);
    const float upstream = 2.0f * to_float(static_cast<const T*>(p.ddistance)[image]) / float(p.pixels);
    for (u32 i = threadIdx.x / 32; i < PIXELS && first + i < p.pixels; i += WARPS) {
        const u64 at = (image * p.pixels + first + i) * p.c;
        const T *const a = static_cast<const T*>(p.a) + at, *const b = static_cast<const T*>(p.b) + at;
        const Lengths l = lengths<W>(a, b, p.c);
        float dot = 0.0f;
        const auto error = [&](u32 channel, const float(&x)[W], const float(&y)[W], float(&e)[W]) {
            float w[W];
            load_floats(w, weight + channel);
#pragma unroll
            for (int i = 0; i < W; ++i) e[i] = upstream * w[i] * (x[i] * l.inverse_a - y[i] * l.inverse_b);
        };
        each_channel<W>(a, b, p.c, [&](u32 channel, const float(&x)[W], const float(&y)[W]) {
            float e[W];
            error(channel, x, y, e);
#pragma unroll
            for (int i = 0; i < W; ++i) dot = fmaf(e[i], x[i], dot);
        });
        // In this order: |a| may be 1e-15, whose square is no float's reciprocal.
        const float along = warp_sum(dot) * l.inverse_a * l.inverse_a / l.a;
        each_channel<W>(a, b, p.c, [&](u32 channel, const float(&x)[W], const float(&y)[W]) {
            float e[W];
            error(channel, x, y, e);
#pragma unroll
            for (int i = 0; i < W; ++i) e[i] = e[i] * l.inverse_a - x[i] * along;
            store_floats(static_cast<T*>(p.da) + at + channel, e);
        });
    }
}

template <typename T>
__device__ __forceinline__ void backward(const DistanceParams& p) {
    const u64 image = blockIdx.x / p.parts_per_image, first = u64(blockIdx.x % p.parts_per_image) * PIXELS;
    if (p.aligned) {
        gradient<T, WIDTH<T>>(p, image, first);
    } else {
        gradient<T, 1>(p, image, first);
    }
}

#define ENTRY(NAME, T, PARAMS, FUNCTION)                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) lpips_distance_##NAME##_##T(const __grid_constant__ PARAMS p) { \
        FUNCTION<T>(p);                                                                                                   \
    }
#define EVERY_TYPE(NAME, PARAMS, FUNCTION) \
    ENTRY(NAME, f32, PARAMS, FUNCTION)     \
    ENTRY(NAME, bf16, PARAMS, FUNCTION)    \
    ENTRY(NAME, f16, PARAMS, FUNCTION)

EVERY_TYPE(fwd, DistanceParams, forward)
EVERY_TYPE(sum, SumParams, sum_parts)
EVERY_TYPE(bwd_x, DistanceParams, backward)
