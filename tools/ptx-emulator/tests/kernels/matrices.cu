// Matrix products, from the first lesson to the tensor core.

#include <cuda_bf16.h>
#include <cuda_pipeline.h>

// Tiles of 16 x 16 through shared memory, any size.
extern "C" __global__ void matmul_tiled(const float* a, const float* b, float* c, int m, int n, int k) {
    __shared__ float left[16][16], right[16][16];
    int row = blockIdx.y * 16 + threadIdx.y, column = blockIdx.x * 16 + threadIdx.x;
    float sum = 0;
    for (int t = 0; t < (k + 15) / 16; t++) {
        int i = t * 16 + threadIdx.x, j = t * 16 + threadIdx.y;
        left[threadIdx.y][threadIdx.x] = row < m && i < k ? a[row * k + i] : 0;
        right[threadIdx.y][threadIdx.x] = j < k && column < n ? b[j * n + column] : 0;
        __syncthreads();
        for (int x = 0; x < 16; x++) sum += left[threadIdx.y][x] * right[x][threadIdx.x];
        __syncthreads();
    }
    if (row < m && column < n) c[row * n + column] = sum;
}

// The next tile is copied while this one is used: two buffers, cp.async, one barrier a step.
extern "C" __global__ void matmul_pipelined(const float* a, const float* b, float* c, int n) {
    __shared__ __align__(16) float left[2][16][16];
    __shared__ __align__(16) float right[2][16][16];
    int tx = threadIdx.x, ty = threadIdx.y, row = blockIdx.y * 16 + ty, column = blockIdx.x * 16 + tx;
    auto fetch = [&](int stage, int tile) {
        __pipeline_memcpy_async(&left[stage][ty][tx], &a[row * n + tile * 16 + tx], 4);
        __pipeline_memcpy_async(&right[stage][ty][tx], &b[(tile * 16 + ty) * n + column], 4);
        __pipeline_commit();
    };
    float sum = 0;
    fetch(0, 0);
    for (int tile = 0; tile < n / 16; tile++) {
        if (tile + 1 < n / 16) {
            fetch((tile + 1) & 1, tile + 1);
            __pipeline_wait_prior(1);
        } else {
            __pipeline_wait_prior(0);
        }
        __syncthreads();
        for (int x = 0; x < 16; x++) sum += left[tile & 1][ty][x] * right[tile & 1][x][tx];
        __syncthreads();
    }
    c[row * n + column] = sum;
}

__device__ unsigned int shared_address(const void* p) { return static_cast<unsigned int>(__cvta_generic_to_shared(p)); }

// One warp, 16 x 8 outputs, bf16 through ldmatrix and mma.sync; a is m x k, b is n x k.
extern "C" __global__ void matmul_tensor_core(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int n, int k) {
    __shared__ __align__(16) __nv_bfloat16 left[16 * 16];
    __shared__ __align__(16) __nv_bfloat16 right[8 * 16];
    int lane = threadIdx.x, row0 = blockIdx.y * 16, column0 = blockIdx.x * 8;
    float d[4] = {0, 0, 0, 0};
    for (int k0 = 0; k0 < k; k0 += 16) {
        unsigned int to = shared_address(&left[lane / 2 * 16 + lane % 2 * 8]);
        const void* from = &a[(row0 + lane / 2) * k + k0 + lane % 2 * 8];
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
        if (lane < 16) {
            to = shared_address(&right[lane / 2 * 16 + lane % 2 * 8]);
            from = &b[(column0 + lane / 2) * k + k0 + lane % 2 * 8];
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        asm volatile("cp.async.wait_group 0;" ::: "memory");
        __syncthreads();
        unsigned int ra[4], rb[2];
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(ra[0]), "=r"(ra[1]), "=r"(ra[2]), "=r"(ra[3])
                     : "r"(shared_address(&left[lane % 16 * 16 + lane / 16 * 8])) : "memory");
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                     : "=r"(rb[0]), "=r"(rb[1])
                     : "r"(shared_address(&right[lane % 8 * 16 + lane / 8 % 2 * 8])) : "memory");
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]));
        __syncthreads();
    }
    int row = row0 + lane / 4, column = column0 + lane % 4 * 2;
    c[row * n + column] = d[0];
    c[row * n + column + 1] = d[1];
    c[(row + 8) * n + column] = d[2];
    c[(row + 8) * n + column + 1] = d[3];
}
