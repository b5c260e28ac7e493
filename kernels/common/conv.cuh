// Convolution of channels-last images as products of matrices that are never formed: where the elements of operand tiles lie.
//
//                     m (rows)            n (columns)        k (inner)              A                    B
//   forward           pixels of y         channels of y      taps x channels of x   gathered from x      weight
//   input gradient    pixels of x         channels of x      taps x channels of y   gathered from dy     weight
//   weight gradient   channels of y       taps x ch. of x    pixels of y            dy                   gathered from x
//
// Groups are separate products. With a stride, the pixels of x fall into stride² classes that each meet their own taps only, so
// the input gradient of a class is a product too and nothing is multiplied by inserted zeros.
#pragma once

#include "merge.cuh"
#include "mma.cuh"

struct ConvParams {
    const void *a, *b;  // forward: x, weight; input gradient: dy, weight; weight gradient: x, dy
    void* y;
    float* partials;  // [splits, elements of y], or null where the inner axis is not split
    u64 count;        // elements of y
    Epilogue epilogue;  // of the forward map and of the styled transposed one
    u32 n, h, w, c;   // of x
    u32 k, r, s;      // of the weight, and c / groups
    u32 oh, ow;       // of y
    u32 stride, padding, dilation, groups;
    u32 tiles_m, tiles_n;
    u32 inner_each;          // inner indices of a split, a multiple of the tile's
    u32 a_vector, b_vector;  // elements of a copy
    u32 y_vector;            // 4 where every row of y begins on four elements, else 1
    Divisor channels;        // of the inner index: of x (forward), of y (input gradient); of a column (weight gradient)
    Divisor out_w, out_h;    // of the weight gradient's pixels
};

// Tap numbers by taps in a row: exact while taps² of a row times rows stay below 2^32, as they do where a tensor fits memory.
struct TapDivisor {
    u32 value, reciprocal;

    explicit __device__ __forceinline__ TapDivisor(u32 value) : value(value), reciprocal(0xffffffffu / max(value, 1u) + 1) {}
    __device__ __forceinline__ u32 divide(u32 tap) const { return value == 1 ? tap : __umulhi(tap, reciprocal); }
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
    return reinterpret_cast<u32*>(block_memory + Tile::M * sizeof(Window));
}

template <typename Tile>
__device__ __forceinline__ typename Tile::T* ring_of() {
    return reinterpret_cast<typename Tile::T*>(block_memory + Tile::M * (sizeof(Window) + sizeof(u32)));
}

// Factors of each image's channels: of what is read, which is scaled on its way to shared memory, and of what is written.
// Without STYLED there are none and copies are asynchronous.
template <typename T, bool STYLED>
struct Style {
    const T* read = nullptr;     // [n, channels read]
    const T* written = nullptr;  // [n, channels written], or null
};

// A of the forward map and of the input gradient: row m, inner index (tap, channel) is the pixel that lies `tap` from the
// row's window.
template <typename Tile, bool STYLED>
struct GatheredRows {
    using T = typename Tile::T;
    const T* image;
    const T* style;
    const Window* windows;  // of the tile's rows, in shared memory
    int h, w;               // of the image
    u32 pitch;              // channels of a pixel
    int step_h, step_w;     // pixels from tap to tap
    Divisor channels;
    TapDivisor taps;  // in a row of the kernel
    u32 vector;

    __device__ __forceinline__ void load(T* tile, int k, int end) const {
        with_copy_width<T>(vector, [&](auto width) { copy<width.value>(tile, k, end); });
    }

    template <int VEC>
    __device__ __forceinline__ void copy(T* tile, int k, int end) const {
        constexpr int LINE = Tile::template LINE<true, Tile::M>;
        for_each_vector<VEC, Tile::M, Tile::K, Tile::THREADS>([&](int line, int col) {
            const u32 inner = u32(k + col), tap = channels.divide(inner), channel = inner - tap * channels.value;
            const u32 tap_h = taps.divide(tap), tap_w = tap - tap_h * taps.value;
            const Window window = windows[line];
            const int row = window.h + int(tap_h) * step_h, column = window.w + int(tap_w) * step_w;
            const bool there = int(inner) < end && u32(row) < u32(h) && u32(column) < u32(w);
            const u64 at = window.base + (u64(row) * w + column) * pitch + channel;
            if constexpr (STYLED) {
                float x[VEC] = {};
                if (there) {
                    float factor[VEC];
                    load_floats(x, image + at);
                    load_floats(factor, style + u64(samples_of<Tile>()[line]) * pitch + channel);
#pragma unroll
                    for (int i = 0; i < VEC; ++i) x[i] *= factor[i];
                }
                store_floats(tile + line * LINE + col, x);
            } else {
                copy_elements<VEC>(tile + line * LINE + col, there ? image + at : image, there);
            }
        });
    }
};

