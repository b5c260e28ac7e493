#!/usr/bin/env python3
"""Times one training step of the feature extraction networks in PyTorch, to hold `cargo bench --bench extractor` against.

    python tools/peers/extractor_step.py [--preset small|paper] [--threads 2] [--steps 10] [--channels-last]

Needs torch; nothing in the project does. The same architecture, losses and updates as src/extractor/training.rs:
encoder, StyleGAN2 generator, critic, L1 + LPIPS (AlexNet, drawn weights) + softplus, Adam; R1 every sixteenth step.
"""
import argparse, math, time
import torch, torch.nn as nn, torch.nn.functional as F

PRESETS = dict(
    small=dict(px=32, d=64, enc=[16, 32, 64, 64], pool=[2, 2, 1], head=2, merge=2, lr_mul=1.0, gen=[64, 64, 32, 16], critic=[16, 32, 64, 64], batch=16),
    paper=dict(px=256, d=512, enc=[64, 128, 256, 512, 512, 512, 512], pool=[2, 2, 1, 1, 1, 1], head=4, merge=5, lr_mul=0.01,
               gen=[512, 512, 512, 512, 256, 128, 64], critic=[64, 128, 256, 512, 512, 512, 512], batch=4),
)
FIR = torch.tensor([1.0, 3.0, 3.0, 1.0])
FIR = torch.outer(FIR, FIR) / FIR.sum() ** 2


def fir(x, pad, gain=1.0, up=1, down=1):
    c = x.shape[1]
    if up == 2:  # zeros in between, then the filter: a transposed depthwise convolution
        y = F.conv_transpose2d(x, (FIR * gain).expand(c, 1, 4, 4), stride=2, groups=c)
        return y[:, :, 1:-1, 1:-1]
    return F.conv2d(F.pad(x, [pad] * 4), (FIR * gain).expand(c, 1, 4, 4), stride=down, groups=c)


class Linear(nn.Module):
    def __init__(self, i, o, lr_mul=1.0, act=True, bias=0.0):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(o, i) / lr_mul), nn.Parameter(torch.full((o,), bias / lr_mul))
        self.gain, self.mul, self.act = lr_mul / math.sqrt(i), lr_mul, act

    def forward(self, x):
        y = F.linear(x, self.w * self.gain, self.b * self.mul)
        return F.leaky_relu(y, 0.2) * math.sqrt(2) if self.act else y


