"""Operations that slide-level methods need, and k-means."""
import math

import numpy as np, torch
import torch.nn.functional as F
from generate import Draw, global_updater, kcrs, local_updater, nchw, nhwc, vit, vit_params
from reference.cases import *


def lengths(d, hi):
    n = [d.int(1, hi) for _ in range(d.int(2, 6))]
    n[d.int(0, len(n) - 1)] = 1
    n[d.int(0, len(n) - 1)] = hi
    return n


@case("segment_softmax")
def _(d):
    n = lengths(d, d.pick(33, 70, 300))
    t = dict(x=d.normal(sum(n), d.pick(1, 1, 3), scale=3.0, shift=d.pick(0.0, 80.0)), offsets=offsets_of(n))
    fn = lambda t: {"y": torch.cat([torch.softmax(t["x"][s:e], 0) for s, e in segments(t["offsets"])])}
    return dict(exact=["offsets"]), t, fn, ["x"]


@case("segment_weighted_sum")
def _(d):
    n = lengths(d, d.pick(9, 70))
    t = dict(x=d.normal(sum(n), d.int(1, 70)), weights=d.normal(sum(n)), offsets=offsets_of(n))
    fn = lambda t: {"y": torch.stack([(t["weights"][s:e, None] * t["x"][s:e]).sum(0) for s, e in segments(t["offsets"])])}
    return dict(exact=["offsets"]), t, fn, ["x", "weights"]


def topk_mean(x, offsets, k):
    """Mean of the k highest of every column in every segment; all of a segment shorter than k; of equals the earlier row."""
    out = []
    for s, e in segments(offsets):
        rows = torch.sort(-x[s:e], dim=0, stable=True).indices[:k]
        out.append(x[s:e].gather(0, rows).mean(0))
    return torch.stack(out)


@case("segment_topk_mean")
def _(d):
    n = lengths(d, d.pick(12, 40, 130))
    ties = d.index % 4 == 3
    k = [d.int(2, 8), 1, max(n) + d.int(1, 50), d.int(2, 5)][d.index % 4]
    x = d.normal(sum(n), d.int(1, 9))
    t = dict(scores=f64(np.round(x.numpy())) if ties else x, offsets=offsets_of(n))
    return dict(k=k, ties=ties, exact=["offsets"]), t, lambda t: {"y": topk_mean(t["scores"], t["offsets"], k)}, ["scores"]


def activation(name, fn):
    @case(name, "bias_act")
    def _(d):
        t = dict(x=d.normal(d.int(1, 3), d.int(1, 9), d.int(1, 9), d.int(1, 70), scale=4.0), bias=None)
        t["bias"] = d.normal(t["x"].shape[-1])
        return dict(act=name, alpha=0.0, gain=1.0, clamp=None), t, lambda t: {"y": fn(t["x"] + t["bias"])}, ["x", "bias"]


hardswish = F.hardswish  # x clamp(x + 3, 0, 6) / 6


activation("hardswish", hardswish)
activation("relu6", lambda x: x.clamp(0, 6))


@case("log_softmax")
def _(d):
    t = dict(x=d.normal(d.int(1, 17), d.pick(2, d.int(3, 70), 1025), scale=3.0, shift=d.pick(0.0, 80.0)))
    return {}, t, lambda t: {"y": torch.log_softmax(t["x"], -1)}, ["x"]


@case("cross_entropy")
def _(d):
    n, c = d.int(2, 40), d.pick(2, d.int(3, 9), 70)
    t = dict(logits=d.normal(n, c, scale=d.pick(1.0, 20.0)), target=f64(d.rng.integers(0, c, n)))
    if d.index % 2:
        t["weight"] = d.uniform(0.2, 3.0, c)

    def fn(t):
        y = t["target"].long()
        nll = -torch.log_softmax(t["logits"], -1).gather(1, y[:, None])[:, 0]
        w = t["weight"][y] if "weight" in t else torch.ones_like(nll)
        return {"loss": ((w * nll).sum() / w.sum()).reshape(1)}

    return dict(reduction="mean", exact=["target"]), t, fn, ["logits"]


