// y[row, k] = 1 where k is the row's index, else 0.
//
// Shapes    indices: rows; y: rows x classes.
// Types     i32 indices; y f32, bf16, f16.
// Launch    256 threads; one 128-bit vector of y per thread, so blocks = ceil(count / (256 * 16 / sizeof(T))).
// Traffic   writes y once; the indices come from cache: memory bound.
// Rejected  a fill and one store per row: the sectors that hold a one are written twice.
// Numerics  exact. An index out of range gives a row of zeros.
// Tail      the last thread with work goes element by element.

#include "common/fast_divmod.cuh"

struct OneHotParams {
    const i32* indices;
    void* y;
    FastDivmod classes;
    u32 count;  // of y
};

template <typename T>
__device__ __forceinline__ void one_hot(const OneHotParams& p) {
    constexpr int W = WIDTH<T>;
    const u64 first = global_thread() * W;
    if (first >= p.count) return;
    T* const y = static_cast<T*>(p.y);
    const auto at = [&](u32 i) {
        const Divmod where = p.classes.divmod(i);
        return p.indices[where.quotient] == i32(where.remainder) ? 1.0f : 0.0f;
    };
    if (first + W <= p.count) {
        float v[W];
#pragma unroll
        for (int i = 0; i < W; ++i) v[i] = at(u32(first) + i);
        store_floats(y + first, v);
    } else {
#pragma unroll 1
        for (u32 i = u32(first); i < p.count; ++i) y[i] = from_float<T>(at(i));
    }
}

#define ONE_HOT(T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) one_hot_fwd_##T(const __grid_constant__ OneHotParams p) { \
        one_hot<T>(p);                                                                                          \
    }

ONE_HOT(f32)
ONE_HOT(bf16)
ONE_HOT(f16)
