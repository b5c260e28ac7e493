"""Writes the PyTorch files beside it that tests/weights.rs reads. Run by hand where torch is installed; outputs are committed.

Values are arange / 8, exact in every float type, so that the tests can name what to expect.
"""

import pathlib
from collections import OrderedDict

import torch

here = pathlib.Path(__file__).parent


def ramp(*shape, dtype=torch.float32):
    n = 1
    for d in shape:
        n *= d
    return (torch.arange(n, dtype=torch.float64) / 8).reshape(shape).to(dtype)


base = ramp(4, 6)
content = OrderedDict(
    f32=ramp(2, 3),
    f64=ramp(5, dtype=torch.float64),
    f16=ramp(3, 2, dtype=torch.float16),
    bf16=ramp(4, dtype=torch.bfloat16),
    i64=torch.tensor([-1, 2**40, 3]),
    i32=torch.tensor([-7, 8], dtype=torch.int32),
    i16=torch.tensor([-300, 300], dtype=torch.int16),
    i8=torch.tensor([-5, 5], dtype=torch.int8),
    u8=torch.tensor([0, 255], dtype=torch.uint8),
    flag=torch.tensor([True, False, True]),
    scalar=torch.tensor(2.5),
    empty=torch.zeros(0, 3),
    whole=base,
    transposed=base.t(),
    column=base[:, 2],
    corner=base[1:3, 2:5],
    every_other=base[::2, ::3],
    expanded=torch.tensor([1.5]).expand(3, 2),
    parameter=torch.nn.Parameter(ramp(2, 2)),
)
checkpoint = {
    "epoch": 3,
    "note": "naïve",
    "lr": 1e-3,
    "state_dict": content,
    "optimizer": {"state": {0: {"step": torch.tensor(7.0), "exp_avg": ramp(2)}}, "param_groups": [{"params": [0, 1]}]},
    "list": [ramp(1), (ramp(2), None)],
}
torch.save(checkpoint, here / "zip.pth")
torch.save(checkpoint, here / "legacy.pth", _use_new_zipfile_serialization=False)
torch.save(checkpoint, here / "protocol4.pth", pickle_protocol=4)

model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
for i, t in enumerate(model.state_dict().values()):
    t.copy_(ramp(*t.shape).to(t.dtype) + i)
torch.save(model.state_dict(), here / "state_dict.pth")
torch.save(model.state_dict(), here / "state_dict_legacy.pth", _use_new_zipfile_serialization=False)
torch.save(model, here / "refused_model.pth")
torch.save({"u16": torch.tensor([1, 65535], dtype=torch.uint16)}, here / "untyped.pth")
torch.save({"z": torch.tensor([1 + 2j])}, here / "refused_complex.pth")
torch.save(ramp(3), here / "one_tensor.pth")
