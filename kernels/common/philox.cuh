// Philox4x32-10 (Salmon et al. 2011): the same words as src/random.rs at the same (key, stream, position).
#pragma once

#include "element.cuh"

struct Philox {
    u32 key[2];
    u32 stream[2];
};

struct Words {
    u32 at[4];
};

__device__ __forceinline__ Words philox(const Philox& random, u64 position) {
    u32 c0 = u32(position), c1 = u32(position >> 32), c2 = random.stream[0], c3 = random.stream[1];
    u32 k0 = random.key[0], k1 = random.key[1];
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u64 p0 = u64(c0) * 0xD2511F53u, p1 = u64(c2) * 0xCD9E8D57u;
        c0 = u32(p1 >> 32) ^ c1 ^ k0;
        c1 = u32(p1);
        c2 = u32(p0 >> 32) ^ c3 ^ k1;
        c3 = u32(p0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// Where a launch draws. A captured launch takes the next step of its stream, 2^32 positions further on, at every replay:
// `replays` counts them, and is null outside of a CUDA graph.
__device__ __forceinline__ u64 at_replay(u64 position, const u32* replays) {
    return replays == nullptr ? position : position + (u64(*replays) << 32);
}

// (word + 1/2) / 2^32, in (0, 1]: one rounding.
__device__ __forceinline__ float uniform(u32 word) { return fmaf(float(word), 0x1p-32f, 0x1p-33f); }

// Its natural logarithm. Near one the distance to one is taken from the word's complement, so that no digits are lost.
__device__ __forceinline__ float log_uniform(u32 word) {
    return word >> 31 ? log1pf(-uniform(~word)) : logf(uniform(word));
}

// Two normal numbers by Box and Muller's transform.
__device__ __forceinline__ void normals(u32 first, u32 second, float& a, float& b) {
    const float radius = sqrtf(-2.0f * log_uniform(first));
    float sine, cosine;
    sincospif(fmaf(float(second), 0x1p-31f, 0x1p-32f), &sine, &cosine);
    a = radius * cosine;
    b = radius * sine;
}
