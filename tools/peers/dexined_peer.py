#!/usr/bin/env python3
"""Compares the selector `dexined` with a PyTorch model of the same layers and tensor names, at random weights.

    cargo build --release && python tools/peers/dexined_peer.py --isg target/release/isg [--weights 10_model.pth] [--tile tile.png]

Writes the model's state dict as .pth and as .safetensors, lets `isg score --selector dexined --response` look at a tile with each, and
prints the largest difference of a pixel's edge probability. `--weights` takes a trained checkpoint instead; its names and shapes must
be the model's. Needs torch, numpy, safetensors and Pillow.
"""

import argparse
import pathlib
import subprocess
import tempfile

import numpy
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

MEAN_BGR = torch.tensor([103.939, 116.779, 123.68])


class Single(nn.Module):
    """A 1 x 1 convolution and its normalisation; the last one of the network holds a normalisation that it does not use."""

    def __init__(self, c, k, stride, normalised=True):
        super().__init__()
        self.conv, self.bn, self.normalised = nn.Conv2d(c, k, 1, stride), nn.BatchNorm2d(k), normalised

    def forward(self, x):
        return self.bn(self.conv(x)) if self.normalised else self.conv(x)


class Double(nn.Module):
    def __init__(self, c, middle, k, stride, rectified):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, middle, 3, stride, 1), nn.BatchNorm2d(middle)
        self.conv2, self.bn2 = nn.Conv2d(middle, k, 3, 1, 1), nn.BatchNorm2d(k)
        self.rectified = rectified

    def forward(self, x):
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return x.relu() if self.rectified else x


class Pair(nn.Module):
    def __init__(self, c, k):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(c, k, 3, padding=2), nn.BatchNorm2d(k)
        self.conv2, self.norm2 = nn.Conv2d(k, k, 3), nn.BatchNorm2d(k)

    def forward(self, x, skip):
        return (self.norm2(self.conv2(self.norm1(self.conv1(x.relu())).relu())) + skip) / 2


class Dense(nn.Module):
    def __init__(self, count, c, k):
        super().__init__()
        for i in range(count):
            self.add_module(f"denselayer{i + 1}", Pair(k if i else c, k))

    def forward(self, x, skip):
        for pair in self.children():
            x = pair(x, skip)
        return x


class Up(nn.Module):
    def __init__(self, c, doublings):
        super().__init__()
        layers, side = [], 2**doublings
        for i in range(doublings):
            k = 1 if i + 1 == doublings else 16
            layers += [nn.Conv2d(c, k, 1), nn.ReLU(), nn.ConvTranspose2d(k, k, side, 2, side // 2 - 1)]
            c = k
        self.features = nn.Sequential(*layers)

    def forward(self, x):
        return self.features(x)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.block_1, self.block_2 = Double(3, 32, 64, 2, True), Double(64, 128, 128, 1, False)
        self.dblock_3, self.dblock_4 = Dense(2, 128, 256), Dense(3, 256, 512)
        self.dblock_5, self.dblock_6 = Dense(3, 512, 512), Dense(3, 512, 256)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for i, (c, k, stride) in enumerate([(64, 128, 2), (128, 256, 2), (256, 512, 2), (512, 512, 1), (512, 256, 1)]):
            self.add_module(f"side_{i + 1}", Single(c, k, stride))
        for i, (c, k, stride) in enumerate([(128, 256, 2), (128, 256, 1), (256, 512, 1), (512, 512, 1), (512, 256, 1)]):
            self.add_module(f"pre_dense_{i + 2}", Single(c, k, stride))
        for i, (c, doublings) in enumerate([(64, 1), (128, 1), (256, 2), (512, 3), (512, 4), (256, 4)]):
            self.add_module(f"up_block_{i + 1}", Up(c, doublings))
        self.block_cat = Single(6, 1, 1, normalised=False)

    def forward(self, x):
        b1 = self.block_1(x)
        b2 = self.block_2(b1)
        down2 = self.maxpool(b2)
        sum2 = down2 + self.side_1(b1)
        b3 = self.dblock_3(sum2, self.pre_dense_3(down2))
        down3 = self.maxpool(b3)
        sum3 = down3 + self.side_2(sum2)
        b4 = self.dblock_4(sum3, self.pre_dense_4(down3 + self.pre_dense_2(down2)))
        down4 = self.maxpool(b4)
        sum4 = down4 + self.side_3(sum3)
        b5 = self.dblock_5(sum4, self.pre_dense_5(down4))
        b6 = self.dblock_6(b5 + self.side_4(sum4), self.pre_dense_6(b5))
        maps = [getattr(self, f"up_block_{i + 1}")(b) for i, b in enumerate([b1, b2, b3, b4, b5, b6])]
        return self.block_cat(torch.cat(maps, 1))


def randomised(model):
    """Weights that keep activations of ordinary size, and statistics that are not the identity."""
    torch.manual_seed(5)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    nn.init.normal_(model.block_1.conv1.weight, std=0.01)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isg", default="target/release/isg")
    parser.add_argument("--weights", type=pathlib.Path)
    parser.add_argument("--tile", type=pathlib.Path)
    arguments = parser.parse_args()
    model = randomised(Network())
    if arguments.weights:
        model.load_state_dict(torch.load(arguments.weights, map_location="cpu", weights_only=True))
    model.eval()
    if arguments.tile:
        tile = numpy.array(Image.open(arguments.tile).convert("RGB"))
    else:
        tile = numpy.random.default_rng(1).integers(0, 256, (160, 208, 3), dtype=numpy.uint8)
    tile = tile[: tile.shape[0] // 16 * 16, : tile.shape[1] // 16 * 16]
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        Image.fromarray(tile).save(folder / "tile.png")
        torch.save(model.state_dict(), folder / "weights.pth")
        save_file(model.state_dict(), folder / "weights.safetensors")
        bgr = torch.from_numpy(tile[..., ::-1].copy()).float() - MEAN_BGR
        wanted = model.double()(bgr.permute(2, 0, 1)[None].double()).sigmoid()[0, 0].numpy()
        print(f"{tile.shape[1]} x {tile.shape[0]} px; probabilities {wanted.min():.3f} to {wanted.max():.3f}, mean {wanted.mean():.5f}")
        for name in ("weights.pth", "weights.safetensors"):
            command = [arguments.isg, "score", folder / "tile.png", "--selector", "dexined", "--weights", folder / name, "--quiet"]
            command += ["--network-px", str(max(tile.shape)), "--response", folder / "response.npy"]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            score, found = float(said.splitlines()[1].split(",")[-2]), numpy.load(folder / "response.npy")
            print(f"{name}: largest difference {abs(found - wanted).max():.1e}, of the score {abs(score - wanted.mean()):.1e}")


main()
