// Shannon scores: the length in bits of each image's `lz` stream, and the stream itself. The format and its rules are the
// page of src/select/shannon; every number here is an integer and equals the CPU's.
//
// Shapes    pixels u8 [n, h, w, 3]; score: bits u64 [n]; encode: payloads u8 [n, chunks, 49152] and their sizes u32 [n, chunks].
// Launch    one block of 512 threads per chunk of at most 16384 pixels, chunks of all images in one grid.
//           Shared memory 83 KiB: two blocks per SM of an H100 (228 KiB), one of an A100. encode: 88 KiB,
//           which every GPU since compute capability 8.0 has; it predicts twice, because the tables are built in the same memory.
// Phases    1 predict   each thread walks down a column, the row above in registers; residuals to shared memory
//           2 mark      slabs of 512 pixels: hash and look up, barrier, enter with atomicMax, barrier
//           3 count     histogram of symbols, two copies by lane; costs from counts
//           4 worth     every pixel's copy at once: sure by its run alone, else its few samples are priced; candidates shared
//                       out among the lanes of a warp so that no lane waits
//           5 parse     16 warps parse 1024 pixels each as if nothing reached into them, then again from where the segment
//                       before really ends, until nothing changes
//           6 take      counts of copies; covered samples leave the histogram
//           7 tables    one warp per Huffman table: leaves ranked in parallel, joined by one lane; description by ballots
// Bytes     3 a pixel from memory (each sample is asked for twice, the second time from L1), 8 an image back: 1.1 T pixels/s at
//           3.35 TB/s, so instructions and shared memory decide.
// Counted   on the emulator, 512 px images, a pixel (three samples), before ptxas shortens anything:
//                       warp instructions   shared wavefronts   serialised atomic steps
//           tissue                   14.1                1.87                      1.66   predict 1.9, mark 2.8, count 3.3,
//           white                    15.5                1.74                      5.56   worth 0.5, parse and take 2.9,
//           noise                    12.5                1.88                      0.19   tables 2.8
//           a short period           20.4                2.93                      2.85
//           two colours at random    23.1                2.41                      1.27   (short repeats everywhere)
//           An H100 (132 SMs at 1.755 GHz) issues 927 G warp instructions and passes 232 G wavefronts a second: on
//           tissue 66 G pixels/s (197 GB/s of pixels) by instructions, 66 G (197 GB/s) by wavefronts and atomic steps together.
//           50 GB/s takes 25 % of either. An SM then ends a chunk every 228 thousand cycles and holds two, so a block
//           may take 456 thousand; its longest part without parallelism, joining at most 257 leaves by eight warps side by
//           side, is some 40 thousand.
// Rejected  candidates for every second pixel and repeats of four pixels: 14.7 instructions on tissue, 54 where two colours
//           alternate, and streams no smaller.
// Not done  16-bit hash heads (no 16-bit atomicMax); a third block per SM would need 75 KiB.
// Numerics  none: integers, and atomics on integers whose order cannot matter.
// Tail      chunks of any size and alignment; words past the last sample are zero and masked.
#include "common/chunk.cuh"
#include "common/huffman.cuh"

