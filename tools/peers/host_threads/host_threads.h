// CUDA's threads on the host, for kernels that have no PTX of their own in them: g++ compiles the kernel's source, each
// thread is a stack of its own, and barriers, shuffles and votes are places where threads take turns. It shares nothing
// with the emulator: not the compiler that makes code of the kernel, not a line of what executes it. Blocks run one
// after the other; HOST_THREADS_ORDER (0, 1, 2, ...) turns the order of threads.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __constant__
#define __shared__ static
#define __restrict__
#define __launch_bounds__(...)

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {} };
struct alignas(16) float4 { float x, y, z, w; };

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
using std::max;
using std::min;

namespace host_threads {

struct Thread {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    enum { kReady, kBarrier, kWarp, kDone } state;
    unsigned mask;
    uint64_t mine, all[32];
    uint3 index;
};

static std::vector<Thread> threads;
static Thread* running;
static ucontext_t scheduler;
static std::function<void()> kernel;
static std::vector<char> dynamic_bytes;

template <class T> T* dynamic_shared() { return reinterpret_cast<T*>(dynamic_bytes.data()); }

inline void pause() { swapcontext(&running->context, &scheduler); }

inline void entry() {
    kernel();
    running->state = Thread::kDone;
    pause();
}

// What the lanes of the mask bring, once all of them that have not ended are here.
inline uint64_t* meet(unsigned mask, uint64_t mine) {
    running->mask = mask, running->mine = mine, running->state = Thread::kWarp;
    pause();
    return running->all;
}

inline bool release_warp(size_t first) {
    size_t end = std::min(first + 32, threads.size());
    bool released = false;
    for (size_t t = first; t < end; ++t) {
        if (threads[t].state != Thread::kWarp) continue;
        unsigned mask = threads[t].mask;
        bool whole = true;
        for (size_t o = first; o < end; ++o)
            if (mask >> (o - first) & 1)
                whole &= threads[o].state == Thread::kDone || (threads[o].state == Thread::kWarp && threads[o].mask == mask);
        if (!whole) continue;
        for (size_t o = first; o < end; ++o)
            if (mask >> (o - first) & 1 && threads[o].state == Thread::kWarp) {
                for (size_t l = first; l < end; ++l) threads[o].all[l - first] = threads[l].mine;
                threads[o].state = Thread::kReady;
            }
        released = true;
    }
    return released;
}

inline void run_block(int order) {
    size_t count = threads.size(), ended = 0;
    for (auto& t : threads) {
        t.state = Thread::kReady;
        getcontext(&t.context);
        t.context.uc_stack.ss_sp = t.stack.get();
        t.context.uc_stack.ss_size = 1 << 16;
        t.context.uc_link = nullptr;
        makecontext(&t.context, entry, 0);
    }
    while (ended < count) {
        bool moved = false;
        for (size_t n = 0; n < count; ++n) {
            size_t at = order % 2 ? count - 1 - n : n;
            Thread& t = threads[(at + 7 * (order / 2)) % count];
            if (t.state != Thread::kReady) continue;
            running = &t, threadIdx = t.index;
            swapcontext(&scheduler, &t.context);
            ended += t.state == Thread::kDone;
            moved = true;
        }
        for (size_t warp = 0; warp < count; warp += 32) moved |= release_warp(warp);
        bool all = true;
        for (auto& t : threads) all &= t.state == Thread::kBarrier || t.state == Thread::kDone;
        if (all)
            for (auto& t : threads)
                if (t.state == Thread::kBarrier) t.state = Thread::kReady, moved = true;
        if (!moved && ended < count) std::fprintf(stderr, "threads wait for ever\n"), std::exit(3);
    }
}

inline void launch(dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> body) {
    const char* text = std::getenv("HOST_THREADS_ORDER");
    gridDim = grid, blockDim = block, kernel = std::move(body);
    dynamic_bytes.assign(shared_bytes, char(0xff));
    threads = std::vector<Thread>(block.x * block.y * block.z);
    for (size_t t = 0; t < threads.size(); ++t) {
        threads[t].stack.reset(new char[1 << 16]);
        threads[t].index = {unsigned(t) % block.x, unsigned(t) / block.x % block.y, unsigned(t) / (block.x * block.y)};
    }
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) blockIdx = {x, y, z}, run_block(text ? std::atoi(text) : 0);
}

inline unsigned lane() { return unsigned(running - threads.data()) % 32; }

template <class T> uint64_t bits(T value) {
    uint64_t found = 0;
    std::memcpy(&found, &value, sizeof value);
    return found;
}

template <class T> T value(uint64_t bits) {
    T found;
    std::memcpy(&found, &bits, sizeof found);
    return found;
}

}  // namespace host_threads

inline void __syncthreads() {
    host_threads::running->state = host_threads::Thread::kBarrier;
    host_threads::pause();
}
inline void __syncwarp(unsigned mask = ~0u) { host_threads::meet(mask, 0); }
inline void __threadfence() {}
template <class T> T __shfl_sync(unsigned mask, T v, int from) {
    return host_threads::value<T>(host_threads::meet(mask, host_threads::bits(v))[from & 31]);
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int flip) {
    unsigned lane = host_threads::lane();
    return host_threads::value<T>(host_threads::meet(mask, host_threads::bits(v))[lane ^ flip]);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned step) {
    unsigned lane = host_threads::lane();
    return host_threads::value<T>(host_threads::meet(mask, host_threads::bits(v))[lane < step ? lane : lane - step]);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned step) {
    unsigned lane = host_threads::lane();
    return host_threads::value<T>(host_threads::meet(mask, host_threads::bits(v))[lane + step > 31 ? lane : lane + step]);
}
inline unsigned __ballot_sync(unsigned mask, bool yes) {
    uint64_t* all = host_threads::meet(mask, yes);
    unsigned found = 0;
    for (unsigned l = 0; l < 32; ++l)
        if (mask >> l & 1 && all[l]) found |= 1u << l;
    return found;
}
template <class T> unsigned __match_any_sync(unsigned mask, T v) {
    uint64_t mine = host_threads::bits(v), *all = host_threads::meet(mask, mine);
    unsigned found = 0;
    for (unsigned l = 0; l < 32; ++l)
        if (mask >> l & 1 && all[l] == mine) found |= 1u << l;
    return found;
}
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __float_as_int(float v) { return host_threads::value<int>(host_threads::bits(v)); }
inline float __int_as_float(int v) { return host_threads::value<float>(host_threads::bits(v)); }
inline float __expf(float v) { return std::exp(v); }
template <class T> T atomicAdd(T* at, T v) { T old = *at; *at = old + v; return old; }
inline unsigned atomicAdd(unsigned* at, int v) { return atomicAdd(at, unsigned(v)); }
inline int atomicAdd(int* at, unsigned v) { return atomicAdd(at, int(v)); }
template <class T> T atomicExch(T* at, T v) { T old = *at; *at = v; return old; }
inline int atomicCAS(int* at, int seen, int v) { int old = *at; if (old == seen) *at = v; return old; }
inline unsigned atomicInc(unsigned* at, unsigned most) { unsigned old = *at; *at = old >= most ? 0 : old + 1; return old; }
