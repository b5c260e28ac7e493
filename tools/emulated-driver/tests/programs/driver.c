// A program of the driver alone, that needs no CUDA to build: PTX through the linker, a module, memory, a launch. Arguments: the PTX
// and, to go wrong, how many elements more than there are.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef unsigned long long Address;

static void* driver;

static void* find(const char* name) {
    void* found = dlsym(driver, name);
    if (!found) {
        printf("the driver has no %s\n", name);
        exit(1);
    }
    return found;
}

#define CALL(name, types, ...)                                                  \
    do {                                                                        \
        Result result = ((Result(*) types)find(#name))(__VA_ARGS__);            \
        if (result != 0) {                                                      \
            printf("line %d: %s gives %d: %s\n", __LINE__, #name, result, log); \
            exit(1);                                                            \
        }                                                                       \
    } while (0)

static char* text_of(const char* path) {
    FILE* file = fopen(path, "rb");
    if (!file) exit(2);
    char* text = calloc(1, 1 << 20);
    if (fread(text, 1, (1 << 20) - 1, file) == 0) exit(2);
    fclose(file);
    return text;
}

int main(int argc, char** argv) {
    enum { COUNT = 1000 };
    static char log[8192], errors[8192];
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (argc < 2 || !driver) return 2;
    char* text = text_of(argv[1]);
    unsigned count = COUNT + (argc > 2 ? (unsigned)atoi(argv[2]) : 0);

    void *context, *link, *module, *function, *code;
    int device, options[] = {3, 4, 5, 6};
    size_t bytes;
    void* values[] = {log, (void*)sizeof log, errors, (void*)sizeof errors};
    CALL(cuInit, (unsigned), 0);
    CALL(cuDeviceGet, (int*, int), &device, 0);
    CALL(cuDevicePrimaryCtxRetain, (void**, int), &context, device);
    CALL(cuCtxSetCurrent, (void*), context);

    // What is no PTX is refused, with the reason in the log of errors.
    Result (*add)(void*, int, void*, size_t, const char*, unsigned, int*, void**) = find("cuLinkAddData_v2");
    CALL(cuLinkCreate_v2, (unsigned, int*, void**, void**), 4, options, values, &link);
    char broken[] = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry t() { no.such %r1; }\n";
    if (add(link, 1, broken, sizeof broken, "t", 0, NULL, NULL) == 0 || !strstr(errors, "no.such")) {
        printf("broken PTX was taken, or nobody says why not: %s\n", errors);
        return 1;
    }
    CALL(cuLinkDestroy, (void*), link);

    CALL(cuLinkCreate_v2, (unsigned, int*, void**, void**), 4, options, values, &link);
    CALL(cuLinkAddData_v2, (void*, int, void*, size_t, const char*, unsigned, int*, void**), link, 1, text,
         strlen(text) + 1, argv[1], 0, NULL, NULL);
    CALL(cuLinkComplete, (void*, void**, size_t*), link, &code, &bytes);
    if (!strstr(log, "saxpy")) {
        printf("the log does not name what was compiled: %s\n", log);
        return 1;
    }
    // The code is the link's, as long as there is one.
    char* kept = malloc(bytes);
    memcpy(kept, code, bytes);
    CALL(cuLinkDestroy, (void*), link);
    CALL(cuModuleLoadDataEx, (void**, const void*, unsigned, int*, void**), &module, kept, 0, NULL, NULL);
    CALL(cuModuleGetFunction, (void**, void*, const char*), &function, module, "saxpy");

    static float x[COUNT], y[COUNT];
    for (int i = 0; i < COUNT; ++i) x[i] = (float)i, y[i] = 1;
    Address on_device[2];
    for (int i = 0; i < 2; ++i) {
        CALL(cuMemAlloc_v2, (Address*, size_t), &on_device[i], sizeof x);
        CALL(cuMemcpyHtoD_v2, (Address, const void*, size_t), on_device[i], i == 0 ? x : y, sizeof x);
    }
    float a = 2;
    void* parameters[] = {&count, &a, &on_device[0], &on_device[1]};
    CALL(cuLaunchKernel,
         (void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**), function, 4,
         1, 1, 256, 1, 1, 0, NULL, parameters, NULL);
    CALL(cuCtxSynchronize, (void), );
    CALL(cuMemcpyDtoH_v2, (void*, Address, size_t), y, on_device[1], sizeof y);
    for (int i = 0; i < COUNT; ++i)
        if (y[i] != 2 * (float)i + 1) return 1;
    printf("right\n");
    return 0;
}
