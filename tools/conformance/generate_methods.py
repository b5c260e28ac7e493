#!/usr/bin/env python3
"""Writes conformance cases of slide-level methods, patch encoders, the operations they need, and statistics.

    python generate_methods.py OUT_DIR [--seed N] [--only CASE[,CASE...]] [--repeat K]
    python generate_methods.py --check              hold the formulas below against independent implementations
    python generate_methods.py --measure            the reference itself in f32, f16, bf16 against its f64

Needs torch and numpy (mpmath comes with torch); --check also torchvision, timm, scikit-learn and scipy. The section "Methods, encoders, statistics" of
README.md describes in words what the code below computes. Same seed, same torch, same machine: same bytes.
"""
import argparse, json, math, os, struct, sys
from contextlib import nullcontext
sys.dont_write_bytecode = True
import numpy as np, torch
from generate import Draw
from reference.cases import *
from reference.operations import *
from reference.methods import *
from reference.encoders import *
from reference.statistics import *

torch.set_num_threads(1)


# ---------------------------------------------------------------- what a narrower type makes of a case
TOLERANCE = {"f64": (1e-12, 1e-11), "f32": (2e-5, 1e-4), "f16": (5e-3, 2e-2), "bf16": (3e-2, 8e-2)}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dtype):
        ctx.dtype = dtype
        return x.to(dtype).float()

    @staticmethod
    def backward(ctx, dy):
        return dy.to(ctx.dtype).float(), None


class Narrow(torch.overrides.TorchFunctionMode):
    """Every operation computes in f32; its result, and the gradient that comes back to it, are rounded to 16 bits."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func, types, args=(), kwargs=None):
        y = func(*args, **(kwargs or {}))
        plain = isinstance(y, torch.Tensor) and y.dtype == torch.float32 and func.__name__ not in ("requires_grad_", "detach", "clone")
        return Round.apply(y, self.dtype) if plain else y


def error(ours, reference):
    scale = reference.norm() if (reference.abs() >= 1e-10).any() else math.sqrt(reference.numel())
    return float((ours.double() - reference).norm() / scale)


def narrowed(op, attrs, inputs, fn, wrt, cotangents, dt):
    """Errors of the reference itself run in a narrower type, in units of the accepted error: by output, by gradient."""
    dtype, exact = DTYPES[dt], attrs.get("exact", [])
    rounded = {k: v if k in exact else v.to(dtype).double() for k, v in inputs.items()}
    outs, cotangents, grads = evaluate(rounded, fn, wrt, {k: v.to(dtype).double() for k, v in cotangents.items()})
    with nullcontext() if dt == "f32" or op == "bias_act" else Narrow(dtype):
        outs2, _, grads2 = evaluate({k: v if k in exact else v.float() for k, v in rounded.items()}, fn, wrt, cotangents)
    if op in ("method", "encoder") and dt != "f32" and grads:  # in 16 bits all gradients are one vector
        grads, grads2 = ({"gradients": torch.cat([v.to(dtype).flatten() if x is grads2 else v.flatten() for v in x.values()])} for x in (grads, grads2))
    pairs = (outs, outs2, TOLERANCE[dt][0]), (grads, grads2, TOLERANCE[dt][1])
    return [{k: error(got[k].detach().to(dtype), want[k].detach()) / limit for k in want} for want, got, limit in pairs]


# ---------------------------------------------------------------- driver
def draw(name, seed, index):
    """A draw of a method or encoder that rounding alone would carry near the accepted error is drawn again."""
    op, fixed, build = CASES[name]
    d, cotangents = Draw(seed, "methods/" + name, index), None
    for _ in range(100):
        attrs, inputs, fn, wrt = build(d)
        attrs = {**fixed, **attrs}
        if op not in ("method", "encoder"):
            break
        _, cotangents, _ = evaluate(inputs, fn, wrt, None, d)
        if all(e < (0.2 if dt == "f32" else 0.6) for dt in DTYPES for errors in narrowed(op, attrs, inputs, fn, wrt, cotangents, dt) for e in errors.values()):
            break
    else:
        raise ValueError(f"{name} {index}: no good draw")
    if cotangents is None:
        _, cotangents, _ = evaluate(inputs, fn, wrt, None, d)
    return op, attrs, inputs, fn, wrt, cotangents


def evaluate(inputs, fn, wrt, cotangents=None, d=None):
    """Outputs, cotangents (drawn where none are given; 1 for a loss) and gradients."""
    t = {k: v.detach().clone().requires_grad_(k in wrt) for k, v in inputs.items()}
    outs = fn(t)
    if not wrt:
        return outs, {}, {}
    if cotangents is None:
        if "loss" in outs:
            cotangents = {"loss": torch.ones(1)}
        else:
            cotangents = {k: d.normal(*v.shape) for k, v in outs.items() if v.requires_grad}
    total = sum((outs[k] * c.to(outs[k].dtype)).sum() for k, c in cotangents.items())
    return outs, cotangents, dict(zip(wrt, torch.autograd.grad(total, [t[k] for k in wrt])))


def safetensors(path, tensors, metadata):
    """Entries by name, so that equal tensors make equal bytes (the safetensors package orders metadata by chance)."""
    header, at, tensors = {"__metadata__": dict(sorted(metadata.items()))}, 0, dict(sorted(tensors.items()))
    for k, v in tensors.items():
        header[k] = dict(dtype="F32" if v.dtype == np.float32 else "F64", shape=list(v.shape), data_offsets=[at, at + v.nbytes])
        at += v.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for v in tensors.values():
            f.write(np.ascontiguousarray(v).tobytes())


def write(out_dir, name, seed, index):
    op, attrs, inputs, fn, wrt, cotangents = draw(name, seed, index)
    outs, cotangents, grads = evaluate(inputs, fn, wrt, cotangents)
    blob = {f"in.{k}": v.numpy().astype(np.float32) for k, v in inputs.items()}
    for k, v in inputs.items():
        assert np.array_equal(blob["in." + k].astype(np.float64), v.numpy()), (name, k, "not exact in float32")
    blob.update({f"cotangent.{k}": v.numpy().astype(np.float32) for k, v in cotangents.items()})
    blob.update({f"out.{k}": v.detach().numpy().astype(np.float64) for k, v in outs.items()})
    blob.update({f"grad.{k}": v.numpy().astype(np.float64) for k, v in grads.items()})
    assert all(np.isfinite(v).all() for v in blob.values()), (name, index, "not finite")
    for k, v in blob.items():
        assert not k.startswith("grad.") or np.abs(v).max() > 1e-8, (name, index, k, "no gradient")
    path = os.path.join(out_dir, f"{name}-{index:02}.safetensors")
    safetensors(path, blob, {"format": "isg-conformance-1", "op": op, "attrs": json.dumps(attrs)})


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out", nargs="?")
    p.add_argument("--seed", default="visible")
    p.add_argument("--only", default="")
    p.add_argument("--repeat", type=int, default=4)
    p.add_argument("--check", action="store_true")
    p.add_argument("--measure", action="store_true")
    a = p.parse_args()
    names = a.only.split(",") if a.only else list(CASES)
    if a.check or a.measure:
        import check_methods
        return check_methods.check() if a.check else check_methods.measure(names, a.seed, a.repeat)
    if not a.out:
        p.error("where to? OUT_DIR")
    os.makedirs(a.out, exist_ok=True)
    for name in names:
        for i in range(a.repeat):
            write(a.out, name, a.seed, i)
    print(f"{a.repeat} cases each of {len(names)} in {a.out}")


if __name__ == "__main__":
    main()
