// Canny's edges of a batch of images, pixel for pixel those of src/select/canny.rs (and so of OpenCV), and how many there are.
//
//   thin3, thin5, thin7   Sobel, strength, the thinning across the edge: every pixel is no candidate, one, or a strong one
//   link                  candidates that touch, also diagonally, are united
//   mark                  the roots of what holds a strong pixel are marked
//   finish                candidates whose root is marked are edges; counted
//
// Shapes    pixels u8 [n, h, w, 3]; state u8 and parent u32 [n, h, w] between the kernels; edges u8 [n, h, w]; counts u64 [n].
// Launch    256 threads. thin: a tile of 64 x 16 pixels; the others 1024 neighbouring pixels of one image, four per thread.
// Traffic   thin reads 3 bytes per pixel (1.4 times, from L2), writes 1 and for candidates 4; link reads 1 and 4 for candidates
//           and their neighbours; mark and finish 1 and 4 for candidates; edges 1. About 9 bytes per pixel where a tenth are candidates.
// Limit     instructions, counted on the emulator in warp instructions per pixel of white noise, an eighth of it candidates: thin3 6.7, link
//           6.4, mark 1.5, finish 1.1: 59 G pixels/s of an H100's 926 G/s, 175 GB/s of RGB. Tissue has fewer candidates.
// Rejected  growing the edges by one pixel per launch until nothing changes: as many launches as the longest edge has pixels,
//           and the host in every one of them.
// Numerics  integers. Which root a set ends with does not depend on the order: the smallest of its pixels. Atomics only lower a
//           parent or set the mark.
// Tail      pixels beyond the image have strength 0; the last block of an image stops at its end. Pixel indices need 31 bits: the op rejects
//           larger batches.
#include "common/grey.cuh"

constexpr int THREADS = 256;
constexpr int TILE_W = 64, TILE_H = 16;
constexpr u8 CANDIDATE = 0, NONE = 1, EDGE = 2;
constexpr u32 MARK = 0x80000000u;
constexpr int TAN_22 = 13573;  // tan 22.5 degrees in 15 fractional bits
constexpr int PER_THREAD = 4;

// Read while other threads lower it.
__device__ __forceinline__ u32 parent_of(const u32* parent, u32 at) {
    u32 value;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(parent + at) : "memory");
    return value & ~MARK;
}

__device__ __forceinline__ u32 root_of(const u32* parent, u32 at) {
    for (u32 above = parent_of(parent, at); above != at; above = parent_of(parent, at)) at = above;
    return at;
}

// Puts two pixels into one set; the smaller root stays one.
__device__ void unite(u32* parent, u32 a, u32 b) {
    for (;;) {
        a = root_of(parent, a);
        b = root_of(parent, b);
        if (a == b) return;
        const u32 low = min(a, b), high = max(a, b);
        const u32 before = atomicMin(&parent[high], low);
        if (before == high) return;
        // Somebody else lowered it meanwhile: what it was then and what it is now are one set too.
        a = before, b = low;
    }
}

// --------------------------------------------------------------------------------------------------------------- thin

struct ThinParams {
    GreyBatch batch;
    u8* state;
    u32* parent;
    int low, high;
    u32 l2, unused;
};

template <int N>
__device__ __forceinline__ void thin(const ThinParams& p) {
    constexpr int R = N / 2, COLUMNS = TILE_W + 2 + 2 * R, ROWS = TILE_H + 2 + 2 * R, PITCH = (COLUMNS + 3) / 4 * 4;
    constexpr int WIDE = TILE_W + 2, HIGH = TILE_H + 2;
    constexpr int SMOOTH[3][7] = {{1, 2, 1}, {1, 4, 6, 4, 1}, {1, 6, 15, 20, 15, 6, 1}};
    constexpr int SLOPE[3][7] = {{-1, 0, 1}, {-1, -2, 0, 2, 1}, {-1, -4, -5, 0, 5, 4, 1}};
    __shared__ u8 grey[ROWS * PITCH];
    __shared__ int strengths[HIGH][WIDE];
    __shared__ short2 slopes[HIGH][WIDE];
    const Tile tile = tile_at<TILE_W, TILE_H>(p.batch, blockIdx.x);
    const int width = int(p.batch.width_px), height = int(p.batch.height_px);
    load_grey<COLUMNS, ROWS, PITCH, THREADS>(grey, p.batch, tile.image, tile.x - 1 - R, tile.y - 1 - R, repeated);
    __syncthreads();
    for (int i = int(threadIdx.x); i < WIDE * HIGH; i += THREADS) {
        const int row = i / WIDE, column = i % WIDE;
        int dx = 0, dy = 0;
#pragma unroll
        for (int r = 0; r < N; ++r) {
            int smooth = 0, slope = 0;
#pragma unroll
            for (int s = 0; s < N; ++s) {
                const int level = grey[(row + r) * PITCH + column + s];
                smooth += SMOOTH[R - 1][s] * level;
                slope += SLOPE[R - 1][s] * level;
            }
            dx += SMOOTH[R - 1][r] * slope;
            dy += SLOPE[R - 1][r] * smooth;
        }
        if (N == 7) {
            // A sixteenth, ties to even.
            dx = (dx + 7 + (dx >> 4 & 1)) >> 4;
            dy = (dy + 7 + (dy >> 4 & 1)) >> 4;
        }
        const int x = tile.x + column - 1, y = tile.y + row - 1;
        const bool inside = x >= 0 && x < width && y >= 0 && y < height;
        strengths[row][column] = !inside ? 0 : p.l2 ? dx * dx + dy * dy : abs(dx) + abs(dy);
        slopes[row][column] = make_short2(short(dx), short(dy));
    }
    __syncthreads();
    for (int i = int(threadIdx.x); i < TILE_W * TILE_H; i += THREADS) {
        const int row = i / TILE_W, column = i % TILE_W, x = tile.x + column, y = tile.y + row;
        if (x >= width || y >= height) continue;
        auto at = [&](int down, int right) { return strengths[row + 1 + down][column + 1 + right]; };
        const int strength = at(0, 0), dx = slopes[row + 1][column + 1].x, dy = slopes[row + 1][column + 1].y;
        const int across = abs(dx), down = abs(dy) << 15, tan_22 = across * TAN_22;
        bool peak;
        if (down < tan_22) {
            peak = strength > at(0, -1) && strength >= at(0, 1);
        } else if (down > tan_22 + (across << 16)) {
            peak = strength > at(-1, 0) && strength >= at(1, 0);
        } else if ((dx ^ dy) < 0) {
            peak = strength > at(-1, 1) && strength > at(1, -1);
        } else {
            peak = strength > at(-1, -1) && strength > at(1, 1);
        }
        peak = peak && strength > p.low;
        const u32 place = (tile.image * u32(height) + u32(y)) * u32(width) + u32(x);
        p.state[place] = !peak ? NONE : strength > p.high ? EDGE : CANDIDATE;
        if (peak) p.parent[place] = place;
    }
}

