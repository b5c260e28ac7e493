// Convolution of NHWC images as implicit GEMM: where the elements of operand tiles lie.
//
//                     m                   n                   k                     A                     B
//   forward           pixels of y         channels of y       taps x channels of x  im2col rows of x      weight
//   input gradient    pixels of x         channels of x       taps x channels of y  im2col rows of dy     weight
//   weight gradient   channels of y       taps x ch. of x     pixels of y           dy                    im2col columns of x
//
// Groups are separate GEMMs. With a stride, the pixels of x fall into stride² sub-pixel phases that each see their own taps only,
// so the input gradient of a phase is a GEMM too and nothing is multiplied by inserted zeros.
#pragma once

#include "mainloop.cuh"
#include "splitk.cuh"

struct ConvParams {
    const void *a, *b;  // forward: x, weight; input gradient: dy, weight; weight gradient: x, dy
    void* y;
    float* partials;    // [splits, elements of y], or null without split-K
    u64 count;          // elements of y
    Epilogue epilogue;  // of the forward map and of the modulated transposed one
    u32 n, h, w, c;     // of x
    u32 k, r, s;        // of the weight, and c / groups
    u32 oh, ow;         // of y
    u32 stride, padding, dilation, groups;
    u32 tiles_m, tiles_n;
    u32 k_per_split;          // a multiple of the tile's K
    u32 a_vector, b_vector;   // elements per copy
    u32 y_vector;             // 4 where every row of y begins on four elements, else 1
    FastDivmod channels;      // of k: of x (forward), of y (input gradient); of a column (weight gradient)
    FastDivmod out_w, out_h;  // of the weight gradient's pixels
};

// Tap numbers by taps in a row: exact while taps² of a row times rows stay below 2^32, as they do where a tensor fits memory.
struct TapDivmod {
    u32 value, reciprocal;

    explicit __device__ __forceinline__ TapDivmod(u32 value) : value(value), reciprocal(0xffffffffu / max(value, 1u) + 1) {}
    __device__ __forceinline__ u32 div(u32 tap) const { return value == 1 ? tap : __umulhi(tap, reciprocal); }
};

// Where a row's window begins: pixel (h, w), which may lie outside, of the image at `base`.
struct Window {
    u64 base;
    int h, w;
};

// For rows beyond the last: outside every image, whatever the tap.
constexpr int NOWHERE = -(1 << 30);

// A block's shared memory: windows of its rows, then which image each lies in, then the ring of stages.
template <typename Tile>
__device__ __forceinline__ u32* samples_of() {
    return reinterpret_cast<u32*>(dynamic_smem + Tile::M * sizeof(Window));
}

template <typename Tile>
__device__ __forceinline__ typename Tile::T* ring_of() {
    return reinterpret_cast<typename Tile::T*>(dynamic_smem + Tile::M * (sizeof(Window) + sizeof(u32)));
}

// The styles scale input channels on their way to shared memory, the demodulation coefficients output channels. Without MODULATED
// there are none and copies are asynchronous.
template <typename T, bool MODULATED>
struct Modulation {
    const T* styles = nullptr;  // [n, input channels]
    const T* dcoefs = nullptr;  // [n, output channels], or null
};

// A of the forward map and of the input gradient: row m, k index (tap, channel) is the pixel that lies `tap` from the
// row's window.
template <typename Tile, bool MODULATED>
struct Im2colRows {
    using T = typename Tile::T;
    const T* image;
    const T* style;
    const Window* windows;  // of the tile's rows, in shared memory
    int h, w;               // of the image
    u32 pixel_stride;       // channels of a pixel
    int step_h, step_w;     // pixels from tap to tap
    FastDivmod channels;
    TapDivmod taps;  // in a row of the kernel
    u32 vector;

    __device__ __forceinline__ void load(T* tile, int k, int end) const {
        with_copy_width<T>(vector, [&](auto width) { copy<width.value>(tile, k, end); });
    }

