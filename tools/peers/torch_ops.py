#!/usr/bin/env python3
"""Times the ops of benches/ops.rs in PyTorch on the CPU, by the same names, and prints both side by side.

    cargo bench --bench ops -- --quick && python tools/peers/torch_ops.py [--threads 2] [--only TEXT]

Needs torch. Ours are read from target/criterion (run with RAYON_NUM_THREADS equal to --threads); the ratio is
PyTorch's time over ours: above one, ours is faster. Images are channels-last in both.
"""
import argparse, json, pathlib, time
import torch
import torch.nn.functional as F


def image(*shape):
    n, h, w, c = shape
    return torch.randn(n, c, h, w).contiguous(memory_format=torch.channels_last)


def kernel(k, r, c):
    return (torch.randn(k, c, r, r) * (r * r * c) ** -0.5).contiguous(memory_format=torch.channels_last)


def low_pass():
    f = torch.tensor([1.0, 3.0, 3.0, 1.0])
    f = torch.outer(f, f)
    return f / f.sum()


def upfirdn(x, f, up, down, pad, gain):
    n, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, up - 1, 0, 0, 0, up - 1]).reshape(n, c, h * up, w * up)
    x = F.pad(x, pad)
    return F.conv2d(x, (f * gain)[None, None].repeat(c, 1, 1, 1), groups=c, stride=down)


def modulated(x, w, s, f, up, down):
    x = x * s[:, :, None, None]
    if up > 1:
        y = F.conv_transpose2d(x, w.transpose(0, 1).flip(2, 3), stride=up)
        y = upfirdn(y, f, 1, 1, [1, 1, 1, 1], 4.0)
    elif down > 1:
        y = F.conv2d(upfirdn(x, f, 1, 1, [2, 2, 2, 2], 1.0), w, stride=down)
    else:
        y = F.conv2d(x, w, padding=1)
    d = (s.square() @ w.square().sum(dim=[2, 3]).T + 1e-8).rsqrt()
    return y * d[:, :, None, None]


def cases():
    for size in (1024, 2048):
        yield f"matmul_{size}", [torch.randn(size, size), torch.randn(size, size)], torch.matmul
    for name, rows, i, o in [("vit_qkv", 1000, 384, 1152), ("vit_fc1", 1000, 384, 1536), ("mbconv_expand", 6400, 512, 2048), ("mbconv_project", 6400, 2048, 512), ("style", 8, 512, 512)]:
        yield f"linear_{name}", [torch.randn(rows, i), torch.randn(o, i), torch.randn(o)], F.linear
    yield "matmul_attention", [torch.randn(6, 1000, 64), torch.randn(6, 1000, 64)], lambda a, b: a @ b.mT
    for name, x, k, r, stride, pad in [
        ("256px_c3_k64_1x1", (4, 256, 256, 3), 64, 1, 1, 0), ("128px_c64_k128_3x3", (4, 128, 128, 64), 128, 3, 1, 1),
        ("32px_c256_k256_3x3", (4, 32, 32, 256), 256, 3, 1, 1), ("8px_c512_k512_3x3", (4, 8, 8, 512), 512, 3, 1, 1),
        ("64px_c32_k32_3x3", (8, 64, 64, 32), 32, 3, 1, 1), ("65px_c128_k256_3x3_s2", (4, 65, 65, 128), 256, 3, 2, 0),
        ("alexnet_11x11_s4", (4, 256, 256, 3), 64, 11, 4, 2), ("alexnet_5x5", (4, 31, 31, 64), 192, 5, 1, 2)]:
        yield f"conv2d_{name}", [image(*x), kernel(k, r, x[3]), torch.randn(k)], lambda x, w, b, s=stride, p=pad: F.conv2d(x, w, b, s, p)
    for name, x in [("8px_c2048", (100, 8, 8, 2048)), ("64px_c96", (4, 64, 64, 96))]:
        yield f"depthwise_{name}_3x3", [image(*x), torch.randn(x[3], 1, 3, 3)], lambda x, w: F.conv2d(x, w, None, 1, 1, 1, x.shape[1])
    f = low_pass()
    for name, x, up, down in [("32px_c256", (4, 32, 32, 256), 1, 1), ("up_64px_c128", (4, 64, 64, 128), 2, 1), ("down_64px_c128", (4, 64, 64, 128), 1, 2)]:
        c = x[3]
        yield f"modulated_{name}", [image(*x), kernel(c, 3, c), torch.randn(x[0], c)], lambda x, w, s, up=up, down=down: modulated(x, w, s, f, up, down)
    for name, x, up, down, pad, gain in [
        ("blur_64px_c128", (4, 64, 64, 128), 1, 1, [2, 1, 2, 1], 1.0), ("up_64px_c128", (4, 64, 64, 128), 2, 1, [2, 1, 2, 1], 4.0),
        ("down_64px_c128", (4, 64, 64, 128), 1, 2, [1, 1, 1, 1], 1.0), ("up_128px_c3", (4, 128, 128, 3), 2, 1, [2, 1, 2, 1], 4.0)]:
        yield f"upfirdn2d_{name}", [image(*x)], lambda x, a=(up, down, pad, gain): upfirdn(x, f, *a)
    yield "max_pool2d_63px_c64", [image(4, 63, 63, 64)], lambda x: F.max_pool2d(x, 3, 2)
    yield "avg_pool2d_64px_c64", [image(4, 64, 64, 64)], lambda x: F.avg_pool2d(x, 2)
    yield "global_avg_pool_8px_c2048", [image(100, 8, 8, 2048)], lambda x: x.mean(dim=[2, 3])
    yield "resize_1024_to_256", [image(2, 1024, 1024, 3)], lambda x: F.interpolate(x, size=(256, 256), mode="bilinear", antialias=True)


def best(f, seconds=1.0):
    f()
    times, start = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < seconds:
        t = time.perf_counter()
        f()
        times.append(time.perf_counter() - t)
    times.sort()
    return times[len(times) // 2]


def ours(root, name, what):
    path = root / name / what / "new" / "estimates.json"
    return json.loads(path.read_text())["median"]["point_estimate"] * 1e-9 if path.exists() else None


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--only", default="")
    p.add_argument("--criterion", type=pathlib.Path, default=pathlib.Path(__file__).parents[2] / "target" / "criterion")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    print(f"torch {torch.__version__}, {a.threads} threads")
    print(f"{'op':32} {'':8} {'torch ms':>9} {'ours ms':>9} {'ratio':>6}")
    for name, inputs, run in cases():
        if a.only not in name:
            continue
        with torch.no_grad():
            forward = best(lambda: run(*inputs))
        leaves = [t.detach().requires_grad_(True) for t in inputs]
        dy = torch.randn_like(run(*inputs))
        step = best(lambda: torch.autograd.grad(run(*leaves), leaves, dy))
        for what, theirs in (("forward", forward), ("step", step)):
            mine = ours(a.criterion, name, what)
            tail = f"{mine * 1e3:9.3f} {theirs / mine:6.2f}" if mine else f"{'-':>9} {'-':>6}"
            print(f"{name:32} {what:8} {theirs * 1e3:9.3f} {tail}", flush=True)


if __name__ == "__main__":
    main()
