/* A kernel that writes its thread's number; once with room for all, once with room for all but one. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ptx_emulator.h"

static const char text[] =
    ".version 8.0\n.target sm_80\n.address_size 64\n"
    ".global .align 4 .u32 step = 3;\n"
    ".visible .entry number(.param .u64 to, .param .u32 first)\n{\n"
    "    .reg .b32 %r<5>; .reg .b64 %a<3>;\n"
    "    ld.param.u64 %a1, [to]; ld.param.u32 %r1, [first];\n"
    "    mov.u32 %r2, %tid.x; ld.global.u32 %r3, [step]; mad.lo.u32 %r4, %r2, %r3, %r1;\n"
    "    mul.wide.u32 %a2, %r2, 4; add.u64 %a1, %a1, %a2; st.global.u32 [%a1], %r4; ret;\n}\n";

#define EXPECT(condition)                                                                \
    if (!(condition)) {                                                                  \
        printf("line %d: not so: %s; %s\n", __LINE__, #condition, ptx_last_error());     \
        return 1;                                                                        \
    }

int main(void) {
    ptx_options options = ptx_default_options();
    EXPECT(options.checks == PTX_CHECK_ALL);
    options.seed = 5;
    ptx_gpu *gpu = ptx_gpu_new(&options);
    ptx_module *module;
    EXPECT(ptx_module_load("no PTX", 6, &module) == PTX_LOAD && strstr(ptx_last_error(), "line"));
    EXPECT(ptx_module_load(text, sizeof text - 1, &module) == PTX_OK);
    EXPECT(strcmp(ptx_module_entry(module, 0), "number") == 0 && ptx_module_entry(module, 1) == NULL);
    ptx_parameter first;
    EXPECT(ptx_module_parameter(module, "number", 1, &first) == PTX_OK);
    EXPECT(first.offset == 8 && first.bytes == 4 && strcmp(first.name, "first") == 0);
    EXPECT(ptx_module_parameter(module, "number", 2, &first) == PTX_USAGE);

    uint64_t to, step, bytes;
    EXPECT(ptx_alloc(gpu, 64 * 4, "numbers", &to) == PTX_OK);
    EXPECT(ptx_symbol(gpu, module, "step", &step, &bytes) == PTX_OK && bytes == 4);
    EXPECT(ptx_symbol(gpu, module, "stop", &step, &bytes) == PTX_USAGE);
    unsigned char params[12];
    const uint32_t start = 100;
    memcpy(params, &to, 8);
    memcpy(params + 8, &start, 4);
    ptx_shape shape = {.grid = {1, 1, 1}, .block = {64, 1, 1}};
    EXPECT(ptx_launch(gpu, module, "number", &shape, params, sizeof params) == PTX_OK);
    EXPECT(ptx_last_report(gpu) == NULL && ptx_note(gpu, 0) == NULL);
    EXPECT(ptx_counter(gpu, "global_store_bytes") == 256 && ptx_counter(gpu, "nothing") == 0);
    uint32_t numbers[64];
    EXPECT(ptx_read(gpu, to, numbers, sizeof numbers) == PTX_OK);
    for (uint32_t i = 0; i < 64; ++i) EXPECT(numbers[i] == 100 + 3 * i);
    EXPECT(ptx_read(gpu, to + 4, numbers, sizeof numbers) == PTX_MEMORY);
    EXPECT(strcmp(ptx_take_printed(gpu), "") == 0);

    shape.block[0] = 65;
    EXPECT(ptx_launch(gpu, module, "number", &shape, params, sizeof params) == PTX_FAULT);
    const ptx_report *report = ptx_last_report(gpu);
    EXPECT(report != NULL && report->has_thread && report->thread[0] == 64 && report->ptx_line > 0);
    EXPECT(strcmp(report->allocation, "numbers") == 0 && report->address == to + 256);
    printf("%s: %s\n", report->kind, report->text);
    EXPECT(ptx_free(gpu, to) == PTX_OK && ptx_free(gpu, to) == PTX_MEMORY);
    EXPECT(ptx_launch(gpu, module, "nothing", &shape, params, sizeof params) == PTX_FAULT);
    ptx_module_free(module);
    ptx_gpu_free(gpu);
    return 0;
}