    template <int VEC>
    __device__ __forceinline__ void copy(T* tile, int k, int end) const {
        constexpr int LD = Tile::template LD<true, Tile::M>;
        for_each_vector<VEC, Tile::M, Tile::K, Tile::THREADS>([&](int tile_row, int col) {
            const u32 k_index = u32(k + col), tap = channels.div(k_index), channel = k_index - tap * channels.value;
            const u32 tap_h = taps.div(tap), tap_w = tap - tap_h * taps.value;
            const Window window = windows[tile_row];
            const int row = window.h + int(tap_h) * step_h, column = window.w + int(tap_w) * step_w;
            const bool there = int(k_index) < end && u32(row) < u32(h) && u32(column) < u32(w);
            const u64 at = window.base + (u64(row) * w + column) * pixel_stride + channel;
            if constexpr (MODULATED) {
                float x[VEC] = {};
                if (there) {
                    float factor[VEC];
                    load_floats(x, image + at);
                    load_floats(factor, style + u64(samples_of<Tile>()[tile_row]) * pixel_stride + channel);
#pragma unroll
                    for (int i = 0; i < VEC; ++i) x[i] *= factor[i];
                }
                store_floats(tile + tile_row * LD + col, x);
            } else {
                copy_elements<VEC>(tile + tile_row * LD + col, there ? image + at : image, there);
            }
        });
    }
};

// B of the input gradient: k index (tap, channel of y), column channel of x. The taps are every `step`-th of the kernel's.
template <typename Tile>
struct WeightMnMajor {
    using T = typename Tile::T;
    const T* weight;                   // the group's first channel of y, the tile's first channel of x
    u32 s, taps_in_all, pixel_stride;  // of the kernel; channels of x in a group
    u32 first_r, first_s, step;
    FastDivmod channels;
    TapDivmod taps;
    int cols;
    u32 vector;

    __device__ __forceinline__ void load(T* tile, int k, int end) const {
        with_copy_width<T>(vector, [&](auto width) { copy<width.value>(tile, k, end); });
    }

    template <int VEC>
    __device__ __forceinline__ void copy(T* tile, int k, int end) const {
        constexpr int LD = Tile::template LD<false, Tile::N>;
        for_each_vector<VEC, Tile::K, Tile::N, Tile::THREADS>([&](int tile_row, int col) {
            const u32 k_index = u32(k + tile_row), tap = channels.div(k_index), channel = k_index - tap * channels.value;
            const u32 tap_h = taps.div(tap), tap_w = tap - tap_h * taps.value;
            const u32 index = (first_r + tap_h * step) * s + first_s + tap_w * step;
            const bool there = int(k_index) < end && col < cols;
            const u64 at = (u64(channel) * taps_in_all + index) * pixel_stride + col;
            copy_elements<VEC>(tile + tile_row * LD + col, there ? weight + at : weight, there);
        });
    }
};

// B of the weight gradient: k index pixel of y, column (tap, channel of x).
template <typename Tile>
struct Im2colColumns {
    using T = typename Tile::T;
    const T* image;  // the group's first channel
    int h, w;
    u32 pixel_stride;
    u32 stride, padding, dilation;
    u32 out_w, out_h;
    FastDivmod by_out_w, by_out_h, channels;
    TapDivmod taps;
    u32 first, columns;  // the tile's first column; of all
    u32 vector;

    __device__ __forceinline__ void load(T* tile, int k, int end) const {
        with_copy_width<T>(vector, [&](auto width) { copy<width.value>(tile, k, end); });
    }

