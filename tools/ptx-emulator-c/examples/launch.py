#!/usr/bin/env python3
"""Runs a kernel that Triton compiled, with every check on, from Python alone: no GPU, no Triton, no package.

    cargo build --release -p ptx-emulator-c
    python3 launch.py ../../../target/release/libptx_emulator_c.so

softmax.ptx is what softmax.py gives. The second launch has a block more than there are rows, and is reported.
"""

import array
import ctypes
import math
import pathlib
import struct
import sys


class Shape(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("dynamic_shared_bytes", ctypes.c_uint32),
        ("cluster", ctypes.c_uint32 * 3),
        ("cooperative", ctypes.c_uint32),
    ]


class Parameter(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("offset", ctypes.c_uint32), ("bytes", ctypes.c_uint32), ("align", ctypes.c_uint32)]


class Emulator:
    """One GPU and one module."""

    def __init__(self, library, ptx):
        self.c = ctypes.CDLL(library)
        for name in ("ptx_gpu_new", "ptx_last_report"):
            getattr(self.c, name).restype = ctypes.c_void_p
        for name in ("ptx_last_error", "ptx_module_entry"):
            getattr(self.c, name).restype = ctypes.c_char_p
        self.c.ptx_counter.restype = ctypes.c_uint64
        self.gpu = ctypes.c_void_p(self.c.ptx_gpu_new(None))
        self.module = ctypes.c_void_p()
        self.held = {}
        self.check(self.c.ptx_module_load(ptx, ctypes.c_size_t(len(ptx)), ctypes.byref(self.module)))

    def check(self, status):
        if status:
            raise RuntimeError(self.c.ptx_last_error().decode())

    def array(self, name, values):
        """Device memory with these floats; its address."""
        address, data = ctypes.c_uint64(), array.array("f", values).tobytes()
        self.check(self.c.ptx_alloc(self.gpu, ctypes.c_uint64(len(data)), name.encode(), ctypes.byref(address)))
        self.check(self.c.ptx_write(self.gpu, address, data, ctypes.c_size_t(len(data))))
        self.held[address.value] = len(data)
        return address.value

    def floats(self, address):
        data = ctypes.create_string_buffer(self.held[address])
        self.check(self.c.ptx_read(self.gpu, ctypes.c_uint64(address), data, ctypes.c_size_t(len(data))))
        return array.array("f", data.raw)

    def launch(self, entry, grid, block, shared, values):
        """Parameters that are not given, as Triton's scratch memory, are null."""
        params, parameter, number = bytearray(), Parameter(), 0
        while not self.c.ptx_module_parameter(self.module, entry, ctypes.c_size_t(number), ctypes.byref(parameter)):
            value = values[number] if number < len(values) else 0
            params.extend(bytes(parameter.offset - len(params)))
            params.extend(struct.pack("<Q" if parameter.bytes == 8 else "<i", value))
            number += 1
        shape = Shape((grid, 1, 1), (block, 1, 1), shared, (0, 0, 0), 0)
        self.check(self.c.ptx_launch(self.gpu, self.module, entry, ctypes.byref(shape), bytes(params), ctypes.c_size_t(len(params))))

    def counter(self, name):
        return self.c.ptx_counter(self.gpu, name.encode())


def main():
    ptx = pathlib.Path(__file__).with_name("softmax.ptx").read_bytes()
    emulator = Emulator(sys.argv[1], ptx)
    entry = emulator.c.ptx_module_entry(emulator.module, ctypes.c_size_t(0))
    rows, columns = 5, 700
    x = [math.sin(0.37 * i) for i in range(rows * columns)]
    at, out = emulator.array("x", x), emulator.array("out", [0.0] * (rows * columns))
    emulator.launch(entry, rows, 128, 16, [out, at, columns, columns])
    result = emulator.floats(out)
    worst = 0.0
    for row in range(rows):
        powers = [math.exp(v) for v in x[row * columns : (row + 1) * columns]]
        for column, power in enumerate(powers):
            worst = max(worst, abs(result[row * columns + column] - power / sum(powers)))
    assert worst < 1e-7, worst
    print(f"{entry.decode()}: {rows} rows of {columns}, largest error {worst:.1e}")
    print(f"{emulator.counter('thread_instructions')} thread instructions, {emulator.counter('global_load_sectors')} sectors loaded")
    try:
        emulator.launch(entry, rows + 1, 128, 16, [out, at, columns, columns])
    except RuntimeError as fault:
        print(f"with {rows + 1} blocks: {fault}")
    else:
        raise SystemExit("a fault was missed")


if __name__ == "__main__":
    main()
