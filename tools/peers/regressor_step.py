#!/usr/bin/env python3
"""Times one training step of the Dual Attention network in PyTorch, to hold `cargo bench --bench regressor` against.

    cargo bench --bench regressor && python tools/peers/regressor_step.py [--threads 2] [--steps 20]

Needs torch; nothing in the project does. The same architecture and update as src/mil/regressor.rs: MBConv with
squeeze-and-excite and layer normalisation, both attention fusion updaters, ViT blocks with fused attention, L2 loss, clipped
gradients, AdamW (fused). Ours are read from target/criterion; the ratio is PyTorch's time over ours: above one, ours is
faster. Run ours with RAYON_NUM_THREADS equal to --threads.
"""
import argparse, json, pathlib, statistics, time
import torch, torch.nn as nn, torch.nn.functional as F

PRESETS = dict(
    small=dict(d=64, grid=4, slides=8, blocks=1, every=1, expand=2, both=True, width=32, depth=1, heads=2, mlp=2),
    paper=dict(d=512, grid=8, slides=2, blocks=10, every=2, expand=4, both=False, width=384, depth=12, heads=6, mlp=4),
)
PATCHES, GENES, DROPOUT = 16, 4, 0.1


class MbConv(nn.Module):
    """On [n, g, g, d]; pointwise convolutions are linear layers, the depthwise one sees a channels-last view."""

    def __init__(self, d, expand):
        super().__init__()
        hidden, squeeze = d * expand, d // 4
        self.expand, self.n0 = nn.Linear(d, hidden, bias=False), nn.LayerNorm(hidden)
        self.depthwise, self.n1 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False), nn.LayerNorm(hidden)
        self.reduce, self.excite = nn.Linear(hidden, squeeze), nn.Linear(squeeze, hidden)
        self.project, self.n2 = nn.Linear(hidden, d, bias=False), nn.LayerNorm(d)

    def forward(self, x):
        y = F.silu(self.n0(self.expand(x)))
        y = self.depthwise(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = F.silu(self.n1(y))
        gate = torch.sigmoid(self.excite(F.silu(self.reduce(y.mean((1, 2))))))
        return x + self.n2(self.project(y * gate[:, None, None, :]))


class Fusion(nn.Module):
    def __init__(self, d, grid):
        super().__init__()
        self.local, self.of_global = nn.LayerNorm(d), nn.LayerNorm(d)
        square = lambda: nn.Linear(d, d, bias=False)
        cells = lambda: nn.Linear(d, grid * grid, bias=False)
        self.q, self.k, self.v, self.r, self.z, self.p, self.f = cells(), square(), square(), square(), cells(), square(), square()

    def forward(self, cube, g):
        n, h, w, d = cube.shape
        r, f = self.local(cube).view(n, h * w, d), self.of_global(g)
        score = torch.sigmoid(self.q(f)[:, :, None] * self.k(r))
        local = self.r(score * self.v(r)).view(n, h, w, d)
        weight = torch.softmax(self.z(f), 1)
        renewed = self.f(self.p((weight[:, None, :] @ r)[:, 0]))
        return cube + local, g + renewed


class Block(nn.Module):
    def __init__(self, width, heads, mlp):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2, self.heads = nn.Linear(width, mlp * width), nn.Linear(mlp * width, width), heads

    def forward(self, x):
        b, l, w = x.shape
        q, k, v = self.qkv(self.n1(x)).view(b, l, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, l, w)
        x = x + F.dropout(self.proj(y), DROPOUT)
        return x + F.dropout(self.fc2(F.gelu(self.fc1(self.n2(x)))), DROPOUT)


class Network(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p, d = p, p["d"]
        self.blocks = nn.ModuleList(MbConv(d, p["expand"]) for _ in range(p["blocks"]))
        self.fusions = nn.ModuleList(Fusion(d, p["grid"]) for _ in range(p["blocks"] // p["every"]))
        self.embed = nn.Linear(2 * d if p["both"] else d, p["width"])
        self.vit = nn.ModuleList(Block(p["width"], p["heads"], p["mlp"]) for _ in range(p["depth"]))
        self.norm, self.head = nn.LayerNorm(p["width"]), nn.Linear(p["width"], GENES)

    def forward(self, cube, g):
        for i, block in enumerate(self.blocks):
            cube = block(cube)
            if (i + 1) % self.p["every"] == 0:
                cube, g = self.fusions[i // self.p["every"]](cube, g)
        mean = cube.mean((1, 2))
        x = self.embed(torch.cat([mean, g], 1) if self.p["both"] else mean)
        x = F.dropout(x, DROPOUT).view(self.p["slides"], PATCHES, -1)
        for block in self.vit:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def seconds(preset, steps):
    p = PRESETS[preset]
    n, g, d = p["slides"] * PATCHES, p["grid"], p["d"]
    net = Network(p)
    cubes, globals_, targets = torch.randn(n, g, g, d), torch.randn(n, d), torch.randn(p["slides"], GENES)
    optimiser = torch.optim.AdamW(net.parameters(), 1e-4, weight_decay=0.0, fused=True)

    def step():
        optimiser.zero_grad()
        loss = F.mse_loss(net(cubes, globals_), targets)
        value = loss.item()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        return value

    for _ in range(3):
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
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    root = pathlib.Path(__file__).resolve().parents[2] / "target/criterion/regressor_step"
    print(f"torch {torch.__version__}, {args.threads} threads\n{'step':8}{'torch ms':>10}{'least':>8}{'ours ms':>10}{'ratio':>7}")
    for preset in PRESETS:
        median, least = seconds(preset, args.steps if preset == "small" else max(3, args.steps // 4))
        try:
            estimates = json.loads((root / preset / "new/estimates.json").read_text())
            ours = estimates["median"]["point_estimate"] / 1e9
            print(f"{preset:8}{median * 1e3:10.2f}{least * 1e3:8.2f}{ours * 1e3:10.2f}{median / ours:7.2f}")
        except FileNotFoundError:
            print(f"{preset:8}{median * 1e3:10.2f}{least * 1e3:8.2f}{'not run':>10}")


if __name__ == "__main__":
    main()
