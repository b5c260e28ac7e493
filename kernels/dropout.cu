// y = x scaled up, or 0 with the given probability, added to a residual where there is one: the mask is drawn anew wherever it is needed, so nothing is stored.
//
// Shapes    x, y: count elements, any shape, contiguous.
// Types     f32, bf16, f16 in memory; f32 arithmetic.
// Launch    256 threads, one 128-bit vector each: one or two positions of the random stream, four words per position.
// Limit     memory: reads (x, residual) and writes count * sizeof(T) bytes each; ten rounds are some 60 integer instructions for 4 elements, below
//           what the loads take.
// Rejected  a mask in memory for the gradient: one more byte per element, twice.
// Numerics  a word below `dropped` drops its element: the same elements as on the CPU.
// Tail      the last thread goes element by element.

#include "common/philox.cuh"

struct DropoutParams {
    const void *x, *residual;  // residual or null
    void* y;
    u64 count;
    u64 position;  // of the first four elements
    const u32* replays;
    Philox random;
    u64 dropped;
    float scale;
    u32 unused;
};

template <typename T>
__device__ __forceinline__ void dropout(const DropoutParams& p) {
    constexpr int N = WIDTH<T>;
    const T* x = static_cast<const T*>(p.x);
    T* y = static_cast<T*>(p.y);
    const u64 first = global_thread() * N;
    if (first >= p.count) return;
    const bool aligned = first + N <= p.count;
    float v[N];
    if (aligned) {
        load_floats(v, x + first);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] = first + i < p.count ? to_float(x[first + i]) : 0.0f;
    }
    const u64 position = at_replay(p.position, p.replays) + first / 4;
#pragma unroll
    for (int four = 0; four < N; four += 4) {
        const Words words = philox(p.random, position + four / 4);
#pragma unroll
        for (int i = 0; i < 4; ++i) v[four + i] = words.at[i] < p.dropped ? 0.0f : v[four + i] * p.scale;
    }
    if (p.residual != nullptr) {
        const T* residual = static_cast<const T*>(p.residual) + first;
        float r[N];
        if (aligned) {
            load_floats(r, residual);
        } else {
#pragma unroll
            for (int i = 0; i < N; ++i) r[i] = first + i < p.count ? to_float(residual[i]) : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] += r[i];
    }
    if (aligned) {
        store_floats(y + first, v);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            if (first + i < p.count) y[first + i] = from_float<T>(v[i]);
        }
    }
}

#define DROPOUT(T)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256) dropout_fwd_##T(const __grid_constant__ DropoutParams p) { \
        dropout<T>(p);                                                                                                   \
    }

DROPOUT(f32)
DROPOUT(bf16)
DROPOUT(f16)
