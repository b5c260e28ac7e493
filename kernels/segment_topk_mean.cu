// The mean of the k highest of every column in every segment of rows, and its gradient.
//
//   select   kth[s] = the row that comes k-th in the order of falling scores, of equal ones the earlier first (the last row of all
//            where there are fewer than k): a row counts if it does not come after kth[s].
//   fwd      y[s] = mean of v[row] over the rows that count; v is x itself, or in the gradient's gradient what arrives there
//   bwd_x    dx[row] = dy[s] / min(k, length) where the row counts, else 0
//
// Shapes    x, v, dx: rows x c; y, dy, kth: segments x c; offsets: segments + 1 first rows, ascending. Any number of rows. An empty
//           segment has mean 0.
// Types     f32, bf16, f16 in memory; comparisons on their bits, f32 sums.
// Launch    256 threads: a block for a segment and `lanes` columns, a power of two up to 32; bwd_x: one thread per element, which
//           finds its row's segment by binary search.
// Traffic   select is a radix selection, eight bits of the score and then of the row number per pass over the column: four passes
//           in f32, two in 16 bits, and two for the row of up to 65536. A column of 8192 rows is 32 KB, so all passes but the first
//           come from L2. fwd and bwd_x: x and v once.
// Rejected  sorting a column: log² n passes through shared memory that has to hold it, which bounds the rows. A search by halving:
//           32 passes. A mask of the rows that count: as large as x, where kth is one number a column.
// Numerics  counts are integers, so their atomics leave no trace of the order; sums in a fixed order.
// Tail      lanes beyond c idle. Both zeros are one score; NaN is above all.

#include "common/segment.cuh"

struct TopkParams {
    const void* x;
    const void* v;  // dy in bwd_x
    void* y;        // dx in bwd_x
    i32* kth;
    const i32* offsets;
    u64 rows, segments, c;
    u32 k;
    u32 lanes;
    u32 tiles;  // of columns
    u32 unused;
};

constexpr u32 BINS = 256;

__device__ __forceinline__ u32 bits_of(float x) { return __float_as_uint(x); }
__device__ __forceinline__ u32 bits_of(bf16 x) { return __bfloat16_as_ushort(x); }
__device__ __forceinline__ u32 bits_of(f16 x) { return __half_as_ushort(x); }

// A number that rises with the score, of as many bits.
template <typename T>
__device__ __forceinline__ u32 sort_key(T x) {
    constexpr u32 SIGN = 1u << (8 * sizeof(T) - 1), ALL = SIGN | (SIGN - 1);
    const float value = to_float(x);
    if (value != value) return ALL;
    const u32 bits = value == 0.0f ? 0 : bits_of(x);
    return bits & SIGN ? ~bits & ALL : bits | SIGN;
}

