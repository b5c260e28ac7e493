// Sums of a block and of a grid, in the styles of fifteen years.

// A tree in shared memory.
extern "C" __global__ void sum_tree(const float* in, float* out, int n) {
    __shared__ float part[256];
    int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
    part[t] = i < n ? in[i] : 0;
    __syncthreads();
    for (int s = blockDim.x / 2; s > 0; s >>= 1) {
        if (t < s) part[t] += part[t + s];
        __syncthreads();
    }
    if (t == 0) out[blockIdx.x] = part[0];
}

// The last warp unrolled, its lanes in step because the memory is volatile: written before Volta, still in every course.
__device__ void last_warp(volatile float* part, int t) {
    part[t] += part[t + 32];
    part[t] += part[t + 16];
    part[t] += part[t + 8];
    part[t] += part[t + 4];
    part[t] += part[t + 2];
    part[t] += part[t + 1];
}

extern "C" __global__ void sum_volatile(const float* in, float* out, int n) {
    extern __shared__ float part[];
    int t = threadIdx.x, i = blockIdx.x * (blockDim.x * 2) + t;
    float v = i < n ? in[i] : 0;
    if (i + blockDim.x < n) v += in[i + blockDim.x];
    part[t] = v;
    __syncthreads();
    for (int s = blockDim.x / 2; s > 32; s >>= 1) {
        if (t < s) part[t] += part[t + s];
        __syncthreads();
    }
    if (t < 32) last_warp(part, t);
    if (t == 0) out[blockIdx.x] = part[0];
}

// The same for processors whose lanes may drift apart.
extern "C" __global__ void sum_syncwarp(const float* in, float* out, int n) {
    __shared__ float part[256];
    int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
    float v = i < n ? in[i] : 0;
    part[t] = v;
    __syncthreads();
    for (int s = blockDim.x / 2; s >= 32; s >>= 1) {
        if (t < s) part[t] = v = v + part[t + s];
        __syncthreads();
    }
    if (t < 32) {
        for (int s = 16; s > 0; s >>= 1) {
            v += part[(t + s) & 31];
            __syncwarp();
            part[t] = v;
            __syncwarp();
        }
        if (t == 0) out[blockIdx.x] = part[0];
    }
}

__device__ float warp_sum(float v) {
    for (int s = 16; s > 0; s >>= 1) v += __shfl_down_sync(0xffffffffu, v, s);
    return v;
}

// Shuffles inside warps, one word of shared memory for each of them.
extern "C" __global__ void sum_shuffle(const float* in, float* out, int n) {
    __shared__ float part[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float v = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x) v += in[i];
    v = warp_sum(v);
    if (lane == 0) part[warp] = v;
    __syncthreads();
    v = threadIdx.x < blockDim.x / 32 ? part[lane] : 0;
    if (warp == 0) v = warp_sum(v);
    if (threadIdx.x == 0) atomicAdd(out, v);
}

__device__ unsigned int tickets;

// The block that finishes last adds up what the others left behind.
extern "C" __global__ void sum_last_block(const float* in, float* partial, float* out, int n) {
    __shared__ float part[128];
    __shared__ bool last;
    int t = threadIdx.x;
    float v = 0;
    for (int i = blockIdx.x * blockDim.x + t; i < n; i += blockDim.x * gridDim.x) v += in[i];
    part[t] = v;
    __syncthreads();
    for (int s = blockDim.x / 2; s > 0; s >>= 1) {
        if (t < s) part[t] += part[t + s];
        __syncthreads();
    }
    if (t == 0) {
        partial[blockIdx.x] = part[0];
        __threadfence();
        unsigned int ticket = atomicInc(&tickets, gridDim.x);
        last = ticket == gridDim.x - 1;
    }
    __syncthreads();
    if (last) {
        v = 0;
        for (int i = t; i < gridDim.x; i += blockDim.x) v += partial[i];
        part[t] = v;
        __syncthreads();
        for (int s = blockDim.x / 2; s > 0; s >>= 1) {
            if (t < s) part[t] += part[t + s];
            __syncthreads();
        }
        if (t == 0) {
            *out = part[0];
            tickets = 0;
        }
    }
}

// A float maximum out of compare-and-swap.
extern "C" __global__ void maximum(const float* in, float* out, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x) {
        int* word = reinterpret_cast<int*>(out);
        int old = *(volatile int*)word;
        while (__int_as_float(old) < in[i]) {
            int seen = atomicCAS(word, old, __float_as_int(in[i]));
            if (seen == old) break;
            old = seen;
        }
    }
}

// A lock around plain memory: every thread of lane 0 adds its block's index.
extern "C" __global__ void locked_sum(int* lock, int* total) {
    if (threadIdx.x == 0) {
        while (atomicCAS(lock, 0, 1) != 0) { }
        __threadfence();
        *total += blockIdx.x;
        __threadfence();
        atomicExch(lock, 0);
    }
}

// Counts in shared memory, then one atomic per bin and block.
extern "C" __global__ void histogram(const unsigned char* in, unsigned int* bins, int n) {
    __shared__ unsigned int local[256];
    for (int b = threadIdx.x; b < 256; b += blockDim.x) local[b] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x) atomicAdd(&local[in[i]], 1u);
    __syncthreads();
    for (int b = threadIdx.x; b < 256; b += blockDim.x)
        if (local[b]) atomicAdd(&bins[b], local[b]);
}

// Lanes that want the same counter elect one of them.
extern "C" __global__ void aggregated_count(const int* keys, int* counts, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned int active = __ballot_sync(0xffffffffu, i < n);
    if (i < n) {
        unsigned int peers = __match_any_sync(active, keys[i]);
        if ((threadIdx.x & 31) == __ffs(peers) - 1) atomicAdd(&counts[keys[i]], __popc(peers));
    }
}

// Row softmax: a block to a row, maxima and sums by shuffles.
extern "C" __global__ void softmax(const float* in, float* out, int columns) {
    __shared__ float maxima[32], sums[32];
    const float* row = in + blockIdx.x * columns;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    float m = -INFINITY;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) m = fmaxf(m, row[i]);
    for (int s = 16; s > 0; s >>= 1) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, s));
    if (lane == 0) maxima[warp] = m;
    __syncthreads();
    m = lane < warps ? maxima[lane] : -INFINITY;
    for (int s = 16; s > 0; s >>= 1) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, s));
    float sum = 0;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += __expf(row[i] - m);
    for (int s = 16; s > 0; s >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, s);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    sum = lane < warps ? sums[lane] : 0;
    for (int s = 16; s > 0; s >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, s);
    for (int i = threadIdx.x; i < columns; i += blockDim.x) out[blockIdx.x * columns + i] = __expf(row[i] - m) / sum;
}
