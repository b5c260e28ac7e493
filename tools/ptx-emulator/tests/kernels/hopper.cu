// What sm_90a adds: bulk and tensor copies behind mbarriers, matrix products of a warpgroup, clusters.

#include <cuda.h>
#include <cuda_bf16.h>

using u32 = unsigned int;
using u64 = unsigned long long;

__device__ u32 address(const void* p) { return static_cast<u32>(__cvta_generic_to_shared(p)); }

__device__ void init(u64* barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(barrier)), "r"(count) : "memory");
}

__device__ void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ void expect(u64* barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(barrier)), "r"(bytes) : "memory");
}

__device__ void arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address(barrier)) : "memory");
}

__device__ void wait(u64* barrier, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred passed;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 passed, [%0], %1;\n"
        "@!passed bra again;\n"
        "}\n" ::"r"(address(barrier)), "r"(parity) : "memory");
}

__device__ void load_box(void* to, const CUtensorMap* map, u64* barrier, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            address(to)),
        "l"(map), "r"(address(barrier)), "r"(x), "r"(y) : "memory");
}

// In through a bulk copy, doubled, out through another.
extern "C" __global__ void bulk_double(const float* in, float* out) {
    __shared__ alignas(128) float data[256];
    __shared__ u64 full;
    int t = threadIdx.x;
    if (t == 0) {
        init(&full, 1);
        proxy_fence();
    }
    __syncthreads();
    if (t == 0) {
        expect(&full, 1024);
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                         address(data)),
                     "l"(in + blockIdx.x * 256), "r"(1024), "r"(address(&full)) : "memory");
    }
    wait(&full, 0);
    for (int i = t; i < 256; i += blockDim.x) data[i] *= 2;
    proxy_fence();
    __syncthreads();
    if (t == 0) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(out + blockIdx.x * 256),
                     "r"(address(data)), "r"(1024) : "memory");
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    }
}

// A box of a matrix, zeros outside of it.
extern "C" __global__ void box_copy(const __grid_constant__ CUtensorMap map, float* out, int x, int y) {
    __shared__ alignas(128) float box[8][16];
    __shared__ u64 full;
    int t = threadIdx.x;
    if (t == 0) {
        init(&full, 1);
        proxy_fence();
    }
    __syncthreads();
    if (t == 0) {
        expect(&full, sizeof(box));
        load_box(box, &map, &full, x, y);
    }
    wait(&full, 0);
    for (int i = t; i < 128; i += blockDim.x) out[i] = box[i / 16][i % 16];
}

__device__ u64 descriptor(const void* tile) {
    u64 field = (address(tile) & 0x3ffff) >> 4;
    return field | (u64)1 << 16 | (u64)64 << 32 | (u64)1 << 62;
}

// c (m x n, f32) = a (m x k) b (n x k)^T in bf16: one warp fetches, one warpgroup multiplies, two stages between them.
extern "C" __global__ void __launch_bounds__(256) matmul_warpgroup(const __grid_constant__ CUtensorMap a,
                                                                    const __grid_constant__ CUtensorMap b, float* c, int n,
                                                                    int k) {
    extern __shared__ __align__(1024) __nv_bfloat16 tiles[];
    __shared__ u64 full[2], empty[2];
    __nv_bfloat16* const left = tiles;
    __nv_bfloat16* const right = tiles + 2 * 64 * 64;
    int group = threadIdx.x / 128, t = threadIdx.x % 128;
    if (threadIdx.x == 0) {
        for (int s = 0; s < 2; s++) {
            init(&full[s], 1);
            init(&empty[s], 128);
        }
        proxy_fence();
    }
    __syncthreads();
    int steps = k / 64;
    if (group == 1) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (t == 0)
            for (int i = 0; i < steps; i++) {
                int s = i % 2;
                if (i >= 2) wait(&empty[s], (i / 2 - 1) % 2);
                expect(&full[s], (64 + 32) * 64 * 2);
                load_box(left + s * 64 * 64, &a, &full[s], i * 64, blockIdx.y * 64);
                load_box(right + s * 32 * 64, &b, &full[s], i * 64, blockIdx.x * 32);
            }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    float d[16];
    for (int i = 0; i < 16; i++) d[i] = 0;
    for (int i = 0; i < steps; i++) {
        int s = i % 2;
        wait(&full[s], i / 2 % 2);
        for (int r = 0; r < 16; r++) asm volatile("" : "+f"(d[r])::"memory");
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        for (int kk = 0; kk < 4; kk++)
            asm volatile(
                "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
                "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, 1, 1, 1, 0, 0;"
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
                  "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
                : "l"(descriptor(left + s * 64 * 64 + kk * 16)), "l"(descriptor(right + s * 32 * 64 + kk * 16)));
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        for (int r = 0; r < 16; r++) asm volatile("" : "+f"(d[r])::"memory");
        arrive(&empty[s]);
    }
    int row = blockIdx.y * 64 + t / 32 * 16 + t % 32 / 4;
    for (int j = 0; j < 4; j++) {
        int column = blockIdx.x * 32 + j * 8 + t % 4 * 2;
        c[row * n + column] = d[4 * j];
        c[row * n + column + 1] = d[4 * j + 1];
        c[(row + 8) * n + column] = d[4 * j + 2];
        c[(row + 8) * n + column + 1] = d[4 * j + 3];
    }
}

// A histogram whose bins are spread over the shared memory of two blocks.
extern "C" __global__ void __cluster_dims__(2, 1, 1) cluster_histogram(const int* in, u32* bins, int n) {
    __shared__ u32 mine[64];
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    for (int b = threadIdx.x; b < 64; b += blockDim.x) mine[b] = 0;
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        int v = in[i];
        u32 remote;
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address(&mine[v % 64])), "r"(v / 64));
        asm volatile("red.shared::cluster.add.u32 [%0], %1;" ::"r"(remote), "r"(1) : "memory");
    }
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    for (int b = threadIdx.x; b < 64; b += blockDim.x) atomicAdd(&bins[rank * 64 + b], mine[b]);
}
