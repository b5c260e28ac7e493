// Order-0 scores: the entropy of each image's predicted residuals in 1/65536 bit. The rules are the page of src/select/order0.rs.
//
// Shapes    pixels u8 [n, h, w, 3]; bits u64 [n].
// Launch    one block of 256 threads per chunk of at most 16384 pixels; 6.3 KiB of shared memory.
// Phases    each thread walks down a column of 16 samples: one 128-bit load per row, the row above in registers, one
//           shared atomic a sample into one of two histograms by lane; then n log2 n of 768 counts.
// Counted   on the emulator, 512 px of tissue, a pixel: 1.82 warp instructions, 0.24 shared wavefronts, 0.31 serialised atomic
//           steps (white: 1.75, 0.11, 0.56). An H100 issues 927 G warp instructions a second: 509 G pixels/s, 1.5 TB/s of pixels;
//           wavefronts and atomic steps together (232 G a second) allow 422 G, 1.3 TB/s, even if none is hidden; memory
//           3.35 TB/s. Histograms 256 words apart, not 268, doubled the wavefronts.
// Not done  a histogram for each warp: 24 KiB to clear and add up for 48 KiB of samples, more than the conflicts it saves.
// Numerics  log2 by sixteen squarings of a 1.31 number, as the CPU's table is made; sums are integers.
// Tail      rows that are no multiple of 16 bytes go byte by byte.
#include "common/chunk.cuh"

namespace {

constexpr u32 THREADS = 256;
constexpr u32 COPIES = 2;
// Words from a channel's histogram to the next: common residuals of different channels lie in different banks.
constexpr u32 CHANNEL = 268;

// floor of log2(n) in 1/65536 bit: log2_q16 of src/select/shannon/log2.rs.
__device__ u32 log2_q16(u32 n) {
    u32 octave = 31 - __clz(n);
    u32 mantissa = n << (31 - octave), bits = octave;
#pragma unroll
    for (u32 i = 0; i < 16; i++) {
        u64 square = u64(mantissa) * mantissa >> 31;
        u32 carry = u32(square >> 32);
        mantissa = u32(square >> carry);
        bits = bits << 1 | carry;
    }
    return bits;
}

__device__ u64 n_log2_n(u32 n) { return n < 2 ? 0 : u64(n) * log2_q16(n); }

// Sixteen samples a load, down the column; what lies outside the chunk is 0.
__device__ void count_vectors(const ChunkArea& area, u32* counts) {
    u32 vectors = 3 * area.width / 16, columns = min(vectors, THREADS), groups = min(THREADS / columns, area.height);
    u32 group = threadIdx.x / columns;
    if (group >= groups) return;
    u32 first = cut(group, groups, area.height), last = cut(group + 1, groups, area.height);
    for (u32 x = threadIdx.x % columns; x < vectors; x += columns) {
        const u8* line = area.pixels + first * area.pitch + 16 * x;
        u32 up[19] = {}, here[19];
        auto load = [&](const u8* at, u32 (&samples)[19]) {
            u32 before = x > 0 ? *reinterpret_cast<const u32*>(at - 4) : 0;
            uint4 vector = *reinterpret_cast<const uint4*>(at);
            u32 words[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
            for (u32 i = 0; i < 3; i++) samples[i] = before >> (8 * i + 8) & 255;
#pragma unroll
            for (u32 i = 0; i < 16; i++) samples[3 + i] = words[i / 4] >> (8 * (i % 4)) & 255;
        };
        if (first > 0) load(line - area.pitch, up);
        u32 channel = 16 * x % 3;  // of the vector's first sample
        u32* of_channel[3];
#pragma unroll
        for (u32 i = 0; i < 3; i++) of_channel[i] = counts + CHANNEL * ((channel + i) % 3);
        for (u32 y = first; y < last; y++, line += area.pitch) {
            load(line, here);
#pragma unroll
            for (u32 i = 0; i < 16; i++) {
                u32 residual = here[i + 3] - median_edge(here[i], up[i + 3], up[i]);
                atomicAdd(&of_channel[i % 3][residual & 255], 1);
            }
#pragma unroll
            for (u32 i = 0; i < 19; i++) up[i] = here[i];
        }
    }
}

}  // namespace

struct Order0Params {
    const u8* pixels;
    u64* bits;  // in 1/65536, one per image, zero before
    u32 width_px, height_px;
    u32 columns, rows;  // of chunks
};

extern "C" __global__ void __launch_bounds__(256) shannon_order0_score(const __grid_constant__ Order0Params p) {
    __shared__ u32 counts[COPIES][3 * CHANNEL];
    __shared__ u64 total;
    ChunkArea area = chunk_area({p.pixels, p.width_px, p.height_px, p.columns, p.rows}, blockIdx.x);
    for (u32 i = threadIdx.x; i < 3 * CHANNEL; i += THREADS) counts[0][i] = counts[1][i] = 0;
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    u32* mine = counts[threadIdx.x % COPIES];
    bool aligned = (u64(area.pixels) | area.pitch | 3 * area.width) % 16 == 0;
    if (aligned) {
        count_vectors(area, mine);
    } else {
        predict_chunk<THREADS>(area, [&](u32, u32 channel, u32 residual) {
            atomicAdd(&mine[CHANNEL * channel + (residual & 255)], 1);
        });
    }
    __syncthreads();
    u64 sum = 0;
#pragma unroll
    for (u32 channel = 0; channel < 3; channel++)
        sum += n_log2_n(counts[0][CHANNEL * channel + threadIdx.x] + counts[1][CHANNEL * channel + threadIdx.x]);
    // A chunk's sum is below 2^36: its parts above and below 16 bits are added as 32-bit numbers.
    u32 low = __reduce_add_sync(0xffffffff, u32(sum) & 0xffff), high = __reduce_add_sync(0xffffffff, u32(sum >> 16));
    if (threadIdx.x % 32 == 0) atomicAdd(&total, (u64(high) << 16) + low);
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(&p.bits[area.image], 3 * n_log2_n(area.size_px()) - total);
}
