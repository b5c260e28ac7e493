// JPEG scores: bits of the entropy-coded blocks of a baseline 4:2:0 JPEG. The rules are the page of src/select/jpeg.rs.
//
// Shapes    pixels u8 [n, h, w, 3]; bits u64 [n].
// Launch    192 threads: one 8 x 8 block each, the six of 32 neighbouring 16 x 16 units; a warp has blocks of one kind.
//           Lane 0's unit belongs to the previous thread block: its DC values are compared with, its bits not added.
// Work      a block of 64 samples stays in registers: 1024 multiplications by constants, 64 by reciprocals, 63 steps of
//           run lengths. Chroma lanes read four pixels per sample, which the L1 cache has.
// Counted   on the emulator, 512 px of tissue, a pixel: 3.94 warp instructions (an H100 issues for 235 G pixels/s, 705 GB/s), 9.3
//           sectors from L1, because lanes lie 48 bytes apart: the limit, about 100 G pixels/s.
// Numerics  integers: the CPU's 16-bit colours, 1/8192 cosines and rounded divisions.
// Tail      edges repeat, as in the CPU's units.
#include "common/chunk.cuh"

constexpr u32 KINDS = 6;   // blocks of a unit: four of Y, Cb, Cr
constexpr u32 FRESH = 31;  // units a thread block adds; lane 0 has the unit before them

// Annex K.1 in zigzag order.
__constant__ u8 QUANTISATION[2][64] = {
    {16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40,  26,  24, 22, 22,  24,  49,
     35, 37, 29, 40, 58, 51, 61, 60, 57, 51, 56, 55, 64, 72, 92, 78,  64,  68, 87, 69,  55,  56,
     80, 109, 81, 87, 95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99},
    {17, 18, 18, 24, 21, 24, 47, 26, 26, 47, 99, 66, 56, 66, 99, 99, 99, 99, 99, 99, 99, 99,
     99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
     99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99}};

// Annex K.3, as in src/select/jpeg.rs: bits of DC sizes; how many AC words have 1, 2 ... 16 bits; the first AC symbols
// by length of their word, the others following in ascending order.
__constant__ u8 DC_BITS[2][12] = {{2, 3, 3, 3, 3, 3, 4, 5, 6, 7, 8, 9}, {2, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}};
constexpr u8 AC_WORDS[2][16] = {{0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125}, {0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119}};
constexpr u8 AC_FIRST[2][43] = {
    {0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61,
     0x07, 0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52,
     0xd1, 0xf0, 0x24, 0x33, 0x62, 0x72, 0x82},
    {0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61,
     0x71, 0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33,
     0x52, 0xf0, 0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1}};
constexpr u32 AC_FIRSTS[2] = {37, 43};

struct AcBits {
    u8 of[2][256];
};

// Bits of every AC symbol (run << 4 | size): its word and the size's further bits.
constexpr AcBits ac_bits() {
    AcBits bits = {};
    for (u32 table = 0; table < 2; table++) {
        u32 length = 1, left = AC_WORDS[table][0];
        auto next = [&](u32 symbol) {
            while (left == 0) left = AC_WORDS[table][length++];
            left--;
            bits.of[table][symbol] = u8(length + (symbol & 15));
        };
        for (u32 i = 0; i < AC_FIRSTS[table]; i++) next(AC_FIRST[table][i]);
        for (u32 symbol = 0; symbol < 256; symbol++) {
            bool coded = ((symbol & 15) >= 1 && (symbol & 15) <= 10) || symbol == 0x00 || symbol == 0xf0;
            if (coded && bits.of[table][symbol] == 0) next(symbol);
        }
    }
    return bits;
}

__constant__ constexpr AcBits AC_BITS = ac_bits();

struct Zigzag {
    u8 at[64];
};

constexpr Zigzag zigzag() {
    Zigzag order = {};
    i32 x = 0, y = 0;
    for (u32 i = 0; i < 64; i++) {
        order.at[i] = u8(8 * y + x);
        // Even diagonals run up to the right, odd ones down to the left.
        if ((x + y) % 2 == 0) {
            if (x == 7) y++;
            else if (y == 0) x++;
            else x++, y--;
        } else if (y == 7) x++;
        else if (x == 0) y++;
        else x--, y++;
    }
    return order;
}

constexpr Zigzag ZIGZAG = zigzag();
__constant__ constexpr Zigzag NATURAL = zigzag();  // the same, to be read at run time

constexpr i32 DCT[8][8] = {
    {2896, 2896, 2896, 2896, 2896, 2896, 2896, 2896},   {4017, 3406, 2276, 799, -799, -2276, -3406, -4017},
    {3784, 1567, -1567, -3784, -3784, -1567, 1567, 3784}, {3406, -799, -4017, -2276, 2276, 4017, 799, -3406},
    {2896, -2896, -2896, 2896, 2896, -2896, -2896, 2896}, {2276, -4017, 799, 3406, -3406, -799, 4017, -2276},
    {1567, -3784, 3784, -1567, -1567, 3784, -3784, 1567}, {799, -2276, 3406, -4017, 4017, -3406, 2276, -799}};

template <u32 N>
struct Number {
    static constexpr u32 value = N;
};

// The body for 0 ... N - 1, with the index a constant of the compiler.
template <u32 N, u32 I = 0, typename Body>
__device__ __forceinline__ void unrolled(Body body) {
    if constexpr (I < N) {
        body(Number<I>());
        unrolled<N, I + 1>(body);
    }
}