namespace {

constexpr u32 THREADS = 512;
constexpr u32 WARPS = THREADS / 32;
constexpr u32 LEAST_PX = 4;
constexpr u32 LEAST_REPEAT_PX = 6;
constexpr u32 HASH_STEP = 4;
constexpr u32 SLAB_PX = THREADS;
constexpr u32 HASH_BITS = 12;
// A copy this long is always worth taking: its samples cost at least 3 * 256, its own bits at most 25 + log2(length) of 256.
constexpr u32 SURE_PX = 9;
constexpr u32 MATCH = 256;
constexpr u32 BUCKETS = 28;
constexpr u32 TABLES = CONTEXTS + 2;
constexpr u32 WORDS = CHUNK_PIXELS / 32;  // of one bit a pixel
constexpr u32 SEGMENT_PX = CHUNK_PIXELS / WARPS;
constexpr u32 HEADER_BYTES = 17, SIZE_BYTES = 2;

// The state of a chunk: 92 KiB, two blocks per SM.
struct alignas(16) State {
    u8 residuals[RESIDUAL_BYTES];  // the Huffman work once all copies are known
    union {
        u32 heads[1 << HASH_BITS];  // the pixel each hash points to
        struct {
            u32 counts[CONTEXTS * LITERALS];
            union {
                u32 odd_counts[CONTEXTS * LITERALS];  // of odd lanes, so that equal neighbours wait half as long
                u16 costs[CONTEXTS * LITERALS];       // of a literal, in 1/256 bit
            };
        };
    };
    u16 candidates[CHUNK_PIXELS / HASH_STEP];  // of every fourth pixel; then, within each copy, what it is
    u32 equal[WORDS + 1];                      // pixels equal to the one before
    u32 repeat[WORDS];                         // fourth pixels that agree with their candidate
    u32 worth[WORDS];                          // pixels with a copy worth taking; then the pixels that copies cover
    u32 taken[WORDS];                          // first pixels of copies
    u32 length_counts[BUCKETS], distance_counts[BUCKETS];
    u32 exits[WARPS + 1];  // where the parse leaves the segments before this one
    u32 table_bits[TABLES];
    u32 bits;
    u16 bases[64];
    u8 lengths[TABLES][260];
};

struct alignas(16) EncoderState {
    State state;
    u16 words[TABLES][260];
    u32 warp_bits[WARPS];
};

static_assert(sizeof(State) == 85120 && sizeof(EncoderState) == 90384, "as src/select/kernels/shannon.rs asks for");
static_assert(sizeof(HuffmanWork[TABLES]) <= RESIDUAL_BYTES, "the work fits the residuals");

struct Copy {
    u32 length_px, distance_px;
};

// 256 * log2(n), rounded down from the eight bits behind n's leading one: log2_q8 of src/select/shannon/matches.rs.
__device__ u32 log2_q8(u32 n) {
    u32 octave = log2_floor(n);
    u32 mantissa = n << (31 - octave) & 0xff800000, bits = octave;
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        u64 square = u64(mantissa) * mantissa >> 31;
        u32 carry = u32(square >> 32);
        mantissa = u32(square >> carry);
        bits = bits << 1 | carry;
    }
    return bits;
}

// The symbol of a length or distance less its least value, and the bits that follow it.
__device__ __forceinline__ u32 bucket_extra_bits(u32 value) { return value < 2 ? 0 : log2_floor(value) - 1; }
__device__ __forceinline__ u32 bucket(u32 value) {
    return value < 2 ? value : 2 * log2_floor(value) + (value >> (log2_floor(value) - 1) & 1);
}

__device__ __forceinline__ u32 price(u32 length_px, u32 distance_px) {
    u32 extra_bits = bucket_extra_bits(length_px - LEAST_PX) + bucket_extra_bits(distance_px - 1);
    return 256 * (extra_bits + (distance_px == 1 ? 10 : 13));
}

__device__ __forceinline__ bool bit_of(const u32* words, u32 pixel) { return words[pixel / 32] >> (pixel % 32) & 1; }

__device__ void predict(State& s, const ChunkArea& area) {
    predict_chunk<THREADS>(area, [&](u32 pixel, u32 channel, u32 residual) {
        s.residuals[3 * pixel + channel] = fold(residual);
    });
}

// Bits 52 to 63 of the product of a little-endian word and 0x9e3779b185ebca77.
__device__ __forceinline__ u32 hash_of(u32 low, u32 high) {
    return (__umulhi(low, 0x85ebca77u) + low * 0x9e3779b1u + high * 0x85ebca77u) >> (32 - HASH_BITS);
}