// B of the input gradient: inner index (tap, channel of y), column channel of x. The taps are every `step`-th of the kernel's.
template <typename Tile>
struct WeightLines {
    using T = typename Tile::T;
    const T* weight;  // the group's first channel of y, the tile's first channel of x
    u32 s, taps_in_all, pitch;  // of the kernel; channels of x in a group
    u32 first_r, first_s, step;
    Divisor channels;
    TapDivisor taps;
    int cols;
    u32 vector;

    __device__ __forceinline__ void load(T* tile, int k, int end) const {
        with_copy_width<T>(vector, [&](auto width) { copy<width.value>(tile, k, end); });
    }

    template <int VEC>
    __device__ __forceinline__ void copy(T* tile, int k, int end) const {
        constexpr int LINE = Tile::template LINE<false, Tile::N>;
        for_each_vector<VEC, Tile::K, Tile::N, Tile::THREADS>([&](int line, int col) {
            const u32 inner = u32(k + line), tap = channels.divide(inner), channel = inner - tap * channels.value;
            const u32 tap_h = taps.divide(tap), tap_w = tap - tap_h * taps.value;
            const u32 index = (first_r + tap_h * step) * s + first_s + tap_w * step;
            const bool there = int(inner) < end && col < cols;
            const u64 at = (u64(channel) * taps_in_all + index) * pitch + col;
            copy_elements<VEC>(tile + line * LINE + col, there ? weight + at : weight, there);
        });
    }
};

// B of the weight gradient: inner index pixel of y, column (tap, channel of x).
template <typename Tile>
struct GatheredColumns {
    using T = typename Tile::T;
    const T* image;  // the group's first channel
    int h, w;
    u32 pitch;
    u32 stride, padding, dilation;
    u32 out_w, out_h;
    Divisor by_out_w, by_out_h, channels;
    TapDivisor taps;
    u32 first, columns;  // the tile's first column; of all
    u32 vector;

    __device__ __forceinline__ void load(T* tile, int k, int end) const {
        with_copy_width<T>(vector, [&](auto width) { copy<width.value>(tile, k, end); });
    }

    template <int VEC>
    __device__ __forceinline__ void copy(T* tile, int k, int end) const {
        constexpr int LINE = Tile::template LINE<false, Tile::N>;
        for_each_vector<VEC, Tile::K, Tile::N, Tile::THREADS>([&](int line, int col) {
            const u32 index = first + u32(col), tap = channels.divide(index), channel = index - tap * channels.value;
            const u32 tap_h = taps.divide(tap), tap_w = tap - tap_h * taps.value;
            const u32 pixel = u32(k + line), across = by_out_w.divide(pixel), sample = by_out_h.divide(across);
            const int row = int((across - sample * out_h) * stride + tap_h * dilation) - int(padding);
            const int column = int((pixel - across * out_w) * stride + tap_w * dilation) - int(padding);
            const bool there = int(pixel) < end && index < columns && u32(row) < u32(h) && u32(column) < u32(w);
            const u64 at = ((u64(sample) * h + row) * w + column) * pitch + channel;
            copy_elements<VEC>(tile + line * LINE + col, there ? image + at : image, there);
        });
    }
};

// Which product a block works on.
struct ConvPlace {
    u32 m, n, group, split, rest;  // `rest`: what `parts` beyond groups and splits there are
};

template <typename Tile>
__device__ __forceinline__ ConvPlace conv_place(const ConvParams& p, u32 parts) {
    const TilePlace place = tile_place(p.tiles_m, p.tiles_n);
    const u32 z = place.z / parts;
    return {place.m * Tile::M, place.n * Tile::N, z % p.groups, z / p.groups, place.z % parts};
}

