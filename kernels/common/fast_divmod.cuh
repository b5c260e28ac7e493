// Quotient and remainder by a divisor known at launch (CUTLASS's FastDivmod; Granlund and Montgomery 1994): the high half of a
// product, an add and a shift. Dividends are below 2^31.
#pragma once

#include "element.cuh"

struct Divmod {
    u32 quotient, remainder;
};

struct FastDivmod {
    u32 value, multiplier, shift;

    __device__ __forceinline__ u32 div(u32 n) const { return (__umulhi(n, multiplier) + n) >> shift; }

    __device__ __forceinline__ Divmod divmod(u32 n) const {
        const u32 quotient = div(n);
        return {quotient, n - quotient * value};
    }
};
