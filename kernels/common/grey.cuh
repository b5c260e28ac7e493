// Grey levels of RGB pixels: OpenCV's 8-bit luma, as src/select/grey.rs has it, and tiles of it in shared memory.
#pragma once

#include "element.cuh"

// A batch of images of one size, u8 [n, h, w, 3], cut into tiles: tile `t` of all, in rows, image after image.
struct GreyBatch {
    const u8* pixels;
    u32 width_px, height_px;
    u32 tiles_x, tiles_y;
};

__device__ __forceinline__ u32 luma(u32 red, u32 green, u32 blue) {
    return (9798 * red + 19235 * green + 3735 * blue + (1 << 14)) >> 15;
}

__device__ __forceinline__ u32 luma_at(const u8* rgb) { return luma(rgb[0], rgb[1], rgb[2]); }

// Where a tile lies: its image and its first pixel.
struct Tile {
    u32 image;
    int x, y;
};

template <int WIDTH_PX, int HEIGHT_PX>
__device__ __forceinline__ Tile tile_at(const GreyBatch& batch, u32 index) {
    const u32 of_image = batch.tiles_x * batch.tiles_y, inside = index % of_image;
    return {index / of_image, int(inside % batch.tiles_x) * WIDTH_PX, int(inside / batch.tiles_x) * HEIGHT_PX};
}

// The border pixel goes on without end.
__device__ __forceinline__ int repeated(int at, int extent) { return min(max(at, 0), extent - 1); }

// The image mirrored about its outer edges, over and over: c b a | a b c | c b a.
__device__ __forceinline__ int mirrored(int at, int extent) {
    if (at >= 0 && at < extent) return at;
    int within = at % (2 * extent);
    if (within < 0) within += 2 * extent;
    return within < extent ? within : 2 * extent - 1 - within;
}

// Grey levels of COLUMNS x ROWS pixels from (x, y) on, rows PITCH elements apart; `outside` says which pixel stands beyond an edge.
// The caller waits for the other threads.
template <int COLUMNS, int ROWS, int PITCH, int THREADS, typename T, typename F>
__device__ __forceinline__ void load_grey(T* to, const GreyBatch& batch, u32 image, int x, int y, F outside) {
    const u8* pixels = batch.pixels + 3 * u64(image) * batch.width_px * batch.height_px;
#pragma unroll 2
    for (int i = int(threadIdx.x); i < COLUMNS * ROWS; i += THREADS) {
        const int row = i / COLUMNS, column = i % COLUMNS;
        const int from_x = outside(x + column, int(batch.width_px)), from_y = outside(y + row, int(batch.height_px));
        to[row * PITCH + column] = T(luma_at(pixels + 3 * (u64(from_y) * batch.width_px + from_x)));
    }
}
