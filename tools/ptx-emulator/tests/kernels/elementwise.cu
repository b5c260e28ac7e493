// Textbook kernels without cooperation between threads, or with the simplest kind of it.

__constant__ float taps[9];
__device__ unsigned int visits;

// y += a x over a grid of any size.
extern "C" __global__ void saxpy(int n, float a, const float* x, float* y) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] = a * x[i] + y[i];
}

// One thread an element, with the bound that everybody forgets once.
extern "C" __global__ void add(const float* a, const float* b, float* c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}

// Four at a time, and a scalar tail.
extern "C" __global__ void scale_vector(float* x, float factor, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float4* quads = reinterpret_cast<float4*>(x);
    if (i < n / 4) {
        float4 v = quads[i];
        v.x *= factor; v.y *= factor; v.z *= factor; v.w *= factor;
        quads[i] = v;
    }
    if (i < n % 4) x[n / 4 * 4 + i] *= factor;
}

// A tile of the input turned in shared memory; one column of padding against bank conflicts.
extern "C" __global__ void transpose(const float* in, float* out, int width, int height) {
    __shared__ float tile[32][33];
    int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8)
        if (x < width && y + j < height) tile[threadIdx.y + j][threadIdx.x] = in[(y + j) * width + x];
    __syncthreads();
    x = blockIdx.y * 32 + threadIdx.x;
    y = blockIdx.x * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8)
        if (x < height && y + j < width) out[(y + j) * height + x] = tile[threadIdx.x][threadIdx.y + j];
}

// Seven-point moving sum with a halo in dynamic shared memory.
extern "C" __global__ void stencil(const int* in, int* out, int n) {
    extern __shared__ int cells[];
    const int radius = 3;
    int g = blockIdx.x * blockDim.x + threadIdx.x, l = threadIdx.x + radius;
    cells[l] = g < n ? in[g] : 0;
    if (threadIdx.x < radius) {
        cells[l - radius] = g >= radius ? in[g - radius] : 0;
        cells[l + blockDim.x] = g + blockDim.x < n ? in[g + blockDim.x] : 0;
    }
    __syncthreads();
    int sum = 0;
    for (int d = -radius; d <= radius; d++) sum += cells[l + d];
    if (g < n) out[g] = sum;
}

// Conway's game on a torus.
extern "C" __global__ void life(const unsigned char* now, unsigned char* next, int width, int height) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    int alive = 0;
    for (int dy = -1; dy <= 1; dy++)
        for (int dx = -1; dx <= 1; dx++)
            if (dx || dy) alive += now[(y + dy + height) % height * width + (x + dx + width) % width];
    next[y * width + x] = alive == 3 || (alive == 2 && now[y * width + x]);
}

// 3x3 convolution with its filter in constant memory.
extern "C" __global__ void filter3x3(const float* in, float* out, int width, int height) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    float sum = 0;
    for (int dy = -1; dy <= 1; dy++)
        for (int dx = -1; dx <= 1; dx++) {
            int xx = min(max(x + dx, 0), width - 1), yy = min(max(y + dy, 0), height - 1);
            sum += taps[(dy + 1) * 3 + dx + 1] * in[yy * width + xx];
        }
    out[y * width + x] = sum;
}

// Loops of very different lengths side by side.
extern "C" __global__ void mandelbrot(unsigned short* out, int width, int height, int limit) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    float cx = 3.0f * x / width - 2.0f, cy = 2.0f * y / height - 1.0f, zx = 0, zy = 0;
    int n = 0;
    while (n < limit && zx * zx + zy * zy < 4.0f) {
        float t = zx * zx - zy * zy + cx;
        zy = 2 * zx * zy + cy;
        zx = t;
        n++;
    }
    out[y * width + x] = n;
    if (n == limit) atomicAdd(&visits, 1u);
}

// Everybody may set the flag, all to the same value.
extern "C" __global__ void any_negative(const float* x, int n, int* flag) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && x[i] < 0) *flag = 1;
}