    template <int VEC>
    __device__ __forceinline__ void copy(T* tile, int k, int end) const {
        constexpr int LD = Tile::template LD<false, Tile::N>;
        for_each_vector<VEC, Tile::K, Tile::N, Tile::THREADS>([&](int tile_row, int col) {
            const u32 index = first + u32(col), tap = channels.div(index), channel = index - tap * channels.value;
            const u32 tap_h = taps.div(tap), tap_w = tap - tap_h * taps.value;
            const u32 pixel = u32(k + tile_row), across = by_out_w.div(pixel), sample = by_out_h.div(across);
            const int row = int((across - sample * out_h) * stride + tap_h * dilation) - int(padding);
            const int column = int((pixel - across * out_w) * stride + tap_w * dilation) - int(padding);
            const bool there = int(pixel) < end && index < columns && u32(row) < u32(h) && u32(column) < u32(w);
            const u64 at = ((u64(sample) * h + row) * w + column) * pixel_stride + channel;
            copy_elements<VEC>(tile + tile_row * LD + col, there ? image + at : image, there);
        });
    }
};

// Which GEMM and which of its tiles a block works on.
struct ConvTile {
    u32 m, n, group, split, rest;  // `rest`: what `parts` beyond groups and splits there are
};

template <typename Tile>
__device__ __forceinline__ ConvTile conv_tile(const ConvParams& p, u32 parts) {
    const TileCoord tile = tile_coord(p.tiles_m, p.tiles_n);
    const u32 z = tile.z / parts;
    return {tile.m * Tile::M, tile.n * Tile::N, z % p.groups, z / p.groups, tile.z % parts};
}

// Writes the tile: row r of it is channels `first` .. of pixel `pixel_at(r)` of y, whose pixels are `pitch` channels. `scale` is
// applied to partial sums too, the epilogue, where there is one, to complete ones.
template <typename Tile, bool HAS_EPILOGUE, typename Pixel, typename Scale>
__device__ __forceinline__ void store_tile(const ConvParams& p, const Accumulators<Tile>& c, u32 split, int rows, int cols, u32 pixel_stride,
                                           u32 first, Pixel pixel_at, Scale scale) {
    using T = typename Tile::T;
    void* memory = ring_of<Tile>();
    const bool aligned = p.y_vector == 4;
    if (p.partials != nullptr) {
        float* to = p.partials + split * p.count;
        for_each_vec4<Tile>(c, memory, [&](int row, int col, const float4& v) {
            float values[4] = {v.x, v.y, v.z, v.w};
            if (row < rows) {
                scale(row, col, values);
                store_vec4(to + pixel_at(row) * pixel_stride + first + col, values, cols - col, aligned);
            }
        });
        return;
    }
    T* to = static_cast<T*>(p.y);
    for_each_vec4<Tile>(c, memory, [&](int row, int col, const float4& v) {
        float values[4] = {v.x, v.y, v.z, v.w};
        if (row < rows && col < cols) {
            const u64 pixel = pixel_at(row), at = pixel * pixel_stride + first + col;
            scale(row, col, values);
            if constexpr (HAS_EPILOGUE) apply_epilogue<T, PIECEWISE_LINEAR>(p.epilogue, pixel, first + col, at, cols - col, aligned, values);
            store_vec4(to + at, values, cols - col, aligned);
        }
    });
}

// Leaves four results as they are.
struct Unchanged {
    __device__ __forceinline__ void operator()(int, int, float (&)[4]) const {}
};

// Multiplies four results by their image's dcoefs of channels `first` .. of `channels`.
template <typename Tile, bool MODULATED>
struct ScaledByDcoefs {
    const typename Tile::T* factors;
    u32 channels, first;
    int cols;

    __device__ __forceinline__ void operator()(int row, int col, float (&values)[4]) const {
        if constexpr (MODULATED) {
            if (factors == nullptr) return;
            const typename Tile::T* at = factors + u64(samples_of<Tile>()[row]) * channels + first + col;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (col + i < cols) values[i] *= to_float(at[i]);
            }
        }
    }
};

// ------------------------------------------------------------------------------------------------ the three maps

