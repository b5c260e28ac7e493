/* Runs NVIDIA PTX kernels on a CPU, checks every access they make, and counts what they do.
 *
 *     ptx_gpu *gpu = ptx_gpu_new(NULL);
 *     ptx_module *module;
 *     if (ptx_module_load(text, strlen(text), &module)) { puts(ptx_last_error()); ... }
 *     uint64_t x;
 *     ptx_alloc(gpu, 4096, "x", &x);
 *     ptx_write(gpu, x, host, 4096);
 *     ptx_shape shape = {.grid = {4, 1, 1}, .block = {256, 1, 1}};
 *     if (ptx_launch(gpu, module, "scale", &shape, &x, sizeof x) == PTX_FAULT) puts(ptx_last_report(gpu)->text);
 *
 * Link with libptx_emulator_c.so, or libptx_emulator_c.a with -lm -lpthread -ldl. One GPU is for one thread at a time; several
 * GPUs may run on several threads. Texts end with zero and live until the next call with the same GPU, module or (errors)
 * thread, unless said otherwise.
 */
#ifndef PTX_EMULATOR_H
#define PTX_EMULATOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ptx_gpu ptx_gpu;
typedef struct ptx_module ptx_module;

/* What every call answers; ptx_last_error() says more. */
typedef enum ptx_status {
    PTX_OK = 0,
    PTX_USAGE = 1,  /* a null pointer, a name that is not there, a text that is not UTF-8 */
    PTX_LOAD = 2,   /* PTX that this emulator cannot run, with its line */
    PTX_MEMORY = 3, /* an address outside every allocation, or more memory than there is */
    PTX_FAULT = 4   /* a kernel did wrong; see ptx_last_report() */
} ptx_status;

/* Bits of ptx_options.checks. Bounds, alignment and lifetime are always checked. */
enum {
    PTX_CHECK_INIT = 1, /* values that nobody defined, where they decide something */
    PTX_CHECK_RACE = 2, /* accesses without an order between them */
    PTX_CHECK_SYNC = 4, /* barriers that part of a warp reaches */
    PTX_CHECK_ALL = 7
};

typedef struct ptx_options {
    uint64_t seed;                  /* orders blocks and warps; equal seeds give equal runs */
    uint64_t memory_bytes;          /* of the GPU */
    uint64_t max_warp_instructions; /* after which a launch is called endless */
    uint32_t checks;
    uint32_t max_shared_bytes; /* of a block */
    uint32_t threads;          /* of this machine, for kernels whose blocks do not communicate */
    uint32_t poison;           /* 1: fresh memory is filled with NaN, not zeros */
    uint32_t perturb_approx;   /* 1: approximate instructions err inside their documented bounds */
    uint32_t weak_memory;      /* 1: relaxed loads may give older values where the memory model lets them */
} ptx_options;

typedef struct ptx_shape {
    uint32_t grid[3];
    uint32_t block[3];
    uint32_t dynamic_shared_bytes;
    uint32_t cluster[3]; /* blocks of a cluster; zeros where the kernel says it, or has none */
    uint32_t cooperative;
} ptx_shape;

/* A finding. Texts are "" where nothing is known. */
typedef struct ptx_report {
    const char *kind; /* "out-of-bounds access", "race", "uninitialised read", ... */
    const char *kernel;
    const char *source; /* file.cu:12, where the PTX has .loc */
    const char *instruction;
    const char *allocation;
    const char *message;
    const char *text; /* all of it in one line */
    uint64_t address; /* 0 where none is to blame */
    uint32_t ptx_line;
    uint32_t has_block, block[3];
    uint32_t has_thread, thread[3];
} ptx_report;

typedef struct ptx_parameter {
    const char *name;
    uint32_t offset, bytes, align;
} ptx_parameter;

/* Why the last call of this thread that failed did. */
const char *ptx_last_error(void);

/* What ptx_gpu_new(NULL) takes. */
ptx_options ptx_default_options(void);
ptx_gpu *ptx_gpu_new(const ptx_options *options);
void ptx_gpu_free(ptx_gpu *gpu);

ptx_status ptx_module_load(const char *text, size_t bytes, ptx_module **module);
void ptx_module_free(ptx_module *module);
/* Kernels of a module, numbered from 0; NULL past the last. The name lives as long as the module. */
const char *ptx_module_entry(const ptx_module *module, size_t number);
/* Parameters of a kernel, numbered from 0: PTX_USAGE past the last. Names live as long as the module. */
ptx_status ptx_module_parameter(const ptx_module *module, const char *entry, size_t number, ptx_parameter *parameter);

/* Memory of the GPU. Names are for reports, NULL for none. */
ptx_status ptx_alloc(ptx_gpu *gpu, uint64_t bytes, const char *name, uint64_t *address);
ptx_status ptx_free(ptx_gpu *gpu, uint64_t address);
ptx_status ptx_write(ptx_gpu *gpu, uint64_t address, const void *from, size_t bytes);
ptx_status ptx_read(const ptx_gpu *gpu, uint64_t address, void *to, size_t bytes);
ptx_status ptx_fill(ptx_gpu *gpu, uint64_t address, uint8_t value, uint64_t bytes);
ptx_status ptx_copy(ptx_gpu *gpu, uint64_t to, uint64_t from, uint64_t bytes);
/* The range counts as unwritten again, for pools that hand it out a second time. */
ptx_status ptx_forget(ptx_gpu *gpu, uint64_t address, uint64_t bytes);
/* Address and size of a module's variable. */
ptx_status ptx_symbol(ptx_gpu *gpu, const ptx_module *module, const char *name, uint64_t *address, uint64_t *bytes);

/* Runs a kernel to its end. The parameters are laid out as ptx_module_parameter() says. */
ptx_status ptx_launch(ptx_gpu *gpu, const ptx_module *module, const char *entry, const ptx_shape *shape,
                      const void *parameters, size_t bytes);
/* The finding that ended the last launch, NULL if none did. */
const ptx_report *ptx_last_report(const ptx_gpu *gpu);
/* Findings of all launches that are no errors, numbered from 0; NULL past the last. */
const ptx_report *ptx_note(ptx_gpu *gpu, size_t number);
/* Counters of the last launch by name ("thread_instructions", "global_load_sectors", ...); 0 for a name that is none. */
uint64_t ptx_counter(const ptx_gpu *gpu, const char *name);
/* What kernels have printed since the last call. */
const char *ptx_take_printed(ptx_gpu *gpu);

#ifdef __cplusplus
}
#endif

#endif
