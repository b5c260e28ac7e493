// C = A B in f32, 64 x 64 tiles of C by 256 threads, 4 x 4 each: the shape of a plain register-tiled product.
extern "C" __global__ void __launch_bounds__(256) sgemm(const float* a, const float* b, float* c, int n) {
    __shared__ float left[16][68], right[16][64];
    int t = threadIdx.x, x = t % 16, y = t / 16;
    float sum[4][4] = {};
    for (int k = 0; k < n; k += 16) {
        float4 l = *(const float4*)&a[(blockIdx.y * 64 + t / 4) * n + k + t % 4 * 4];
        float4 r = *(const float4*)&b[(k + y) * n + blockIdx.x * 64 + x * 4];
        left[t % 4 * 4 + 0][t / 4] = l.x;
        left[t % 4 * 4 + 1][t / 4] = l.y;
        left[t % 4 * 4 + 2][t / 4] = l.z;
        left[t % 4 * 4 + 3][t / 4] = l.w;
        *(float4*)&right[y][x * 4] = r;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 16; i++) {
            float4 u = *(const float4*)&left[i][y * 4], v = *(const float4*)&right[i][x * 4];
            float us[4] = {u.x, u.y, u.z, u.w}, vs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int p = 0; p < 4; p++)
#pragma unroll
                for (int q = 0; q < 4; q++) sum[p][q] += us[p] * vs[q];
        }
        __syncthreads();
    }
    for (int p = 0; p < 4; p++)
        for (int q = 0; q < 4; q++) c[(blockIdx.y * 64 + y * 4 + p) * n + blockIdx.x * 64 + x * 4 + q] = sum[p][q];
}
