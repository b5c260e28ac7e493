// y = (pad(x with up - 1 zeros after every pixel) * filter)[::down, ::down], one filter for all channels (StyleGAN2's op).
//
// Shapes    x [n, h, w, c], y [n, oh, ow, c]; y[i, j] = sum over taps (k, l) that fall on a pixel of x, not on an inserted zero:
//           x[(i * down + k - top) / up, (j * down + l - left) / up] * taps[k, l].
// Types     f32, bf16, f16 in memory; f32 taps and sums.
// Epilogue  of y: common/epilogue.cuh, before the only store: the epilogue of a resampled convolution costs no pass of its own.
// Launch    256 threads. separable: a thread owns one vector of channels (128 bits where c allows it, else one channel) of one
//           column and a strip of 4 rows; every row of x is filtered along the row once and then joins all outputs of the
//           strip that it reaches. dense: one output pixel per thread.
// Limit     memory: x once, y once. A 4 x 4 blur loads 28 vectors for 4 outputs from L1 (dense: 64), 44 FLOP per output.
// Rejected  x in shared memory as the reference does: a barrier and twice the traffic on chip for tiles whose overlap L1 holds
//           anyway; channels last makes every load a whole sector.
// Numerics  taps in f32, the gain folded into them on the host in f64.
// Tail      channels that fill no vector go one by one; rows beyond the last are not stored. Taps travel in the parameters.

#include "common/epilogue.cuh"
#include "common/index.cuh"

constexpr int TAPS = 256;
constexpr int STRIP = 4;

struct Upfirdn2dParams {
    const void* x;
    void* y;
    Epilogue epilogue;
    u32 count;  // threads with work
    u32 wide;   // vectors are 128 bits, not one channel
    Pixels of;  // threads over [n, strips of rows, ow, vectors]
    i32 h, w, oh, ow, c;
    i32 down, left, top;
    FastDivmod up;
    i32 rows, cols;    // of the filter
    float taps[TAPS];  // separable: the column, then the row; dense: row by row
};

// Which pixels of an axis the taps from `first` to `last`, in positions of the upsampled image, fall on.
struct Span {
    i32 begin, end;
};

__device__ __forceinline__ Span span(i32 first, i32 last, const FastDivmod& up, i32 extent) {
    if (last < 0) return {0, 0};
    const i32 begin = first <= 0 ? 0 : i32(up.div(u32(first) + up.value - 1));
    return {begin, min(i32(up.div(u32(last))) + 1, extent)};
}

template <int N, int ROWS, typename T>
__device__ __forceinline__ void store_strip(const Upfirdn2dParams& p, const Pixel& at, float (&sum)[ROWS][N]) {
    const u32 channel = at.vector * N;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const i32 row = i32(at.i) * ROWS + r;
        if (row >= p.oh) break;
        const u64 pixel = (u64(at.n) * p.oh + row) * p.ow + at.j, element = pixel * p.c + channel;
        apply_epilogue<T, PIECEWISE_LINEAR>(p.epilogue, pixel, channel, element, N, true, sum[r]);
        store_floats(static_cast<T*>(p.y) + element, sum[r]);
    }
}

template <int N, typename T>
__device__ __forceinline__ void separable(const Upfirdn2dParams& p) {
    const u32 index = u32(global_thread());
    if (index >= p.count) return;
    const Pixel at = pixel(index, p.of);
    const i32 up = i32(p.up.value), row0 = i32(at.i) * STRIP;
    const i32 top = row0 * p.down - p.top, left = i32(at.j) * p.down - p.left;
    const Span over = span(top, top + (STRIP - 1) * p.down + p.rows - 1, p.up, p.h);
    const Span along = span(left, left + p.cols - 1, p.up, p.w);
    const T* x = static_cast<const T*>(p.x) + u64(at.n) * p.h * p.w * p.c + at.vector * N;
    float sum[STRIP][N] = {};
    for (i32 i = over.begin; i < over.end; ++i) {
        float filtered[N] = {};
#pragma unroll 2
        for (i32 j = along.begin; j < along.end; ++j) {
            float v[N];
            load_floats(v, x + (u64(i) * p.w + j) * p.c);
            const float tap = p.taps[p.rows + j * up - left];
#pragma unroll
            for (int k = 0; k < N; ++k) filtered[k] = fmaf(tap, v[k], filtered[k]);
        }
#pragma unroll
        for (int r = 0; r < STRIP; ++r) {
            const i32 tap = i * up - top - r * p.down;
            if (tap >= 0 && tap < p.rows) {
#pragma unroll
                for (int k = 0; k < N; ++k) sum[r][k] = fmaf(p.taps[tap], filtered[k], sum[r][k]);
            }
        }
    }
    store_strip<N, STRIP, T>(p, at, sum);
}

template <int N, typename T>
__device__ __forceinline__ void dense(const Upfirdn2dParams& p) {
    const u32 index = u32(global_thread());
    if (index >= p.count) return;
    const Pixel at = pixel(index, p.of);
    const i32 up = i32(p.up.value);
    const i32 top = i32(at.i) * p.down - p.top, left = i32(at.j) * p.down - p.left;
    const Span over = span(top, top + p.rows - 1, p.up, p.h), along = span(left, left + p.cols - 1, p.up, p.w);
    const T* x = static_cast<const T*>(p.x) + u64(at.n) * p.h * p.w * p.c + at.vector * N;
    float sum[1][N] = {};
    for (i32 i = over.begin; i < over.end; ++i) {
#pragma unroll 2
        for (i32 j = along.begin; j < along.end; ++j) {
            float v[N];
            load_floats(v, x + (u64(i) * p.w + j) * p.c);
            const float tap = p.taps[(i * up - top) * p.cols + j * up - left];
#pragma unroll
            for (int k = 0; k < N; ++k) sum[0][k] = fmaf(tap, v[k], sum[0][k]);
        }
    }
    store_strip<N, 1, T>(p, at, sum);
}

#define UPFIRDN2D(NAME, T)                                                          \
    extern "C" __global__ void __launch_bounds__(256)                               \
        upfirdn2d_##NAME##_##T(const __grid_constant__ Upfirdn2dParams p) {         \
        if (p.wide) NAME<WIDTH<T>, T>(p);                                           \
        else NAME<1, T>(p);                                                         \
    }

UPFIRDN2D(separable, f32)
UPFIRDN2D(separable, bf16)
UPFIRDN2D(separable, f16)
UPFIRDN2D(dense, f32)
UPFIRDN2D(dense, bf16)
UPFIRDN2D(dense, f16)
