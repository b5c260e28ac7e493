// Two streams, pinned memory, asynchronous copies, events, callbacks. Wrong: no bound, so that the last block writes
// past the end.
#include <vector>

#include "check.h"

__global__ void scale(float* y, const float* x, float a, int n, bool bounded) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (!bounded || i < n) y[i] = a * x[i];
}

static void CUDART_CB count(void* counter) { ++*static_cast<int*>(counter); }

static void CUDART_CB count_too(cudaStream_t, cudaError_t status, void* counter) {
    if (status == cudaSuccess) ++*static_cast<int*>(counter);
}

int main(int argc, char** argv) {
    const int n = 1000;
    const bool bounded = !is_wrong(argc, argv);
    float *host, *x, *y, *z;
    CALL(cudaMallocHost(&host, n * sizeof(float)));
    CALL(cudaMalloc(&x, n * sizeof(float)));
    CALL(cudaMalloc(&y, n * sizeof(float)));
    CALL(cudaMallocAsync(&z, n * sizeof(float), 0));
    for (int i = 0; i < n; ++i) host[i] = float(i);

    cudaStream_t first, second;
    CALL(cudaStreamCreate(&first));
    CALL(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
    cudaEvent_t begin, copied, end;
    CALL(cudaEventCreate(&begin));
    CALL(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming));
    CALL(cudaEventCreate(&end));
    int calls = 0;
    CALL(cudaEventRecord(begin, first));
    CALL(cudaMemcpyAsync(x, host, n * sizeof(float), cudaMemcpyHostToDevice, first));
    CALL(cudaEventRecord(copied, first));
    CALL(cudaStreamWaitEvent(second, copied, 0));
    CALL(cudaMemsetAsync(z, 0, n * sizeof(float), second));
    scale<<<4, 256, 0, first>>>(y, x, 2.0f, n, bounded);
    scale<<<4, 256, 0, second>>>(z, x, 3.0f, n, true);
    CALL(cudaGetLastError());
    CALL(cudaLaunchHostFunc(first, count, &calls));
    CALL(cudaStreamAddCallback(second, count_too, &calls, 0));
    CALL(cudaEventRecord(end, first));
    CALL(cudaStreamSynchronize(first));
    CALL(cudaStreamSynchronize(second));
    EXPECT(calls == 2);
    EXPECT(cudaEventQuery(end) == cudaSuccess);
    float ms = 0;
    CALL(cudaEventElapsedTime(&ms, begin, end));
    EXPECT(ms > 0);

    std::vector<float> back(n);
    CALL(cudaMemcpyAsync(host, y, n * sizeof(float), cudaMemcpyDeviceToHost, first));
    CALL(cudaStreamSynchronize(first));
    CALL(cudaMemcpy(back.data(), z, n * sizeof(float), cudaMemcpyDefault));
    for (int i = 0; i < n; ++i) EXPECT(host[i] == 2.0f * float(i) && back[i] == 3.0f * float(i));
    CALL(cudaFreeAsync(z, 0));
    CALL(cudaFree(x));
    CALL(cudaFree(y));
    CALL(cudaFreeHost(host));
    CALL(cudaEventDestroy(begin));
    CALL(cudaStreamDestroy(first));
    CALL(cudaDeviceSynchronize());
    std::printf("right\n");
}