// Marks equal neighbours and agreeing candidates, one slab a step: look up, then enter. Four warps look up, one pixel per lane.
__device__ void mark(State& s, const Residuals& residuals, u32 pixels) {
    u32 slabs = (pixels + SLAB_PX - 1) / SLAB_PX;
    for (u32 word = threadIdx.x; word <= WORDS; word += THREADS) {
        if (word >= slabs * WARPS) s.equal[word] = 0;
        if (word < WORDS) s.repeat[word] = 0;
    }
    __syncthreads();
    for (u32 slab = 0; slab < slabs * SLAB_PX; slab += SLAB_PX) {
        u32 pixel = slab + HASH_STEP * threadIdx.x;
        if (threadIdx.x < SLAB_PX / HASH_STEP && pixel > 0 && pixel + LEAST_REPEAT_PX <= pixels) {
            u32 here[5], there[5];
            residuals.words(3 * pixel, here);
            u32 candidate = s.heads[hash_of(here[0], here[1])];
            residuals.words(3 * candidate, there);
            bool agrees = here[0] == there[0] && here[1] == there[1] && here[2] == there[2] && here[3] == there[3];
            if (agrees && ((here[4] ^ there[4]) & 0xffff) == 0) {
                s.candidates[pixel / HASH_STEP] = candidate;
                atomicOr(&s.repeat[pixel / 32], 1u << (pixel % 32));
            }
        }
        pixel = slab + threadIdx.x;
        u32 here[2] = {};
        if (pixel < pixels) residuals.words(3 * pixel, here);
        u32 before = __shfl_up_sync(FULL_MASK, here[0], 1);
        if (lane_id() == 0 && pixel > 0 && pixel < pixels) {
            u32 word[1];
            residuals.words(3 * pixel - 3, word);
            before = word[0];
        }
        u32 equal = __ballot_sync(FULL_MASK, pixel > 0 && pixel < pixels && ((here[0] ^ before) << 8) == 0);
        if (lane_id() == 0) s.equal[pixel / 32] = equal;
        __syncthreads();
        if (pixel + LEAST_REPEAT_PX <= pixels) atomicMax(&s.heads[hash_of(here[0], here[1])], pixel);
        __syncthreads();
    }
}

// Histograms of all symbols, then what each costs.
__device__ void count(State& s, const Residuals& residuals, u32 samples) {
    for (u32 i = threadIdx.x; i < CONTEXTS * LITERALS; i += THREADS) s.counts[i] = s.odd_counts[i] = 0;
    __syncthreads();
    u32* counts = threadIdx.x % 2 ? s.odd_counts : s.counts;
    for (u32 i = 4 * threadIdx.x; i < samples; i += 4 * THREADS) {
        u32 literals[4];
        residuals.literals(i, literals);
        u32 behind = i + 4 <= samples ? 4 : samples - i;
#pragma unroll
        for (u32 k = 0; k < 4; k++)
            if (k < behind) atomicAdd(&counts[literals[k]], 1);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < CONTEXTS * LITERALS; i += THREADS) s.counts[i] += s.odd_counts[i];
    __syncthreads();
    u32 warp = threadIdx.x / 32;
    if (warp < CONTEXTS) {
        u32 total = 0;
        for (u32 i = lane_id(); i < 256; i += 32) total += s.counts[warp * LITERALS + i];
        total = __reduce_add_sync(FULL_MASK, total);
        u32 bits = log2_q8(max(total, 1u));
        // A symbol of a context is at most as common as the context.
        for (u32 i = lane_id(); i < 256; i += 32)
            s.costs[warp * LITERALS + i] = max(bits - log2_q8(max(s.counts[warp * LITERALS + i], 1u)), 256u);
    }
    __syncthreads();
}

// Whether the pixel's copy is shorter than SURE_PX and yet worth taking, or at least that long.
__device__ bool is_worth(const State& s, const Residuals& residuals, u32 pixel, u32 pixels) {
    u32 word = pixel / 32;
    u32 run = __ffs(~__funnelshift_r(s.equal[word], s.equal[word + 1], pixel % 32)) - 1;
    u32 length = run < LEAST_PX ? 0 : run, distance = 1;
    if (bit_of(s.repeat, pixel)) {
        u32 candidate = s.candidates[pixel / HASH_STEP], here[7], there[7];
        residuals.words(3 * pixel, here);
        residuals.words(3 * candidate, there);
        u32 agreeing = 28;
#pragma unroll
        for (i32 i = 6; i >= 0; i--)
            if (here[i] != there[i]) agreeing = 4 * i + (__ffs(here[i] ^ there[i]) - 1) / 8;
        u32 repeat = min(agreeing / 3, pixels - pixel);
        if (repeat > length) length = repeat, distance = pixel - candidate;
    }
    if (length >= SURE_PX) return true;
    u32 limit = price(length, distance), worth = 0;
    for (u32 sample = 3 * pixel; sample < 3 * (pixel + length) && worth <= limit; sample++)
        worth += s.costs[residuals.literal(sample)];
    return worth > limit;
}

