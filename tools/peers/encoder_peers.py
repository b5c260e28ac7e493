#!/usr/bin/env python3
"""Compares patch encoders with torchvision and timm at drawn weights, and EfficientNet-Lite0 at its real ones.

    cargo build --release && python tools/peers/encoder_peers.py --isg target/release/isg [--lite0 efficientnet-lite0.safetensors]

Each model is drawn (weights, running statistics, LayerScale), saved as people hold it (.pth or safetensors, classifier included), and
`isg encode` makes vectors of a few images at the model's own side with it; printed is the largest difference from PyTorch's in f64,
divided by the largest number. With --lite0 (tools/weights.py) the real network also names two photographs of scikit-learn by its own
classifier on top of isg's vectors: 698 (palace) and 985 (daisy). Needs torch, torchvision, timm, safetensors, Pillow, scikit-learn.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import numpy
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.layers import SwiGLUPacked

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE0 = (127 / 255,) * 3, (128 / 255,) * 3
ACCEPTED = 1e-4


def drawn(net, seed):
    """Weights that keep values of one size through many layers, and statistics that are not a fresh network's."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            normal = torch.randn(value.shape, generator=generator) if value.is_floating_point() else None
            if normal is None:
                continue
            if value.ndim > 1 and "token" not in name and "pos_embed" not in name:
                value.copy_(normal * value[0].numel() ** -0.5)
            elif name.endswith("running_var") or (value.ndim == 1 and name.endswith(("weight", "gamma"))):
                value.copy_(normal.abs() * 0.3 + 0.7)
            else:
                value.copy_(normal * 0.1)
    return net.eval()


def cls(net, x):
    return net.forward_features(x)[:, 0]


def cls_mean(net, x):
    tokens = net.forward_features(x)
    return torch.cat([tokens[:, 0], tokens[:, net.num_prefix_tokens :].mean(1)], -1)


def trunk(net, x):
    """torchvision's network without its classifier."""
    net.fc = torch.nn.Identity()
    return net(x)


def third(net, x):
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    return net.layer3(net.layer2(net.layer1(x))).mean([2, 3])


def pooled(net, x):
    return net.forward_features(x).mean([2, 3])


def vit(name, **more):
    return lambda: timm.create_model(name, pretrained=False, dynamic_img_size=True, **more)


GIANT = dict(embed_dim=48, depth=2, num_heads=4, mlp_ratio=5.33334, mlp_layer=SwiGLUPacked, act_layer=torch.nn.SiLU, init_values=1e-5)
# Model, how isg is asked, side, input statistics, what PyTorch's vector is.
MODELS = {
    "resnet18": (lambda: torchvision.models.resnet18(), ["resnet18"], 224, IMAGENET, trunk),
    "resnet50": (lambda: torchvision.models.resnet50(), ["resnet50"], 224, IMAGENET, trunk),
    "resnet50, layer3, 64 px": (lambda: torchvision.models.resnet50(), ["resnet50", "feature=layer3"], 64, IMAGENET, third),
    "efficientnet_lite0 (timm)": (lambda: timm.create_model("efficientnet_lite0"), ["efficientnet-lite0"], 224, LITE0, pooled),
    "vit_tiny_patch16_224": (vit("vit_tiny_patch16_224"), ["vit"], 224, IMAGENET, cls),
    "vit_small_patch16_224 at 160": (vit("vit_small_patch16_224"), ["vit"], 160, IMAGENET, cls),
    "vit_small_patch8_224": (vit("vit_small_patch8_224"), ["vit"], 64, IMAGENET, cls),
    "vit_giant_patch14_reg4_dinov2, shrunk": (
        vit("vit_giant_patch14_reg4_dinov2", img_size=224, **GIANT), ["vit", "heads=4"], 224, IMAGENET, cls),
    "the same, class token and mean": (
        vit("vit_giant_patch14_reg4_dinov2", img_size=224, **GIANT), ["vit", "heads=4", "tokens=cls+mean"], 112, IMAGENET, cls_mean),
}


def tensor(images, statistics):
    x = torch.from_numpy(numpy.stack(images)).double() / 255
    return ((x - torch.tensor(statistics[0])) / torch.tensor(statistics[1])).permute(0, 3, 1, 2)


def encode(isg, weights, images, side, asked):
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i, image in enumerate(images):
            paths.append(str(pathlib.Path(folder) / f"{i}.png"))
            Image.fromarray(image).save(paths[-1])
        command = [isg, "--device", "cpu", "--quiet", "encode", *paths, "--json", "--encoder", asked[0], "--weights", str(weights)]
        for setting in [f"tile_px={side}", *asked[1:]]:
            command += ["--set", setting]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return torch.tensor([image["vector"] for image in json.loads(out)["images"]], dtype=torch.float64)


def photographs():
    from sklearn.datasets import load_sample_images

    def square(image):
        height, width = image.shape[:2]
        side = int(min(height, width) * 224 / 256)
        top, left = (height - side) // 2, (width - side) // 2
        return numpy.asarray(Image.fromarray(image[top : top + side, left : left + side]).resize((224, 224), Image.BICUBIC))

    return [square(image) for image in load_sample_images().images]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--isg", required=True)
    arguments.add_argument("--lite0", type=pathlib.Path)
    arguments.add_argument("--seed", type=int, default=1)
    args = arguments.parse_args()
    rng, failed = numpy.random.default_rng(args.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, (build, asked, side, statistics, vector)) in enumerate(MODELS.items()):
            net = drawn(build(), args.seed + i)
            path = pathlib.Path(folder) / ("net.pth" if i % 2 else "net.safetensors")
            torch.save(net.state_dict(), path) if i % 2 else save_file(net.state_dict(), path)
            images = list(rng.integers(0, 256, (2, side, side, 3), dtype=numpy.uint8))
            ours = encode(args.isg, path, images, side, asked)
            with torch.no_grad():
                theirs = vector(net.double(), tensor(images, statistics))
            error = float((ours - theirs).abs().max() / theirs.abs().max())
            failed += error > ACCEPTED or ours.shape != theirs.shape
            print(f"{name:40} d {theirs.shape[1]:4}  {error:.1e}  {'ok' if error <= ACCEPTED else 'DIFFERS'}")
    if args.lite0:
        weights, images = load_file(args.lite0), photographs()
        ours = encode(args.isg, args.lite0, images, 224, ["efficientnet-lite0"])
        logits = ours @ weights["_fc.weight"].double().T + weights["_fc.bias"].double()
        for name, wanted, row in zip(["china.jpg", "flower.jpg"], [698, 985], logits.softmax(-1)):
            top = row.topk(3)
            failed += int(top.indices[0]) != wanted
            print(f"{name}: " + ", ".join(f"{int(k)} {float(p):.2f}" for p, k in zip(*top)) + f" ({wanted} wanted)")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
