// A chunk of an image in shared memory: where it lies, its folded residuals, the contexts they are coded in.
// The rules are those of src/select/shannon (module page); everything is integer, so the numbers are the same.
#pragma once

#include "common/element.cuh"

using i64 = long long;
using u16 = unsigned short;

// Pixels and samples a chunk has at most, and what lies around it in shared memory: reads of whole words pass the last sample.
constexpr u32 CHUNK_PIXELS = 16384;
constexpr u32 CHUNK_BYTES = 3 * CHUNK_PIXELS;
constexpr u32 RESIDUAL_BYTES = CHUNK_BYTES + 64;

// A batch of images of one size, u8 [n, height, width, 3], and the grid each is cut into.
struct ChunkGrid {
    const u8* pixels;
    u32 width_px, height_px;
    u32 columns, rows;
};

struct ChunkArea {
    const u8* pixels;   // of the chunk's first pixel
    u64 pitch;          // bytes from a row of the image to the next
    u32 width, height;  // pixels
    u32 image;
    u32 index;  // of the chunk in its image

    __device__ u32 size_px() const { return width * height; }
};

// floor(i * length_px / parts) in 32 bits: an image has fewer than 2^16 columns and rows of chunks.
__device__ inline u32 cut(u32 i, u32 parts, u32 length_px) {
    return i * (length_px / parts) + i * (length_px % parts) / parts;
}

// The chunk of block `block`: images one after another, chunks in rows from the top, each from the left.
__device__ inline ChunkArea chunk_area(const ChunkGrid& grid, u32 block) {
    u32 chunks = grid.columns * grid.rows;
    ChunkArea area;
    area.image = block / chunks;
    area.index = block % chunks;
    u32 column = area.index % grid.columns, row = area.index / grid.columns;
    u32 x = cut(column, grid.columns, grid.width_px), y = cut(row, grid.rows, grid.height_px);
    area.width = cut(column + 1, grid.columns, grid.width_px) - x;
    area.height = cut(row + 1, grid.rows, grid.height_px) - y;
    area.pitch = 3ull * grid.width_px;
    area.pixels = grid.pixels + (u64(area.image) * grid.height_px + y) * area.pitch + 3ull * x;
    return area;
}

// 0, -1, 1, -2 ... to 0, 1, 2, 3 ..., modulo 256.
__device__ __forceinline__ u32 fold(u32 residual) {
    i32 r = i32(residual << 24);
    return u32((r >> 23) ^ (r >> 31)) & 255;
}

// Median of left, up and their plane left + up - up_left. With zeros outside the chunk it is left in the first row, up in the
// first column and 0 for the first pixel, as it must be.
__device__ __forceinline__ u32 median_edge(u32 left, u32 up, u32 up_left) {
    u32 least = min(left, up), most = max(left, up);
    return most - (min(max(up_left, least), most) - least);
}

// Residuals of a chunk by all `THREADS` threads, each walking down its own column of `ceil(height / groups)` pixels, so that the
// line above is in registers. `put(pixel, channel, residual)` receives them, not folded and not cut to a byte. Lanes are
// neighbouring columns.
template <u32 THREADS, typename Put>
__device__ inline void predict_chunk(const ChunkArea& area, Put put) {
    u32 columns = min(area.width, THREADS);
    u32 groups = min(THREADS / columns, area.height);
    u32 group = threadIdx.x / columns;
    if (group >= groups) return;
    u32 first = cut(group, groups, area.height), last = cut(group + 1, groups, area.height);
    for (u32 x = threadIdx.x % columns; x < area.width; x += columns) {
        u32 up[3] = {}, up_left[3] = {};
        const u8* line = area.pixels + first * area.pitch + 3 * x;
        if (first > 0) {
#pragma unroll
            for (u32 c = 0; c < 3; c++) {
                up[c] = line[c - i64(area.pitch)];
                if (x > 0) up_left[c] = line[i64(c) - 3 - i64(area.pitch)];
            }
        }
#pragma unroll 4
        for (u32 y = first; y < last; y++, line += area.pitch) {
            u32 pixel = y * area.width + x;
#pragma unroll
            for (u32 c = 0; c < 3; c++) {
                u32 here = line[c], left = x > 0 ? line[i64(c) - 3] : 0;
                put(pixel, c, here - median_edge(left, up[c], up_left[c]));
                up[c] = here;
                up_left[c] = left;
            }
        }
    }
}