template <typename Tile, bool MODULATED>
__device__ __forceinline__ void conv_forward(const ConvParams& p, const Modulation<typename Tile::T, MODULATED>& modulation) {
    using T = typename Tile::T;
    const ConvTile tile = conv_tile<Tile>(p, 1);
    const u32 c_group = p.c / p.groups, k_group = p.k / p.groups;
    const u32 pixels = p.n * p.oh * p.ow, depth = p.r * p.s * c_group;
    Window* windows = reinterpret_cast<Window*>(dynamic_smem);
    if (threadIdx.x < Tile::M) {
        const u32 m = tile.m + threadIdx.x, across = m / p.ow, sample = across / p.oh;
        Window window{u64(sample) * p.h * p.w * p.c + tile.group * c_group, NOWHERE, NOWHERE};
        if (m < pixels) {
            window.h = int((across - sample * p.oh) * p.stride) - int(p.padding);
            window.w = int((m - across * p.ow) * p.stride) - int(p.padding);
        }
        windows[threadIdx.x] = window;
        if constexpr (MODULATED) samples_of<Tile>()[threadIdx.x] = min(sample, p.n - 1);
    }
    __syncthreads();

    const u32 begin = tile.split * p.k_per_split, end = min(depth, begin + p.k_per_split);
    const int step = int(p.dilation);
    const Im2colRows<Tile, MODULATED> a{static_cast<const T*>(p.a), modulation.styles, windows, int(p.h), int(p.w), p.c, step, step, p.channels, TapDivmod(p.s),
                               p.a_vector};
    const u32 first = tile.group * k_group + tile.n;
    const MatrixOperand<Tile, true, Tile::N> b{static_cast<const T*>(p.b) + u64(first) * depth, depth, int(k_group - tile.n), p.b_vector};
    Accumulators<Tile> c;
    mainloop<Tile, true, true>(c, ring_of<Tile>(), int(begin), int(end), a, b);

    const int cols = int(k_group - tile.n);
    store_tile<Tile, true>(
        p, c, tile.split, int(pixels - tile.m), cols, p.k, first, [&](int row) { return u64(tile.m + row); },
        ScaledByDcoefs<Tile, MODULATED>{modulation.dcoefs, p.k, first, cols});
}

// The first tap that reaches pixels of residue `phase`, or `taps` where none does.
__device__ __forceinline__ u32 first_tap(u32 phase, u32 taps, const ConvParams& p) {
    u32 tap = 0;
    while (tap < taps && (phase + p.padding + p.stride * p.dilation * tap - p.dilation * tap) % p.stride != 0) ++tap;
    return tap;
}

__device__ __forceinline__ u32 greatest_common_divisor(u32 a, u32 b) {
    while (b != 0) {
        const u32 rest = a % b;
        a = b, b = rest;
    }
    return a;
}

