"""Writes earliest.h5.gz and latest.h5.gz, one of each of the layouts that are read: python make.py (h5py 3.16, HDF5 2.0).

Every array counts up from 0, so that the test knows what it holds without the file.
"""

import gzip
import io

import h5py
import numpy as np


def count(*shape, dtype):
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


def fill(file, latest):
    plain = file.create_dataset("plain", data=count(3, 4, dtype="<f4"))
    plain.attrs["patch_size"] = 256
    plain.attrs["name"] = "slide é"
    plain.attrs["bytes"] = np.bytes_("fixed")
    plain.attrs["factors"] = [0.5, 2.0]
    plain.attrs["texts"] = ["a", "", "bcd"]
    plain.attrs["nothing"] = h5py.Empty("f")
    file.create_dataset("rows", data=count(7, 4, dtype="<f4"), chunks=(1, 4), maxshape=(None, 4))
    packed = dict(compression="gzip", shuffle=True, fletcher32=True)
    file.create_dataset("packed", data=count(9, 5, dtype="<i8"), chunks=(4, 3), **packed)
    file.create_dataset("packed_rows", data=count(5, 3, dtype="<f2"), chunks=(2, 3), maxshape=(None, 3), **packed)
    file.create_dataset("lzf", data=count(4, 16, dtype="<i4") // 16, chunks=(4, 16), compression="lzf")
    holes = file.create_dataset("holes", shape=(6, 2), dtype="<i2", chunks=(2, 2), fillvalue=-1)
    holes[3] = [6, 7]
    file.create_dataset("group/big", data=count(2, 3, dtype=">f8"))
    file.create_dataset("flags", data=count(4, dtype="i1") % 2 == 1)
    file.create_dataset("scalar", data=np.float64(2.5))
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((2, 2))
    compact = h5py.h5d.create(file.id, b"compact", h5py.h5t.STD_U16LE, space, create)
    compact.write(h5py.h5s.ALL, h5py.h5s.ALL, count(2, 2, dtype="<u2"))
    if latest:
        file.create_dataset("single", data=count(3, 2, dtype="<f4"), chunks=(3, 2))
        file.create_dataset("single_packed", data=count(3, 2, dtype="<f4"), chunks=(3, 2), compression="gzip")
        file.create_dataset("fixed", data=count(5, 2, dtype="<f4"), chunks=(2, 2))
        file.create_dataset("along_second", data=count(3, 5, dtype="<u1"), chunks=(2, 2), maxshape=(4, None))
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_chunk((2, 2))
        create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        space = h5py.h5s.create_simple((3, 3))
        implicit = h5py.h5d.create(file.id, b"implicit", h5py.h5t.STD_U8LE, space, create)
        implicit.write(h5py.h5s.ALL, h5py.h5s.ALL, count(3, 3, dtype="u1"))
        file.create_dataset("grows", data=count(3, 3, dtype="u1"), chunks=(2, 2), maxshape=(None, None))
        for i in range(12):
            file["plain"].attrs[f"more{i}"] = i
    file["text"] = "not numbers"
    file["soft"] = h5py.SoftLink("/plain")


for name in ["earliest", "latest"]:
    memory = io.BytesIO()
    with h5py.File(memory, "w", libver=name) as file:
        fill(file, name == "latest")
    with open(f"{name}.h5.gz", "wb") as packed:
        packed.write(gzip.compress(memory.getvalue(), mtime=0))
