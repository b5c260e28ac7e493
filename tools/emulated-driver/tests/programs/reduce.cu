// A sum whose launch follows what the device says of itself. Wrong: a barrier is missing between writing and reading.
#include "check.h"

template <bool kBarrier>
__global__ void sum(const int* x, int* total, int n) {
    extern __shared__ int part[];
    int mine = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) mine += x[i];
    part[threadIdx.x] = mine;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (kBarrier) __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    if (threadIdx.x == 0) atomicAdd(total, part[0]);
}

int main(int argc, char** argv) {
    const bool wrong = is_wrong(argc, argv);
    cudaDeviceProp device;
    CALL(cudaGetDeviceProperties(&device, 0));
    int multiprocessors = 0, major = 0;
    CALL(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
    CALL(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    EXPECT(device.multiProcessorCount == multiprocessors && device.major == major && device.warpSize == 32);
    EXPECT(device.maxThreadsPerBlock == 1024 && device.maxGridSize[0] > 65535);
    int blocks = 0;
    const int threads = 256, n = 10007;
    CALL(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, sum<true>, threads, threads * sizeof(int)));
    EXPECT(blocks > 0 && blocks * threads <= device.maxThreadsPerMultiProcessor);
    int least = 0, best = 0;
    CALL(cudaOccupancyMaxPotentialBlockSize(&least, &best, sum<true>, 0, 0));
    EXPECT(best > 0 && best <= 1024);
    cudaFuncAttributes attributes;
    CALL(cudaFuncGetAttributes(&attributes, sum<true>));
    EXPECT(attributes.maxThreadsPerBlock == 1024);

    int *x, *total, result = 0;
    CALL(cudaMallocManaged(&x, n * sizeof(int)));
    CALL(cudaMalloc(&total, sizeof(int)));
    CALL(cudaMemset(total, 0, sizeof(int)));
    for (int i = 0; i < n; ++i) x[i] = i;
    if (wrong) {
        sum<false><<<4, threads, threads * sizeof(int)>>>(x, total, n);
    } else {
        sum<true><<<4, threads, threads * sizeof(int)>>>(x, total, n);
    }
    CALL(cudaDeviceSynchronize());
    CALL(cudaMemcpy(&result, total, sizeof(int), cudaMemcpyDeviceToHost));
    EXPECT(result == n * (n - 1) / 2);
    size_t available = 0, whole = 0;
    CALL(cudaMemGetInfo(&available, &whole));
    EXPECT(available < whole && whole == device.totalGlobalMem);
    CALL(cudaFree(x));
    CALL(cudaFree(total));
    std::printf("right\n");
}