// Marks the pixels whose copy is worth taking. Each warp has its segment; its lanes share the candidates that need a closer
// look, wherever they lie. Returns the lane's word of marks.
__device__ u32 mark_worth(State& s, const Residuals& residuals, u32 pixels) {
    u32 word = threadIdx.x;
    u64 equal = s.equal[word] | u64(s.equal[word + 1]) << 32;
    u64 run = equal & equal >> 1;
    run &= run >> 2;
    u32 sure = u32(run & run >> 4 & equal >> 8);
    u32 unsure = (u32(run) | s.repeat[word]) & ~sure;
    s.worth[word] = sure;
    __syncwarp();
    u32 through = __popc(unsure);  // candidates up to and with this lane's
#pragma unroll
    for (u32 step = 1; step < 32; step *= 2) {
        u32 below = __shfl_up_sync(FULL_MASK, through, step);
        if (lane_id() >= step) through += below;
    }
    u32 all = __shfl_sync(FULL_MASK, through, 31);
    for (u32 first = 0; first < all; first += 32) {
        u32 wanted = first + lane_id(), from = 0;
#pragma unroll
        for (u32 step = 16; step > 0; step /= 2)
            if (__shfl_sync(FULL_MASK, through, from + step - 1) <= wanted) from += step;
        u32 bits = __shfl_sync(FULL_MASK, unsure, from % 32);
        u32 before = __shfl_sync(FULL_MASK, through, from % 32) - __popc(bits);
        if (wanted < all) {
            u32 rank = wanted - before, bit = 0;
#pragma unroll
            for (u32 step = 16; step > 0; step /= 2) {
                u32 ones = __popc(bits >> bit & ((1u << step) - 1));
                if (rank >= ones) rank -= ones, bit += step;
            }
            u32 pixel = 32 * (threadIdx.x / 32 * 32 + from) + bit;
            if (is_worth(s, residuals, pixel, pixels)) atomicOr(&s.worth[pixel / 32], 1u << bit);
        }
    }
    __syncwarp();
    return s.worth[word];
}

// The copy at a marked pixel, by all lanes of a warp.
__device__ Copy copy_at(const State& s, const Residuals& residuals, u32 pixel, u32 pixels) {
    u32 run = 0;
    for (u32 word = pixel / 32;; word += 32) {
        u32 mine = word + lane_id();
        u32 different = mine <= WORDS ? ~s.equal[mine] : FULL_MASK;
        if (mine == pixel / 32) different = different >> (pixel % 32) << (pixel % 32);
        u32 lanes = __ballot_sync(FULL_MASK, different != 0);
        if (lanes) {
            u32 first = __ffs(lanes) - 1;
            run = 32 * (word + first) + __ffs(__shfl_sync(FULL_MASK, different, first)) - 1 - pixel;
            break;
        }
    }
    Copy copy = {run < LEAST_PX ? 0 : run, 1};
    if (bit_of(s.repeat, pixel)) {
        u32 candidate = s.candidates[pixel / HASH_STEP], length = 0;
        for (;; length += 128) {
            u32 mine = length + 4 * lane_id(), agreeing = 0;
            if (pixel + mine < pixels) {
                u32 here[3], there[3];
                residuals.words(3 * (pixel + mine), here);
                residuals.words(3 * (candidate + mine), there);
                agreeing = 12;
#pragma unroll
                for (i32 i = 2; i >= 0; i--)
                    if (here[i] != there[i]) agreeing = 4 * i + (__ffs(here[i] ^ there[i]) - 1) / 8;
                agreeing = min(agreeing / 3, pixels - pixel - mine);
            }
            u32 lanes = __ballot_sync(FULL_MASK, agreeing < 4);
            if (lanes) {
                u32 first = __ffs(lanes) - 1;
                length += 4 * first + __shfl_sync(FULL_MASK, agreeing, first);
                break;
            }
        }
        if (length > copy.length_px) copy = {length, pixel - candidate};
    }
    return copy;
}