// Writes the tile: row r of it is channels `first` .. of pixel `pixel_at(r)` of y, whose pixels are `pitch` channels. `scale` is
// applied to partial sums too, the epilogue, where there is one, to whole ones.
template <typename Tile, bool EPILOGUE, typename Pixel, typename Scale>
__device__ __forceinline__ void store_tile(const ConvParams& p, const Accumulators<Tile>& c, u32 split, int rows, int cols, u32 pitch,
                                           u32 first, Pixel pixel_at, Scale scale) {
    using T = typename Tile::T;
    void* memory = ring_of<Tile>();
    const bool aligned = p.y_vector == 4;
    if (p.partials != nullptr) {
        float* to = p.partials + split * p.count;
        for_each_four<Tile>(c, memory, [&](int row, int col, const float4& v) {
            float values[4] = {v.x, v.y, v.z, v.w};
            if (row < rows) {
                scale(row, col, values);
                store_four(to + pixel_at(row) * pitch + first + col, values, cols - col, aligned);
            }
        });
        return;
    }
    T* to = static_cast<T*>(p.y);
    for_each_four<Tile>(c, memory, [&](int row, int col, const float4& v) {
        float values[4] = {v.x, v.y, v.z, v.w};
        if (row < rows && col < cols) {
            const u64 pixel = pixel_at(row), at = pixel * pitch + first + col;
            scale(row, col, values);
            if constexpr (EPILOGUE) finish<T>(p.epilogue, pixel, first + col, at, cols - col, aligned, values);
            store_four(to + at, values, cols - col, aligned);
        }
    });
}

// Nothing to do to four results.
struct Unchanged {
    __device__ __forceinline__ void operator()(int, int, float (&)[4]) const {}
};

// Multiplies four results by their image's factors of channels `first` .. of `channels`.
template <typename Tile, bool STYLED>
struct Scaled {
    const typename Tile::T* factors;
    u32 channels, first;
    int cols;

