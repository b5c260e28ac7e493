// Images at another size, by nearest, bilinear, antialiased or area interpolation (see src/ops/resize.rs), and the transpose.
//
// Shapes    from n x h x w x c to n x to_h x to_w x c; in the transpose x has the new size and y the old one.
// Types     f32, bf16, f16 in memory; f32 arithmetic.
// Launch    256 threads, a 128-bit vector of channels of one pixel each.
// Traffic   old pixels come from L1 but for the first access: memory bound but for strong downsampling.
// Rejected  weights from the host: a copy into device memory inside an op. Two passes, rows then columns: an image in between.
// Numerics  positions are exact integers in units of 1 / (2 to): only the weights themselves are rounded.
// Tail      c not a multiple of the vector width: one element per thread.

#include "common/element.cuh"

struct ResizeParams {
    const void* x;
    void* y;
    u32 threads;     // with work
    u32 h, w;        // old size
    u32 to_h, to_w;  // new size
    u32 c;
    u32 kind;     // 0 nearest, 1 bilinear, 2 antialiased, 3 area
    u32 aligned;  // c is a multiple of the vector width
};

// What a new position reads of an axis.
struct Window {
    int first, last;  // old positions, the last excluded
    int kind, from, to, i;
    float total;

    static __device__ __forceinline__ Window of(int i, int from, int to, int kind) {
        Window w = {0, 0, kind, from, to, i, 1.0f};
        const long long centre = (2ll * i + 1) * from;  // in accesses of 1 / (2 to), as all below
        if (kind == 0) {
            w.first = min(int((long long)(i) * from / to), from - 1);
            w.last = w.first + 1;
        } else if (kind == 1) {
            const long long at = min(max(centre - to, 0ll), (from - 1) * 2ll * to);
            w.first = min(int(at / (2ll * to)), max(from - 2, 0));
            w.last = min(w.first + 2, from);
        } else if (kind == 2) {
            const long long reach = 2ll * max(from, to);
            w.first = int(max(centre - reach + to, 0ll) / (2ll * to));
            w.last = min(int((centre + reach + to) / (2ll * to)), from);
            float total = 0.0f;
            for (int old = w.first; old < w.last; ++old) total += w.triangle(old);
            w.total = 1.0f / total;
        } else {
            w.first = int((long long)(i) * from / to);
            w.last = int(((i + 1ll) * from + to - 1) / to);
        }
        return w;
    }

    __device__ __forceinline__ float triangle(int old) const {
        const long long apart = (2ll * old + 1) * to - (2ll * i + 1) * from, reach = 2ll * max(from, to);
        return fmaxf(1.0f - float(apart < 0 ? -apart : apart) / float(reach), 0.0f);
    }

    // The weight of an old position within the window.
    __device__ __forceinline__ float weight(int old) const {
        if (kind == 0) return 1.0f;
        if (kind == 1) {
            if (from == 1) return 1.0f;
            const long long at = min(max((2ll * i + 1) * from - to, 0ll), (from - 1) * 2ll * to) - first * 2ll * to;
            const float upper = float(at) / float(2ll * to);
            return old == first ? 1.0f - upper : upper;
        }
        if (kind == 2) return triangle(old) * total;
        return 1.0f / float(last - first);
    }
};

template <typename T, int W>
__device__ __forceinline__ void resize(const ResizeParams& p, u32 index) {
    const u32 vectors = p.c / W, pixel = index / vectors, channel = index % vectors * W;
    const u64 image = pixel / p.to_w / p.to_h;
    const Window rows = Window::of(int(pixel / p.to_w % p.to_h), int(p.h), int(p.to_h), int(p.kind));
    const Window cols = Window::of(int(pixel % p.to_w), int(p.w), int(p.to_w), int(p.kind));
    float sum[W];
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] = 0.0f;
#pragma unroll 1
    for (int row = rows.first; row < rows.last; ++row) {
        const float of_row = rows.weight(row);
#pragma unroll 1
        for (int col = cols.first; col < cols.last; ++col) {
            const float weight = of_row * cols.weight(col);
            float x[W];
            load_floats(x, static_cast<const T*>(p.x) + ((image * p.h + row) * p.w + col) * p.c + channel);
#pragma unroll
            for (int i = 0; i < W; ++i) sum[i] = fmaf(weight, x[i], sum[i]);
        }
    }
    store_floats(static_cast<T*>(p.y) + u64(index) * W, sum);
}

// New positions whose windows may hold an old one.
__device__ __forceinline__ int first_reader(int old, int from, int to) {
    const long long reach = from > to ? (from + to - 1) / to + 2 : 3;
    return int(max((old - reach) * to / from - 1, 0ll));
}
__device__ __forceinline__ int last_reader(int old, int from, int to) {
    const long long reach = from > to ? (from + to - 1) / to + 2 : 3;
    return int(min((old + reach) * to / from + 1, to - 1ll));
}

template <typename T, int W>
__device__ __forceinline__ void transposed(const ResizeParams& p, u32 index) {
    const u32 vectors = p.c / W, pixel = index / vectors, channel = index % vectors * W;
    const u64 image = pixel / p.w / p.h;
    const int row = int(pixel / p.w % p.h), col = int(pixel % p.w);
    const int h = int(p.h), w = int(p.w), to_h = int(p.to_h), to_w = int(p.to_w);
    float sum[W];
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] = 0.0f;
#pragma unroll 1
    for (int i = first_reader(row, h, to_h); i <= last_reader(row, h, to_h); ++i) {
        const Window rows = Window::of(i, h, to_h, int(p.kind));
        if (row < rows.first || row >= rows.last) continue;
        const float of_row = rows.weight(row);
#pragma unroll 1
        for (int j = first_reader(col, w, to_w); j <= last_reader(col, w, to_w); ++j) {
            const Window cols = Window::of(j, w, to_w, int(p.kind));
            if (col < cols.first || col >= cols.last) continue;
            const float weight = of_row * cols.weight(col);
            float x[W];
            load_floats(x, static_cast<const T*>(p.x) + ((image * p.to_h + i) * p.to_w + j) * p.c + channel);
#pragma unroll
            for (int k = 0; k < W; ++k) sum[k] = fmaf(weight, x[k], sum[k]);
        }
    }
    store_floats(static_cast<T*>(p.y) + u64(index) * W, sum);
}

#define ENTRY(NAME, T, FUNCTION)                                                                                    \
    extern "C" __global__ void __launch_bounds__(256) resize_##NAME##_##T(const __grid_constant__ ResizeParams p) { \
        const u32 index = blockIdx.x * 256 + threadIdx.x;                                                           \
        if (index >= p.threads) return;                                                                             \
        if (p.aligned) {                                                                                              \
            FUNCTION<T, WIDTH<T>>(p, index);                                                                        \
        } else {                                                                                                    \
            FUNCTION<T, 1>(p, index);                                                                               \
        }                                                                                                           \
    }
#define EVERY_PASS(T)     \
    ENTRY(fwd, T, resize) \
    ENTRY(bwd_x, T, transposed)

EVERY_PASS(f32)
EVERY_PASS(bf16)
EVERY_PASS(f16)
