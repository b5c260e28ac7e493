"""What cases of methods, encoders and statistics are made of: drawn parameters, layers, segments."""
import math

import numpy as np, torch
import torch.nn.functional as F
from generate import Draw, global_updater, kcrs, local_updater, nchw, nhwc, vit, vit_params


CASES = {}


def case(name, op=None, **fixed):
    def add(fn):
        CASES[name] = (op or name, fixed, fn)
        return fn
    return add


def f64(x):
    return torch.from_numpy(np.asarray(x, dtype=np.float32).astype(np.float64))


class Params(dict):
    """Named parameters, drawn as they are asked for."""

    def __init__(self, d):
        super().__init__()
        self.d = d

    def linear(self, name, i, o, bias=True, gain=1.0):
        self[name + ".weight"] = self.d.normal(o, i, scale=gain * i**-0.5)
        if bias:
            self[name + ".bias"] = self.d.normal(o, scale=0.2)

    def norm(self, name, c):
        self[name + ".weight"], self[name + ".bias"] = self.d.normal(c, scale=0.2, shift=1.0), self.d.normal(c, scale=0.2)

    def bn(self, name, c):
        self.norm(name, c)
        self[name + ".running_mean"], self[name + ".running_var"] = self.d.normal(c, scale=0.3), self.d.uniform(0.5, 2.0, c)

    def add(self, prefix, tensors):
        self.update({prefix + k: v for k, v in tensors.items()})

    def trained(self):
        return [k for k in self if "running" not in k]


def linear(t, name, x):
    return F.linear(x, t[name + ".weight"], t.get(name + ".bias"))


def norm(t, name, x, eps):
    return F.layer_norm(x, [x.shape[-1]], t[name + ".weight"], t[name + ".bias"], eps)


def bn(t, name, x, eps=1e-5):
    """Batch normalisation with running statistics, channels last."""
    b = [t[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x.reshape(-1, x.shape[-1]), *b, False, 0.0, eps).reshape(x.shape)


def depthwise(t, name, x, stride=1):
    """Weights [R,S,C], padding half the kernel; channels last."""
    w = t[name + ".weight"]
    return nhwc(F.conv2d(nchw(x), w.permute(2, 0, 1)[:, None], t.get(name + ".bias"), stride, w.shape[0] // 2, 1, w.shape[2]))


def sub(t, prefix):
    return {k[len(prefix):]: v for k, v in t.items() if k.startswith(prefix)}


def segments(offsets):
    o = [int(v) for v in offsets]
    return list(zip(o[:-1], o[1:]))


def offsets_of(lengths):
    return f64(np.cumsum([0] + lengths))


def numbers(**values):
    return {k: torch.as_tensor(np.atleast_1d(np.asarray(v, dtype=np.float64))) for k, v in values.items()}
