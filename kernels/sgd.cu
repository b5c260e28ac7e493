// One step of stochastic gradient descent with momentum for up to 64 parameters in one launch.
//
//   g' = scale · g + decay · p,  v = momentum · v + g',  p = p − lr · v, or with Nesterov p − lr (g' + momentum · v)
//
// Shapes    p, v, g: `count` elements each, any shape.
// Types     f32.
// Launch    256 threads, 4096 elements of one parameter per block; addresses by value. The learning rate and the norm lie in device
//           memory: a captured CUDA graph stays valid.
// Traffic   reads 12 B and writes 8 B per element, memory bound; without momentum (v null) reads 8 and writes 4.
// Rejected  momentum 0 with a stored v: two thirds more bytes.
// Numerics  multiplications and sums as written, contracted to fma.
// Tail      a parameter's last elements one at a time.

#include "common/multi_tensor.cuh"

struct SgdParams {
    float* p[MAX_TENSORS];
    float* v[MAX_TENSORS];  // null without momentum
    const float* g[MAX_TENSORS];
    u64 count[MAX_TENSORS];
    float decay[MAX_TENSORS];
    u32 first_block[MAX_TENSORS];
    const float* norm;  // of all gradients
    const float* rate;
    float momentum;
    float max_norm;  // 0: gradients as they are
    u32 tensors;
    u32 nesterov;
};

extern "C" __global__ void __launch_bounds__(MULTI_TENSOR_THREADS) sgd_step_f32(const __grid_constant__ SgdParams list) {
    const u32 tensor = tensor_of_block(list.first_block, list.tensors);
    float *const p = list.p[tensor], *const v = list.v[tensor];
    const float* const g = list.g[tensor];
    const float rate = *list.rate, decay = list.decay[tensor], norm = *list.norm;
    const float scale = list.max_norm > 0.0f && norm > list.max_norm ? list.max_norm / (norm + 1e-6f) : 1.0f;
    for_each_in_chunk<4>(blockIdx.x - list.first_block[tensor], list.count[tensor], [&](u64 at, auto width) {
        constexpr int W = decltype(width)::VALUE;
        float ps[W], vs[W], gs[W];
        load_floats(ps, p + at);
        load_floats(gs, g + at);
        if (v != nullptr) load_floats(vs, v + at);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            const float gradient = fmaf(gs[i], scale, ps[i] * decay);
            vs[i] = v != nullptr ? fmaf(list.momentum, vs[i], gradient) : gradient;
            ps[i] -= rate * (list.nesterov ? fmaf(list.momentum, vs[i], gradient) : vs[i]);
        }
        store_floats(p + at, ps);
        if (v != nullptr) store_floats(v + at, vs);
    });
}
