// Running sums, sorting and compaction.

// Hillis and Steele: two buffers, log n steps.
extern "C" __global__ void scan_two_buffers(const int* in, int* out, int n) {
    extern __shared__ int buffers[];
    int t = threadIdx.x, from = 0, to = 1;
    buffers[t] = t < n ? in[t] : 0;
    __syncthreads();
    for (int d = 1; d < blockDim.x; d *= 2) {
        to = 1 - from;
        int v = buffers[from * blockDim.x + t];
        buffers[to * blockDim.x + t] = t >= d ? v + buffers[from * blockDim.x + t - d] : v;
        __syncthreads();
        from = to;
    }
    if (t < n) out[t] = buffers[from * blockDim.x + t];
}

// Blelloch: up and down a tree in place, two elements a thread.
extern "C" __global__ void scan_tree(const int* in, int* out, int n) {
    __shared__ int cells[512];
    int t = threadIdx.x;
    cells[2 * t] = 2 * t < n ? in[2 * t] : 0;
    cells[2 * t + 1] = 2 * t + 1 < n ? in[2 * t + 1] : 0;
    int offset = 1;
    for (int d = 256; d > 0; d >>= 1) {
        __syncthreads();
        if (t < d) cells[offset * (2 * t + 2) - 1] += cells[offset * (2 * t + 1) - 1];
        offset *= 2;
    }
    if (t == 0) cells[511] = 0;
    for (int d = 1; d < 512; d *= 2) {
        offset >>= 1;
        __syncthreads();
        if (t < d) {
            int a = offset * (2 * t + 1) - 1, b = offset * (2 * t + 2) - 1, v = cells[a];
            cells[a] = cells[b];
            cells[b] += v;
        }
    }
    __syncthreads();
    if (2 * t < n) out[2 * t] = cells[2 * t];
    if (2 * t + 1 < n) out[2 * t + 1] = cells[2 * t + 1];
}

__device__ int warp_scan(int v) {
    int lane = threadIdx.x & 31;
    for (int d = 1; d < 32; d *= 2) {
        int below = __shfl_up_sync(0xffffffffu, v, d);
        if (lane >= d) v += below;
    }
    return v;
}

__device__ int block_scan(int v, int* sums) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    v = warp_scan(v);
    if (lane == 31) sums[warp] = v;
    __syncthreads();
    if (warp == 0) sums[lane] = warp_scan(lane < blockDim.x / 32 ? sums[lane] : 0);
    __syncthreads();
    return warp ? v + sums[warp - 1] : v;
}

// One pass over the input: each block looks back for the sum of those before it. state: 0 nothing, 1 own sum, 2 all sums.
extern "C" __global__ void scan_look_back(const int* in, int* out, int n, int* next, volatile int* state,
                                          volatile int* own, volatile int* all) {
    __shared__ int sums[32];
    __shared__ int tile, before;
    if (threadIdx.x == 0) tile = atomicAdd(next, 1);
    __syncthreads();
    int i = tile * blockDim.x + threadIdx.x;
    int v = block_scan(i < n ? in[i] : 0, sums);
    if (threadIdx.x == blockDim.x - 1) {
        int prefix = 0;
        if (tile == 0) {
            all[0] = v;
            __threadfence();
            state[0] = 2;
        } else {
            own[tile] = v;
            __threadfence();
            state[tile] = 1;
            for (int b = tile - 1; b >= 0; b--) {
                int s;
                while ((s = state[b]) == 0) { }
                __threadfence();
                if (s == 2) {
                    prefix += all[b];
                    break;
                }
                prefix += own[b];
            }
            all[tile] = prefix + v;
            __threadfence();
            state[tile] = 2;
        }
        before = prefix;
    }
    __syncthreads();
    if (i < n) out[i] = v + before;
}

// Those that pass go to the front, by ballots.
extern "C" __global__ void compact(const int* in, int* out, int* count, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x & 31;
    bool keep = i < n && in[i] % 3 == 0;
    unsigned int votes = __ballot_sync(0xffffffffu, keep);
    int base = 0;
    if (lane == 0) base = atomicAdd(count, __popc(votes));
    base = __shfl_sync(0xffffffffu, base, 0);
    if (keep) out[base + __popc(votes & ((1u << lane) - 1))] = in[i];
}

// Bitonic sort of a block's elements in place.
extern "C" __global__ void bitonic_sort(int* data) {
    __shared__ int cells[256];
    int t = threadIdx.x;
    cells[t] = data[blockIdx.x * 256 + t];
    __syncthreads();
    for (int k = 2; k <= 256; k *= 2)
        for (int j = k / 2; j > 0; j /= 2) {
            int other = t ^ j;
            if (other > t) {
                bool up = (t & k) == 0;
                if ((cells[t] > cells[other]) == up) {
                    int v = cells[t];
                    cells[t] = cells[other];
                    cells[other] = v;
                }
            }
            __syncthreads();
        }
    data[blockIdx.x * 256 + t] = cells[t];
}
