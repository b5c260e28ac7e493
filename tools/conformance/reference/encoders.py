"""Patch encoders; parameters are named and laid out as in the files people hold."""
import math

import numpy as np, torch
import torch.nn.functional as F
from generate import Draw, global_updater, kcrs, local_updater, nchw, nhwc, vit, vit_params
from reference.cases import *
from reference.methods import *


def conv(t, name, x, stride=1, padding=0, groups=1):
    """Channels first, weights [K,C,R,S]."""
    return F.conv2d(x, t[name + ".weight"], t.get(name + ".bias"), stride, padding, 1, groups)


def bn2d(t, name, x, eps):
    return F.batch_norm(x, *[t[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")], False, 0.0, eps)


def conv_params(p, name, i, o, r, groups=1, gain=2**0.5):
    p[name + ".weight"] = p.d.normal(o, i // groups, r, r, scale=gain * (r * r * i // groups) ** -0.5)


def encoder(name):
    """`build(d, p)` -> attributes, function (tensors -> features)."""

    def add(build):
        @case(name, "encoder", encoder=name)
        def _(d):
            p = Params(d)
            a, forward = build(d, p)
            h, w = a["image"]
            t = dict(image=d.normal(2, h, w, 3), **p)
            wrt = [k for k in p.trained() if k.startswith("layer4.")] if a["gradients"] else []
            return dict(**a, inputs=["image"]), t, forward, wrt

        return build

    return add


def resnet_params(p, block, layers, widths):
    conv_params(p, "conv1", 3, widths[0], 7)
    p.bn("bn1", widths[0])
    c, expansion = widths[0], 4 if block == "bottleneck" else 1
    for s, (count, w) in enumerate(zip(layers, widths)):
        for b in range(count):
            n, out = f"layer{s + 1}.{b}.", w * expansion
            kernels = [(c, w, 1), (w, w, 3), (w, out, 1)] if block == "bottleneck" else [(c, w, 3), (w, w, 3)]
            for i, (ci, co, r) in enumerate(kernels):
                conv_params(p, f"{n}conv{i + 1}", ci, co, r, gain=1.0 if i else 2**0.5)
                p.bn(f"{n}bn{i + 1}", co)
            if b == 0 and (c != out or s > 0):
                conv_params(p, n + "downsample.0", c, out, 1, gain=1.0)
                p.bn(n + "downsample.1", out)
            c = out


def resnet(t, block, layers):
    x = F.relu(bn2d(t, "bn1", conv(t, "conv1", nchw(t["image"]), 2, 3), 1e-5))
    x = F.max_pool2d(x, 3, 2, 1)
    out = {}
    for s, count in enumerate(layers):
        for b in range(count):
            u, stride = sub(t, f"layer{s + 1}.{b}."), 2 if s > 0 and b == 0 else 1
            # stride: on the first 3x3 of either block
            strides = [(1, 0), (stride, 1), (1, 0)] if block == "bottleneck" else [(stride, 1), (1, 1)]
            y = x
            for i, (st, pad) in enumerate(strides):
                y = bn2d(u, f"bn{i + 1}", conv(u, f"conv{i + 1}", y, st, pad), 1e-5)
                if i + 1 < len(strides):
                    y = F.relu(y)
            if "downsample.0.weight" in u:
                x = bn2d(u, "downsample.1", conv(u, "downsample.0", x, stride), 1e-5)
            x = F.relu(x + y)
        if s == 2:
            out["layer3"] = x.mean(dim=[2, 3])
    out["features"] = x.mean(dim=[2, 3])
    return out


def image_size(d):
    return [[64, 64], [d.int(33, 80), d.int(33, 80)], [d.int(33, 64), d.int(33, 64)]][d.index % 3]


def resnet_encoder(name, block, layers, low, high):
    @encoder(name)
    def _(d, p):
        widths = [d.int(l, h) for l, h in zip(low, high)]
        resnet_params(p, block, layers, widths)
        gradients = name == "resnet18" and d.index % 3 == 2

        def forward(t):
            out = resnet(t, block, layers)
            return {"features": out["features"]} if gradients else out

        return dict(widths=widths, layers=layers, block=block, keys="torchvision", image=image_size(d), gradients=gradients), forward


resnet_encoder("resnet18", "basic", [2, 2, 2, 2], (5, 6, 7, 8), (9, 10, 12, 14))
resnet_encoder("resnet50", "bottleneck", [3, 4, 6, 3], (3, 3, 4, 5), (5, 6, 7, 9))

# repeats, kernel, stride, expansion
LITE0 = [(1, 3, 1, 1), (2, 3, 2, 6), (2, 5, 2, 6), (3, 3, 2, 6), (3, 5, 1, 6), (4, 5, 2, 6), (1, 3, 1, 6)]


def lite0_names(keys):
    """Names of stem, head and of the layers of block b of stage s, the i-th of all."""
    if keys == "wheel":
        block = lambda s, b, i, expand: {k: f"_blocks.{i}.{v}" for k, v in dict(expand="_expand_conv", bn0="_bn0", depthwise="_depthwise_conv", bn1="_bn1", project="_project_conv", bn2="_bn2").items()}
        return dict(stem="_conv_stem", bn_stem="_bn0", head="_conv_head", bn_head="_bn1"), block

    def block(s, b, i, expand):
        names = dict(expand="conv_pw", bn0="bn1", depthwise="conv_dw", bn1="bn2", project="conv_pwl", bn2="bn3") if expand else dict(depthwise="conv_dw", bn1="bn1", project="conv_pw", bn2="bn2")
        return {k: f"blocks.{s}.{b}.{v}" for k, v in names.items()}

    return dict(stem="conv_stem", bn_stem="bn1", head="conv_head", bn_head="bn2"), block


def same(t, name, x, stride, groups=1):
    """TensorFlow's "same": total padding max((ceil(h / s) - 1) s + k - h, 0), the smaller half before."""
    k, pad = t[name + ".weight"].shape[2], []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + k - size, 0)
        pad += [total // 2, total - total // 2]
    return conv(t, name, F.pad(x, pad), stride, 0, groups)


def lite0_blocks(channels):
    c, i = channels[0], 0
    for s, (count, k, stride, e) in enumerate(LITE0):
        for b in range(count):
            yield s, b, i, k, stride if b == 0 else 1, e, c, channels[s + 1]
            c, i = channels[s + 1], i + 1


def lite0_params(p, channels, keys):
    outer, names = lite0_names(keys)
    conv_params(p, outer["stem"], 3, channels[0], 3)
    p.bn(outer["bn_stem"], channels[0])
    for s, b, i, k, stride, e, c, out in lite0_blocks(channels):
        n = names(s, b, i, e != 1)
        if e != 1:
            conv_params(p, n["expand"], c, c * e, 1)
            p.bn(n["bn0"], c * e)
        conv_params(p, n["depthwise"], c * e, c * e, k, groups=c * e)
        p.bn(n["bn1"], c * e)
        conv_params(p, n["project"], c * e, out, 1, gain=1.0)
        p.bn(n["bn2"], out)
    conv_params(p, outer["head"], channels[7], channels[8], 1)
    p.bn(outer["bn_head"], channels[8])


def lite0(t, channels, keys, eps=1e-3):
    outer, names = lite0_names(keys)
    relu6 = lambda x: x.clamp(0, 6)
    x = relu6(bn2d(t, outer["bn_stem"], same(t, outer["stem"], nchw(t["image"]), 2), eps))
    for s, b, i, k, stride, e, c, out in lite0_blocks(channels):
        n, y = names(s, b, i, e != 1), x
        if e != 1:
            y = relu6(bn2d(t, n["bn0"], conv(t, n["expand"], y), eps))
        y = relu6(bn2d(t, n["bn1"], same(t, n["depthwise"], y, stride, c * e), eps))
        y = bn2d(t, n["bn2"], conv(t, n["project"], y), eps)
        x = x + y if b > 0 else y
    return {"features": relu6(bn2d(t, outer["bn_head"], conv(t, outer["head"], x), eps)).mean(dim=[2, 3])}


@encoder("efficientnet-lite0")
def _(d, p):
    keys = ["wheel", "wheel", "timm"][d.index % 3]
    channels = [d.int(4, 8)]
    for s in range(7):
        c = d.int(3, 4 + s)
        channels.append(c + (c == channels[-1]))  # no stage keeps its width, as in the real one: no residual path around a first block
    channels.append(d.int(16, 40))
    lite0_params(p, channels, keys)
    return dict(channels=channels, keys=keys, bn_eps=1e-3, image=image_size(d), gradients=False), lambda t: lite0(t, channels, keys)


def cubic(x, a=-0.5):
    x = abs(x)
    return ((a + 2) * x - (a + 3)) * x * x + 1 if x < 1 else (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def resample_matrix(size, out):
    """[out, size]: one axis of bicubic resampling with antialiasing (a = -0.5, taps clipped at the border, weights sum to 1)."""
    m, scale = np.zeros((out, size)), size / out
    reach = max(scale, 1.0)
    for i in range(out):
        centre = (i + 0.5) * scale
        first, last = max(int(centre - 2 * reach + 0.5), 0), min(int(centre + 2 * reach + 0.5), size)
        w = np.array([cubic((j + 0.5 - centre) / reach) for j in range(first, last)])
        m[i, first:last] = w / w.sum()
    return torch.from_numpy(m)


def resample_positions(pos, stored, wanted):
    """Positions [1, h w, d] on a grid `stored` -> on a grid `wanted`, computed in f64."""
    if stored == wanted:
        return pos
    grid = pos.double().reshape(*stored, -1)
    rows, columns = resample_matrix(stored[0], wanted[0]), resample_matrix(stored[1], wanted[1])
    return torch.einsum("ih,jw,hwd->ijd", rows, columns, grid).reshape(1, wanted[0] * wanted[1], -1).to(pos.dtype)


def vit_encoder_params(d, p, a):
    w, prefix = a["width"], {"all": 1 + a["registers"], "cls+patches": 1, "patches": 0}[a["position"]]
    p["cls_token"] = d.normal(1, 1, w, scale=0.5)
    if a["registers"]:
        p["register_tokens" if a["keys"] == "dinov2" else "reg_token"] = d.normal(1, a["registers"], w, scale=0.5)
    p["pos_embed"] = d.normal(1, prefix + a["stored_grid"][0] * a["stored_grid"][1], w, scale=0.5)
    p["patch_embed.proj.weight"] = d.normal(w, 3, a["patch"], a["patch"], scale=(3 * a["patch"] ** 2) ** -0.5)
    p["patch_embed.proj.bias"] = d.normal(w, scale=0.2)
    up, down = ("w12", "w3") if a["keys"] == "dinov2" and a["mlp"] == "swiglu" else ("fc1", "fc2")
    for i in range(a["depth"]):
        b = f"blocks.{i}."
        p.norm(b + "norm1", w)
        p.linear(b + "attn.qkv", w, 3 * w)
        p.linear(b + "attn.proj", w, w)
        p.norm(b + "norm2", w)
        p.linear(f"{b}mlp.{up}", w, a["mlp_width"] * (2 if a["mlp"] == "swiglu" else 1))
        p.linear(f"{b}mlp.{down}", a["mlp_width"], w)
        if a["layer_scale"]:
            p[b + "ls1.gamma"], p[b + "ls2.gamma"] = d.normal(w, scale=0.5), d.normal(w, scale=0.5)
    p.norm("norm", w)


def vit_encoder(t, a):
    n, h, w, _ = t["image"].shape
    grid = [h // a["patch"], w // a["patch"]]
    x = conv(t, "patch_embed.proj", nchw(t["image"]), a["patch"]).flatten(2).mT
    prefix = [t["cls_token"].expand(n, -1, -1)]
    if a["registers"]:
        prefix.append(t["register_tokens" if a["keys"] == "dinov2" else "reg_token"].expand(n, -1, -1))
    pos = t["pos_embed"]
    held = pos.shape[1] - a["stored_grid"][0] * a["stored_grid"][1]
    x = x + resample_positions(pos[:, held:], a["stored_grid"], grid)
    if a["position"] == "cls+patches":
        prefix[0] = prefix[0] + pos[:, :1]
    prefix = torch.cat(prefix, 1)
    if a["position"] == "all":
        prefix = prefix + pos[:, :held]
    x = torch.cat([prefix, x], 1)
    for i in range(a["depth"]):
        b = sub(t, f"blocks.{i}.")
        y = norm(b, "norm1", x, 1e-6)
        q, k, v = linear(b, "attn.qkv", y).reshape(n, -1, 3, a["heads"], a["width"] // a["heads"]).permute(2, 0, 3, 1, 4)
        y = torch.softmax(q @ k.mT * (a["width"] // a["heads"]) ** -0.5, -1) @ v
        y = linear(b, "attn.proj", y.transpose(1, 2).flatten(2))
        x = x + (b["ls1.gamma"] * y if a["layer_scale"] else y)
        y = norm(b, "norm2", x, 1e-6)
        if a["mlp"] == "swiglu":
            up, down = ("mlp.w12", "mlp.w3") if a["keys"] == "dinov2" else ("mlp.fc1", "mlp.fc2")
            first, second = linear(b, up, y).chunk(2, -1)
            y = linear(b, down, F.silu(first) * second)
        else:
            y = linear(b, "mlp.fc2", F.gelu(linear(b, "mlp.fc1", y)))
        x = x + (b["ls2.gamma"] * y if a["layer_scale"] else y)
    x = norm(t, "norm", x, 1e-6)
    cls, patches = x[:, 0], x[:, 1 + a["registers"] :].mean(1)
    return {"features": torch.cat([cls, patches], -1) if a["pool"] == "cls+mean" else cls}


@encoder("vit")
def _(d, p):
    i = d.index % 4
    heads, patch = d.int(2, 4), [16, 14, 8, 14][i]
    grid = [d.int(3, 4), d.int(3, 4)]
    a = dict(keys=["timm", "timm", "timm", "dinov2"][i], width=heads * 4 * d.int(1, 2), depth=d.int(2, 3), heads=heads, patch=patch,
             mlp=["gelu", "swiglu", "swiglu", "swiglu"][i], registers=[0, d.int(1, 4), d.int(1, 4), d.int(1, 4)][i], layer_scale=i != 0,
             position=["all", "patches", "all", "cls+patches"][i], pool=["cls", "cls", "cls+mean", "cls"][i], gradients=False)
    a["mlp_width"] = d.int(3, 6) * a["width"] // 2
    side = d.int(2, 3) if i == 1 else d.int(5, 6)
    a["stored_grid"] = [side, side] if i in (1, 2) else grid  # the others need no interpolation
    a["image"] = [grid[0] * patch, grid[1] * patch]
    vit_encoder_params(d, p, a)
    return a, lambda t: vit_encoder(t, a)


@case("image-vit", "method", method="image-vit")
def _(d):
    heads, patch, grid, genes = d.int(1, 3), d.pick(4, 8), [d.int(2, 4), d.int(2, 4)], d.int(1, 5)
    a = dict(genes=genes, slides=d.int(2, 3), keys="timm", width=heads * 4 * d.int(2, 3), depth=d.int(1, 2), heads=heads, patch=patch, mlp="gelu", registers=0, layer_scale=False, position="all",
             pool="cls", stored_grid=grid, image=[grid[0] * patch, grid[1] * patch], loss="mse", inputs=["image", "target"])
    a["mlp_width"] = 2 * a["width"]
    while True:
        p = Params(d)
        vit_encoder_params(d, p, a)
        p.linear("head", a["width"], genes)
        t = dict(image=d.normal(a["slides"], *a["image"], 3), **targets(d, "mse", a["slides"], genes), **p)
        predict = lambda t: linear(t, "head", vit_encoder(t, a)["features"])
        if 0.5 < predict(t).square().mean().sqrt() < 5:
            break

    def fn(t):
        y = predict(t)
        return {"prediction": y, "loss": loss("mse", y, t)}

    return a, t, fn, p.trained()
