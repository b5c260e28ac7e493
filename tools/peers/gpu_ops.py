#!/usr/bin/env python3
"""Times PyTorch (cuBLAS, cuDNN and its own kernels) on the workloads of `cargo bench --bench kernels`, on the same GPU.

    cargo bench --bench kernels -- --list | python tools/peers/gpu_ops.py [--dtype bf16,tf32,f32] [--log FILE.jsonl]

Reads one workload a line from standard input and writes rows of the same form as ours, which `cargo tool bench-report`
puts side by side. The same rules: ten runs in one CUDA graph where PyTorch can record it, operands rotated where they fit
in 256 MiB, normal numbers, median of thirty replays after five. cudnn.benchmark is on; images are channels-last. Needs torch
with CUDA; where it is missing the script says so in one line.
"""
import argparse, json, sys, time

try:
    import torch
    import torch.nn.functional as F
except ImportError as missing:
    sys.exit(f"gpu_ops: {missing}")

RUNS, REPLAYS = 10, 30


def nchw(x):
    """A channels-last image, as PyTorch sees it."""
    return x.permute(0, 3, 1, 2)


def upfirdn(x, up, down, padding, gain=1.0):
    """StyleGAN2's resampling with [1, 3, 3, 1], on [n, c, h, w]."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device, dtype=x.dtype) / 8
    kernel = (torch.outer(taps, taps) * gain).expand(x.shape[1], 1, 4, 4).contiguous()
    if up > 1:
        n, c, h, w = x.shape
        wide = x.new_zeros(n, c, h, up, w, up)
        wide[:, :, :, 0, :, 0] = x
        x = wide.reshape(n, c, h * up, w * up)
    return F.conv2d(F.pad(x, padding), kernel, stride=down, groups=x.shape[1])


def modulated(x, w, s, up):
    x, w = nchw(x) * s[:, :, None, None], nchw(w)
    if up > 1:
        y = F.conv_transpose2d(x, w.transpose(0, 1).flip(2, 3), stride=2)
        y = upfirdn(y, 1, 1, [1, 1, 1, 1], 4.0)
    else:
        y = F.conv2d(x, w, padding=1)
    demodulation = (s.float().square() @ w.float().square().sum((2, 3)).T + 1e-8).rsqrt().to(x.dtype)
    return y * demodulation[:, :, None, None]


def local_updater(r, f, q, k, v, w):
    n, g, h, d = r.shape
    cells = r.view(n, g * h, d)
    return (torch.sigmoid((f @ q.T)[:, :, None] * (cells @ k)) * (cells @ v)) @ w


def global_updater(r, f, z, p, w):
    n, g, h, d = r.shape
    weight = torch.softmax(f @ z.T, 1)
    return (weight[:, None, :] @ r.view(n, g * h, d))[:, 0] @ p @ w


def operation(op, a):
    return {
        "matmul": lambda x, y: x @ y,
        "linear": F.linear,
        "conv2d": lambda x, w: F.conv2d(nchw(x), nchw(w), stride=a["stride"], padding=a["padding"]),
        "depthwise_conv2d": lambda x, w: F.conv2d(nchw(x), w.permute(2, 0, 1)[:, None], padding=1, groups=x.shape[3]),
        "modulated_conv2d": lambda x, w, s: modulated(x, w, s, a["up"]),
        "upfirdn2d": lambda x: upfirdn(nchw(x), a["up"], a["down"], a["padding"]),
        "bias_act": lambda x, b: (F.leaky_relu(x + b, 0.2) * 2 ** 0.5).clamp(-256, 256),
        "attention": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.125),
        "layer_norm": lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-6),
        "softmax": lambda x: F.softmax(x, -1),
        "batch_norm2d": lambda x, w, b: F.batch_norm(nchw(x), None, None, w, b, True, 0.1, 1e-5),
        "local_feature_updater": local_updater,
        "global_feature_updater": global_updater,
        "log_softmax": lambda x: F.log_softmax(x, -1),
        "max": lambda x: x.amax(1, keepdim=True),
        "l1_loss": F.l1_loss,
        "mse_loss": F.mse_loss,
        "permute": lambda x: x.permute(0, 3, 1, 2).contiguous(),
        "avg_pool2d": lambda x: F.avg_pool2d(nchw(x), 2),
        "max_pool2d": lambda x: F.max_pool2d(nchw(x), 3, 2, 1),
    }.get(op)


def seconds(each):
    """Sorted seconds of one run; `each(i)` does the i-th."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for i in range(3):
            each(i)
    torch.cuda.synchronize()
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            for i in range(RUNS):
                each(i)
        replay = graph.replay
    except RuntimeError:
        torch.cuda.synchronize()
        replay = lambda: [each(i) for i in range(RUNS)]
    times = []
    for i in range(REPLAYS + 5):
        start = time.perf_counter()
        replay()
        torch.cuda.synchronize()
        if i >= 5:
            times.append((time.perf_counter() - start) / RUNS)
    return sorted(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bf16,tf32,f32")
    parser.add_argument("--only", default="")
    parser.add_argument("--log")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu_ops: this torch finds no GPU")
    torch.backends.cudnn.benchmark = True
    library = f"torch {torch.__version__} cuDNN {torch.backends.cudnn.version()}"
    device = torch.cuda.get_device_name()
    log = open(args.log, "a") if args.log else None
    workloads = [w for w in map(json.loads, sys.stdin) if args.only in w["name"]]
    for w in workloads:
        run = operation(w["op"], w["attributes"])
        if run is None:
            print(f"{w['name']:28} has no counterpart here", flush=True)
            continue
        for mode in args.dtype.split(","):
            dtype = {"bf16": torch.bfloat16, "f16": torch.float16}.get(mode, torch.float32)
            for flags in (torch.backends.cuda.matmul, torch.backends.cudnn):
                flags.allow_tf32 = mode == "tf32"
            elements = sum(torch.Size(s).numel() for s in w["inputs"])
            sets = max(1, min(RUNS, (256 << 20) // (elements * dtype.itemsize)))
            x = [[torch.randn(s, device="cuda", dtype=dtype) for s in w["inputs"]] for _ in range(sets)]
            leaves = [[t.clone().requires_grad_() for t in one] for one in x]
            y = run(*x[0])
            dy = torch.randn_like(y)
            moved = (elements + y.numel()) * dtype.itemsize

            def forward(i):
                with torch.no_grad():
                    run(*x[i % sets])

            def step(i):
                one = leaves[i % sets]
                torch.autograd.grad(run(*one), one, dy)

            for what, each, factor in (("forward", forward, 1), ("step", step, 3)):
                times = seconds(each)
                median = times[len(times) // 2]
                row = dict(library=library, device=device, name=w["name"], what=what, dtype=mode, median_us=median * 1e6,
                           low_us=times[len(times) // 10] * 1e6, high_us=times[len(times) * 9 // 10] * 1e6,
                           flops=factor * w["flops"], bytes=factor * moved, tflop_s=factor * w["flops"] / median / 1e12,
                           gb_s=factor * moved / median / 1e9)
                print(f"{w['name']:28} {what:8} {mode:5} {median * 1e6:11.2f} µs {row['tflop_s']:9.2f} TFLOP/s {row['gb_s']:9.1f} GB/s", flush=True)
                if log:
                    print(json.dumps(row), file=log, flush=True)


if __name__ == "__main__":
    main()
