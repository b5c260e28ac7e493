// One Adam or AdamW update of up to 64 parameters in one launch.
//
//   g' = scale · g (+ decay · p),  m = β1 m + (1 − β1) g',  v = β2 v + (1 − β2) g'²
//   p  = p (1 − lr · decay) − lr/(1 − β1ᵗ) · m / (√v / √(1 − β2ᵗ) + ε)
// with decay taken off p (AdamW) or added to g' (Adam). scale clips by the gradients' norm.
//
// Shapes    p, m, v, g: `count` elements each, any shape.
// Types     f32.
// Launch    256 threads, 4096 elements of one parameter a block; addresses by value, so nothing is copied to the device.
//           Learning rate and bias corrections (`rates`) and the norm lie in device memory: a captured CUDA graph stays valid.
// Traffic   reads 16 bytes and writes 12 an element: 28 bytes, memory bound.
// Rejected  a table of addresses in device memory: one launch for any number of parameters, but gradients move from step to
//           step, so the table would be copied at every one.
// Numerics  sqrt and division correctly rounded; multiplications and sums as written, contracted to fma.
// Tail      a parameter's last elements one at a time.

#include "common/multi_tensor.cuh"

struct AdamParams {
    float* p[MAX_TENSORS];
    float* m[MAX_TENSORS];
    float* v[MAX_TENSORS];
    const float* g[MAX_TENSORS];
    u64 count[MAX_TENSORS];
    float decay[MAX_TENSORS];
    u32 first_block[MAX_TENSORS];
    const float* norm;   // of all gradients, or null
    const float* rates;  // lr, lr / (1 − β1ᵗ), 1 / √(1 − β2ᵗ)
    float beta1, rest1, beta2, rest2, eps;
    float max_norm;  // 0: gradients as they are
    u32 tensors;
    u32 decoupled;
};

extern "C" __global__ void __launch_bounds__(MULTI_TENSOR_THREADS) adam_step_f32(const __grid_constant__ AdamParams list) {
    const u32 tensor = tensor_of_block(list.first_block, list.tensors);
    float *const p = list.p[tensor], *const m = list.m[tensor], *const v = list.v[tensor];
    const float* const g = list.g[tensor];
    const float rate = list.rates[1], root = list.rates[2];
    const float shrink = list.decoupled ? 1.0f - list.rates[0] * list.decay[tensor] : 1.0f;
    const float decay = list.decoupled ? 0.0f : list.decay[tensor];
    float scale = 1.0f;
    if (list.norm != nullptr && list.max_norm > 0.0f) {
        const float norm = *list.norm;
        if (norm > list.max_norm) scale = list.max_norm / (norm + 1e-6f);
    }
    for_each_in_chunk<4>(blockIdx.x - list.first_block[tensor], list.count[tensor], [&](u64 at, auto width) {
        constexpr int W = decltype(width)::VALUE;
        float ps[W], ms[W], vs[W], gs[W];
        load_floats(ps, p + at);
        load_floats(ms, m + at);
        load_floats(vs, v + at);
        load_floats(gs, g + at);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            const float gradient = fmaf(gs[i], scale, ps[i] * decay);
            ms[i] = fmaf(list.beta1, ms[i], list.rest1 * gradient);
            vs[i] = fmaf(list.beta2, vs[i], list.rest2 * gradient * gradient);
            ps[i] = ps[i] * shrink - rate * ms[i] / fmaf(sqrtf(vs[i]), root, list.eps);
        }
        store_floats(p + at, ps);
        store_floats(m + at, ms);
        store_floats(v + at, vs);
    });
}
