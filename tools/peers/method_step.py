#!/usr/bin/env python3
"""Times one training step of each slide-level method in PyTorch and holds `cargo bench --bench methods` against it.

    cargo bench --bench methods && python tools/peers/method_step.py [--threads 2] [--steps 20] [--only abmil,mpvit]

Needs torch; nothing in the project does. The same architectures, sizes (preset `paper`) and updates as src/mil/methods/: mean
squared error, clipped gradients, AdamW (fused). Bags are of equal length here, so that PyTorch may batch them. Ours are read from
target/criterion; the ratio is PyTorch's time over ours: above one, ours is faster. Run ours with RAYON_NUM_THREADS equal to
--threads.
"""
import argparse, json, pathlib, statistics, time
import torch, torch.nn as nn, torch.nn.functional as F

SLIDES, PATCHES, GENES = 2, 16, 4
DROPOUT = 0.25


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def bags(x):
    return x.view(SLIDES, -1, x.shape[-1])


class Depthwise(nn.Conv2d):
    """On a channels-last image."""

    def __init__(self, c, k=3, stride=1, bias=True):
        super().__init__(c, c, k, stride, k // 2, groups=c, bias=bias)

    def forward(self, x):
        return nhwc(super().forward(nchw(x)))


class BatchNorm(nn.BatchNorm2d):
    """Over the channels of a channels-last image."""

    def forward(self, x):
        return nhwc(super().forward(nchw(x)))


class Block(nn.Module):
    def __init__(self, width, heads, mlp):
        super().__init__()
        self.n1, self.n2, self.heads = nn.LayerNorm(width), nn.LayerNorm(width), heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, mlp), nn.Linear(mlp, width)

    def forward(self, x):
        b, l, w = x.shape
        q, k, v = self.qkv(self.n1(x)).view(b, l, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, l, w))
        return x + self.fc2(F.gelu(self.fc1(self.n2(x))))