template <typename Tile, bool MODULATED>
__device__ __forceinline__ void conv_input_gradient(const ConvParams& p, const Modulation<typename Tile::T, MODULATED>& modulation) {
    using T = typename Tile::T;
    const u32 phases = p.stride * p.stride;
    const ConvTile tile = conv_tile<Tile>(p, phases);
    const u32 c_group = p.c / p.groups, k_group = p.k / p.groups;
    const u32 phase_h = tile.rest / p.stride, phase_w = tile.rest % p.stride;
    // Pixels of this phase, and the taps they see.
    const u32 rows = (p.h + p.stride - 1 - phase_h) / p.stride, columns = (p.w + p.stride - 1 - phase_w) / p.stride;
    const u32 pixels = p.n * rows * columns;
    if (tile.m >= pixels) return;
    const u32 step = p.stride / greatest_common_divisor(p.stride, p.dilation);
    const u32 first_r = first_tap(phase_h, p.r, p), first_s = first_tap(phase_w, p.s, p);
    const u32 taps_r = (p.r - first_r + step - 1) / step, taps_s = (p.s - first_s + step - 1) / step;
    // Tap `first + step j` joins pixel `stride i + phase` to position `i + origin - travel j` of y.
    const int origin_h = (int(phase_h + p.padding) - int(first_r * p.dilation)) / int(p.stride);
    const int origin_w = (int(phase_w + p.padding) - int(first_s * p.dilation)) / int(p.stride);
    const int travel = int(step * p.dilation / p.stride);

    Window* windows = reinterpret_cast<Window*>(dynamic_smem);
    if (threadIdx.x < Tile::M) {
        const u32 m = tile.m + threadIdx.x, across = m / columns, sample = across / rows;
        Window window{u64(sample) * p.oh * p.ow * p.k + tile.group * k_group, NOWHERE, NOWHERE};
        if (m < pixels) {
            window.h = int(across - sample * rows) + origin_h;
            window.w = int(m - across * columns) + origin_w;
        }
        windows[threadIdx.x] = window;
        if constexpr (MODULATED) samples_of<Tile>()[threadIdx.x] = min(sample, p.n - 1);
    }
    __syncthreads();

    const u32 depth = taps_r * taps_s * k_group;
    const u32 begin = min(depth, tile.split * p.k_per_split), end = min(depth, begin + p.k_per_split);
    const TapDivmod taps(taps_s);
    const Im2colRows<Tile, MODULATED> a{static_cast<const T*>(p.a), modulation.styles, windows, int(p.oh), int(p.ow), p.k, -travel, -travel, p.channels, taps, p.a_vector};
    const T* weight = static_cast<const T*>(p.b) + u64(tile.group) * k_group * p.r * p.s * c_group + tile.n;
    const WeightMnMajor<Tile> b{weight, p.s, p.r * p.s, c_group, first_r, first_s, step, p.channels, taps, int(c_group - tile.n), p.b_vector};
    Accumulators<Tile> c;
    mainloop<Tile, true, false>(c, ring_of<Tile>(), int(begin), int(end), a, b);

    const u32 first = tile.group * c_group + tile.n;
    const int cols = int(c_group - tile.n);
    store_tile<Tile, MODULATED>(
        p, c, tile.split, int(pixels - tile.m), cols, p.c, first,
        [&](int row) {
            // The window's place, once more: which pixel of x it came from.
            const u32 m = tile.m + row, across = m / columns, sample = across / rows;
            const u32 h = (across - sample * rows) * p.stride + phase_h, w = (m - across * columns) * p.stride + phase_w;
            return (u64(sample) * p.h + h) * p.w + w;
        },
        ScaledByDcoefs<Tile, MODULATED>{modulation.dcoefs, p.c, first, cols});
}

template <typename Tile>
__device__ __forceinline__ void conv_weight_gradient(const ConvParams& p) {
    using T = typename Tile::T;
    const ConvTile tile = conv_tile<Tile>(p, 1);
    const u32 c_group = p.c / p.groups, k_group = p.k / p.groups;
    const u32 pixels = p.n * p.oh * p.ow, columns = p.r * p.s * c_group;
    const u32 begin = tile.split * p.k_per_split, end = min(pixels, begin + p.k_per_split);
    const u32 first = tile.group * k_group + tile.m;
    const MatrixOperand<Tile, false, Tile::M> a{static_cast<const T*>(p.b) + first, p.k, int(k_group - tile.m), p.b_vector};
    const Im2colColumns<Tile> b{static_cast<const T*>(p.a) + tile.group * c_group,
                                  int(p.h),
                                  int(p.w),
                                  p.c,
                                  p.stride,
                                  p.padding,
                                  p.dilation,
                                  p.ow,
                                  p.oh,
                                  p.out_w,
                                  p.out_h,
                                  p.channels,
                                  TapDivmod(p.s),
                                  tile.n,
                                  columns,
                                  p.a_vector};
    Accumulators<Tile> c;
    mainloop<Tile, false, false>(c, ring_of<Tile>(), int(begin), int(end), a, b);
    store_tile<Tile, false>(
        p, c, tile.split, int(k_group - tile.m), int(columns - tile.n), columns, tile.n,
        [&](int row) { return u64(first + row); }, Unchanged{});
}
