#!/usr/bin/env python3
"""A second opinion on the PTX emulator: the same kernels by nvcc under `cuda-emulate`, and by g++ on threads of the host.

    cargo build --release -p emulated-driver
    python3 tools/peers/host_threads/compare.py --nvcc target/cuda/cu130/nvidia/cu13/bin/nvcc

Nothing is shared between the two but the source: neither compiler, nor what executes. Kernels are those of
tools/ptx-emulator/tests/kernels that have no PTX in them. Compiled without contraction (-fmad=false, -ffp-contract=off) every
result must be the same to the bit, but for what an approximate exponential gave, which must be as near as CUDA promises, and for
sums whose order is free. Needs g++ and the nvcc that `cargo tool ptx --fetch` installs.
"""

import argparse
import array
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
KERNELS = HERE.parent.parent / "ptx-emulator/tests/kernels"
SOURCES = ("elementwise.cu", "reductions.cu", "scans.cu")
KINDS = {("f", 4): "f", ("i", 4): "i", ("i", 2): "H", ("i", 1): "B"}
# Largest difference, relative to the largest value: two units of __expf and a division; sums by atomics in any order.
FREE = {"softmax": 2e-6, "sum_shuffle": 1e-6}


def records(path):
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        end = data.index(b"\n", at)
        name, kind, size, count = data[at:end].decode().split()
        at = end + 1 + int(size) * int(count)
        found.append((name, kind, array.array(KINDS[kind, int(size)], data[end + 1 : at])))
    return found


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--nvcc", required=True)
    arguments.add_argument("--emulate", default="target/release/cuda-emulate")
    arguments.add_argument("--orders", type=int, default=3, help="orders of threads and seeds to try")
    options = arguments.parse_args()
    libraries = [p for p in (pathlib.Path(options.nvcc).resolve().parent.parent / n for n in ("lib", "lib64")) if p.is_dir()]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        device, host = folder / "device", folder / "host"
        subprocess.run(
            [options.nvcc, "-std=c++17", "-arch=sm_80", "-fmad=false", "-lineinfo", "-w", f"-I{KERNELS}"]
            + [f"-L{path}" for path in libraries] + [HERE / "opinion.cu", "-o", device],
            check=True,
        )
        for name in SOURCES:
            text = (KERNELS / name).read_text()
            text = re.sub(r"extern __shared__ (\w+) (\w+)\[\];", r"\1* \2 = host_threads::dynamic_shared<\1>();", text)
            (folder / name).write_text(text)
        subprocess.run(
            ["g++", "-std=c++17", "-O2", "-ffp-contract=off", "-w", f"-I{folder}", "-include", HERE / "host_threads.h"]
            + ["-x", "c++", HERE / "opinion.cu", "-o", host],
            check=True,
        )
        kernels, elements, equal, worst = set(), 0, 0, 0.0
        for order in range(options.orders):
            by_device, by_host = folder / "device.bin", folder / "host.bin"
            subprocess.run([options.emulate, "--seed", str(order), device, by_device], check=True, stdout=subprocess.DEVNULL)
            environment = dict(os.environ, HOST_THREADS_ORDER=str(order))
            subprocess.run([host, by_host], check=True, stdout=subprocess.DEVNULL, env=environment)
            pairs = list(zip(records(by_device), records(by_host), strict=True))
            for (name, kind, ours), (other, _, theirs) in pairs:
                assert name == other and len(ours) == len(theirs)
                kernels.add(name)
                elements += len(ours)
                same = sum(a == b for a, b in zip(ours, theirs))
                equal += same
                if same < len(ours):
                    largest = max(abs(v) for v in theirs) or 1.0
                    difference = max(abs(a - b) for a, b in zip(ours, theirs)) / largest
                    worst = max(worst, difference)
                    if difference > FREE.get(name, 0.0):
                        sys.exit(f"{name}, order {order}: {len(ours) - same} of {len(ours)} differ, by {difference:.1e}")
    print(f"{len(kernels)} kernels, {elements} elements: {equal} equal to the bit, the others by at most {worst:.1e} of the largest")


if __name__ == "__main__":
    main()
