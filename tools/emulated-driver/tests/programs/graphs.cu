// A graph recorded from two streams and one built node by node; pitched memory in two and three dimensions.
// Wrong: a buffer used after it was freed.
#include <vector>

#include "check.h"

__global__ void add(int* x, int n, int value) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] += value;
}

__global__ void transpose(const int* in, size_t in_pitch, int* out, size_t out_pitch, int width, int height) {
    int x = threadIdx.x, y = threadIdx.y;
    if (x < width && y < height)
        reinterpret_cast<int*>(reinterpret_cast<char*>(out) + x * out_pitch)[y] =
            reinterpret_cast<const int*>(reinterpret_cast<const char*>(in) + y * in_pitch)[x];
}

static void CUDART_CB note(void* calls) { ++*static_cast<int*>(calls); }

int main(int argc, char** argv) {
    const int n = 100;
    int *x, *y, calls = 0;
    CALL(cudaMalloc(&x, n * sizeof(int)));
    CALL(cudaMalloc(&y, n * sizeof(int)));
    std::vector<int> back(n);

    cudaStream_t stream, side;
    cudaEvent_t fork, join;
    CALL(cudaStreamCreate(&stream));
    CALL(cudaStreamCreate(&side));
    CALL(cudaEventCreate(&fork));
    CALL(cudaEventCreate(&join));
    CALL(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    CALL(cudaMemsetAsync(x, 0, n * sizeof(int), stream));
    CALL(cudaEventRecord(fork, stream));
    CALL(cudaStreamWaitEvent(side, fork, 0));
    CALL(cudaMemsetAsync(y, 0, n * sizeof(int), side));
    add<<<1, 128, 0, side>>>(y, n, 3);
    add<<<1, 128, 0, stream>>>(x, n, 4);
    CALL(cudaEventRecord(join, side));
    CALL(cudaStreamWaitEvent(stream, join, 0));
    CALL(cudaLaunchHostFunc(stream, note, &calls));
    EXPECT(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
    CALL(cudaPeekAtLastError() == cudaErrorStreamCaptureUnsupported ? (cudaGetLastError(), cudaSuccess) : cudaErrorUnknown);
    cudaGraph_t graph;
    CALL(cudaStreamEndCapture(stream, &graph));
    EXPECT(calls == 0);
    size_t nodes = 0;
    CALL(cudaGraphGetNodes(graph, nullptr, &nodes));
    EXPECT(nodes == 5);
    cudaGraphExec_t executable;
    CALL(cudaGraphInstantiate(&executable, graph, 0));
    if (is_wrong(argc, argv)) CALL(cudaFree(y));
    for (int i = 0; i < 3; ++i) CALL(cudaGraphLaunch(executable, stream));
    CALL(cudaStreamSynchronize(stream));
    EXPECT(calls == 3);
    CALL(cudaMemcpy(back.data(), y, n * sizeof(int), cudaMemcpyDeviceToHost));
    for (int v : back) EXPECT(v == 3);

    cudaGraph_t built;
    CALL(cudaGraphCreate(&built, 0));
    cudaGraphNode_t fill, launch, copy;
    cudaMemsetParams zero = {};
    zero.dst = x, zero.value = 1, zero.elementSize = 4, zero.width = n, zero.height = 1;
    CALL(cudaGraphAddMemsetNode(&fill, built, nullptr, 0, &zero));
    int count = n, value = 9;
    void* params[] = {&x, &count, &value};
    cudaKernelNodeParams kernel = {};
    kernel.func = reinterpret_cast<void*>(add), kernel.gridDim = dim3(1), kernel.blockDim = dim3(128);
    kernel.kernelParams = params;
    CALL(cudaGraphAddKernelNode(&launch, built, &fill, 1, &kernel));
    CALL(cudaGraphAddMemcpyNode1D(&copy, built, &launch, 1, back.data(), x, n * sizeof(int), cudaMemcpyDeviceToHost));
    cudaGraphExec_t second;
    CALL(cudaGraphInstantiate(&second, built, 0));
    CALL(cudaGraphLaunch(second, stream));
    CALL(cudaStreamSynchronize(stream));
    for (int v : back) EXPECT(v == 10);
    value = 20;
    CALL(cudaGraphExecKernelNodeSetParams(second, launch, &kernel));
    CALL(cudaGraphLaunch(second, stream));
    CALL(cudaStreamSynchronize(stream));
    for (int v : back) EXPECT(v == 21);

    const int width = 7, height = 5;
    int in[height][width], out[width][height];
    for (int i = 0; i < width * height; ++i) in[i / width][i % width] = i;
    int *device_in, *device_out;
    size_t in_pitch, out_pitch;
    CALL(cudaMallocPitch(&device_in, &in_pitch, width * sizeof(int), height));
    CALL(cudaMallocPitch(&device_out, &out_pitch, height * sizeof(int), width));
    CALL(cudaMemcpy2D(device_in, in_pitch, in, width * sizeof(int), width * sizeof(int), height, cudaMemcpyHostToDevice));
    transpose<<<1, dim3(8, 8)>>>(device_in, in_pitch, device_out, out_pitch, width, height);
    CALL(cudaMemcpy2D(out, height * sizeof(int), device_out, out_pitch, height * sizeof(int), width, cudaMemcpyDeviceToHost));
    for (int i = 0; i < width * height; ++i) EXPECT(out[i % width][i / width] == i);

    cudaPitchedPtr box;
    cudaExtent extent = make_cudaExtent(12, 3, 2);
    CALL(cudaMalloc3D(&box, extent));
    char bytes[2][3][12], again[2][3][12] = {};
    for (int i = 0; i < 72; ++i) bytes[i / 36][i / 12 % 3][i % 12] = char(i);
    cudaMemcpy3DParms there = {};
    there.srcPtr = make_cudaPitchedPtr(bytes, 12, 12, 3), there.dstPtr = box, there.extent = extent;
    there.kind = cudaMemcpyHostToDevice;
    CALL(cudaMemcpy3D(&there));
    cudaMemcpy3DParms home = {};
    home.srcPtr = box, home.dstPtr = make_cudaPitchedPtr(again, 12, 12, 3), home.extent = extent;
    home.kind = cudaMemcpyDeviceToHost;
    CALL(cudaMemcpy3D(&home));
    EXPECT(std::memcmp(bytes, again, sizeof bytes) == 0);
    std::printf("right\n");
}
