// Matrix tiles in shared memory and warp-level MMA by mma.sync.
//
// A tile is row-major, its rows padded by TILE_PAD elements, so that neither ldmatrix nor the 32-bit fragment loads of TF32
// have bank conflicts. A warp owns 16 rows of A; accumulators are the 16x8 fragments of mma.sync: lane `4 g + t` holds
// columns 2t and 2t+1 of rows g and g+8.
//
// The MMA atom is a type:
//   Mma<bf16>, Mma<f16>   mma.m16n8k16 of the stored values
//   Mma<f32, TF32>        mma.m16n8k8 of operands rounded to TF32's 10 bits
//   Mma<f32, TF32X3>      3xTF32: each operand is the sum of a high and a low TF32 part, three MMAs; about 2^-21 relative
#pragma once

#include "element.cuh"

// Elements between the end of a tile's row and the next row: 16 bytes.
template <typename T>
inline constexpr int TILE_PAD = 16 / int(sizeof(T));

__device__ __forceinline__ u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }

// 16 bytes from global to shared memory, or zeros where `there` is false. Both addresses are 16-byte aligned.
__device__ __forceinline__ void cp_async_16(void* to, const void* from, bool there) {
    const int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of this thread's groups are in flight.
template <int PENDING>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Loads `rows` x `cols` of a matrix into a tile of ROWS x COLS, zero beyond. `aligned` says that every row begins on
// 16 bytes and is a multiple of that: then the copy is asynchronous, else element by element.
template <int ROWS, int COLS, int THREADS, int PAD = 0, typename T>
__device__ __forceinline__ void load_tile(T* tile, const T* from, u64 row_stride, int rows, int cols, bool aligned) {
    constexpr int STRIDE = COLS + (PAD ? PAD : TILE_PAD<T>);
    if (aligned) {
        constexpr int W = WIDTH<T>, VECTORS = COLS / W;
#pragma unroll 1
        for (int i = int(threadIdx.x); i < ROWS * VECTORS; i += THREADS) {
            const int row = i / VECTORS, col = i % VECTORS * W;
            const bool there = row < rows && col < cols;
            cp_async_16(tile + row * STRIDE + col, there ? from + row * row_stride + col : from, there);
        }
    } else {
#pragma unroll 1
        for (int i = int(threadIdx.x); i < ROWS * COLS; i += THREADS) {
            const int row = i / COLS, col = i % COLS;
            const bool there = row < rows && col < cols;
            tile[row * STRIDE + col] = there ? from[row * row_stride + col] : from_float<T>(0.0f);
        }
    }
}

// The reverse: what of a tile lies within `rows` x `cols` of a matrix.
template <int ROWS, int COLS, int THREADS, int PAD = 0, typename T>
__device__ __forceinline__ void store_tile(T* to, const T* tile, u64 row_stride, int rows, int cols, bool aligned) {
    constexpr int STRIDE = COLS + (PAD ? PAD : TILE_PAD<T>);
    if (aligned) {
        constexpr int W = WIDTH<T>, VECTORS = COLS / W;
#pragma unroll 1
        for (int i = int(threadIdx.x); i < ROWS * VECTORS; i += THREADS) {
            const int row = i / VECTORS, col = i % VECTORS * W;
            if (row < rows && col < cols) store_vector<T, W>(to + row * row_stride + col, load_vector<T, W>(tile + row * STRIDE + col));
        }
    } else {
#pragma unroll 1
        for (int i = int(threadIdx.x); i < ROWS * COLS; i += THREADS) {
            const int row = i / COLS, col = i % COLS;
            if (row < rows && col < cols) to[row * row_stride + col] = tile[row * STRIDE + col];
        }
    }
}

// The two neighbouring columns a lane holds of a row of accumulators, as one access.
template <typename T>
__device__ __forceinline__ void store_pair(T* at, float first, float second) {
    Vector<T, 2> vector;
    vector.at[0] = from_float<T>(first);
    vector.at[1] = from_float<T>(second);
    store_vector<T, 2>(at, vector);
}

__device__ __forceinline__ void ldmatrix(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_transposed(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ u32 pack2(bf16, float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const u32*>(&pair);
}
__device__ __forceinline__ u32 pack2(f16, float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const u32*>(&pair);
}

__device__ __forceinline__ void mma_16bit(bf16, float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_16bit(f16, float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_tf32(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d = a · b
__device__ __forceinline__ void mma_tf32_from_zero(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(0.0f));
}

__device__ __forceinline__ u32 to_tf32(float x) {
    u32 y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

// How operands are multiplied.
enum MmaMath { NATIVE, TF32, TF32X3 };

// 16-bit operands.
template <typename T_, MmaMath MATH = NATIVE>
struct Mma {
    using T = T_;
    static constexpr int K = 16;  // K of one MMA
    struct A {
        u32 at[4];
    };
    struct B {
        u32 at[4];  // two n8 fragments
    };

    // 16 x K of a tile.
    static __device__ __forceinline__ A load_a(const T* tile, int stride) {
        const int lane = threadIdx.x % 32;
        A a;
        ldmatrix(a.at, tile + (lane % 16) * stride + lane / 16 * 8);
        return a;
    }
    // K x 16, column n being row n of the tile.
    static __device__ __forceinline__ B load_b_k_major(const T* tile, int stride) {
        const int lane = threadIdx.x % 32;
        B b;
        ldmatrix(b.at, tile + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
        return b;
    }
    // K x 16 as it lies in the tile, for an A from a tile or from accumulators.
    static __device__ __forceinline__ B load_b_for_accumulators(const T* tile, int stride) {
        return load_b_mn_major(tile, stride);
    }
    static __device__ __forceinline__ B load_b_mn_major(const T* tile, int stride) {
        const int lane = threadIdx.x % 32;
        B b;
        ldmatrix_transposed(b.at, tile + (lane % 16) * stride + lane / 16 * 8);
        return b;
    }
    // 16 x K from the accumulators of K columns that begin at block `k`.
    template <int BLOCKS>
    static __device__ __forceinline__ A from_accumulators(const float (&c)[BLOCKS][4], int k) {
        const float(&left)[4] = c[2 * k];
        const float(&right)[4] = c[2 * k + 1];
        return {{pack2(T{}, left[0], left[1]), pack2(T{}, left[2], left[3]), pack2(T{}, right[0], right[1]),
                 pack2(T{}, right[2], right[3])}};
    }
    // c += a b for both n8 fragments.
    static __device__ __forceinline__ void mma(float (&c0)[4], float (&c1)[4], const A& a, const B& b) {
        mma_16bit(T{}, c0, a.at, b.at[0], b.at[1]);
        mma_16bit(T{}, c1, a.at, b.at[2], b.at[3]);
    }
    static __device__ __forceinline__ void mma_short_k(float (&c0)[4], float (&c1)[4], const A& a, const B& b) { mma(c0, c1, a, b); }
};

// f32 operands in TF32. The order of k is free as long as both operands agree: column t of a fragment of accumulators stands
// for 2t and column t + 4 for 2t + 1, which are what the lane holds.
template <MmaMath MATH>
struct Mma<f32, MATH> {
    using T = f32;
    static constexpr int K = 8;
    struct A {
        u32 high[4], low[4];
    };
    struct B {
        u32 high[2][2], low[2][2];
    };

    static __device__ __forceinline__ void split(u32& high, u32& low, float x) {
        high = to_tf32(x);
        low = MATH == TF32X3 ? to_tf32(x - __uint_as_float(high)) : 0u;
    }
    static __device__ __forceinline__ A load_a(const f32* tile, int stride) {
        const int lane = threadIdx.x % 32;
        const f32* at = tile + lane / 4 * stride + lane % 4;
        A a;
        split(a.high[0], a.low[0], at[0]);
        split(a.high[1], a.low[1], at[8 * stride]);
        split(a.high[2], a.low[2], at[4]);
        split(a.high[3], a.low[3], at[8 * stride + 4]);
        return a;
    }
    static __device__ __forceinline__ B load_b_k_major(const f32* tile, int stride) {
        const int lane = threadIdx.x % 32;
        B b;
#pragma unroll
        for (int block = 0; block < 2; ++block) {
            const f32* at = tile + (block * 8 + lane / 4) * stride + lane % 4;
            split(b.high[block][0], b.low[block][0], at[0]);
            split(b.high[block][1], b.low[block][1], at[4]);
        }
        return b;
    }
    // Rows t and t + 4. Conflict-free where rows are 8 words apart modulo 32.
    static __device__ __forceinline__ B load_b_mn_major(const f32* tile, int stride) {
        return load_rows(tile + threadIdx.x % 4 * stride, 4 * stride);
    }
    // Rows 2t and 2t + 1.
    static __device__ __forceinline__ B load_b_for_accumulators(const f32* tile, int stride) {
        return load_rows(tile + threadIdx.x % 4 * 2 * stride, stride);
    }
    static __device__ __forceinline__ B load_rows(const f32* row, int to_next) {
        B b;
#pragma unroll
        for (int block = 0; block < 2; ++block) {
            const f32* at = row + block * 8 + threadIdx.x % 32 / 4;
            split(b.high[block][0], b.low[block][0], at[0]);
            split(b.high[block][1], b.low[block][1], at[to_next]);
        }
        return b;
    }
    template <int BLOCKS>
    static __device__ __forceinline__ A from_accumulators(const float (&c)[BLOCKS][4], int k) {
        A a;
        split(a.high[0], a.low[0], c[k][0]);
        split(a.high[1], a.low[1], c[k][2]);
        split(a.high[2], a.low[2], c[k][1]);
        split(a.high[3], a.low[3], c[k][3]);
        return a;
    }
    static __device__ __forceinline__ void mma(float (&c0)[4], float (&c1)[4], const A& a, const B& b) {
        if constexpr (MATH == TF32X3) {
            mma_rounded(c0, a, b.high[0], b.low[0]);
            mma_rounded(c1, a, b.high[1], b.low[1]);
        } else {
            mma_short_k(c0, c1, a, b);
        }
    }
    // Tensor cores truncate f32 sums: over a long K that adds up to more than f32 may lose. So every three MMAs accumulate
    // from zero, and their sum is added with rounding to nearest.
    static __device__ __forceinline__ void mma_rounded(float (&c)[4], const A& a, const u32 (&high)[2], const u32 (&low)[2]) {
        float sum[4];
        mma_tf32_from_zero(sum, a.low, high);
        mma_tf32(sum, a.high, low);
        mma_tf32(sum, a.high, high);
#pragma unroll
        for (int i = 0; i < 4; ++i) c[i] += sum[i];
    }
    // For a K of some hundred elements.
    static __device__ __forceinline__ void mma_short_k(float (&c0)[4], float (&c1)[4], const A& a, const B& b) {
        if constexpr (MATH == TF32X3) {
            mma_tf32(c0, a.low, b.high[0]);
            mma_tf32(c1, a.low, b.high[1]);
            mma_tf32(c0, a.high, b.low[0]);
            mma_tf32(c1, a.high, b.low[1]);
        }
        mma_tf32(c0, a.high, b.high[0]);
        mma_tf32(c1, a.high, b.high[1]);
    }
};

// c = a · bᵀ for 16 rows of `a` and 8 BLOCKS rows of `b`, over K columns of both tiles.
template <typename M, int K, int BLOCKS>
__device__ __forceinline__ void warp_mma_nt(float (&c)[BLOCKS][4], const typename M::T* a_tile, const typename M::T* b_tile) {
    constexpr int STRIDE = K + TILE_PAD<typename M::T>;
#pragma unroll
    for (int n = 0; n < BLOCKS; ++n) c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0.0f;
#pragma unroll 2
    for (int k = 0; k < K; k += M::K) {
        const typename M::A a = M::load_a(a_tile + k, STRIDE);
#pragma unroll
        for (int n = 0; n < BLOCKS; n += 2) {
            M::mma_short_k(c[n], c[n + 1], a, M::load_b_k_major(b_tile + n * 8 * STRIDE + k, STRIDE));
        }
    }
}

// c += a · b, `a` being 16 x 8 K_BLOCKS accumulators and `b` a tile of 8 K_BLOCKS rows and 8 BLOCKS columns.
template <typename M, int K_BLOCKS, int BLOCKS>
__device__ __forceinline__ void warp_mma_from_accumulators(float (&c)[BLOCKS][4], const float (&a_tile)[K_BLOCKS][4],
                                                        const typename M::T* b_tile) {
    constexpr int STRIDE = BLOCKS * 8 + TILE_PAD<typename M::T>;
#pragma unroll
    for (int k = 0; k < K_BLOCKS * 8 / M::K; ++k) {
        const typename M::A a = M::from_accumulators(a_tile, k);
#pragma unroll
        for (int n = 0; n < BLOCKS; n += 2) {
            const typename M::B b = M::load_b_for_accumulators(b_tile + k * M::K * STRIDE + n * 8, STRIDE);
            // More than 64 columns leave no registers for separate sums.
            if constexpr (BLOCKS > 8) {
                M::mma_short_k(c[n], c[n + 1], a, b);
            } else {
                M::mma(c[n], c[n + 1], a, b);
            }
        }
    }
}
