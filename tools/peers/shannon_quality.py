"""How `isg score` compares with other compressors, on real patches: the table in src/select/shannon/mod.rs.

Cuts every PNG tile and every slide of a data folder into patches, scores them with the `isg` binary, and prints as Markdown the
median size against zlib 1/6/9 and PNG, the rank correlation with zlib 6 and PNG, and for `--codec jpeg` the ratio to
libjpeg's files. Needs Python with numpy, scipy, Pillow and openslide-python; nothing of it is needed to build or test.

    python tools/peers/shannon_quality.py --isg target/release/isg ../shared/data
    python tools/peers/shannon_quality.py --isg target/release/isg --prefilter ../shared/data
"""

import argparse
import csv
import io
import pathlib
import subprocess
import sys
import tempfile
import zlib

import numpy
import openslide
from PIL import Image
from scipy.stats import spearmanr

SLIDES = ["CMU-1-Small-Region.svs", "tcga-cr-7395-01a-01-ts1.svs", "CropBreastSlide.tiff"]


def crops(picture, side):
    height, width = picture.shape[:2]
    for y in range(0, height - side + 1, side):
        for x in range(0, width - side + 1, side):
            yield numpy.ascontiguousarray(picture[y : y + side, x : x + side])


def groups(data):
    """Name of a group of patches and its patches."""
    tiles = sorted(data.glob("tiles/histolab/*.png")) + sorted(data.glob("golden/*.png"))
    tiles = [numpy.array(Image.open(path).convert("RGB")) for path in tiles]
    slides = []
    for name in SLIDES:
        slide = openslide.OpenSlide(data / "slides" / name)
        slides.append(numpy.array(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")))
    yield "slides, 1024 px", [patch for slide in slides for patch in crops(slide, 1024)]
    yield "slides, 512 px", [patch for slide in slides for patch in crops(slide, 512)]
    yield "slides, 256 px", [patch for slide in slides for patch in crops(slide, 256)]
    yield "tiles, pen and no tissue included, 512 px", tiles
    yield "the same in 256 px", [patch for tile in tiles for patch in crops(tile, 256)]


def image_bytes(patch, form, **options):
    file = io.BytesIO()
    Image.fromarray(patch).save(file, form, **options)
    return file.getvalue()


def scores(isg, patches, *options):
    """Bits of every patch, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for number, patch in enumerate(patches):
            Image.fromarray(patch).save(folder / f"{number:05}.png", compress_level=1)
        files = [str(folder / f"{number:05}.png") for number in range(len(patches))]
        table = folder / "scores.csv"
        command = [isg, "score", *files, "--patch-px", "4096", "--out", str(table), "--quiet", *options]
        subprocess.run(command, check=True)
        with open(table) as rows:
            return numpy.array([int(row["bits"]) / 8 for row in csv.DictReader(rows)])


def quality(isg, data):
    print("| patches | n | lz, bits/px | lz / zlib 1 | / zlib 6 | / zlib 9 | / PNG | rho zlib 6 | rho PNG | zlib 6 with PNG |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    codecs = {}
    for name, patches in groups(data):
        pixels = numpy.array([patch.shape[0] * patch.shape[1] for patch in patches])
        deflated = {level: numpy.array([len(zlib.compress(p.tobytes(), level)) for p in patches]) for level in (1, 6, 9)}
        png = numpy.array([len(image_bytes(patch, "PNG")) for patch in patches])
        lz = scores(isg, patches)
        # Ranks compare bits per pixel, so that tiles of different sizes can be ranked together.
        rank = lambda a, b: spearmanr(a / pixels, b / pixels)[0]
        ratios = [numpy.median(lz / deflated[level]) for level in (1, 6, 9)] + [numpy.median(lz / png)]
        print(
            f"| {name} | {len(patches)} | {numpy.median(8 * lz / pixels):.2f} | "
            + " | ".join(f"{ratio:.3f}" for ratio in ratios)
            + f" | {rank(lz, deflated[6]):.3f} | {rank(lz, png):.3f} | {rank(deflated[6], png):.3f} |"
        )
        codecs[name] = []
        for codec in (["order0"], ["jpeg"], ["jpeg", "--quality", "95"]):
            found = scores(isg, patches, "--codec", *codec)
            codecs[name].append((codec, found, rank(found, deflated[6]), rank(found, png), rank(found, lz), pixels, patches))
    print("\n| patches | codec | median bits/px | rho zlib 6 | rho PNG | rho lz | median (least, greatest) ratio to libjpeg |")
    print("|---|---|---|---|---|---|---|")
    for name, rows in codecs.items():
        for codec, found, with_zlib, with_png, with_lz, pixels, patches in rows:
            ratio = ""
            if codec[0] == "jpeg":
                level = int(codec[-1]) if len(codec) > 1 else 75
                files = numpy.array([len(image_bytes(p, "JPEG", quality=level, subsampling=2)) for p in patches])
                ratio = found / files
                ratio = f"{numpy.median(ratio):.4f} ({ratio.min():.3f}, {ratio.max():.3f})"
            label = " ".join(codec).replace("--quality ", "")
            print(
                f"| {name} | {label} | {numpy.median(8 * found / pixels):.2f} | {with_zlib:.3f} | {with_png:.3f} | "
                f"{with_lz:.3f} | {ratio} |"
            )


def prefilter(isg, data):
    print("| slide | patch | share decoded | patches | kept by all | lost | added |")
    print("|---|---|---|---|---|---|---|")
    for name in ["CMU-1-Small-Region.svs", "CropBreastSlide.tiff"]:
        for side in (256, 512):
            kept = {}
            for share in (1.0, 0.75, 0.5, 0.25):
                with tempfile.NamedTemporaryFile(suffix=".csv") as table:
                    options = ["--patch-px", str(side), "--out", table.name, "--quiet"]
                    if share < 1:
                        options.append(f"--prefilter={share}")
                    subprocess.run([isg, "score", str(data / "slides" / name), *options], check=True)
                    with open(table.name) as rows:
                        rows = list(csv.DictReader(rows))
                kept[share] = {(row["x"], row["y"]) for row in rows if row["kept"] == "1"}
                if share == 1:
                    total = len(rows)
                    continue
                lost, added = len(kept[1] - kept[share]), len(kept[share] - kept[1])
                print(f"| {name} | {side} | {share} | {len(rows)} of {total} | {len(kept[1])} | {lost} | {added} |")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=pathlib.Path)
    arguments.add_argument("--isg", default="target/release/isg")
    arguments.add_argument("--prefilter", action="store_true", help="measure the pre-filter instead")
    arguments = arguments.parse_args()
    sys.exit((prefilter if arguments.prefilter else quality)(arguments.isg, arguments.data))