struct JpegParams {
    const u8* pixels;
    u64* bits;  // of the entropy-coded blocks, one per image, zero before
    u32 width_px, height_px;
    u32 units_across, units;  // 16 x 16 pixels, of an image
    u32 blocks;               // thread blocks a image: ceil(units / 31)
    u32 scale;                // percent of Annex K's tables
};

// Warp k has the blocks of kind k of 32 neighbouring units, the first of which the previous thread block has too: it gives
// the DC value the second one's is compared with.
extern "C" __global__ void __launch_bounds__(192) shannon_jpeg_score(const __grid_constant__ JpegParams p) {
    __shared__ u32 reciprocals[2][64], halves[2][64];
    __shared__ u8 ac[2][256];
    __shared__ i32 dc[KINDS][32];
    u32 kind = threadIdx.x / 32, lane = threadIdx.x % 32, table = kind < 4 ? 0 : 1;
    u32 image = blockIdx.x / p.blocks;
    for (u32 i = threadIdx.x; i < 128; i += 192) {
        u32 scaled = (QUANTISATION[i / 64][i % 64] * p.scale + 50) / 100;
        u32 divisor = 8 * min(max(scaled, 1u), 255u);
        // ceil(2^32 / divisor): exact for every coefficient there is.
        reciprocals[i / 64][NATURAL.at[i % 64]] = 0xffffffffu / divisor + 1;
        halves[i / 64][NATURAL.at[i % 64]] = divisor / 2;
    }
    for (u32 i = threadIdx.x; i < 512; i += 192) ac[i / 256][i % 256] = AC_BITS.of[i / 256][i % 256];
    __syncthreads();

    // Unit -1 does not exist: its DC is 0.
    i32 unit = i32(blockIdx.x % p.blocks * FRESH + lane) - 1;
    bool exists = unit >= 0 && unit < i32(p.units);
    i32 c[64] = {};
    if (exists) {
        const u8* pixels = p.pixels + u64(image) * p.height_px * p.width_px * 3;
        u32 x0 = 16 * (u32(unit) % p.units_across), y0 = 16 * (u32(unit) / p.units_across);
        auto pixel = [&](u32 x, u32 y) {
            return pixels + (u64(min(y, p.height_px - 1)) * p.width_px + min(x, p.width_px - 1)) * 3;
        };
        i32 red = kind == 4 ? -11059 : 32768, green = kind == 4 ? -21709 : -27439, blue = kind == 4 ? 32768 : -5329;
        unrolled<8>([&](auto row) {
            constexpr u32 y = decltype(row)::value;
            i32 samples[8];
#pragma unroll
            for (u32 x = 0; x < 8; x++) {
                if (kind < 4) {
                    const u8* rgb = pixel(x0 + kind % 2 * 8 + x, y0 + kind / 2 * 8 + y);
                    samples[x] = ((19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768) >> 16) - 128;
                } else {
                    i32 sum = 2;
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        const u8* rgb = pixel(x0 + 2 * x + i % 2, y0 + 2 * y + i / 2);
                        sum += (red * rgb[0] + green * rgb[1] + blue * rgb[2] + (128 << 16) + 32767) >> 16;
                    }
                    samples[x] = (sum >> 2) - 128;
                }
            }
            unrolled<8>([&](auto column) {
                constexpr u32 u = decltype(column)::value;
                i32 sum = 1 << 9;
                unrolled<8>([&](auto at) {
                    constexpr u32 x = decltype(at)::value;
                    constexpr i32 factor = DCT[u][x];
                    sum += factor * samples[x];
                });
                c[8 * y + u] = sum >> 10;
            });
        });
        unrolled<8>([&](auto column) {
            constexpr u32 u = decltype(column)::value;
            i32 rows[8];
#pragma unroll
            for (u32 y = 0; y < 8; y++) rows[y] = c[8 * y + u];
            unrolled<8>([&](auto row) {
                constexpr u32 v = decltype(row)::value;
                i32 sum = 1 << 12;
                unrolled<8>([&](auto at) {
                    constexpr u32 y = decltype(at)::value;
                    constexpr i32 factor = DCT[v][y];
                    sum += factor * rows[y];
                });
                i32 found = sum >> 13;
                u32 quotient = __umulhi(u32(abs(found)) + halves[table][8 * v + u], reciprocals[table][8 * v + u]);
                c[8 * v + u] = found < 0 ? -i32(quotient) : i32(quotient);
            });
        });
    }
    dc[kind][lane] = c[0];
    __syncthreads();
    u32 bits = 0;
    if (exists && lane > 0) {
        i32 before = kind == 0 ? dc[3][lane - 1] : kind < 4 ? dc[kind - 1][lane] : dc[kind][lane - 1];
        u32 size = min(32 - __clz(abs(c[0] - before)), 11);
        bits = DC_BITS[table][size] + size;
        u32 run = 0;
        unrolled<63>([&](auto i) {
            constexpr u32 at = ZIGZAG.at[decltype(i)::value + 1];
            i32 value = c[at];
            if (value == 0) {
                run++;
            } else {
                u32 size = min(32 - __clz(abs(value)), 10);
                bits += run / 16 * ac[table][0xf0] + ac[table][(run % 16) << 4 | size];
                run = 0;
            }
        });
        if (run > 0) bits += ac[table][0x00];
    }
    bits = __reduce_add_sync(0xffffffff, bits);
    if (lane == 0) atomicAdd(&p.bits[image], u64(bits));
}