// Bits of a word of pixels from `first_px` on that are not before `pixel`.
__device__ __forceinline__ u32 not_before(u32 pixel, u32 first_px) {
    return pixel <= first_px ? FULL_MASK : pixel >= first_px + 32 ? 0 : FULL_MASK << (pixel - first_px);
}

// Parses a warp's segment from `at` on until a copy is met that `taken`, the parse from another entry, has too: from there on
// they are the same. Returns where the parse leaves the segment.
__device__ u32 parse_segment(
    const State& s, const Residuals& residuals, u32 pixels, u32 worth, u32 at, u32& taken, u32 left_at
) {
    u32 first_px = 32 * threadIdx.x, end = (threadIdx.x / 32 + 1) * SEGMENT_PX, fresh = 0;
    while (at < end) {
        u32 ahead = worth & not_before(at, first_px);
        u32 lanes = __ballot_sync(FULL_MASK, ahead != 0);
        if (!lanes) {
            at = end;
            break;
        }
        u32 lane = __ffs(lanes) - 1;
        u32 bit = __ffs(__shfl_sync(FULL_MASK, ahead, lane)) - 1;
        u32 pixel = 32 * (threadIdx.x / 32 * 32 + lane) + bit;
        if (__shfl_sync(FULL_MASK, taken, lane) >> bit & 1) {
            taken = fresh | (taken & not_before(pixel, first_px));
            return left_at;
        }
        if (lane_id() == lane) fresh |= 1u << bit;
        at = pixel + copy_at(s, residuals, pixel, pixels).length_px;
    }
    taken = fresh;
    return at;
}

// The greedy parse. Every warp parses its segment as if no copy reached into it, then again from where the segment before
// really leaves it, until nothing changes: the result is that of one parse from pixel 0. Returns the lane's word of copies.
__device__ u32 parse(State& s, const Residuals& residuals, u32 pixels, u32 worth) {
    u32 segment = threadIdx.x / 32, entry = segment * SEGMENT_PX, taken = 0;
    u32 left_at = parse_segment(s, residuals, pixels, worth, entry, taken, 0);
    if (segment == 0 && lane_id() == 0) s.exits[0] = 0;
    bool changed = true;
    while (__syncthreads_or(changed)) {
        if (changed && lane_id() == 0) s.exits[segment + 1] = left_at;
        __syncthreads();
        u32 now = s.exits[segment];
        changed = false;
        if (now != entry) {
            entry = now;
            u32 leaves = parse_segment(s, residuals, pixels, worth, entry, taken, left_at);
            changed = leaves != left_at;
            left_at = leaves;
        }
    }
    return taken;
}

// Within a copy nobody needs candidates any more. A run covers at least one of the pixels that have them, a repeat begins on one
// and covers the next.
constexpr u32 IS_RUN = 1 << 15;

__device__ void note_copy(State& s, u32 pixel, Copy copy) {
    u32 slot = (pixel + HASH_STEP - 1) / HASH_STEP;
    s.candidates[slot] = copy.length_px | (copy.distance_px == 1 ? IS_RUN : 0);
    if (copy.distance_px > 1) s.candidates[slot + 1] = copy.distance_px;
}

__device__ Copy noted_copy(const State& s, u32 pixel) {
    u32 slot = (pixel + HASH_STEP - 1) / HASH_STEP;
    u32 noted = s.candidates[slot];
    return {noted & (IS_RUN - 1), noted & IS_RUN ? 1u : s.candidates[slot + 1]};
}

