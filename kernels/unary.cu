// y = f(x), element by element: affine, abs, sign, square, sqrt, rsqrt, exp, log.
//
// Shapes    x, y: count elements, any shape, contiguous.
// Types     f32, bf16, f16 in memory; f32 arithmetic, one rounding at the end.
// Launch    256 threads; one 128-bit vector per thread, so blocks = ceil(count / (256 * 16 / sizeof(T))).
// Limit     memory: reads and writes count * sizeof(T) bytes each, at most 2 FLOP per element besides exp and log.
// Rejected  a grid-stride loop with 4 vectors per thread in flight: the same bytes, more registers, and a tail in every block.
// Numerics  sqrt and division are correctly rounded; expf and logf within 2 ulp (full-range versions, no fast math).
//           sign keeps zeros and NaN as they are.
// Tail      the last thread with work goes element by element.

#include "common/element.cuh"

struct UnaryParams {
    const void* x;
    void* y;
    u64 count;
    float scale, shift;  // affine only
};

#define UNARY(NAME, T, EXPRESSION)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) unary_##NAME##_##T(const __grid_constant__ UnaryParams p) {       \
        map_elements(static_cast<const T*>(p.x), static_cast<T*>(p.y), p.count, [&](float x) { return EXPRESSION; });  \
    }

#define EVERY_TYPE(NAME, EXPRESSION) \
    UNARY(NAME, f32, EXPRESSION)     \
    UNARY(NAME, bf16, EXPRESSION)    \
    UNARY(NAME, f16, EXPRESSION)

EVERY_TYPE(affine, fmaf(p.scale, x, p.shift))
EVERY_TYPE(abs, fabsf(x))
EVERY_TYPE(sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x)
EVERY_TYPE(square, x * x)
EVERY_TYPE(sqrt, sqrtf(x))
EVERY_TYPE(rsqrt, 1.0f / sqrtf(x))
EVERY_TYPE(exp, expf(x))
EVERY_TYPE(log, logf(x))
