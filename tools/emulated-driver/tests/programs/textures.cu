// Textures and surfaces: filters, edges, layers, linear and pitched memory, arrays copied and written. Wrong: a surface written
// at the texel's number, where the byte's is wanted.
#include <cmath>

#include "check.h"

constexpr int kWidth = 24, kHeight = 10, kLayers = 3;

__global__ void sample(cudaTextureObject_t smooth, cudaTextureObject_t wrapped, cudaTextureObject_t bytes, float* out) {
    int x = threadIdx.x, y = blockIdx.x;
    float* to = out + 4 * (y * kWidth + x);
    to[0] = tex2D<float>(smooth, x + 0.75f, y + 1.0f);
    to[1] = tex2D<float>(wrapped, (x + 0.5f) / kWidth + 2.0f, (y + 0.5f) / kHeight - 1.0f);
    float4 colour = tex2D<float4>(bytes, float(x), float(y));
    to[2] = colour.x + colour.w;
    to[3] = tex2D<float>(smooth, -5.0f, 100.0f);
}

__global__ void fetch(cudaTextureObject_t line, cudaTextureObject_t layers, cudaTextureObject_t volume, int* out) {
    int i = threadIdx.x;
    out[3 * i] = tex1Dfetch<int>(line, i - 1);
    out[3 * i + 1] = tex2DLayered<int>(layers, i % 4 + 0.5f, 1.5f, i % kLayers);
    out[3 * i + 2] = tex3D<int>(volume, i % 4 + 0.5f, 0.5f, i % kLayers + 0.5f);
}

__global__ void write(cudaSurfaceObject_t surface, bool by_texel) {
    int x = threadIdx.x, y = blockIdx.x;
    float old = surf2Dread<float>(surface, 4 * x, y);
    surf2Dwrite(old * 2 + 1, surface, by_texel ? x : 4 * x, y);
}

static cudaTextureObject_t texture(const cudaResourceDesc& resource, cudaTextureAddressMode mode, cudaTextureFilterMode filter,
                                   cudaTextureReadMode read, bool normalized) {
    cudaTextureDesc description = {};
    for (auto& axis : description.addressMode) axis = mode;
    description.filterMode = filter;
    description.readMode = read;
    description.normalizedCoords = normalized;
    cudaTextureObject_t object = 0;
    CALL(cudaCreateTextureObject(&object, &resource, &description, nullptr));
    return object;
}

static cudaResourceDesc of_array(cudaArray_t array) {
    cudaResourceDesc resource = {};
    resource.resType = cudaResourceTypeArray;
    resource.res.array.array = array;
    return resource;
}