// Counts the copies' words and takes what they cover out of the histograms. Returns whether there are copies.
__device__ bool take_copies(State& s, const Residuals& residuals, u32 pixels, u32 taken) {
    s.taken[threadIdx.x] = taken;
    s.worth[threadIdx.x] = 0;
    if (!__syncthreads_or(taken != 0)) return false;
    u32 extra_bits = 0;
    for (u32 lanes; (lanes = __ballot_sync(FULL_MASK, taken != 0)) != 0;) {
        u32 lane = __ffs(lanes) - 1;
        u32 bit = __ffs(__shfl_sync(FULL_MASK, taken, lane)) - 1;
        if (lane_id() == lane) taken &= taken - 1;
        u32 pixel = 32 * (threadIdx.x / 32 * 32 + lane) + bit;
        Copy copy = copy_at(s, residuals, pixel, pixels);
        u32 end = pixel + copy.length_px;
        __syncwarp();
        if (lane_id() == 0) {
            u32 length = copy.length_px - LEAST_PX, distance = copy.distance_px - 1;
            atomicAdd(&s.counts[residuals.base(3 * pixel) + MATCH], 1);
            atomicAdd(&s.length_counts[bucket(length)], 1);
            atomicAdd(&s.distance_counts[bucket(distance)], 1);
            extra_bits += bucket_extra_bits(length) + bucket_extra_bits(distance);
            note_copy(s, pixel, copy);
        }
        for (u32 word = pixel / 32 + lane_id(); 32 * word < end; word += 32) {
            u32 covered = not_before(pixel, 32 * word) & ~not_before(end, 32 * word);
            atomicOr(&s.worth[word], covered);
        }
    }
    if (lane_id() == 0 && extra_bits > 0) atomicAdd(&s.bits, extra_bits);
    __syncthreads();
    for (u32 i = 4 * threadIdx.x; i < 3 * pixels; i += 4 * THREADS) {
        // Four samples lie in two pixels: those of the first one, then those of the second.
        u32 second = 3 * (i / 3 + 1);
        bool first_covered = bit_of(s.worth, i / 3);
        bool second_covered = second < 3 * pixels && bit_of(s.worth, i / 3 + 1);
        if (!first_covered && !second_covered) continue;
        u32 literals[4];
        residuals.literals(i, literals);
#pragma unroll
        for (u32 k = 0; k < 4; k++)
            if (i + k < second ? first_covered : second_covered) atomicSub(&s.counts[literals[k]], 1);
    }
    return true;
}

// Predicts, finds the copies and builds the tables; `s.bits` is then the length of the coded chunk, and the residuals are gone.
// Returns whether it has copies.
__device__ bool analyse(State& s, const ChunkArea& area) {
    u32 pixels = area.size_px(), samples = 3 * pixels, warp = threadIdx.x / 32;
    Residuals residuals(s.residuals, s.bases, area.width);
    for (u32 i = threadIdx.x; i < 1 << HASH_BITS; i += THREADS) s.heads[i] = 0;
    if (threadIdx.x <= MOST_ACTIVITY) s.bases[threadIdx.x] = LITERALS * context_of_activity(threadIdx.x);
    if (threadIdx.x < BUCKETS) s.length_counts[threadIdx.x] = s.distance_counts[threadIdx.x] = 0;
    if (threadIdx.x == 0) s.bits = 1;
    if (threadIdx.x < RESIDUAL_BYTES - CHUNK_BYTES) s.residuals[samples + threadIdx.x] = 0;
    predict(s, area);
    mark(s, residuals, pixels);
    count(s, residuals, samples);
    u32 worth = mark_worth(s, residuals, pixels);
    bool copies = false;
    if (__syncthreads_or(worth != 0)) copies = take_copies(s, residuals, pixels, parse(s, residuals, pixels, worth));
    __syncthreads();

    if (warp < TABLES && (warp < CONTEXTS || copies)) {
        const u32* counts = warp < CONTEXTS ? s.counts + warp * LITERALS : warp == CONTEXTS ? s.length_counts : s.distance_counts;
        u32 symbols = warp < CONTEXTS ? LITERALS : BUCKETS;
        u8* lengths = s.lengths[warp];
        code_lengths(reinterpret_cast<HuffmanWork*>(s.residuals)[warp], counts, symbols, lengths);
        u32 table_bits = description_bits(lengths, min(symbols, MATCH)) + (warp < CONTEXTS && copies ? 4 : 0);
        u32 bits = 0;
        for (u32 i = lane_id(); i < symbols; i += 32) bits += counts[i] * lengths[i];
        bits = __reduce_add_sync(FULL_MASK, bits);
        if (lane_id() == 0) {
            s.table_bits[warp] = table_bits;
            atomicAdd(&s.bits, bits + table_bits);
        }
    }
    __syncthreads();
    return copies;
}

}  // namespace