// Contexts by activity, the sum of three residuals' sizes; from 56 on it is the last.
constexpr u32 CONTEXTS = 8;
constexpr u32 MOST_ACTIVITY = 56;

__device__ inline u32 context_of_activity(u32 activity) {
    return (activity >= 2) + (activity >= 5) + (activity >= 9) + (activity >= 15) + (activity >= 24) +
           (activity >= 36) + (activity >= 56);
}

// Size of a folded residual, 0 to 128.
__device__ __forceinline__ u32 size_of(u32 folded) { return (folded + 1) >> 1; }

// Symbols of a context: 256 residuals and the match word. A literal is 257 * context + residual.
constexpr u32 LITERALS = 257;

// Residuals in shared memory and how to find a sample's context.
struct Residuals {
    const u8* bytes;   // RESIDUAL_BYTES, aligned to 4
    const u16* bases;  // MOST_ACTIVITY + 1 multiples of LITERALS by activity
    u32 up, up_right;  // samples back

    __device__ Residuals(const u8* bytes, const u16* bases, u32 width)
        : bytes(bytes), bases(bases), up(3 * width), up_right(max(3 * width - 3, 3u)) {}

    __device__ __forceinline__ u32 size_back(u32 sample, u32 back) const {
        return sample >= back ? size_of(bytes[sample - back]) : 0;
    }

    // The first literal of the sample's context.
    __device__ __forceinline__ u32 base(u32 sample) const {
        u32 activity = size_back(sample, 3) + size_back(sample, up) + size_back(sample, up_right);
        return bases[min(activity, MOST_ACTIVITY)];
    }

    __device__ __forceinline__ u32 literal(u32 sample) const { return base(sample) + bytes[sample]; }

    // Literals of four samples from `sample`, a multiple of 4, on; those behind the chunk are anything.
    __device__ __forceinline__ void literals(u32 sample, u32 (&out)[4]) const {
        if (sample < up) {
            for (u32 i = 0; i < 4; i++) out[i] = literal(sample + i);
            return;
        }
        // Sizes of even and of odd bytes apart: three add up to more than a byte holds.
        u32 even = 0, odd = 0;
        u32 backs[3] = {3, up, up_right};
#pragma unroll
        for (u32 i = 0; i < 3; i++) {
            u32 word[1];
            words(sample - backs[i], word);
            u32 size = (word[0] >> 1 & 0x7f7f7f7f) + (word[0] & 0x01010101);
            even += size & 0x00ff00ff;
            odd += size >> 8 & 0x00ff00ff;
        }
        u32 here = *reinterpret_cast<const u32*>(bytes + sample);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 activity = (i % 2 ? odd : even) >> (i / 2 * 16) & 0xffff;
            out[i] = bases[min(activity, MOST_ACTIVITY)] + (here >> (8 * i) & 255);
        }
    }

    // Words 0 ... N - 1 of the samples from `sample` on, which need not be aligned.
    template <u32 N>
    __device__ __forceinline__ void words(u32 sample, u32 (&out)[N]) const {
        const u32* aligned = reinterpret_cast<const u32*>(bytes) + sample / 4;
        u32 shift = 8 * (sample % 4);
        u32 low = aligned[0];
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            u32 high = aligned[i + 1];
            out[i] = __funnelshift_r(low, high, shift);
            low = high;
        }
    }
};
