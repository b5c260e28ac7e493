// Uniform numbers in (0, 1] and normal numbers, from a Philox stream: element i depends on (key, stream, position) alone.
//
// Shapes    y: count elements, any shape, contiguous.
// Types     f32, bf16, f16 in memory; drawn in f32.
// Launch    256 threads, one 128-bit vector each: one or two positions of the stream, four numbers per position.
// Limit     memory: writes count * sizeof(T) bytes; some 60 integer instructions for 4 numbers, and for normal ones two square
//           roots, logarithms and sine pairs.
// Rejected  one number per thread: four times the rounds.
// Numerics  uniform: one rounding of (word + 1/2) / 2^32. normal: Box and Muller, the logarithm taken from whichever end is
//           nearer, so that small radii keep their digits; within 3e-7 of the CPU's f64.
// Tail      the last thread goes element by element.

#include "common/philox.cuh"

struct RandomParams {
    void* y;
    u64 count;
    u64 position;  // of the first four elements
    const u32* replays;
    Philox random;
};

template <typename T, typename F>
__device__ __forceinline__ void draw(const RandomParams& p, F four_of) {
    constexpr int N = WIDTH<T>;
    T* y = static_cast<T*>(p.y);
    const u64 first = global_thread() * N;
    if (first >= p.count) return;
    float v[N];
    const u64 position = at_replay(p.position, p.replays) + first / 4;
#pragma unroll
    for (int four = 0; four < N; four += 4) four_of(philox(p.random, position + four / 4), &v[four]);
    if (first + N <= p.count) {
        store_floats(y + first, v);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            if (first + i < p.count) y[first + i] = from_float<T>(v[i]);
        }
    }
}

#define RANDOM(T)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) random_uniform_##T(const __grid_constant__ RandomParams p) {      \
        draw<T>(p, [](const Words& words, float* v) {                                                                    \
            for (int i = 0; i < 4; ++i) v[i] = uniform(words.at[i]);                                                     \
        });                                                                                                              \
    }                                                                                                                    \
    extern "C" __global__ void __launch_bounds__(256) random_normal_##T(const __grid_constant__ RandomParams p) {       \
        draw<T>(p, [](const Words& words, float* v) {                                                                    \
            normals(words.at[0], words.at[1], v[0], v[1]);                                                               \
            normals(words.at[2], words.at[3], v[2], v[3]);                                                               \
        });                                                                                                              \
    }

RANDOM(f32)
RANDOM(bf16)
RANDOM(f16)