class Conv(nn.Module):
    def __init__(self, c, k, r, act=True, halve=False):
        super().__init__()
        self.w = nn.Parameter(torch.randn(k, c, r, r))
        self.b = nn.Parameter(torch.zeros(k)) if act else None
        self.gain, self.halve, self.r = 1 / math.sqrt(c * r * r), halve, r

    def forward(self, x):
        w = self.w * self.gain
        if not self.halve:
            y = F.conv2d(x, w, padding=self.r // 2)
        elif self.r == 1:
            y = F.conv2d(fir(x, 1, down=2), w)
        else:
            y = F.conv2d(fir(x, 2), w, stride=2)
        return y if self.b is None else F.leaky_relu(y + self.b[:, None, None], 0.2) * math.sqrt(2)


class Residual(nn.Module):
    def __init__(self, c, k, halve):
        super().__init__()
        self.a, self.b, self.s = Conv(c, c, 3), Conv(c, k, 3, halve=halve), Conv(c, k, 1, act=False, halve=halve)

    def forward(self, x):
        return (self.b(self.a(x)) + self.s(x)) / math.sqrt(2)


class Encoder(nn.Module):
    def __init__(self, p):
        super().__init__()
        ch, d = p["enc"], p["d"]
        self.rgb = Conv(3, ch[0], 1)
        self.down = nn.ModuleList(Residual(c, k, True) for c, k in zip(ch, ch[1:]))
        self.same = nn.ModuleList(Residual(k, k, False) for k in ch[1:])
        self.pool = p["pool"]
        mlp = lambda i, n: nn.Sequential(*[Linear(i if j == 0 else d, d, p["lr_mul"]) for j in range(n)])
        self.heads = nn.ModuleList(mlp(s * s * k, p["head"]) for s, k in zip(p["pool"], ch[1:]))
        self.merge = mlp(d, p["merge"])

    def forward(self, x):
        x, codes = self.rgb(x), []
        for down, same, pool, head in zip(self.down, self.same, self.pool, self.heads):
            x = same(down(x))
            codes.append(head(F.adaptive_avg_pool2d(x, pool).flatten(1)))
        z = torch.stack(codes).mean(0)
        return self.merge(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())


class Modulated(nn.Module):
    def __init__(self, d, c, k, r, demodulate=True, double=False):
        super().__init__()
        self.affine, self.w, self.b = Linear(d, c, act=False, bias=1.0), nn.Parameter(torch.randn(k, c, r, r)), nn.Parameter(torch.zeros(k))
        self.demodulate, self.upper, self.gain, self.r = demodulate, double, 1 / math.sqrt(c * r * r), r

    def forward(self, x, z):
        n, c, h, _ = x.shape
        w = self.gain * self.w * self.affine(z)[:, None, :, None, None]
        if self.demodulate:
            w = w * (w.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
        k = w.shape[1]
        x = x.reshape(1, n * c, h, h)
        if self.upper:
            y = F.conv_transpose2d(x, w.transpose(1, 2).reshape(n * c, k, self.r, self.r), stride=2, groups=n)
            y = fir(y.reshape(n, k, *y.shape[2:]), 1, gain=4.0)
        else:
            y = F.conv2d(x, w.reshape(n * k, c, self.r, self.r), padding=self.r // 2, groups=n).reshape(n, k, h, h)
        y = y + self.b[:, None, None]
        return F.leaky_relu(y, 0.2) * math.sqrt(2) if self.demodulate else y


class Generator(nn.Module):
    def __init__(self, p):
        super().__init__()
        ch, d = p["gen"], p["d"]
        self.const = nn.Parameter(torch.randn(1, ch[0], 4, 4))
        self.first, self.first_rgb = Modulated(d, ch[0], ch[0], 3), Modulated(d, ch[0], 3, 1, demodulate=False)
        self.upper = nn.ModuleList(Modulated(d, c, k, 3, double=True) for c, k in zip(ch, ch[1:]))
        self.refine = nn.ModuleList(Modulated(d, k, k, 3) for k in ch[1:])
        self.rgb = nn.ModuleList(Modulated(d, k, 3, 1, demodulate=False) for k in ch[1:])

    def forward(self, z):
        x = self.first(self.const.expand(z.shape[0], -1, -1, -1), z)
        y = self.first_rgb(x, z)
        for double, refine, rgb in zip(self.upper, self.refine, self.rgb):
            x = refine(double(x, z), z)
            y = fir(y, 0, gain=4.0, up=2) + rgb(x, z)
        return y


class Critic(nn.Module):
    def __init__(self, p):
        super().__init__()
        ch = p["critic"]
        self.net = nn.Sequential(Conv(3, ch[0], 1), *[Residual(c, k, True) for c, k in zip(ch, ch[1:])], nn.Flatten(), Linear(16 * ch[-1], ch[-1]), Linear(ch[-1], 1, act=False))

    def forward(self, x):
        return self.net(x)


class Lpips(nn.Module):
    def __init__(self):
        super().__init__()
        sizes = [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1)]
        self.convs = nn.ModuleList(nn.Conv2d(*s) for s in sizes)
        self.requires_grad_(False)

    def features(self, x):
        out = []
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(F.max_pool2d(x, 3, 2) if i in (1, 2) else x))
            out.append(x)
        return out

    def forward(self, a, b):
        unit = lambda x: x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
        return sum(0.2 * (unit(a) - unit(b)).square().sum(1).mean([1, 2]) for a, b in zip(self.features(a), self.features(b))).mean()


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--preset", choices=PRESETS, default="small")
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--steps", type=int, default=10)
    a.add_argument("--channels-last", action="store_true")
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    p = PRESETS[a.preset]
    encoder, generator, critic, lpips = Encoder(p), Generator(p), Critic(p), Lpips()
    real = torch.rand(p["batch"], 3, p["px"], p["px"]) * 2 - 1
    if a.channels_last:
        real = real.contiguous(memory_format=torch.channels_last)
        lpips = lpips.to(memory_format=torch.channels_last)
    pair = torch.optim.Adam([*encoder.parameters(), *generator.parameters()], lr=0.002, betas=(0.0, 0.99))
    c = 16 / 17
    judge = torch.optim.Adam(critic.parameters(), lr=0.002 * c, betas=(0.0, 0.99**c))

    def step(r1):
        critic.requires_grad_(False)
        fake = generator(encoder(real))
        loss = (fake - real).abs().mean() + lpips(real, fake) + F.softplus(-critic(fake)).mean()
        pair.zero_grad(); loss.backward(); pair.step()
        critic.requires_grad_(True)
        loss = F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()
        judge.zero_grad(); loss.backward(); judge.step()
        if r1:
            x = real.detach().requires_grad_(True)
            (g,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
            judge.zero_grad(); (g.square().sum([1, 2, 3]).mean() * 8).backward(); judge.step()

    for r1 in (False, True):
        step(r1)
        times = []
        for _ in range(a.steps):
            t = time.perf_counter(); step(r1); times.append(time.perf_counter() - t)
        print(f"torch {torch.__version__} {a.preset} {'with' if r1 else 'without'} R1: median {sorted(times)[len(times) // 2] * 1e3:.1f} ms, least {min(times) * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
