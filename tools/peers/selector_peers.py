#!/usr/bin/env python3
"""Compares the selectors with the libraries whose semantics they follow, on the tiles and slides of a data folder, as Markdown.

    cargo build --release && python tools/peers/selector_peers.py --isg target/release/isg ../shared/data [--speed]

Otsu against scikit-image (thresholds), gradient against scikit-image's Sobel, Canny against OpenCV (every pixel, at several settings),
DoG and LoG against scipy.ndimage. `--speed` also times the peers and `cargo bench --bench selectors`, one thread each. Needs numpy, scipy,
scikit-image, opencv-python-headless and Pillow; nothing of it is needed to build or test.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import cv2
import numpy
from PIL import Image
from scipy import ndimage
from skimage import filters

CANNY = [(low, high, aperture, l2) for aperture, scale in ((3, 1), (5, 8), (7, 80)) for l2 in (False, True)
         for low, high in ((40 * scale, 90 * scale), (100 * scale, 200 * scale))]


def tiles(data, side):
    """Every picture cut into squares, and odd sizes of the first."""
    pictures = sorted(data.glob("tiles/**/*.png")) + sorted(data.glob("golden/*.png"))
    for path in pictures:
        picture = numpy.array(Image.open(path).convert("RGB"))
        for y in range(0, max(1, picture.shape[0] - side + 1), side):
            for x in range(0, max(1, picture.shape[1] - side + 1), side):
                yield numpy.ascontiguousarray(picture[y : y + side, x : x + side])
    first = numpy.array(Image.open(pictures[0]).convert("RGB"))
    for height, width in ((1, 1), (1, side), (side, 1), (2, 3), (7, 200), (side - 1, side - 1)):
        yield numpy.ascontiguousarray(first[:height, :width])


class Isg:
    def __init__(self, binary):
        self.binary, self.folder = binary, tempfile.TemporaryDirectory()

    def __call__(self, image, selector, *options, response=True):
        """Score and response of an image, and what the JSON says of the slide."""
        folder = pathlib.Path(self.folder.name)
        Image.fromarray(image).save(folder / "tile.png")
        arguments = [self.binary, "score", folder / "tile.png", "--selector", selector, "--json", "--quiet", *map(str, options)]
        if response:
            arguments += ["--response", folder / "response.npy"]
        said = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
        slide = json.loads(said)["slides"][0]
        return slide["patches"][0].get("score"), numpy.load(folder / "response.npy") if response else None, slide


def agreement(isg, data, side):
    worst = dict(gradient=0.0, dog=0.0, log=0.0, dog_energy=0.0, log_energy=0.0)
    thresholds, maps, wrong_thresholds, wrong_pixels, pixels, images = 0, 0, 0, 0, 0, 0
    for number, image in enumerate(tiles(data, side)):
        images += 1
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        numbers = grey.astype(float)
        _, mask, slide = isg(image, "otsu")
        wanted = int(filters.threshold_otsu(grey))
        thresholds += 1
        wrong_thresholds += slide["tissue_threshold"] != wanted or not ((mask > 0) == (grey <= wanted)).all()
        score, _, _ = isg(image, "gradient", response=False)
        worst["gradient"] = max(worst["gradient"], abs(score - 255 / 2**0.5 * filters.sobel(grey / 255).mean()))
        # All settings on every eighth tile, one in turn on the others.
        for low, high, aperture, l2 in CANNY if number % 8 == 0 else [CANNY[number % len(CANNY)]]:
            options = ["--canny-low", low, "--canny-high", high, "--canny-aperture", aperture] + ["--canny-l2"] * l2
            _, edges, _ = isg(image, "canny", *options)
            different = (edges > 0) != (cv2.Canny(grey, low, high, apertureSize=aperture, L2gradient=l2) > 0)
            maps, pixels, wrong_pixels = maps + 1, pixels + different.size, wrong_pixels + int(different.sum())
        for selector, filtered in (
            ("dog", ndimage.gaussian_filter(numbers, 1.0) - ndimage.gaussian_filter(numbers, 1.6)),
            ("log", ndimage.gaussian_laplace(numbers, 2.0)),
        ):
            score, response, _ = isg(image, selector)
            worst[selector] = max(worst[selector], float(abs(response - abs(filtered)).max()))
            energy = (filtered**2).mean()
            worst[f"{selector}_energy"] = max(worst[f"{selector}_energy"], abs(score - energy) / max(energy, 1e-2))
    print(f"{images} images of {side} px and odd sizes\n")
    print("| selector | peer | compared | differences |\n|---|---|---|---|")
    print(f"| otsu | scikit-image threshold_otsu | {thresholds} thresholds and masks | {wrong_thresholds} |")
    print(f"| canny | OpenCV {cv2.__version__} Canny | {maps} maps, {pixels / 1e6:.1f} M pixels | {wrong_pixels} pixels |")
    print(f"| gradient | scikit-image sobel | mean, grey levels a pixel | at most {worst['gradient']:.1e} |")
    for name, peer in (("dog", "gaussian_filter"), ("log", "gaussian_laplace")):
        print(f"| {name} | scipy {peer}, f64 | every pixel, grey levels | at most {worst[name]:.1e} |")
        print(f"| {name} | scipy {peer}, f64 | energy, relative | at most {worst[name + '_energy']:.1e} |")


def seconds(work):
    best = 1e9
    for _ in range(7):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return best


def speed(data):
    cv2.setNumThreads(1)
    path = max(data.glob("golden/*.png"), key=lambda p: p.stat().st_size)
    tile = numpy.array(Image.open(path).convert("RGB"))
    image = numpy.tile(tile, (1024 // tile.shape[0] + 1, 1024 // tile.shape[1] + 1, 1))[:1024, :1024].copy()

    def grey():
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)

    def gradient():
        g = grey()
        dx, dy = (cv2.Sobel(g, cv2.CV_32F, 1 - i, i, borderType=cv2.BORDER_REPLICATE) for i in (0, 1))
        return cv2.magnitude(dx, dy).mean() / 8

    work = {
        "otsu": ("scikit-image", lambda: filters.threshold_otsu(grey())),
        "gradient": ("OpenCV", gradient),
        "canny": ("OpenCV", lambda: (cv2.Canny(grey(), 100, 200) > 0).mean()),
        "dog": ("scipy, f32", lambda: ((lambda f: ndimage.gaussian_filter(f, 1) - ndimage.gaussian_filter(f, 1.6))(grey().astype("f4")) ** 2).mean()),
        "log": ("scipy, f32", lambda: (ndimage.gaussian_laplace(grey().astype("f4"), 2) ** 2).mean()),
    }
    print("\n| selector | isg, MB/s of RGB | peer, MB/s | |\n|---|---|---|---|")
    for name, (peer, call) in work.items():
        found = pathlib.Path("target/criterion/tissue") / name / "new/estimates.json"
        ours = image.nbytes / json.loads(found.read_text())["median"]["point_estimate"] * 1e3 if found.is_file() else 0
        print(f"| {name} | {ours:.0f} | {image.nbytes / seconds(call) / 1e6:.0f} | {peer} |")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", type=pathlib.Path)
parser.add_argument("--isg", default="target/release/isg")
parser.add_argument("--side", type=int, default=256)
parser.add_argument("--speed", action="store_true")
arguments = parser.parse_args()
if arguments.speed:
    speed(arguments.data)
else:
    agreement(Isg(arguments.isg), arguments.data, arguments.side)
