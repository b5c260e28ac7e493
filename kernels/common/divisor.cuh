// Division of numbers below 2^31 by a number known at launch: half a product, a sum, a shift (Granlund, Montgomery 1994).
#pragma once

#include "element.cuh"

struct Division {
    u32 quotient, remainder;
};

struct Divisor {
    u32 value, multiplier, shift;

    __device__ __forceinline__ u32 divide(u32 n) const { return (__umulhi(n, multiplier) + n) >> shift; }

    __device__ __forceinline__ Division split(u32 n) const {
        const u32 quotient = divide(n);
        return {quotient, n - quotient * value};
    }
};