struct ScoreParams {
    const u8* pixels;
    u64* bits;  // one per image, zero before
    u32 width_px, height_px;
    u32 columns, rows;  // of chunks
};

extern "C" __global__ void __launch_bounds__(512, 2) shannon_score(const __grid_constant__ ScoreParams p) {
    extern __shared__ __align__(16) u8 shared[];
    State& s = *reinterpret_cast<State*>(shared);
    ChunkArea area = chunk_area({p.pixels, p.width_px, p.height_px, p.columns, p.rows}, blockIdx.x);
    analyse(s, area);
    if (threadIdx.x == 0) {
        u32 payload = min((s.bits + 7) / 8, 3 * area.size_px());
        u32 bytes = payload + SIZE_BYTES + (area.index == 0 ? HEADER_BYTES : 0);
        atomicAdd(&p.bits[area.image], 8ull * bytes);
    }
}

// Bits into zeroed words of global memory; threads share words.
struct BitWriter {
    u32* words;
    u32 at;

    __device__ void put(u32 value, u32 bits) {
        u64 placed = u64(value) << (at % 32);
        if (u32(placed)) atomicOr(&words[at / 32], u32(placed));
        if (u32(placed >> 32)) atomicOr(&words[at / 32 + 1], u32(placed >> 32));
        at += bits;
    }

    __device__ void put_gamma(u32 value) {
        u32 after = log2_floor(value);
        put(0, after);
        put(1, 1);
        put(value - (1u << after), after);
    }

    // huffman::put_lengths.
    __device__ void put_lengths(const u8* lengths, u32 symbols) {
        u32 used = symbols;
        while (used > 0 && lengths[used - 1] == 0) used--;
        put_gamma(used + 1);
        u32 predicted = 4;
        for (u32 symbol = 0; symbol < used; symbol++) {
            u32 unused = 0;
            for (; lengths[symbol] == 0; symbol++) unused++;
            if (unused > 0) {
                put(0b011, 3);
                put_gamma(unused);
            }
            u32 length = lengths[symbol];
            switch (i32(length) - i32(predicted)) {
                case 0: put(0, 1); break;
                case 1: put(0b001, 3); break;
                case -1: put(0b101, 3); break;
                case 2: put(0b00111, 5); break;
                case -2: put(0b10111, 5); break;
                default: put(0b1111 | length << 4, 8);
            }
            predicted = length;
        }
    }
};

// Canonical code words, reversed for a string that begins with the least significant bit; one warp per table.
__device__ inline void code_words(const u8* lengths, u32 symbols, u16* words) {
    // Lane l keeps the next word of l bits.
    u32 counted = 0;
    for (u32 first = 0; first < symbols; first += 32) {
        u32 length = first + lane_id() < symbols ? lengths[first + lane_id()] : 0;
        for (u32 l = 1; l <= MOST_LENGTH; l++) {
            u32 these = __popc(__ballot_sync(FULL_MASK, length == l));
            if (lane_id() == l) counted += these;
        }
    }
    u32 next = 0, word = 0;
    for (u32 l = 1; l <= MOST_LENGTH; l++) {
        word = (word + __shfl_sync(FULL_MASK, counted, l - 1)) << 1;
        if (lane_id() == l) next = word;
    }
    for (u32 first = 0; first < symbols; first += 32) {
        u32 length = first + lane_id() < symbols ? lengths[first + lane_id()] : 0;
        u32 rank = 0, more = 0;
        for (u32 l = 1; l <= MOST_LENGTH; l++) {
            u32 these = __ballot_sync(FULL_MASK, length == l);
            if (length == l) rank = lanes_below(these);
            if (lane_id() == l) more = __popc(these);
        }
        u32 found = __shfl_sync(FULL_MASK, next, length) + rank;
        if (length > 0) words[first + lane_id()] = u16(__brev(found) >> (32 - length));
        next += more;
    }
}

struct EncodeParams {
    const u8* pixels;
    u32* payloads;  // `slot_words` a chunk, zero before
    u32* sizes;     // bytes of each chunk's payload
    u32 width_px, height_px;
    u32 columns, rows;
    u32 slot_words;
    u32 unused;
};