class Transformer(nn.Module):
    """ViT-S over the patches' vectors [rows, d]."""

    def __init__(self, d, width=384, depth=12, heads=6):
        super().__init__()
        self.embed, self.blocks = nn.Linear(d, width), nn.Sequential(*(Block(width, heads, 4 * width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, GENES)

    def forward(self, x):
        return self.head(self.norm(self.blocks(bags(self.embed(x)))).mean(1))


class Abmil(nn.Module):
    reads = [SLIDES * PATCHES, 512]

    def __init__(self, d=512, hidden=512, attention=256):
        super().__init__()
        self.embed, self.v, self.u = nn.Linear(d, hidden), nn.Linear(hidden, attention), nn.Linear(hidden, attention)
        self.w, self.head = nn.Linear(attention, 1, bias=False), nn.Linear(hidden, GENES)

    def forward(self, x):
        h = F.dropout(bags(self.embed(x)).relu(), DROPOUT)
        a = self.w(self.v(h).tanh() * self.u(h).sigmoid()).softmax(1)
        return self.head((a * h).sum(1))


class He2rna(nn.Module):
    reads = [SLIDES * 100, 2048]

    def __init__(self, d=2048, hidden=256, k=20):
        super().__init__()
        self.h0, self.h1, self.head, self.k = nn.Linear(d, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, GENES), k

    def forward(self, x):
        x = F.dropout(self.h0(x).relu(), DROPOUT)
        return bags(self.head(F.dropout(self.h1(x).relu(), DROPOUT))).topk(self.k, 1).values.mean(1)


class CycleBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.h, self.w, self.c = nn.Linear(c, c), nn.Linear(c, c), nn.Linear(c, c, bias=False)
        self.gate = nn.Sequential(nn.Linear(c, c // 4), nn.GELU(), nn.Linear(c // 4, 3 * c))
        self.out, self.fc1, self.fc2 = nn.Linear(c, c), nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        pick = (torch.arange(c) + 1) % 3
        self.register_buffer("shift", F.one_hot(pick, 3).float())

    def shifted(self, x, axis):
        """As a depthwise convolution with one-hot kernels of three taps, which is PyTorch's fastest here."""
        c = x.shape[-1]
        shape, padding = ([c, 1, 1, 3], (0, 1)) if axis == 2 else ([c, 1, 3, 1], (1, 0))
        return nhwc(F.conv2d(nchw(x), self.shift.view(shape), padding=padding, groups=c))

    def forward(self, x):
        y = self.n1(x)
        h, w, c = self.h(self.shifted(y, 2)), self.w(self.shifted(y, 1)), self.c(y)
        r = self.gate((h + w + c).mean((1, 2))).view(len(x), 1, 1, -1, 3).softmax(-1)
        x = x + self.out(h * r[..., 0] + w * r[..., 1] + c * r[..., 2])
        return x + self.fc2(F.gelu(self.fc1(self.n2(x))))


class CycleMlp(nn.Module):
    reads = [SLIDES * PATCHES, 8, 8, 512]

    def __init__(self, d=512, dims=(64, 128, 320, 512), depths=(2, 2, 4, 2)):
        super().__init__()
        self.stem = nn.Linear(d, dims[0])
        self.stages = nn.ModuleList(nn.Sequential(*(CycleBlock(c) for _ in range(n))) for c, n in zip(dims, depths))
        self.down = nn.ModuleList(nn.Conv2d(c, k, 3, 2, 1) for c, k in zip(dims, dims[1:]))
        self.norm, self.transformer = nn.LayerNorm(dims[-1]), Transformer(dims[-1])

    def forward(self, x):
        x = self.stem(x)
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i < 3:
                x = nhwc(self.down[i](nchw(x)))
        return self.transformer(self.norm(x).mean((1, 2)))


class PathEncoder(nn.Module):
    WINDOWS = ((3, 2), (5, 3), (7, 3))

    def __init__(self, c, layers):
        super().__init__()
        self.cpe, self.crpe = Depthwise(c), nn.ModuleList(Depthwise(c // 8 * heads, k) for k, heads in self.WINDOWS)
        layer = lambda: nn.ModuleDict(dict(n1=nn.LayerNorm(c), qkv=nn.Linear(c, 3 * c), proj=nn.Linear(c, c), n2=nn.LayerNorm(c), fc1=nn.Linear(c, 4 * c), fc2=nn.Linear(4 * c, c)))
        self.layers = nn.ModuleList(layer() for _ in range(layers))

    def forward(self, x):
        n, g, _, c = x.shape
        d, sizes = c // 8, [c // 8 * heads for _, heads in self.WINDOWS]
        for l in self.layers:
            x = x + self.cpe(x)
            q, k, v = l["qkv"](l["n1"](x)).chunk(3, -1)
            heads = lambda x: x.reshape(n, g * g, 8, d).transpose(1, 2)
            y = heads(q) @ (heads(k).softmax(2).mT @ heads(v)) * d**-0.5
            relative = torch.cat([conv(part) for conv, part in zip(self.crpe, v.split(sizes, -1))], -1)
            x = x + l["proj"](y.transpose(1, 2).reshape(n, g, g, c) + q * relative)
            x = x + l["fc2"](F.gelu(l["fc1"](l["n2"](x))))
        return x


class MpvitStage(nn.Module):
    def __init__(self, c, k, paths, layers, stride):
        super().__init__()
        embed = lambda s: nn.Sequential(Depthwise(c, 3, s, bias=False), nn.Linear(c, c, bias=False), BatchNorm(c), nn.Hardswish())
        self.embed = nn.ModuleList(embed(stride if j == 0 else 1) for j in range(paths))
        self.paths = nn.ModuleList(PathEncoder(c, layers) for _ in range(paths))
        self.inverted = nn.Sequential(
            nn.Linear(c, c, bias=False), BatchNorm(c), nn.Hardswish(), Depthwise(c, bias=False), BatchNorm(c), nn.Hardswish(), nn.Linear(c, c, bias=False), BatchNorm(c)
        )
        self.merge = nn.Sequential(nn.Linear((paths + 1) * c, k, bias=False), BatchNorm(k), nn.Hardswish())

    def forward(self, x):
        embedded = []
        for embed in self.embed:
            x = embed(x)
            embedded.append(x)
        parts = [embedded[0] + self.inverted(embedded[0])] + [path(y) for path, y in zip(self.paths, embedded)]
        return self.merge(torch.cat(parts, -1))


class Mpvit(nn.Module):
    reads = [SLIDES * PATCHES, 8, 8, 512]

    def __init__(self, d=512, dims=(64, 128, 192, 256), paths=(2, 3, 3, 3), layers=(1, 2, 4, 1)):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(d, dims[0], bias=False), BatchNorm(dims[0]), nn.Hardswish())
        out = dims[1:] + dims[-1:]
        self.stages = nn.Sequential(*(MpvitStage(*sizes, 2 if i else 1) for i, sizes in enumerate(zip(dims, out, paths, layers))))
        self.transformer = Transformer(dims[-1])

    def forward(self, x):
        return self.transformer(self.stages(self.stem(x)).mean((1, 2)))


class SummaryMixing(nn.Module):
    def __init__(self, d, heads, width):
        super().__init__()
        self.heads, self.width, m = heads, width, heads * width
        self.local, self.summary, self.proj = nn.Linear(d, m), nn.Linear(d, m), nn.Linear(m, d)
        self.scale, self.shift = nn.Parameter(torch.ones(2, heads, width)), nn.Parameter(torch.zeros(2, heads, width))
        self.combine = nn.Parameter(torch.randn(heads, 2 * width, width) * (2 * width) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(m))
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(d), nn.Linear(d, d), nn.Linear(d, d)

    def projected(self, x, i):
        y = F.layer_norm(x.view(*x.shape[:-1], self.heads, self.width), [self.width])
        return F.gelu(y * self.scale[i] + self.shift[i])

    def forward(self, x):
        b, l, _ = x.shape
        local, summary = self.projected(self.local(x), 0), self.projected(self.summary(x).mean(1, keepdim=True), 1)
        both = torch.cat([local, summary.expand_as(local)], -1).permute(2, 0, 1, 3).reshape(self.heads, b * l, -1)
        y = (both @ self.combine).view(self.heads, b, l, -1).permute(1, 2, 0, 3).reshape(b, l, -1)
        x = x + self.proj(F.gelu(y + self.bias))
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


class Sequoia(nn.Module):
    reads = [SLIDES * 100, 2048]

    def __init__(self, d=2048, clusters=100, depth=6, heads=16, width=64):
        super().__init__()
        self.position = nn.Parameter(torch.randn(clusters, d))
        self.blocks = nn.Sequential(*(SummaryMixing(d, heads, width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, GENES)

    def forward(self, x):
        return self.head(self.norm(self.blocks(bags(x) + self.position).mean(1)))


class ImageVit(nn.Module):
    reads = [SLIDES, 384, 384, 3]

    def __init__(self, side=384, patch=16, width=384, depth=12, heads=6):
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.cls, self.position = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.randn(1, 1 + (side // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads, 4 * width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, GENES)

    def forward(self, x):
        x = self.embed(nchw(x)).flatten(2).mT
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


METHODS = dict(abmil=Abmil, cyclemlp=CycleMlp, he2rna=He2rna, mpvit=Mpvit, sequoia=Sequoia, image_vit=ImageVit)


def seconds(network, steps):
    net = network()
    x, targets = torch.randn(network.reads), torch.randn(SLIDES, GENES)
    optimiser = torch.optim.AdamW(net.parameters(), 1e-4, weight_decay=0.0, fused=True)

    def step():
        optimiser.zero_grad()
        loss = F.mse_loss(net(x), targets)
        value = loss.item()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        return value

    for _ in range(2):
        step()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times), min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", default=",".join(METHODS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    root = pathlib.Path(__file__).resolve().parents[2] / "target/criterion/method_step"
    print(f"torch {torch.__version__}, {args.threads} threads\n{'method':12}{'torch ms':>10}{'least':>9}{'ours ms':>10}{'ratio':>7}")
    for name in args.only.split(","):
        median, least = seconds(METHODS[name], args.steps)
        line = f"{name:12}{median * 1e3:10.2f}{least * 1e3:9.2f}"
        try:
            estimates = json.loads((root / name / "new/estimates.json").read_text())
            ours = estimates["median"]["point_estimate"] / 1e9
            print(f"{line}{ours * 1e3:10.2f}{median / ours:7.2f}")
        except FileNotFoundError:
            print(f"{line}{'not run':>10}")


if __name__ == "__main__":
    main()
