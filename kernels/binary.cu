// y = a op b for +, -, * and /, and for comparisons (1 where true, else 0), operands broadcast by NumPy's rules.
//
// Shapes    y: `count` vectors of a box of at most six axes; each operand has a stride along every axis, 0 where it is broadcast. The
//           launcher folds neighbouring axes, so that one axis stands for equal shapes and for scalars, two for rows, columns
//           and channels. Along the innermost axis an operand is contiguous or one broadcast value.
// Types     f32, bf16, f16 in memory; f32 arithmetic, one rounding at the end.
// Launch    256 threads, one vector each: 128 bits where the innermost extent is a multiple of that (or there is only one
//           axis), else one element.
// Limit     memory: every operand once, the result once; repeats come from cache. 1 FLOP per element.
// Rejected  one kernel per pattern (same, scalar, rows): four times the entries, and the index arithmetic costs one mulhi and one
//           shift per axis, hidden behind the loads.
// Numerics  division is correctly rounded. Whatever is compared with NaN is false, but for !=.
// Tail      with one axis the last thread goes element by element; otherwise there is none.

#include "common/index.cuh"

struct BinaryParams {
    const void* a;
    const void* b;
    void* y;
    u64 elems;
    u32 count;                     // vectors
    u32 wide;                      // vectors are 128 bits, not one element
    Axes axes;                     // in vectors along the innermost axis
    Strides a_strides, b_strides;  // in elements per step
    u32 a_repeats, b_repeats;      // along the innermost axis
};

template <int N, typename T>
__device__ __forceinline__ void operand(float (&v)[N], const T* from, bool repeats) {
    if (repeats) {
        const float value = to_float(*from);
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] = value;
    } else {
        load_floats(v, from);
    }
}

template <int N, typename T, typename F>
__device__ __forceinline__ void combine(const BinaryParams& p, F f) {
    const u32 i = u32(global_thread());
    if (i >= p.count) return;
    u64 a_at = 0, b_at = 0;
    for_each_axis(i, p.axes, [&](int axis, u32 at) {
        a_at += at * p.a_strides.of[axis];
        b_at += at * p.b_strides.of[axis];
    });
    const T* a = static_cast<const T*>(p.a) + a_at;
    const T* b = static_cast<const T*>(p.b) + b_at;
    T* y = static_cast<T*>(p.y);
    const u64 first = u64(i) * N;
    if (first + N > p.elems) {
#pragma unroll 1
        for (u64 k = first; k < p.elems; ++k) {
            const float left = to_float(a[p.a_repeats ? 0 : k - first]), right = to_float(b[p.b_repeats ? 0 : k - first]);
            y[k] = from_float<T>(f(left, right));
        }
        return;
    }
    float left[N], right[N];
    operand(left, a, p.a_repeats);
    operand(right, b, p.b_repeats);
#pragma unroll
    for (int k = 0; k < N; ++k) left[k] = f(left[k], right[k]);
    store_floats(y + first, left);
}

#define BINARY(NAME, T, EXPRESSION)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256) binary_##NAME##_##T(const __grid_constant__ BinaryParams p) {  \
        const auto f = [](float a, float b) { return EXPRESSION; };                                                  \
        if (p.wide) combine<WIDTH<T>, T>(p, f);                                                                      \
        else combine<1, T>(p, f);                                                                                    \
    }

#define EVERY_TYPE(NAME, EXPRESSION) \
    BINARY(NAME, f32, EXPRESSION)    \
    BINARY(NAME, bf16, EXPRESSION)   \
    BINARY(NAME, f16, EXPRESSION)

EVERY_TYPE(add, a + b)
EVERY_TYPE(sub, a - b)
EVERY_TYPE(mul, a* b)
EVERY_TYPE(div, a / b)
EVERY_TYPE(lt, a < b ? 1.0f : 0.0f)
EVERY_TYPE(le, a <= b ? 1.0f : 0.0f)
EVERY_TYPE(eq, a == b ? 1.0f : 0.0f)
EVERY_TYPE(ne, a != b ? 1.0f : 0.0f)
