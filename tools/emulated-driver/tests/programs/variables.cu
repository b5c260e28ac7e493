// Variables of the program on the device, managed ones, mapped memory, printf, the driver beneath the runtime. Wrong: a
// buffer read that nobody wrote.
#include <cuda.h>

#include "check.h"

__constant__ float weights[4];
__device__ int counter = 5;
__managed__ int both = 7;
__managed__ float row[3] = {1, 2, 3};

__global__ void mix(const float* in, float* out) {
    int i = threadIdx.x;
    out[i] = in[i] * weights[i % 4] + float(both);
    __syncthreads();
    if (i == 0) {
        row[1] += 10;
        both += atomicAdd(&counter, 1);
        std::printf("block %d of %d says %.2f and %s\n", blockIdx.x, gridDim.x, 1.5, "no more");
    }
}

static const char* kText = R"(
.version 8.0
.target sm_80
.address_size 64
.global .align 4 .u32 base = 40;
.visible .entry add_base(.param .u64 to, .param .u32 n)
{
    .reg .u64 %a; .reg .u32 %v, %b;
    ld.param.u64 %a, [to]; ld.param.u32 %v, [n];
    ld.global.u32 %b, [base]; add.u32 %v, %v, %b; st.global.u32 [%a], %v; ret;
}
)";

template <class F>
static F driver(const char* name) {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    CALL(cudaGetDriverEntryPointByVersion(name, &found, 13000, cudaEnableDefault, &result));
    EXPECT(found != nullptr && result == cudaDriverEntryPointSuccess);
    return reinterpret_cast<F>(found);
}

int main(int argc, char** argv) {
    const float host_weights[4] = {1, 2, 3, 4};
    CALL(cudaMemcpyToSymbol(weights, host_weights, sizeof weights));
    int start = 20, end = 0;
    CALL(cudaMemcpyToSymbol(counter, &start, sizeof start));
    size_t bytes = 0;
    void* address = nullptr;
    CALL(cudaGetSymbolSize(&bytes, weights));
    CALL(cudaGetSymbolAddress(&address, counter));
    EXPECT(bytes == 16 && address != nullptr);

    float *mapped, *seen, *out;
    CALL(cudaHostAlloc(&mapped, 32 * sizeof(float), cudaHostAllocMapped));
    CALL(cudaHostGetDevicePointer(&seen, mapped, 0));
    CALL(cudaMalloc(&out, 32 * sizeof(float)));
    for (int i = 0; i < 32; ++i) mapped[i] = float(i);
    both = 8;
    float* in = seen;
    if (is_wrong(argc, argv)) CALL(cudaMalloc(&in, 32 * sizeof(float)));
    mix<<<1, 32>>>(in, out);
    CALL(cudaDeviceSynchronize());
    float result[32];
    CALL(cudaMemcpy(result, out, sizeof result, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 32; ++i) EXPECT(result[i] == float(i) * host_weights[i % 4] + 8);
    CALL(cudaMemcpyFromSymbol(&end, counter, sizeof end));
    EXPECT(end == 21 && both == 28 && row[0] == 1 && row[1] == 12);
    cudaPointerAttributes attributes;
    CALL(cudaPointerGetAttributes(&attributes, out));
    EXPECT(attributes.type == cudaMemoryTypeDevice);
    CALL(cudaPointerGetAttributes(&attributes, &both));
    EXPECT(attributes.type == cudaMemoryTypeManaged);

    CUmodule module;
    CUfunction function;
    CUdeviceptr base;
    size_t base_bytes = 0;
    using Load = CUresult (*)(CUmodule*, const void*);
    using Find = CUresult (*)(CUfunction*, CUmodule, const char*);
    using FindVariable = CUresult (*)(CUdeviceptr*, size_t*, CUmodule, const char*);
    using Launch = CUresult (*)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream,
                                void**, void**);
    EXPECT(driver<Load>("cuModuleLoadData")(&module, kText) == CUDA_SUCCESS);
    EXPECT(driver<Find>("cuModuleGetFunction")(&function, module, "add_base") == CUDA_SUCCESS);
    EXPECT(driver<FindVariable>("cuModuleGetGlobal")(&base, &base_bytes, module, "base") == CUDA_SUCCESS);
    EXPECT(base_bytes == 4);
    unsigned two = 2, sum = 0;
    void* params[] = {&out, &two};
    auto launch = driver<Launch>("cuLaunchKernel");
    EXPECT(launch(function, 1, 1, 1, 1, 1, 1, 0, nullptr, params, nullptr) == CUDA_SUCCESS);
    CALL(cudaMemcpy(&sum, out, sizeof sum, cudaMemcpyDeviceToHost));
    EXPECT(sum == 42);
    CALL(cudaFreeHost(mapped));
    std::printf("right\n");
}
