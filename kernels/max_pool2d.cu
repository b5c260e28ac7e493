// The largest value in a sliding window, and the two linear maps that share its choice.
//
//   fwd      y = max over the window of x
//   gather   y = v at the argmax of x: the gradient's gradient
//   scatter  y = Σ over the windows a pixel wins of v: the gradient
//
// Shapes    x: n x h x w x c; pooled: n x oh x ow x c. v is like x in gather, like the pooled images in scatter.
// Types     f32, bf16, f16 in memory; f32 arithmetic.
// Launch    256 threads, a 128-bit vector of channels of one pixel each. scatter takes two launches: `argmax` writes which tap wins
//           each window, `scatter` lets every pixel visit the windows it lies in: no atomics, one order of additions.
// Traffic   a window's values come from L1 but for the first; they are 2 bytes per element. Memory bound.
// Rejected  scatter without argmax: every pixel searches every window it lies in again, 36 loads instead of 8 for 3x3 stride 2.
// Numerics  exact but for scatter's sums. The first of equal values wins, NaN beats numbers, padding never wins.
// Tail      c not a multiple of the vector width: one element per thread.

#include "common/element.cuh"

struct MaxPoolParams {
    const void *x, *v;
    void* y;
    unsigned short* argmax;
    u32 threads;  // with work
    u32 h, w, c, oh, ow;
    u32 kernel, stride, padding;
    u32 aligned;  // c is a multiple of the vector width
};

__device__ __forceinline__ bool beats(float x, float best) { return x > best || (x != x && best == best); }

struct Place {
    u64 image;
    u32 row, col, channel;
};

template <int W>
__device__ __forceinline__ Place place_of(u32 index, u32 rows, u32 cols, u32 c) {
    const u32 vectors = c / W, pixel = index / vectors;
    return {pixel / cols / rows, pixel / cols % rows, pixel % cols, index % vectors * W};
}

// Calls f(tap, address) for the pixels of a window that lie in the image.
template <typename F>
__device__ __forceinline__ void each_tap(const MaxPoolParams& p, const Place& at, F f) {
    const int top = int(at.row * p.stride) - int(p.padding), left = int(at.col * p.stride) - int(p.padding);
#pragma unroll 1
    for (int r = 0; r < int(p.kernel); ++r) {
        const int row = top + r;
        if (row < 0 || row >= int(p.h)) continue;
#pragma unroll 1
        for (int s = 0; s < int(p.kernel); ++s) {
            const int col = left + s;
            if (col < 0 || col >= int(p.w)) continue;
            f(u32(r) * p.kernel + s, ((at.image * p.h + row) * p.w + col) * p.c + at.channel);
        }
    }
}

template <typename T, int W>
__device__ __forceinline__ void pool(const MaxPoolParams& p, u32 index) {
    const Place at = place_of<W>(index, p.oh, p.ow, p.c);
    float best[W];
#pragma unroll
    for (int i = 0; i < W; ++i) best[i] = -INFINITY;
    each_tap(p, at, [&](u32, u64 address) {
        float x[W];
        load_floats(x, static_cast<const T*>(p.x) + address);
#pragma unroll
        for (int i = 0; i < W; ++i) best[i] = beats(x[i], best[i]) ? x[i] : best[i];
    });
    store_floats(static_cast<T*>(p.y) + u64(index) * W, best);
}

template <typename T, int W>
__device__ __forceinline__ void gather(const MaxPoolParams& p, u32 index) {
    const Place at = place_of<W>(index, p.oh, p.ow, p.c);
    float best[W], value[W];
    bool fresh = true;
#pragma unroll
    for (int i = 0; i < W; ++i) best[i] = -INFINITY, value[i] = 0.0f;
    each_tap(p, at, [&](u32, u64 address) {
        float x[W], v[W];
        load_floats(x, static_cast<const T*>(p.x) + address);
        load_floats(v, static_cast<const T*>(p.v) + address);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            const bool wins = fresh || beats(x[i], best[i]);
            best[i] = wins ? x[i] : best[i];
            value[i] = wins ? v[i] : value[i];
        }
        fresh = false;
    });
    store_floats(static_cast<T*>(p.y) + u64(index) * W, value);
}

template <typename T, int W>
__device__ __forceinline__ void argmax(const MaxPoolParams& p, u32 index) {
    const Place at = place_of<W>(index, p.oh, p.ow, p.c);
    float best[W];
    Vector<unsigned short, W> winner;
    bool fresh = true;
#pragma unroll
    for (int i = 0; i < W; ++i) best[i] = -INFINITY, winner.at[i] = 0;
    each_tap(p, at, [&](u32 tap, u64 address) {
        float x[W];
        load_floats(x, static_cast<const T*>(p.x) + address);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            const bool wins = fresh || beats(x[i], best[i]);
            best[i] = wins ? x[i] : best[i];
            winner.at[i] = wins ? (unsigned short)(tap) : winner.at[i];
        }
        fresh = false;
    });
    store_vector<unsigned short, W>(p.argmax + u64(index) * W, winner);
}

template <typename T, int W>
__device__ __forceinline__ void scatter(const MaxPoolParams& p, u32 index) {
    const Place at = place_of<W>(index, p.h, p.w, p.c);
    float sum[W];
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] = 0.0f;
    // Windows from the first that reaches this row to the last that begins at it.
    const u32 row = at.row + p.padding, col = at.col + p.padding;
    const u32 first_row = row < p.kernel ? 0 : (row - p.kernel) / p.stride + 1, last_row = min(row / p.stride, p.oh - 1);
    const u32 first_col = col < p.kernel ? 0 : (col - p.kernel) / p.stride + 1, last_col = min(col / p.stride, p.ow - 1);
#pragma unroll 1
    for (u32 i = first_row; i <= last_row; ++i) {
#pragma unroll 1
        for (u32 j = first_col; j <= last_col; ++j) {
            const u32 tap = (row - i * p.stride) * p.kernel + (col - j * p.stride);
            const u64 from = ((at.image * p.oh + i) * p.ow + j) * p.c + at.channel;
            const Vector<unsigned short, W> winner = load_vector<unsigned short, W>(p.argmax + from);
            float v[W];
            load_floats(v, static_cast<const T*>(p.v) + from);
#pragma unroll
            for (int k = 0; k < W; ++k) sum[k] += winner.at[k] == tap ? v[k] : 0.0f;
        }
    }
    store_floats(static_cast<T*>(p.y) + u64(index) * W, sum);
}

#define ENTRY(NAME, T, FUNCTION)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256) max_pool2d_##NAME##_##T(const __grid_constant__ MaxPoolParams p) { \
        const u32 index = blockIdx.x * 256 + threadIdx.x;                                                                  \
        if (index >= p.threads) return;                                                                                    \
        if (p.aligned) {                                                                                                     \
            FUNCTION<T, WIDTH<T>>(p, index);                                                                               \
        } else {                                                                                                           \
            FUNCTION<T, 1>(p, index);                                                                                      \
        }                                                                                                                  \
    }
#define EVERY_PASS(T)        \
    ENTRY(fwd, T, pool)      \
    ENTRY(gather, T, gather) \
    ENTRY(argmax, T, argmax) \
    ENTRY(scatter, T, scatter)

EVERY_PASS(f32)
EVERY_PASS(bf16)
EVERY_PASS(f16)
