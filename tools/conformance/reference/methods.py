"""Slide-level methods, as README.md defines them in words."""
import math

import numpy as np, torch
import torch.nn.functional as F
from generate import Draw, global_updater, kcrs, local_updater, nchw, nhwc, vit, vit_params
from reference.cases import *
from reference.operations import *


def bags(d, hi=9, slides=4):
    n = [d.int(2, hi) for _ in range(d.int(2, slides))]
    if d.index % 2:
        n[d.int(0, len(n) - 1)] = 1  # a slide of one patch
    return n


def coords_of(d, n, patch_px):
    """Top left corners (x, y) of whole patches, distinct within a slide, in any order."""
    side = d.int(7, 40)
    cells = np.concatenate([d.rng.choice(side * side, k, replace=False) for k in n])
    return f64(np.stack([cells % side, cells // side], 1) * patch_px)


def sincos2d(coords, width, patch_px):
    """[n, width]: sin x, cos x, sin y, cos y, a quarter of the width each; always computed in f64."""
    quarter = width // 4
    omega = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    x, y = (coords.double() / patch_px)[:, :1] * omega, (coords.double() / patch_px)[:, 1:] * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], 1)


def transformer_params(d, p, a, inputs, genes):
    """The vision transformer over a slide's patches: attributes vit_* of `a`."""
    w = a["vit_width"]
    p.linear("embed", inputs, w)
    if a["pool"] == "cls":
        p["cls_token"] = d.normal(1, w, scale=0.5)
    for i in range(a["vit_depth"]):
        p.add(f"vit.{i}.", vit_params(d, w, a["vit_mlp"]))
    p.norm("norm", w)
    p.linear("head", w, genes)


def transformer(t, x, a):
    x = linear(t, "embed", x)
    if a["position"] == "sincos2d":
        x = x + sincos2d(t["coords"], a["vit_width"], a["patch_px"]).to(x.dtype)
    out = []
    for s, e in segments(t["offsets"]):
        y = torch.cat([t["cls_token"], x[s:e]]) if a["pool"] == "cls" else x[s:e]
        y = y[None]
        for i in range(a["vit_depth"]):
            y = vit({"x": y, **sub(t, f"vit.{i}.")}, None, a["vit_heads"])
        y = norm(t, "norm", y[0], 1e-6)
        out.append(y[0] if a["pool"] == "cls" else y.mean(0))
    return linear(t, "head", torch.stack(out))


def transformer_sizes(d, heads=None, quarter=(2, 4)):
    heads = heads or d.pick(1, 2, 3)
    width = heads * 4 * d.int(*quarter)
    position, pool = [("none", "mean"), ("sincos2d", "mean"), ("none", "cls"), ("sincos2d", "cls")][d.index % 4]
    return dict(vit_width=width, vit_depth=d.int(1, 2), vit_heads=heads, vit_mlp=width * d.pick(2, 3), position=position, pool=pool, patch_px=d.pick(224, 256, 1024))


def targets(d, kind, slides, genes):
    if kind == "mse":  # far from any prediction: no gradient is the small difference of large ones
        return dict(target=d.normal(slides, genes, scale=0.5, shift=d.pick(-3.0, 3.0)))
    if kind == "bce":
        return dict(target=f64(d.rng.integers(0, 2, (slides, genes))), pos_weight=d.uniform(0.5, 4.0, genes))
    return dict(target=f64(d.rng.integers(0, genes, slides)))


def loss(kind, y, t):
    target = t["target"].to(y.dtype)
    if kind == "mse":
        value = (y - target).square().mean()
    elif kind == "bce":
        value = -(t["pos_weight"] * target * F.logsigmoid(y) + (1 - target) * F.logsigmoid(-y)).mean()
    else:
        value = -torch.log_softmax(y, -1).gather(1, t["target"].long()[:, None]).mean()
    return value.reshape(1)


def method(name, reads):
    """`build(d, n, p)` -> attributes, function (tensors -> predictions [slides, genes]); `p` gets the parameters."""

    def add(build):
        @case(name, "method", method=name)
        def _(d):
            for _ in range(200):
                n, p = build.bags(d) if hasattr(build, "bags") else bags(d), Params(d)
                genes, width = d.int(1, 5), d.int(3, 12)
                a, predict = build(d, n, p, genes, width)
                grid = a.get("grid", 0)
                t = {}
                if "global" in reads:
                    t["global"] = d.normal(sum(n), width)
                if "cube" in reads:
                    t["cube"] = d.normal(sum(n), grid, grid, width)
                if a.get("position") == "sincos2d":
                    t["coords"] = coords_of(d, n, a["patch_px"])
                t["offsets"] = offsets_of(n)
                kind = a.setdefault("loss", "mse")
                t.update(targets(d, kind, len(n), genes))
                inputs = list(t)
                t.update(p)

                def fn(t):
                    out = predict(t)
                    return {**out, "loss": loss(kind, out.get("prediction_k", out["prediction"]), t)}

                size = predict(t)["prediction"].square().mean().sqrt()
                if 0.5 < size < 5 and a.get("clear", lambda t: True)(t):
                    break  # a prediction of ordinary size, so that relative errors mean something
            else:
                raise ValueError("no clear draw")
            a.pop("clear", None)
            exact = [k for k in ("offsets", "coords") if k in t] + (["target"] if kind != "mse" else [])
            a = dict(genes=genes, width=width, slides=len(n), **a, inputs=inputs, exact=exact)
            return a, t, fn, [k for k in ("global", "cube") if k in t] + p.trained()

        return build

    return add


@method("mean-mlp", ["global"])
def _(d, n, p, genes, width):
    labels = d.index % 4 == 3  # a label of the slide, as in table 3: two hidden layers, sigmoid
    hidden = [d.int(5, 24) for _ in range(2 if labels else 1)]
    for i, h in enumerate(hidden):
        p.linear(f"hidden.{i}", ([width] + hidden)[i], h)
    p.linear("head", hidden[-1], genes)

    def predict(t):
        x = torch.stack([t["global"][s:e].mean(0) for s, e in segments(t["offsets"])])
        for i in range(len(hidden)):
            x = (torch.sigmoid if labels else F.relu)(linear(t, f"hidden.{i}", x))
        return {"prediction": linear(t, "head", x)}

    return dict(hidden=hidden, activation="sigmoid" if labels else "relu", loss="bce" if labels else "mse"), predict


@method("he2rna", ["global"])
def he2rna(d, n, p, genes, width):
    hidden = [d.int(6, 20), d.int(6, 20)]
    ks = [[1, 2, 5], [1, 2, 5, 10, 20, 50, 100], [2, 5, 10], [3]][d.index % 4]
    k = ks[d.int(0, len(ks) - 1)]
    p.linear("hidden.0", width, hidden[0], gain=1.4)
    p.linear("hidden.1", hidden[0], hidden[1], gain=1.4)
    p.linear("head", hidden[1], genes)

    def scores(t):
        return linear(t, "head", F.relu(linear(t, "hidden.1", F.relu(linear(t, "hidden.0", t["global"])))))

    def predict(t):
        s = scores(t)
        mean = sum(topk_mean(s, t["offsets"], j) for j in ks) / len(ks)
        return {"prediction": mean, "prediction_k": topk_mean(s, t["offsets"], k)}

    def clear(t):
        """No score stands so near the k-th that 16-bit rounding could swap them."""
        s = scores(t)
        gaps = [s[a:b].sort(0, descending=True).values for a, b in segments(t["offsets"]) if b - a > k]
        return all((v[k - 1] - v[k]).min() > 0.05 * s.std() for v in gaps)

    return dict(hidden=hidden, ks=ks, train_k=k, clear=clear), predict


def he2rna_bags(d):
    n = [d.int(2, 25) for _ in range(d.int(2, 3))]
    return n + [1] if d.index % 2 else n


he2rna.bags = he2rna_bags


def vit_method(name, heads, quarter):
    @method(name, ["global"])
    def _(d, n, p, genes, width):
        a = transformer_sizes(d, heads, quarter)
        transformer_params(d, p, a, width, genes)
        return a, lambda t: {"prediction": transformer(t, t["global"], a)}


vit_method("vit-s", 2, (2, 3))
vit_method("vit-b", 3, (3, 4))


def mbconv_init(d, p, prefix, c, expansion, kernel, squeeze, kind):
    h, n = c * expansion, (p.bn if kind == "batch" else p.norm)
    if expansion != 1:
        p[prefix + "expand.weight"] = d.normal(h, c, scale=c**-0.5)
        n(prefix + "bn0", h)
    p[prefix + "depthwise.weight"] = d.normal(kernel, kernel, h, scale=1 / kernel)
    n(prefix + "bn1", h)
    p.linear(prefix + "se.reduce", h, squeeze)
    p.linear(prefix + "se.expand", squeeze, h)
    p.linear(prefix + "project", h, c, bias=False)
    n(prefix + "bn2", c)


def mbconv(t, x, kind):
    """Stride 1, equal widths: always a residual path."""
    n = (lambda name, y: bn(t, name, y)) if kind == "batch" else (lambda name, y: norm(t, name, y, 1e-6))
    y = x
    if "expand.weight" in t:
        y = F.silu(n("bn0", linear(t, "expand", y)))
    y = F.silu(n("bn1", depthwise(t, "depthwise", y)))
    s = torch.sigmoid(linear(t, "se.expand", F.silu(linear(t, "se.reduce", y.mean(dim=[1, 2])))))
    return x + n("bn2", linear(t, "project", y * s[:, None, None, :]))


def mbconv_sizes(d):
    return dict(grid=d.pick(2, 4, 5, 8), mbconv_blocks=d.int(1, 3), mbconv_expansion=d.pick(2, 2, 4, 1), mbconv_kernel=d.pick(3, 3, 5), mbconv_squeeze=d.int(1, 3),
                mbconv_norm=["batch", "layer"][d.index % 2])


def mbconv_stack(d, p, a, width):
    for i in range(a["mbconv_blocks"]):
        mbconv_init(d, p, f"mbconv.{i}.", width, a["mbconv_expansion"], a["mbconv_kernel"], a["mbconv_squeeze"], a["mbconv_norm"])


@method("vit-mb", ["cube"])
def _(d, n, p, genes, width):
    a = {**mbconv_sizes(d), **transformer_sizes(d)}
    mbconv_stack(d, p, a, width)
    transformer_params(d, p, a, width, genes)

    def predict(t):
        x = t["cube"]
        for i in range(a["mbconv_blocks"]):
            x = mbconv(sub(t, f"mbconv.{i}."), x, a["mbconv_norm"])
        return {"prediction": transformer(t, x.mean(dim=[1, 2]), a)}

    return a, predict


@method("isg", ["global", "cube"])
def _(d, n, p, genes, width):
    """Dual attention with the paper's literal updaters; the last global updater, which nothing reads, does not exist."""
    a = {**mbconv_sizes(d), **transformer_sizes(d)}
    every = d.pick(1, 2)
    a.update(mbconv_blocks=d.pick(2, 4), fusion_every=every, fusion_residual=False, fusion_norm=False)
    fusions, g, s = a["mbconv_blocks"] // every, a["grid"], width**-0.5
    mbconv_stack(d, p, a, width)
    for j in range(fusions):
        for k in ("w_q", "w_k", "w_v", "w_r") + (("w_z", "w_p", "w_f") if j + 1 < fusions else ()):
            p[f"fusion.{j}.{k}"] = d.normal(g * g if k in ("w_q", "w_z") else width, width, scale=s)
    transformer_params(d, p, a, width, genes)

    def predict(t):
        R, f = t["cube"], t["global"]
        for i in range(a["mbconv_blocks"]):
            R = mbconv(sub(t, f"mbconv.{i}."), R, a["mbconv_norm"])
            if (i + 1) % every == 0:
                w = sub(t, f"fusion.{(i + 1) // every - 1}.")
                g = global_updater(R, f, w["w_z"], w["w_p"], w["w_f"]) if "w_z" in w else None
                R, f = local_updater(R, f, w["w_q"], w["w_k"], w["w_v"], w["w_r"]), g
        return {"prediction": transformer(t, R.mean(dim=[1, 2]), a)}

    return a, predict


def cycle_shift(x, axis):
    """Channel i of x [n,h,w,c] read at ((i+1) mod 3) - 1 further along the axis, zero outside."""
    pad = F.pad(x, [0, 0, 1, 1, 0, 0] if axis == 2 else [0, 0, 0, 0, 1, 1])
    size = x.shape[axis]
    parts = [pad.narrow(axis, 1 + o, size) for o in (-1, 0, 1)]
    pick = (torch.arange(x.shape[3]) + 1) % 3
    return torch.where(pick == 0, parts[0], torch.where(pick == 1, parts[1], parts[2]))


def cycle_params(p, b, c, ratio):
    p.norm(b + "ln1", c)
    p.linear(b + "h", c, c)
    p.linear(b + "w", c, c)
    p.linear(b + "c", c, c, bias=False)
    p.linear(b + "gate.fc1", c, c // 4)
    p.linear(b + "gate.fc2", c // 4, 3 * c)
    p.linear(b + "out", c, c)
    p.norm(b + "ln2", c)
    p.linear(b + "fc1", c, ratio * c)
    p.linear(b + "fc2", ratio * c, c)


def cycle_block(t, x):
    y = norm(t, "ln1", x, 1e-5)
    h, w, c = linear(t, "h", cycle_shift(y, 2)), linear(t, "w", cycle_shift(y, 1)), linear(t, "c", y)
    a = (h + w + c).mean(dim=[1, 2])
    r = linear(t, "gate.fc2", F.gelu(linear(t, "gate.fc1", a))).reshape(len(x), 1, 1, -1, 3).softmax(-1)
    x = x + linear(t, "out", h * r[..., 0] + w * r[..., 1] + c * r[..., 2])
    return x + linear(t, "fc2", F.gelu(linear(t, "fc1", norm(t, "ln2", x, 1e-5))))


@method("cyclemlp", ["cube"])
def _(d, n, p, genes, width):
    dims = [4 * d.int(1, 2), 4 * d.int(2, 3), 4 * d.int(2, 4), 4 * d.int(3, 5)]
    depths = [d.int(1, 2), 1, d.pick(1, 2), 1]
    a = dict(grid=d.pick(8, 4, 5, 7), dims=dims, depths=depths, mlp_ratio=d.pick(4, 2), **transformer_sizes(d))
    p.linear("stem", width, dims[0])
    for s in range(4):
        for b in range(depths[s]):
            cycle_params(p, f"stages.{s}.{b}.", dims[s], a["mlp_ratio"])
        if s < 3:
            p[f"down.{s}.weight"], p[f"down.{s}.bias"] = d.normal(dims[s + 1], 3, 3, dims[s], scale=(9 * dims[s]) ** -0.5), d.normal(dims[s + 1], scale=0.2)
    p.norm("token_norm", dims[3])
    transformer_params(d, p, a, dims[3], genes)

    def predict(t):
        x = linear(t, "stem", t["cube"])
        for s in range(4):
            for b in range(depths[s]):
                x = cycle_block(sub(t, f"stages.{s}.{b}."), x)
            if s < 3:
                x = nhwc(F.conv2d(nchw(x), kcrs(t[f"down.{s}.weight"]), t[f"down.{s}.bias"], 2, 1))
        return {"prediction": transformer(t, norm(t, "token_norm", x, 1e-5).mean(dim=[1, 2]), a)}

    return a, predict


WINDOWS = [(3, 2), (5, 3), (7, 3)]  # kernel, heads


def mpvit_params(d, p, a, width):
    dims, ratio = a["dims"], a["mlp_ratio"]
    p.linear("stem", width, dims[0], bias=False)
    p.bn("stem.bn", dims[0])
    for i, c in enumerate(dims):
        s, paths = f"stages.{i}.", a["paths"][i]
        for j in range(paths):
            p[f"{s}embed.{j}.depthwise.weight"] = d.normal(3, 3, c, scale=1 / 3)
            p.linear(f"{s}embed.{j}.pointwise", c, c, bias=False)
            p.bn(f"{s}embed.{j}.bn", c)
            e = f"{s}paths.{j}."
            p[e + "cpe.weight"], p[e + "cpe.bias"] = d.normal(3, 3, c, scale=1 / 3), d.normal(c, scale=0.2)
            for k, h in WINDOWS:
                w = c // 8 * h
                p[f"{e}crpe.{k}.weight"], p[f"{e}crpe.{k}.bias"] = d.normal(k, k, w, scale=1 / k), d.normal(w, scale=0.2)
            for l in range(a["layers"][i]):
                b = f"{e}blocks.{l}."
                p.norm(b + "ln1", c)
                p.linear(b + "qkv", c, 3 * c)
                p.linear(b + "proj", c, c)
                p.norm(b + "ln2", c)
                p.linear(b + "fc1", c, ratio * c)
                p.linear(b + "fc2", ratio * c, c)
        r = s + "inverted."
        p.linear(r + "expand", c, c, bias=False)
        p.bn(r + "bn0", c)
        p[r + "depthwise.weight"] = d.normal(3, 3, c, scale=1 / 3)
        p.bn(r + "bn1", c)
        p.linear(r + "project", c, c, bias=False)
        p.bn(r + "bn2", c)
        p.linear(s + "merge", (paths + 1) * c, dims[min(i + 1, 3)], bias=False)
        p.bn(s + "merge.bn", dims[min(i + 1, 3)])


def relative_positions(t, q, v, g):
    """q times v convolved over the grid, a window for each group of heads; [n, 8, g g, dh]."""
    n, _, _, dh = v.shape
    image, parts, at = v.permute(0, 2, 1, 3).reshape(n, g, g, 8 * dh), [], 0
    for kernel, heads in WINDOWS:
        parts.append(depthwise(t, f"crpe.{kernel}", image[..., at * dh : (at + heads) * dh]))
        at += heads
    return q * torch.cat(parts, -1).reshape(n, g * g, 8, dh).permute(0, 2, 1, 3)


def mpvit_encoder(t, x, layers):
    n, g, _, c = x.shape
    dh = c // 8
    for l in range(layers):
        b = sub(t, f"blocks.{l}.")
        x = x + depthwise(t, "cpe", x)
        y = norm(b, "ln1", x, 1e-6)
        q, k, v = linear(b, "qkv", y).reshape(n, g * g, 3, 8, dh).permute(2, 0, 3, 1, 4)
        factor = q @ (torch.softmax(k, 2).mT @ v)  # softmax over the tokens
        y = factor * dh**-0.5 + relative_positions(t, q, v, g)
        x = x + linear(b, "proj", y.permute(0, 2, 1, 3).reshape(n, g, g, c))
        x = x + linear(b, "fc2", F.gelu(linear(b, "fc1", norm(b, "ln2", x, 1e-6))))
    return x


def mpvit_inverted(t, x):
    y = hardswish(bn(t, "bn0", linear(t, "expand", x)))
    y = hardswish(bn(t, "bn1", depthwise(t, "depthwise", y)))
    return x + bn(t, "bn2", linear(t, "project", y))


@method("mpvit", ["cube"])
def _(d, n, p, genes, width):
    a = dict(grid=d.pick(8, 4, 5, 7), dims=[8, 8 * d.int(1, 2), 8 * d.int(1, 2), 8 * d.int(1, 2)], layers=[1, d.int(1, 2), 1, 1],
             paths=[d.int(1, 2), 3 if d.index % 2 else 2, 2, d.int(1, 2)], mlp_ratio=d.pick(2, 2, 3), heads=8, **transformer_sizes(d, d.int(1, 2)))
    mpvit_params(d, p, a, width)
    transformer_params(d, p, a, a["dims"][3], genes)

    def predict(t):
        x = hardswish(bn(t, "stem.bn", linear(t, "stem", t["cube"])))
        for i in range(4):
            s = sub(t, f"stages.{i}.")
            paths = []
            for j in range(a["paths"][i]):
                e = sub(s, f"embed.{j}.")
                x = depthwise(e, "depthwise", x, 2 if i > 0 and j == 0 else 1)
                x = hardswish(bn(e, "bn", linear(e, "pointwise", x)))
                paths.append(x)
            out = [mpvit_inverted(sub(s, "inverted."), paths[0])]
            out += [mpvit_encoder(sub(s, f"paths.{j}."), y, a["layers"][i]) for j, y in enumerate(paths)]
            x = hardswish(bn(s, "merge.bn", linear(s, "merge", torch.cat(out, -1))))
        return {"prediction": transformer(t, x.mean(dim=[1, 2]), a)}

    return a, predict


@method("abmil", ["global"])
def _(d, n, p, genes, width):
    hidden, attention = d.int(6, 24), d.int(4, 16)
    p.linear("embed", width, hidden, gain=1.4)
    p.linear("attention.v", hidden, attention)
    p.linear("attention.u", hidden, attention)
    p.linear("attention.w", attention, 1, bias=False, gain=3.0)
    p.linear("head", hidden, genes)

    def predict(t):
        h = F.relu(linear(t, "embed", t["global"]))
        s = linear(t, "attention.w", torch.tanh(linear(t, "attention.v", h)) * torch.sigmoid(linear(t, "attention.u", h)))
        a = torch.cat([torch.softmax(s[b:e], 0) for b, e in segments(t["offsets"])])
        z = torch.stack([(a[b:e] * h[b:e]).sum(0) for b, e in segments(t["offsets"])])
        return {"prediction": linear(t, "head", z), "weights": a[:, 0]}

    return dict(hidden=hidden, attention=attention, loss="cross_entropy" if d.index % 4 == 3 and genes > 1 else "mse"), predict


@method("sequoia", ["global"])
def sequoia(d, n, p, genes, width):
    a = dict(clusters=max(n) + d.int(0, 2), depth=d.int(1, 2), heads=d.int(2, 4), head_width=d.int(4, 9))
    m, hw = a["heads"] * a["head_width"], a["head_width"]
    p["position"] = d.normal(a["clusters"], width)
    for i in range(a["depth"]):
        b = f"blocks.{i}."
        for k in ("local", "summary"):
            p.linear(b + k, width, m)
            p.norm(b + k + "_norm", m)
        p.linear(b + "combine", 2 * hw, m)
        p.linear(b + "proj", m, width)
        p.norm(b + "ln", width)
        p.linear(b + "fc1", width, width)
        p.linear(b + "fc2", width, width)
    p.norm("norm", width)
    p.linear("head", width, genes)

    def heads_norm(t, name, x):
        y = F.layer_norm(x.reshape(-1, a["heads"], hw), [hw], None, None, 1e-5)
        return y * t[name + ".weight"].reshape(a["heads"], hw) + t[name + ".bias"].reshape(a["heads"], hw)

    def predict(t):
        out = []
        for s, e in segments(t["offsets"]):
            x = t["global"][s:e] + t["position"][: e - s]
            for i in range(a["depth"]):
                b = sub(t, f"blocks.{i}.")
                local = F.gelu(heads_norm(b, "local_norm", linear(b, "local", x)))
                summary = F.gelu(heads_norm(b, "summary_norm", linear(b, "summary", x).mean(0, keepdim=True)))
                both = torch.cat([local, summary.expand(local.shape)], -1)  # [n, heads, 2 head_width]
                w, bias = b["combine.weight"].reshape(a["heads"], hw, 2 * hw), b["combine.bias"]
                y = F.gelu(torch.einsum("nhi,hoi->nho", both, w).reshape(len(x), m) + bias)
                x = x + linear(b, "proj", y)
                x = x + linear(b, "fc2", F.gelu(linear(b, "fc1", norm(b, "ln", x, 1e-5))))
            out.append(norm(t, "norm", x.mean(0), 1e-5))
        return {"prediction": linear(t, "head", torch.stack(out))}

    return a, predict
