// What every program here checks: each call of the runtime, and each result.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define CALL(call)                                                                                  \
    do {                                                                                            \
        cudaError_t status = (call);                                                                \
        if (status != cudaSuccess) {                                                                \
            std::printf("line %d: %s: %s\n", __LINE__, #call, cudaGetErrorString(status));          \
            std::exit(1);                                                                           \
        }                                                                                           \
    } while (0)

#define EXPECT(condition)                                                                           \
    do {                                                                                            \
        if (!(condition)) {                                                                         \
            std::printf("line %d: not so: %s\n", __LINE__, #condition);                             \
            std::exit(1);                                                                           \
        }                                                                                           \
    } while (0)

inline bool is_wrong(int argc, char** argv) { return argc > 1 && std::strcmp(argv[1], "wrong") == 0; }