int main(int argc, char** argv) {
    float image[kHeight][kWidth];
    uchar4 colours[kHeight][kWidth];
    for (int y = 0; y < kHeight; ++y)
        for (int x = 0; x < kWidth; ++x) {
            image[y][x] = float(x * x + 100 * y);
            colours[y][x] = make_uchar4(x, y, 0, 255);
        }
    cudaChannelFormatDesc floats = cudaCreateChannelDesc<float>();
    cudaArray_t array;
    CALL(cudaMallocArray(&array, &floats, kWidth, kHeight, cudaArraySurfaceLoadStore));
    CALL(cudaMemcpy2DToArray(array, 0, 0, image, sizeof image[0], sizeof image[0], kHeight, cudaMemcpyHostToDevice));
    cudaTextureObject_t smooth =
        texture(of_array(array), cudaAddressModeClamp, cudaFilterModeLinear, cudaReadModeElementType, false);
    cudaTextureObject_t wrapped =
        texture(of_array(array), cudaAddressModeWrap, cudaFilterModePoint, cudaReadModeElementType, true);

    uchar4* pitched;
    size_t pitch;
    CALL(cudaMallocPitch(&pitched, &pitch, sizeof colours[0], kHeight));
    CALL(cudaMemcpy2D(pitched, pitch, colours, sizeof colours[0], sizeof colours[0], kHeight, cudaMemcpyHostToDevice));
    cudaResourceDesc rows = {};
    rows.resType = cudaResourceTypePitch2D;
    rows.res.pitch2D.devPtr = pitched;
    rows.res.pitch2D.desc = cudaCreateChannelDesc<uchar4>();
    rows.res.pitch2D.width = kWidth;
    rows.res.pitch2D.height = kHeight;
    rows.res.pitch2D.pitchInBytes = pitch;
    cudaTextureObject_t bytes = texture(rows, cudaAddressModeBorder, cudaFilterModePoint, cudaReadModeNormalizedFloat, false);

    float* out;
    CALL(cudaMalloc(&out, 4 * sizeof image));
    sample<<<kHeight, kWidth>>>(smooth, wrapped, bytes, out);
    static float result[kHeight][kWidth][4];
    CALL(cudaMemcpy(result, out, sizeof result, cudaMemcpyDeviceToHost));
    for (int y = 0; y < kHeight; ++y)
        for (int x = 0; x < kWidth; ++x) {
            int x1 = x + 1 < kWidth ? x + 1 : x, y1 = y + 1 < kHeight ? y + 1 : y;
            float top = 0.75f * image[y][x] + 0.25f * image[y][x1], low = 0.75f * image[y1][x] + 0.25f * image[y1][x1];
            EXPECT(std::fabs(result[y][x][0] - 0.5f * (top + low)) < 1e-3f);
            EXPECT(result[y][x][1] == image[y][x]);
            EXPECT(std::fabs(result[y][x][2] - (x / 255.0f + 1.0f)) < 1e-6f);
            EXPECT(result[y][x][3] == image[kHeight - 1][0]);
        }

    int numbers[kLayers][2][4];
    for (int i = 0; i < kLayers * 8; ++i) (&numbers[0][0][0])[i] = 1000 + i;
    cudaChannelFormatDesc ints = cudaCreateChannelDesc<int>();
    cudaArray_t layered, volume;
    CALL(cudaMalloc3DArray(&layered, &ints, make_cudaExtent(4, 2, kLayers), cudaArrayLayered));
    CALL(cudaMalloc3DArray(&volume, &ints, make_cudaExtent(4, 2, kLayers)));
    for (cudaArray_t to : {layered, volume}) {
        cudaMemcpy3DParms copy = {};
        copy.srcPtr = make_cudaPitchedPtr(numbers, sizeof numbers[0][0], 4, 2);
        copy.dstArray = to;
        copy.extent = make_cudaExtent(4, 2, kLayers);
        copy.kind = cudaMemcpyHostToDevice;
        CALL(cudaMemcpy3D(&copy));
    }
    cudaResourceDesc line = {};
    int* flat;
    CALL(cudaMalloc(&flat, sizeof numbers));
    CALL(cudaMemcpy(flat, numbers, sizeof numbers, cudaMemcpyHostToDevice));
    line.resType = cudaResourceTypeLinear;
    line.res.linear.devPtr = flat;
    line.res.linear.desc = ints;
    line.res.linear.sizeInBytes = 12 * sizeof(int);
    auto whole = [](const cudaResourceDesc& resource) {
        return texture(resource, cudaAddressModeClamp, cudaFilterModePoint, cudaReadModeElementType, false);
    };
    fetch<<<1, 16>>>(whole(line), whole(of_array(layered)), whole(of_array(volume)), reinterpret_cast<int*>(out));
    int fetched[16][3];
    CALL(cudaMemcpy(fetched, out, sizeof fetched, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 16; ++i) {
        EXPECT(fetched[i][0] == (i >= 1 && i <= 12 ? 1000 + i - 1 : 0));
        EXPECT(fetched[i][1] == numbers[i % kLayers][1][i % 4]);
        EXPECT(fetched[i][2] == numbers[i % kLayers][0][i % 4]);
    }

    cudaSurfaceObject_t surface;
    cudaResourceDesc written = of_array(array);
    CALL(cudaCreateSurfaceObject(&surface, &written));
    write<<<kHeight, kWidth>>>(surface, is_wrong(argc, argv));
    CALL(cudaDeviceSynchronize());
    float back[kHeight][kWidth];
    CALL(cudaMemcpy2DFromArray(back, sizeof back[0], array, 0, 0, sizeof back[0], kHeight, cudaMemcpyDeviceToHost));
    for (int y = 0; y < kHeight; ++y)
        for (int x = 0; x < kWidth; ++x) EXPECT(back[y][x] == image[y][x] * 2 + 1);
    CALL(cudaDestroySurfaceObject(surface));
    CALL(cudaDestroyTextureObject(smooth));
    CALL(cudaFreeArray(array));
    std::printf("right\n");
}