template <typename T>
__device__ __forceinline__ void select(const TopkParams& p) {
    __shared__ u32 counts[BINS * 32];               // [bin][column]
    __shared__ u32 at_or_above[SEGMENT_THREADS];    // of each thread's bins and those above
    __shared__ u32 chosen_bin[32], chosen_rank[32];
    const SegmentTile tile(p.offsets, p.rows, p.lanes, p.tiles);
    const u32 me = threadIdx.x, lanes = p.lanes, lane = me % lanes;
    const u64 length = tile.rows.length();
    const bool live = tile.col < p.c;
    i32* const kth = p.kth + tile.segment * p.c + tile.col;
    if (length == 0) {
        if (live && tile.group == 0) *kth = -1;
        return;
    }
    // Scores by value, then by row from the first on: digits of one number, of which all are different.
    const int row_digits = length <= 1u << 8 ? 1 : length <= 1u << 16 ? 2 : length <= 1u << 24 ? 3 : 4;
    const u64 last_row = (u64(1) << (8 * row_digits)) - 1;
    const T* const x = static_cast<const T*>(p.x) + tile.col;
    u64 found = 0;                        // the digits known so far
    u32 rank = u32(min(u64(p.k), length));  // among those that agree with them, from the highest
#pragma unroll 1
    for (int shift = 8 * (int(sizeof(T)) + row_digits - 1); shift >= 0; shift -= 8) {
        for (u32 i = me; i < BINS * lanes; i += SEGMENT_THREADS) counts[i] = 0;
        __syncthreads();
        if (live) {
            tile.for_each_row([&](u64 row) {
                const u64 key = u64(sort_key(x[row * p.c])) << (8 * row_digits) | (last_row - (row - tile.rows.begin));
                if ((key ^ found) >> shift >> 8 == 0) atomicAdd(&counts[(key >> shift) % BINS * lanes + lane], 1u);
            });
        }
        __syncthreads();
        // A column's 256 / lanes threads take `lanes` neighbouring bins each, and add up from the highest bins on.
        u32 mine = 0;
        for (u32 i = 0; i < lanes; ++i) mine += counts[(tile.group * lanes + i) * lanes + lane];
        at_or_above[me] = mine;
#pragma unroll 1
        for (u32 step = lanes; step < SEGMENT_THREADS; step *= 2) {
            __syncthreads();
            const u32 more = me + step < SEGMENT_THREADS ? at_or_above[me + step] : 0;
            __syncthreads();
            at_or_above[me] += more;
        }
        u32 above = at_or_above[me] - mine;
        if (above < rank && rank <= above + mine) {
            u32 bin = (tile.group + 1) * lanes - 1;
            while (above + counts[bin * lanes + lane] < rank) {
                above += counts[bin * lanes + lane];
                --bin;
            }
            chosen_bin[lane] = bin;
            chosen_rank[lane] = rank - above;
        }
        __syncthreads();
        if (live) {
            found |= u64(chosen_bin[lane]) << shift;
            rank = chosen_rank[lane];
        }
    }
    if (live && tile.group == 0) *kth = i32(tile.rows.begin + (last_row - (found & last_row)));
}

// Whether a row's score does not come after the k-th.
__device__ __forceinline__ bool counts_in(u32 key, u64 row, u32 kth_key, u64 kth) {
    return key > kth_key || (key == kth_key && row <= kth);
}

template <typename T>
__device__ __forceinline__ void forward(const TopkParams& p) {
    __shared__ float of_thread[SEGMENT_THREADS];
    const SegmentTile tile(p.offsets, p.rows, p.lanes, p.tiles);
    const T *const x = static_cast<const T*>(p.x) + tile.col, *const v = static_cast<const T*>(p.v) + tile.col;
    const bool live = tile.col < p.c;
    float sum = 0.0f;
    if (live && tile.rows.length() > 0) {
        const u64 kth = min(u64(p.kth[tile.segment * p.c + tile.col]), tile.rows.end - 1);
        const u32 kth_key = sort_key(x[kth * p.c]);
        tile.for_each_row([&](u64 row) {
            if (counts_in(sort_key(x[row * p.c]), row, kth_key, kth)) sum += to_float(v[row * p.c]);
        });
    }
    sum = reduce_columns(of_thread, sum, p.lanes, [](float a, float b) { return a + b; });
    const u64 count = max(min(u64(p.k), tile.rows.length()), u64(1));
    if (live && tile.group == 0) static_cast<T*>(p.y)[tile.segment * p.c + tile.col] = from_float<T>(sum / float(count));
}

template <typename T>
__device__ __forceinline__ void backward(const TopkParams& p) {
    const u64 at = global_thread();
    if (at >= p.rows * p.c) return;
    const u64 row = at / p.c, col = at % p.c, segment = segment_of(p.offsets, p.segments, row);
    const T* const x = static_cast<const T*>(p.x) + col;
    const Rows rows = rows_of(p.offsets, segment, p.rows);
    const u64 kth = min(u64(p.kth[segment * p.c + col]), p.rows - 1);
    const bool counts = counts_in(sort_key(x[row * p.c]), row, sort_key(x[kth * p.c]), kth);
    const float dy = to_float(static_cast<const T*>(p.v)[segment * p.c + col]);
    static_cast<T*>(p.y)[at] = from_float<T>(counts ? dy / float(min(u64(p.k), rows.length())) : 0.0f);
}

#define ENTRIES(T)                                                             \
    SEGMENT_ENTRY(segment_topk_mean_select, T, TopkParams, select<T>(p)) \
    SEGMENT_ENTRY(segment_topk_mean_fwd, T, TopkParams, forward<T>(p))   \
    SEGMENT_ENTRY(segment_topk_mean_bwd_x, T, TopkParams, backward<T>(p))

ENTRIES(f32)
ENTRIES(bf16)
ENTRIES(f16)
