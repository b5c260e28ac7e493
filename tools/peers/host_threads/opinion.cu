// The emulator's teaching kernels on drawn inputs, their outputs written to a file: compiled by nvcc for
// `cuda-emulate`, and by g++ with host_threads.h. compare.py does both and compares.
#include "elementwise.cu"
#include "reductions.cu"
#include "scans.cu"

#ifdef __CUDACC__
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>
#define RUN(kernel, grid, block, shared, ...)                                               \
    do {                                                                                    \
        kernel<<<grid, block, shared>>>(__VA_ARGS__);                                       \
        if (cudaDeviceSynchronize() != cudaSuccess) std::printf(#kernel " failed\n"), std::exit(1); \
    } while (0)
#define SET(variable, values) cudaMemcpyToSymbol(variable, values, sizeof values)
#else
#define RUN(kernel, grid, block, shared, ...) host_threads::launch(grid, block, shared, [&] { kernel(__VA_ARGS__); })
#define SET(variable, values) std::memcpy(variable, values, sizeof values)
#endif

static FILE* out_file;
static uint64_t drawn = 88172645463325252ull;

static uint32_t draw() {
    drawn ^= drawn << 13, drawn ^= drawn >> 7, drawn ^= drawn << 17;
    return uint32_t(drawn >> 32);
}

// A buffer on the device, drawn or zero.
template <class T>
struct Buffer {
    std::vector<T> host;
    T* at;

    Buffer(size_t count, T (*value)()) : host(count) {
        for (T& v : host) v = value();
#ifdef __CUDACC__
        cudaMalloc(&at, count * sizeof(T));
        cudaMemcpy(at, host.data(), count * sizeof(T), cudaMemcpyHostToDevice);
#else
        at = host.data();
#endif
    }

    // A record: name, kind of the elements, count, elements.
    void write(const char* name, char kind) {
#ifdef __CUDACC__
        cudaMemcpy(host.data(), at, host.size() * sizeof(T), cudaMemcpyDeviceToHost);
#endif
        std::fprintf(out_file, "%s %c %zu %zu\n", name, kind, sizeof(T), host.size());
        std::fwrite(host.data(), sizeof(T), host.size(), out_file);
    }
};

static float unit() { return float(draw()) / 2147483648.0f - 1.0f; }
static float zero() { return 0; }
static int none() { return 0; }
static unsigned nothing() { return 0; }
static int small() { return int(draw() % 200) - 100; }
static int key() { return int(draw() % 10); }
static int any() { return int(draw()); }
static unsigned char byte() { return draw() & 255; }
static unsigned char bit() { return draw() & 1; }
static unsigned short none16() { return 0; }

int main(int, char** argv) {
    out_file = std::fopen(argv[1], "wb");
    for (int n : {1, 31, 200, 1000}) {
        Buffer<float> x(n, unit), y(n, unit), z(n, zero), sums(64, zero), partial(64, zero), low(1, [] { return -2.0f; });
        const int blocks = (n + 127) / 128;
        RUN(saxpy, 2, 96, 0, n, 1.7f, x.at, y.at);
        y.write("saxpy", 'f');
        RUN(add, blocks, 128, 0, x.at, y.at, z.at, n);
        z.write("add", 'f');
        RUN(scale_vector, blocks, 128, 0, z.at, 0.3f, n);
        z.write("scale_vector", 'f');
        RUN(sum_tree, (n + 255) / 256, 256, 0, x.at, sums.at, n);
        sums.write("sum_tree", 'f');
        RUN(sum_syncwarp, (n + 255) / 256, 256, 0, x.at, sums.at, n);
        sums.write("sum_syncwarp", 'f');
        Buffer<float> one(1, zero);
        RUN(sum_shuffle, 1, 256, 0, x.at, one.at, n);
        one.write("sum_shuffle", 'f');
        RUN(sum_last_block, 5, 128, 0, x.at, partial.at, one.at, n);
        one.write("sum_last_block", 'f');
        RUN(maximum, 3, 64, 0, x.at, low.at, n);
        low.write("maximum", 'f');
        Buffer<float> soft(n * 4, zero), rows(n * 4, unit);
        RUN(softmax, 4, 96, 0, rows.at, soft.at, n);
        soft.write("softmax", 'f');

        Buffer<int> a(n, small), b(n, none), keys(n, key), counts(10, none), count(1, none), flag(1, none);
        RUN(stencil, blocks, 128, (128 + 6) * sizeof(int), a.at, b.at, n);
        b.write("stencil", 'i');
        RUN(any_negative, blocks, 128, 0, x.at, n, flag.at);
        flag.write("any_negative", 'i');
        RUN(aggregated_count, blocks, 128, 0, keys.at, counts.at, n);
        counts.write("aggregated_count", 'i');
        Buffer<int> next(1, none), state(16, none), own(16, none), all(16, none);
        RUN(scan_look_back, blocks, 128, 0, a.at, b.at, n, next.at, state.at, own.at, all.at);
        b.write("scan_look_back", 'i');
        RUN(compact, 1, 32, 0, a.at, b.at, count.at, n < 32 ? n : 32);
        b.write("compact", 'i');
        if (n <= 256) {
            RUN(scan_two_buffers, 1, 256, 512 * sizeof(int), a.at, b.at, n);
            b.write("scan_two_buffers", 'i');
        }
        if (n <= 512) {
            RUN(scan_tree, 1, 256, 0, a.at, b.at, n);
            b.write("scan_tree", 'i');
        }
        Buffer<unsigned char> bytes(n, byte);
        Buffer<unsigned> bins(256, nothing);
        RUN(histogram, 3, 128, 0, bytes.at, bins.at, n);
        bins.write("histogram", 'i');
    }
    Buffer<int> lock(1, none), total(1, none), data(1024, any);
    RUN(locked_sum, 9, 64, 0, lock.at, total.at);
    total.write("locked_sum", 'i');
    RUN(bitonic_sort, 4, 256, 0, data.at);
    data.write("bitonic_sort", 'i');
    const int width = 45, height = 33;
    const dim3 tiles(2, 2), warps(32, 8), cells(6, 5), small_block(8, 8);
    Buffer<float> image(width * height, unit), turned(width * height, zero);
    RUN(transpose, tiles, warps, 0, image.at, turned.at, width, height);
    turned.write("transpose", 'f');
    const float filter[9] = {1, 2, 1, 2, -12, 2, 1, 2, 1};
    SET(taps, filter);
    RUN(filter3x3, cells, small_block, 0, image.at, turned.at, width, height);
    turned.write("filter3x3", 'f');
    Buffer<unsigned char> now(width * height, bit), then(width * height, bit);
    RUN(life, cells, small_block, 0, now.at, then.at, width, height);
    then.write("life", 'i');
    Buffer<unsigned short> steps(width * height, none16);
    RUN(mandelbrot, cells, small_block, 0, steps.at, width, height, 200);
    steps.write("mandelbrot", 'i');
    std::fclose(out_file);
    std::printf("right\n");
}