    __device__ __forceinline__ void operator()(int row, int col, float (&values)[4]) const {
        if constexpr (STYLED) {
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

template <typename Tile, bool STYLED>
__device__ __forceinline__ void conv_forward(const ConvParams& p, const Style<typename Tile::T, STYLED>& style) {
    using T = typename Tile::T;
    const ConvPlace place = conv_place<Tile>(p, 1);
    const u32 c_group = p.c / p.groups, k_group = p.k / p.groups;
    const u32 pixels = p.n * p.oh * p.ow, depth = p.r * p.s * c_group;
    Window* windows = reinterpret_cast<Window*>(block_memory);
    if (threadIdx.x < Tile::M) {
        const u32 m = place.m + threadIdx.x, across = m / p.ow, sample = across / p.oh;
        Window window{u64(sample) * p.h * p.w * p.c + place.group * c_group, NOWHERE, NOWHERE};
        if (m < pixels) {
            window.h = int((across - sample * p.oh) * p.stride) - int(p.padding);
            window.w = int((m - across * p.ow) * p.stride) - int(p.padding);
        }
        windows[threadIdx.x] = window;
        if constexpr (STYLED) samples_of<Tile>()[threadIdx.x] = min(sample, p.n - 1);
    }
    __syncthreads();

    const u32 begin = place.split * p.inner_each, end = min(depth, begin + p.inner_each);
    const int step = int(p.dilation);
    const GatheredRows<Tile, STYLED> a{static_cast<const T*>(p.a), style.read, windows, int(p.h), int(p.w), p.c, step, step, p.channels, TapDivisor(p.s),
                               p.a_vector};
    const u32 first = place.group * k_group + place.n;
    const PlainOperand<Tile, true, Tile::N> b{static_cast<const T*>(p.b) + u64(first) * depth, depth, int(k_group - place.n), p.b_vector};
    Accumulators<Tile> c;
    multiply<Tile, true, true>(c, ring_of<Tile>(), int(begin), int(end), a, b);

    const int cols = int(k_group - place.n);
    store_tile<Tile, true>(
        p, c, place.split, int(pixels - place.m), cols, p.k, first, [&](int row) { return u64(place.m + row); },
        Scaled<Tile, STYLED>{style.written, p.k, first, cols});
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

template <typename Tile, bool STYLED>
__device__ __forceinline__ void conv_input_gradient(const ConvParams& p, const Style<typename Tile::T, STYLED>& style) {
    using T = typename Tile::T;
    const u32 phases = p.stride * p.stride;
    const ConvPlace place = conv_place<Tile>(p, phases);
    const u32 c_group = p.c / p.groups, k_group = p.k / p.groups;
    const u32 phase_h = place.rest / p.stride, phase_w = place.rest % p.stride;
    // Pixels of this class, and the taps they meet.
    const u32 rows = (p.h + p.stride - 1 - phase_h) / p.stride, columns = (p.w + p.stride - 1 - phase_w) / p.stride;
    const u32 pixels = p.n * rows * columns;
    if (place.m >= pixels) return;
    const u32 step = p.stride / greatest_common_divisor(p.stride, p.dilation);
    const u32 first_r = first_tap(phase_h, p.r, p), first_s = first_tap(phase_w, p.s, p);
    const u32 taps_r = (p.r - first_r + step - 1) / step, taps_s = (p.s - first_s + step - 1) / step;
    // Tap `first + step j` joins pixel `stride i + phase` to position `i + origin - travel j` of y.
    const int origin_h = (int(phase_h + p.padding) - int(first_r * p.dilation)) / int(p.stride);
    const int origin_w = (int(phase_w + p.padding) - int(first_s * p.dilation)) / int(p.stride);
    const int travel = int(step * p.dilation / p.stride);

    Window* windows = reinterpret_cast<Window*>(block_memory);
    if (threadIdx.x < Tile::M) {
        const u32 m = place.m + threadIdx.x, across = m / columns, sample = across / rows;
        Window window{u64(sample) * p.oh * p.ow * p.k + place.group * k_group, NOWHERE, NOWHERE};
        if (m < pixels) {
            window.h = int(across - sample * rows) + origin_h;
            window.w = int(m - across * columns) + origin_w;
        }
        windows[threadIdx.x] = window;
        if constexpr (STYLED) samples_of<Tile>()[threadIdx.x] = min(sample, p.n - 1);
    }
    __syncthreads();

    const u32 depth = taps_r * taps_s * k_group;
    const u32 begin = min(depth, place.split * p.inner_each), end = min(depth, begin + p.inner_each);
    const TapDivisor taps(taps_s);
    const GatheredRows<Tile, STYLED> a{static_cast<const T*>(p.a), style.read, windows, int(p.oh), int(p.ow), p.k, -travel, -travel, p.channels, taps, p.a_vector};
    const T* weight = static_cast<const T*>(p.b) + u64(place.group) * k_group * p.r * p.s * c_group + place.n;
    const WeightLines<Tile> b{weight, p.s, p.r * p.s, c_group, first_r, first_s, step, p.channels, taps, int(c_group - place.n), p.b_vector};
    Accumulators<Tile> c;
    multiply<Tile, true, false>(c, ring_of<Tile>(), int(begin), int(end), a, b);

    const u32 first = place.group * c_group + place.n;
    const int cols = int(c_group - place.n);
    store_tile<Tile, STYLED>(
        p, c, place.split, int(pixels - place.m), cols, p.c, first,
        [&](int row) {
            // The window's place, once more: which pixel of x it came from.
            const u32 m = place.m + row, across = m / columns, sample = across / rows;
            const u32 h = (across - sample * rows) * p.stride + phase_h, w = (m - across * columns) * p.stride + phase_w;
            return (u64(sample) * p.h + h) * p.w + w;
        },
        Scaled<Tile, STYLED>{style.written, p.c, first, cols});
}

template <typename Tile>
__device__ __forceinline__ void conv_weight_gradient(const ConvParams& p) {
    using T = typename Tile::T;
    const ConvPlace place = conv_place<Tile>(p, 1);
    const u32 c_group = p.c / p.groups, k_group = p.k / p.groups;
    const u32 pixels = p.n * p.oh * p.ow, columns = p.r * p.s * c_group;
    const u32 begin = place.split * p.inner_each, end = min(pixels, begin + p.inner_each);
    const u32 first = place.group * k_group + place.m;
    const PlainOperand<Tile, false, Tile::M> a{static_cast<const T*>(p.b) + first, p.k, int(k_group - place.m), p.b_vector};
    const GatheredColumns<Tile> b{static_cast<const T*>(p.a) + place.group * c_group,
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
                                  TapDivisor(p.s),
                                  place.n,
                                  columns,
                                  p.a_vector};
    Accumulators<Tile> c;
    multiply<Tile, false, false>(c, ring_of<Tile>(), int(begin), int(end), a, b);
    store_tile<Tile, false>(
        p, c, place.split, int(k_group - place.m), int(columns - place.n), columns, place.n,
        [&](int row) { return u64(first + row); }, Unchanged{});
}
