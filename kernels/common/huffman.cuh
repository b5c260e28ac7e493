// Huffman code lengths and their description, one warp per table. The algorithm is the one of src/select/shannon/huffman.rs:
// leaves by (count, symbol), two queues, a leaf before a tree of equal weight, counts halved until no word is longer than 15.
#pragma once

#include "common/chunk.cuh"

constexpr u32 MOST_SYMBOLS = 257;
constexpr u32 MOST_LENGTH = 15;
constexpr u32 FULL_MASK = 0xffffffff;

// Shared memory of one table's construction.
struct HuffmanWork {
    u32 unsorted[MOST_SYMBOLS];  // then weights of joined trees, then their depths
    u32 sorted[MOST_SYMBOLS];    // count << 9 | symbol
    u16 parent[2 * MOST_SYMBOLS];
};

__device__ inline u32 lane_id() { return threadIdx.x & 31; }
__device__ __forceinline__ u32 lanes_below(u32 mask) { return __popc(mask & ((1u << lane_id()) - 1)); }
__device__ __forceinline__ u32 log2_floor(u32 value) { return 31 - __clz(value); }

// Each leaf's rank is the number of lighter ones: no two leaves are equal.
__device__ inline void sort_leaves(HuffmanWork& work, u32 n) {
    for (u32 i = lane_id(); i < n; i += 32) {
        u32 leaf = work.unsorted[i], rank = 0;
        for (u32 k = 0; k < n; k++) rank += work.unsorted[k] < leaf;
        work.sorted[rank] = leaf;
    }
    __syncwarp();
}

// Joins the sorted leaves (n >= 2) and returns the depth of the deepest. By one lane: each step needs the one before.
__device__ inline u32 join_leaves(HuffmanWork& work, u32 n) {
    u32 deepest = 0;
    if (lane_id() == 0) {
        u32* weights = work.unsorted;
        u32 leaf = 0, tree = 0, leaf_weight = work.sorted[0] >> 9, tree_weight = 0;
        for (u32 made = 0; made + 1 < n; made++) {
            u32 weight = 0;
#pragma unroll
            for (u32 k = 0; k < 2; k++) {
                if (leaf < n && (tree >= made || leaf_weight <= tree_weight)) {
                    weight += leaf_weight;
                    work.parent[leaf++] = made;
                    if (leaf < n) leaf_weight = work.sorted[leaf] >> 9;
                } else {
                    weight += tree_weight;
                    work.parent[n + tree++] = made;
                    if (tree < made) tree_weight = weights[tree];
                }
            }
            weights[made] = weight;
            if (tree == made) tree_weight = weight;
        }
        // Depths take the place of weights, from the root down.
        weights[n - 2] = 0;
        for (u32 made = n - 2; made-- > 0;) weights[made] = weights[work.parent[n + made]] + 1;
        deepest = weights[work.parent[0]] + 1;
    }
    __syncwarp();
    return __shfl_sync(FULL_MASK, deepest, 0);
}

// Lengths of a code for `symbols` counts below 2^16; symbols without a count get 0.
template <typename Count>
__device__ inline void code_lengths(HuffmanWork& work, const Count* counts, u32 symbols, u8* lengths) {
    u32 n = 0;
    for (u32 first = 0; first < symbols; first += 32) {
        u32 symbol = first + lane_id();
        u32 count = symbol < symbols ? counts[symbol] : 0;
        u32 used = __ballot_sync(FULL_MASK, count > 0);
        if (count > 0) work.unsorted[n + lanes_below(used)] = count << 9 | symbol;
        if (symbol < symbols) lengths[symbol] = 0;
        n += __popc(used);
    }
    __syncwarp();
    if (n == 0) return;
    if (n == 1) {
        if (lane_id() == 0) lengths[work.unsorted[0] & 511] = 1;
        __syncwarp();
        return;
    }
    sort_leaves(work, n);
    while (join_leaves(work, n) > MOST_LENGTH) {
        for (u32 i = lane_id(); i < n; i += 32) {
            u32 leaf = work.sorted[i];
            work.unsorted[i] = ((leaf >> 9) + 1) >> 1 << 9 | (leaf & 511);
        }
        __syncwarp();
        sort_leaves(work, n);
    }
    for (u32 i = lane_id(); i < n; i += 32)
        lengths[work.sorted[i] & 511] = u8(work.unsorted[work.parent[i]] + 1);
    __syncwarp();
}

__device__ __forceinline__ u32 gamma_bits(u32 value) { return 2 * log2_floor(value) + 1; }

// Bits of the description of `symbols` lengths: the same in every lane.
__device__ inline u32 description_bits(const u8* lengths, u32 symbols) {
    u32 bits = 0, used = 0, predicted = 4;
    for (u32 first = 0; first < symbols; first += 32) {
        u32 symbol = first + lane_id();
        u32 length = symbol < symbols ? lengths[symbol] : 0;
        u32 mask = __ballot_sync(FULL_MASK, length > 0);
        u32 below = mask & ((1u << lane_id()) - 1);
        u32 from = below ? log2_floor(below) : 0;
        u32 before = __shfl_sync(FULL_MASK, length, from);
        if (!below) before = predicted;
        if (length > 0) {
            u32 unused = symbol - (below ? first + from + 1 : used);
            if (unused > 0) bits += 3 + gamma_bits(unused);
            u32 step = length > before ? length - before : before - length;
            bits += step == 0 ? 1 : step == 1 ? 3 : step == 2 ? 5 : 8;
        }
        if (mask) {
            used = first + log2_floor(mask) + 1;
            predicted = __shfl_sync(FULL_MASK, length, log2_floor(mask));
        }
    }
    return __reduce_add_sync(FULL_MASK, bits) + gamma_bits(used + 1);
}
