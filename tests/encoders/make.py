"""Writes networks.safetensors: narrow networks of timm with drawn weights, images, and the features timm computes of them.

Weights are exact in f16 and stored so; features are computed in f64. Names are prefixed by the network's and a dot, as in a
checkpoint that wraps it; classifiers and counters of batches stay in, to be ignored. Needs torch, timm, safetensors."""

import pathlib

import torch
from safetensors.torch import save_file
from timm.models import efficientnet, resnet, vision_transformer
from timm.layers import SwiGLUPacked

torch.manual_seed(5)


def draw(net):
    """Weights that keep values of one size, statistics that are not those of a fresh network."""
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if not value.is_floating_point():
                continue
            if value.ndim > 1 and "token" not in name and "pos_embed" not in name:
                drawn = torch.randn_like(value) * (1.6 / value[0].numel()) ** 0.5
            elif name.endswith("running_var"):
                drawn = torch.rand_like(value) + 0.5
            elif value.ndim == 1 and name.endswith(("weight", "gamma")):
                drawn = torch.rand_like(value) + 0.5
            else:
                drawn = torch.randn_like(value) * 0.2
            value.copy_(drawn.half())
    return net.double().eval()


def residual(block, layers, widths):
    """timm's network with a stem as narrow as its first stage; timm itself has no stem but one of 64 channels."""
    net = resnet.ResNet(block, layers, channels=widths, num_classes=3)
    net.conv1 = torch.nn.Conv2d(3, widths[0], 7, stride=2, padding=3, bias=False)
    net.bn1 = torch.nn.BatchNorm2d(widths[0])
    stages, _ = resnet.make_blocks((block,) * 4, widths, layers, widths[0])
    for name, stage in stages:
        setattr(net, name, stage)
    return net


NETWORKS = {
    "resnet18": lambda: residual(resnet.BasicBlock, [2, 1, 1, 1], (8, 8, 12, 16)),
    "resnet50": lambda: residual(resnet.Bottleneck, [1, 2, 1, 1], (4, 4, 6, 8)),
    "lite0": lambda: efficientnet._gen_efficientnet_lite(
        "tf_efficientnet_lite0", channel_multiplier=0.1, num_classes=3, pad_type="same", bn_eps=1e-3),
    "timm": lambda: vision_transformer.VisionTransformer(
        img_size=24, patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.5, num_classes=3, dynamic_img_size=True),
    "dinov2": lambda: vision_transformer.VisionTransformer(
        img_size=28, patch_size=7, embed_dim=16, depth=2, num_heads=2, mlp_ratio=5, mlp_layer=SwiGLUPacked, act_layer=torch.nn.SiLU,
        init_values=1e-5, reg_tokens=3, no_embed_class=True, num_classes=0, dynamic_img_size=True),
}
SIZES = {"timm": (32, 24), "dinov2": (28, 42)}


def main():
    out = {}
    for name, build in NETWORKS.items():
        net = draw(build())
        if name == "lite0":
            # The head that timm keeps wide would be most of the file.
            net.conv_head = torch.nn.Conv2d(net.conv_head.in_channels, 24, 1, bias=False)
            net.bn2 = type(net.bn2)(24, eps=1e-3)
            net.bn2.act = torch.nn.ReLU6()
            net.classifier = torch.nn.Linear(24, 3)
            draw(net)
        h, w = SIZES.get(name, (45, 38))
        image = torch.randn(2, h, w, 3).half()
        features = net.forward_features(image.double().permute(0, 3, 1, 2))
        features = features[:, 0] if features.ndim == 3 else features.mean(dim=[2, 3])
        for key, value in net.state_dict().items():
            out[f"{name}.{key}"] = value.half().contiguous() if value.is_floating_point() else value
        out[f"image/{name}"], out[f"features/{name}"] = image, features.detach().float().contiguous()
        print(name, sum(v.numel() for v in net.parameters()), tuple(features.shape), float(features.std()))
    save_file(out, pathlib.Path(__file__).parent / "networks.safetensors")


if __name__ == "__main__":
    main()