extern "C" __global__ void __launch_bounds__(256) canny_thin3(const __grid_constant__ ThinParams p) { thin<3>(p); }
extern "C" __global__ void __launch_bounds__(256) canny_thin5(const __grid_constant__ ThinParams p) { thin<5>(p); }
extern "C" __global__ void __launch_bounds__(256) canny_thin7(const __grid_constant__ ThinParams p) { thin<7>(p); }

// --------------------------------------------------------------------------------------------------- link, mark, finish

struct LinkParams {
    const u8* state;
    u32* parent;
    u8* edges;
    u64* counts;  // zero before
    u32 width_px, height_px;
    u32 blocks_each;  // of an image
    u32 unused;
};

// Calls f(first index of the image, index within it, state) for the thread's pixels.
template <typename F>
__device__ __forceinline__ void each_pixel(const LinkParams& p, F f) {
    const u32 image_px = p.width_px * p.height_px, base = blockIdx.x / p.blocks_each * image_px;
    // A warp's threads lie side by side.
    const u32 first = blockIdx.x % p.blocks_each * u32(THREADS * PER_THREAD) + threadIdx.x;
#pragma unroll
    for (u32 i = 0; i < PER_THREAD; ++i) {
        const u32 at = first + i * THREADS;
        if (at < image_px) f(base, at, p.state[base + at]);
    }
}

extern "C" __global__ void __launch_bounds__(256) canny_link(const __grid_constant__ LinkParams p) {
    each_pixel(p, [&](u32 base, u32 at, u8 state) {
        if (state == NONE) return;
        const u32 x = at % p.width_px, y = at / p.width_px, place = base + at, above = place - p.width_px;
        auto there = [&](bool inside, u32 neighbour) { return inside && p.state[neighbour] != NONE; };
        if (there(y > 0, above)) {
            // The pixels beside it and the one on the left touch it and find it themselves.
            unite(p.parent, place, above);
            return;
        }
        if (there(y > 0 && x + 1 < p.width_px, above + 1)) unite(p.parent, place, above + 1);
        if (there(x > 0, place - 1)) {
            unite(p.parent, place, place - 1);
        } else if (there(y > 0 && x > 0, above - 1)) {
            unite(p.parent, place, above - 1);
        }
    });
}

extern "C" __global__ void __launch_bounds__(256) canny_mark(const __grid_constant__ LinkParams p) {
    each_pixel(p, [&](u32 base, u32 at, u8 state) {
        if (state == EDGE) atomicOr(&p.parent[root_of(p.parent, base + at)], MARK);
    });
}

extern "C" __global__ void __launch_bounds__(256) canny_finish(const __grid_constant__ LinkParams p) {
    __shared__ u32 found;
    if (threadIdx.x == 0) found = 0;
    __syncthreads();
    u32 edges = 0;
    each_pixel(p, [&](u32 base, u32 at, u8 state) {
        bool edge = state == EDGE;
        if (state == CANDIDATE) {
            u32 place = base + at, above = p.parent[place];
            while ((above & ~MARK) != place) place = above & ~MARK, above = p.parent[place];
            edge = (above & MARK) != 0;
        }
        p.edges[base + at] = edge ? 255 : 0;
        edges += edge;
    });
    edges = __reduce_add_sync(0xffffffffu, edges);
    if (threadIdx.x % 32 == 0 && edges > 0) atomicAdd(&found, edges);
    __syncthreads();
    if (threadIdx.x == 0 && found > 0) atomicAdd(&p.counts[blockIdx.x / p.blocks_each], u64(found));
}
