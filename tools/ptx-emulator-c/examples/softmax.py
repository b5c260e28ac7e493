"""The kernel of launch.py, in Triton; `python softmax.py` writes softmax.ptx. Needs Triton, but no GPU."""

from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def softmax(out, x, columns, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    v = tl.load(x + row * stride + at, mask=at < columns, other=-float("inf"))
    v = tl.exp(v - tl.max(v, axis=0))
    tl.store(out + row * stride + at, v / tl.sum(v, axis=0), mask=at < columns)


if __name__ == "__main__":
    types = {"out": "*fp32", "x": "*fp32", "columns": "i32", "stride": "i32", "BLOCK": "constexpr"}
    source = ASTSource(fn=softmax, signature=types, constexprs={"BLOCK": 1024})
    kernel = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 4})
    # Sections for debuggers are most of the text, and the emulator has no use for them.
    text = kernel.asm["ptx"]
    text = text[: text.index("\t.section\t.debug")] if "\t.section\t.debug" in text else text
    Path(__file__).with_name("softmax.ptx").write_text(text)