@case("bce_with_logits")
def _(d):
    n, c = d.int(2, 40), d.pick(1, 1, d.int(2, 9))
    t = dict(logits=d.normal(n, c, scale=d.pick(1.0, 30.0)), target=f64(d.rng.integers(0, 2, (n, c))))
    if d.index % 2:
        t["pos_weight"] = d.uniform(0.2, 6.0, c)

    def fn(t):
        x, y = t["logits"], t["target"].to(t["logits"].dtype)
        w = t.get("pos_weight", torch.ones(c, dtype=x.dtype))
        return {"loss": (-w * y * F.logsigmoid(x) - (1 - y) * F.logsigmoid(-x)).mean().reshape(1)}

    return dict(reduction="mean", exact=["target"]), t, fn, ["logits"]


def lloyd(points, centres, rounds=100):
    """Lloyd's algorithm in f64; README.md says what ties, empty clusters and the end mean.
    Also returns, per round, how near the nearest two centres of any point came (relative), and how many clusters were empty."""
    p, c = points.numpy(), centres.numpy().copy()
    k, previous, gaps, empty = len(c), None, [], []
    for _ in range(rounds):
        dist = np.zeros((len(p), k))
        for axis in range(p.shape[1]):
            dist += (p[:, axis : axis + 1] - c[:, axis]) ** 2
        two = np.sort(dist, 1)[:, :2]
        gaps.append(((two[:, 1] - two[:, 0]) / two[:, 1]).min())
        a = dist.argmin(1)  # of equals the first
        own = dist[np.arange(len(p)), a]
        size = np.bincount(a, minlength=k)
        empty.append(int((size == 0).sum()))
        for j in range(k):
            if size[j] == 0:
                far = int(np.where(size[a] > 1, own, -1.0).argmax())
                size[a[far]] -= 1
                a[far], own[far], size[j] = j, 0.0, 1
        if previous is not None and (a == previous).all():
            break
        c = np.stack([p[a == j].sum(0) / size[j] for j in range(k)])
        previous = a
    else:
        raise ValueError("not converged")
    return a, c, ((p - c[a]) ** 2).sum(), gaps, empty


@case("kmeans")
def _(d):
    kind = ["grid", "blobs", "empty", "ties"][d.index % 4]
    for _ in range(5000):
        n, side, k = d.int(20, 90), d.int(10, 30), d.int(3, 9)
        if kind == "blobs":
            p = d.normal(n, 2, scale=3.0) + d.normal(k, 2, scale=20.0)[torch.from_numpy(d.rng.integers(0, k, n))]
            p = p.float().double()
        else:
            cells = d.rng.choice(side * side, n, replace=False)
            p = f64(np.stack([cells % side, cells // side], 1) * (1 if kind == "ties" else d.pick(224, 256)))
        c = p[torch.from_numpy(np.sort(d.rng.choice(n, k, replace=False)))].clone()
        if kind == "empty":
            c[d.int(0, k - 1)] = -10 * p.abs().max()  # nobody's nearest
        gaps, empty = lloyd(p, c)[3:]
        # ties and empty clusters in the first round only, where arithmetic is exact; nothing else may hang on rounding
        if len(gaps) >= 4 and min(gaps[1:]) > 1e-6 and (gaps[0] > 1e-6 or kind == "ties" and gaps[0] == 0) and (gaps[0] == 0) == (kind == "ties") and empty[0] == (kind == "empty") and not any(empty[1:]):
            break
    else:
        raise ValueError("no clear draw")
    t = dict(points=p, centres=c, features=d.normal(n, d.int(1, 12)))

    def fn(t):
        a, centres, objective, gaps, _ = lloyd(t["points"], t["centres"])
        means = torch.stack([t["features"][torch.from_numpy(a == j)].mean(0) for j in range(k)])
        return {**numbers(assignment=a, objective=objective), "centres": torch.from_numpy(centres), "means": means}

    return dict(k=k, rounds=100, kind=kind, exact=list(t)), t, fn, []