extern "C" __global__ void __launch_bounds__(512, 1) shannon_encode(const __grid_constant__ EncodeParams p) {
    extern __shared__ __align__(16) u8 shared[];
    EncoderState& e = *reinterpret_cast<EncoderState*>(shared);
    State& s = e.state;
    ChunkArea area = chunk_area({p.pixels, p.width_px, p.height_px, p.columns, p.rows}, blockIdx.x);
    bool copies = analyse(s, area);
    u32 pixels = area.size_px(), warp = threadIdx.x / 32;
    u32 coded = (s.bits + 7) / 8;
    u32* out = p.payloads + u64(blockIdx.x) * p.slot_words;
    if (threadIdx.x == 0) p.sizes[blockIdx.x] = min(coded, 3 * pixels);
    if (coded >= 3 * pixels) {
        u8* bytes = reinterpret_cast<u8*>(out);
        for (u32 i = threadIdx.x; i < 3 * pixels; i += THREADS)
            bytes[i] = area.pixels[i / (3 * area.width) * area.pitch + i % (3 * area.width)];
        return;
    }

    // The tables were built where the residuals were.
    predict(s, area);
    u32 tables = copies ? TABLES : CONTEXTS;
    if (warp < tables) code_words(s.lengths[warp], warp < CONTEXTS ? LITERALS : BUCKETS, e.words[warp]);
    u32 at = 1;
    for (u32 table = 0; table < tables; table++) {
        if (threadIdx.x == 32 * table) {
            BitWriter writer = {out, at};
            if (table < CONTEXTS && copies) writer.put(s.lengths[table][MATCH], 4);
            writer.put_lengths(s.lengths[table], table < CONTEXTS ? MATCH : BUCKETS);
        }
        at += s.table_bits[table];
    }
    if (threadIdx.x == 0) BitWriter{out, 0}.put(copies, 1);
    __syncthreads();

    Residuals residuals(s.residuals, s.bases, area.width);
    for (u32 first = 0; first < pixels; first += THREADS) {
        u32 pixel = first + threadIdx.x;
        bool in = pixel < pixels;
        bool starts = in && copies && bit_of(s.taken, pixel);
        bool covered = in && copies && bit_of(s.worth, pixel);
        // A copy: the match word, length and distance with their extra bits. A pixel: three words.
        u32 value[5] = {}, length[5] = {}, bits = 0;
        auto part = [&](u32 i, u32 table, u32 symbol) {
            value[i] = e.words[table][symbol];
            length[i] = s.lengths[table][symbol];
        };
        auto bucket_parts = [&](u32 i, u32 table, u32 number) {
            part(i, table, bucket(number));
            length[i + 1] = bucket_extra_bits(number);
            value[i + 1] = number & ((1u << length[i + 1]) - 1);
        };
        if (starts) {
            part(0, residuals.base(3 * pixel) / LITERALS, MATCH);
            Copy copy = noted_copy(s, pixel);
            bucket_parts(1, CONTEXTS, copy.length_px - LEAST_PX);
            bucket_parts(3, CONTEXTS + 1, copy.distance_px - 1);
        } else if (in && !covered) {
#pragma unroll
            for (u32 c = 0; c < 3; c++) {
                u32 literal = residuals.literal(3 * pixel + c);
                part(c, literal / LITERALS, literal % LITERALS);
            }
        }
#pragma unroll
        for (u32 i = 0; i < 5; i++) bits += length[i];
        u32 through = bits;
#pragma unroll
        for (u32 step = 1; step < 32; step *= 2) {
            u32 below = __shfl_up_sync(FULL_MASK, through, step);
            if (lane_id() >= step) through += below;
        }
        __syncthreads();
        if (lane_id() == 31) e.warp_bits[warp] = through;
        __syncthreads();
        u32 before = 0;
        for (u32 i = 0; i < WARPS; i++) {
            if (i == warp) before = at;
            at += e.warp_bits[i];
        }
        BitWriter writer = {out, before + through - bits};
#pragma unroll
        for (u32 i = 0; i < 5; i++) writer.put(value[i], length[i]);
    }
}
