"""How `isg score` compares with other compressors, on real patches: the tables in src/select/shannon/mod.rs.

Cuts every PNG tile and every slide of a data folder into patches, scores them with the `isg` binary, and prints as Markdown

    (default)      median size against zlib, libdeflate, zstd, lz4, PNG as an optimiser leaves it, WebP and JPEG XL without loss; rank
                   correlations; other codecs of `isg score`
    --anatomy      what predictor, colour, contexts and chunk size are worth, as entropies of the whole design space
    --speed        `cargo bench --bench shannon` beside libdeflate, zstd, lz4 and zlib on the same patches, one thread each
    --gpu          `ISG_DEVICE=cuda cargo bench --bench shannon -- device` beside nvCOMP (nvidia-nvcomp, torch) on the same patches
    --prefilter    what the pre-filter of `isg score` loses

Needs Python with numpy, scipy, Pillow, openslide-python and imagecodecs; nothing of it is needed to build or test.

    python tools/peers/shannon_quality.py --isg target/release/isg ../shared/data
"""

import argparse
import csv
import io
import os
import pathlib
import re
import subprocess
import tempfile
import time
import zlib

import imagecodecs
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


def whole_slides(data):
    for name in SLIDES:
        slide = openslide.OpenSlide(data / "slides" / name)
        yield numpy.array(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def groups(data):
    """Name of a group of patches and its patches."""
    tiles = sorted(data.glob("tiles/histolab/*.png")) + sorted(data.glob("golden/*.png"))
    tiles = [numpy.array(Image.open(path).convert("RGB")) for path in tiles]
    slides = list(whole_slides(data))
    for side in (1024, 512, 256):
        yield f"slides, {side} px", [patch for slide in slides for patch in crops(slide, side)]
    yield "tiles, pen and no tissue included, 512 px", tiles
    yield "the same in 256 px", [patch for tile in tiles for patch in crops(tile, 256)]


def image_bytes(patch, form, **options):
    file = io.BytesIO()
    Image.fromarray(patch).save(file, form, **options)
    return file.getvalue()


def median_edge(left, up, corner):
    least, most = numpy.minimum(left, up), numpy.maximum(left, up)
    return least + most - numpy.clip(corner, least, most)


def paeth(left, up, corner):
    plane = left + up - corner
    distances = [abs(plane - value) for value in (left, up, corner)]
    nearer = numpy.where(distances[1] <= distances[2], up, corner)
    return numpy.where((distances[0] <= distances[1]) & (distances[0] <= distances[2]), left, nearer)


PREDICTORS = {
    "left": lambda left, up, corner: left,
    "mean": lambda left, up, corner: (left + up) >> 1,
    "Paeth": paeth,
    "median edge": median_edge,
}


def neighbours(samples):
    """Left, up and the corner between them, 0 outside; the last three axes are rows, columns, channels."""
    padded = numpy.pad(samples, [(0, 0)] * (samples.ndim - 3) + [(1, 0), (1, 0), (0, 0)])
    return padded[..., 1:, :-1, :], padded[..., :-1, 1:, :], padded[..., :-1, :-1, :]


def optimised_png_bytes(patch):
    """The smallest of seven choices of filters, each deflated as hard as libdeflate can: what oxipng does."""
    samples = patch.astype(numpy.int32)
    left, up, corner = neighbours(samples)
    predictions = (0 * samples, left, up, (left + up) >> 1, paeth(left, up, corner))
    filtered = numpy.stack([(samples - p).astype(numpy.uint8).reshape(len(patch), -1) for p in predictions])
    sums = abs(filtered.astype(numpy.int8).astype(numpy.int32)).sum(axis=2)
    counts = numpy.stack([[numpy.bincount(row, minlength=256) for row in rows] for rows in filtered])
    entropies = -(counts * numpy.log2(numpy.maximum(counts, 1) / counts.sum(axis=2, keepdims=True))).sum(axis=2)
    choices = [numpy.full(len(patch), kind) for kind in range(5)] + [sums.argmin(axis=0), entropies.argmin(axis=0)]

    def deflated(choice, level):
        rows = filtered[choice, numpy.arange(len(patch))]
        lines = numpy.concatenate([choice[:, None].astype(numpy.uint8), rows], axis=1)
        return len(imagecodecs.deflate_encode(lines.tobytes(), level=level))

    best = min(choices, key=lambda choice: deflated(choice, 6))
    return deflated(best, 12) + 57


PEERS = {
    "zlib 1": lambda p: len(zlib.compress(p.tobytes(), 1)),
    "zlib 6": lambda p: len(zlib.compress(p.tobytes(), 6)),
    "zlib 9": lambda p: len(zlib.compress(p.tobytes(), 9)),
    "libdeflate 12": lambda p: len(imagecodecs.deflate_encode(p.tobytes(), level=12)),
    "zstd 1": lambda p: len(imagecodecs.zstd_encode(p.tobytes(), level=1)),
    "zstd 19": lambda p: len(imagecodecs.zstd_encode(p.tobytes(), level=19)),
    "lz4": lambda p: len(imagecodecs.lz4_encode(p.tobytes())),
    "PNG": lambda p: len(image_bytes(p, "PNG")),
    "PNG optimised": optimised_png_bytes,
    "WebP lossless": lambda p: len(imagecodecs.webp_encode(p, lossless=True)),
    "JPEG XL lossless": lambda p: len(imagecodecs.jpegxl_encode(p, lossless=True, effort=3)),
}


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


def table(header, rows):
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def quality(isg, data):
    sizes, ranks, codecs = [], [], []
    for name, patches in groups(data):
        pixels = numpy.array([patch.shape[0] * patch.shape[1] for patch in patches])
        # Ranks compare bits per pixel, so that tiles of different sizes can be ranked together.
        rank = lambda a, b: f"{spearmanr(a / pixels, b / pixels)[0]:.3f}"
        peers = {peer: numpy.array([encode(p) for p in patches]) for peer, encode in PEERS.items()}
        lz = scores(isg, patches)
        sizes.append([name, str(len(patches)), f"{numpy.median(8 * lz / pixels):.2f}"]
                     + [f"{numpy.median(lz / found):.3f}" for found in peers.values()])
        ranks.append([name] + [rank(lz, found) for found in peers.values()] + [rank(peers["zlib 6"], peers["PNG"])])
        for codec in (["order0"], ["jpeg"], ["jpeg", "--quality", "95"]):
            found = scores(isg, patches, "--codec", *codec)
            ratio = ""
            if codec[0] == "jpeg":
                level = int(codec[-1]) if len(codec) > 1 else 75
                files = numpy.array([len(image_bytes(p, "JPEG", quality=level, subsampling=2)) for p in patches])
                ratio = f"{numpy.median(found / files):.4f} ({(found / files).min():.3f}, {(found / files).max():.3f})"
            codecs.append([name, " ".join(codec).replace("--quality ", ""), f"{numpy.median(8 * found / pixels):.2f}",
                           rank(found, peers["zlib 6"]), rank(found, peers["PNG"]), rank(found, lz), ratio])
    table(["patches", "n", "lz, bits/px"] + [f"/ {peer}" for peer in PEERS], sizes)
    table(["rank correlation with"] + list(PEERS) + ["zlib 6 with PNG"], ranks)
    table(["patches", "codec", "median bits/px", "rho zlib 6", "rho PNG", "rho lz", "ratio to libjpeg (least, greatest)"], codecs)


ACTIVITY = [2, 5, 9, 15, 24, 36, 56]


def entropy_bits(patch, predictor, side, contexts, green):
    """Bits of a patch whose chunks of `side` pixels are coded at their entropy, 2.6 bits for each entry of each table."""
    height, width = (n // side * side for n in patch.shape[:2])
    chunks = patch[:height, :width].astype(numpy.int32).reshape(height // side, side, width // side, side, 3)
    chunks = chunks.transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)
    residuals = (chunks - PREDICTORS[predictor](*neighbours(chunks))).astype(numpy.int8).astype(numpy.int32)
    if green:
        residuals = (residuals - residuals[..., 1:2] * [1, 0, 1]).astype(numpy.int8).astype(numpy.int32)
    sizes = abs(residuals)
    context = numpy.zeros_like(sizes)
    if contexts:
        left, up, _ = neighbours(sizes)
        right = numpy.pad(sizes, [(0, 0), (1, 0), (0, 1), (0, 0)])[:, :-1, 1:]
        context = numpy.searchsorted(ACTIVITY, left + up + right, side="right")
    symbols = (numpy.arange(len(chunks))[:, None, None, None] * 8 + context) * 256 + (residuals & 255)
    counts = numpy.bincount(symbols.ravel(), minlength=len(chunks) * 2048).reshape(-1, 256)
    totals = numpy.maximum(counts.sum(axis=1, keepdims=True), 1)
    bits = -(counts * numpy.log2(numpy.maximum(counts, 1) / totals)).sum() + 2.6 * (counts > 0).sum()
    return bits / (height * width)


def anatomy(isg, data):
    patches = [patch for slide in whole_slides(data) for patch in crops(slide, 512)]
    pixels = 512 * 512
    zlib6 = numpy.array([PEERS["zlib 6"](p) for p in patches]) * 8 / pixels
    png = numpy.array([PEERS["PNG"](p) for p in patches]) * 8 / pixels
    rows = [("lz as it is", scores(isg, patches) * 8 / pixels)]
    designs = [("median edge", 128, True, False)]
    designs += [(predictor, 128, True, False) for predictor in ("Paeth", "mean", "left")]
    designs += [("median edge", 128, False, False), ("median edge", 128, True, True)]
    designs += [("median edge", side, True, False) for side in (32, 64, 256)]
    for predictor, side, contexts, green in designs:
        name = f"{predictor}, {'8 contexts' if contexts else 'one context'}{', green taken off' if green else ''}, {side} px"
        rows.append((name, numpy.array([entropy_bits(p, predictor, side, contexts, green) for p in patches])))
    as_it_is = rows[1][1]
    table(["entropy of, without copies", "bits/px", "median / the choice made", "/ zlib 6", "/ PNG", "rho zlib 6", "rho PNG"],
          [[name, f"{found.mean():.3f}", f"{numpy.median(found / as_it_is):.3f}", f"{numpy.median(found / zlib6):.3f}",
            f"{numpy.median(found / png):.3f}", f"{spearmanr(found, zlib6)[0]:.3f}", f"{spearmanr(found, png)[0]:.3f}"]
           for name, found in rows])


SPEEDS = {
    "libdeflate 1": lambda b: imagecodecs.deflate_encode(b, level=1),
    "libdeflate 6": lambda b: imagecodecs.deflate_encode(b, level=6),
    "zstd 1": lambda b: imagecodecs.zstd_encode(b, level=1),
    "zstd 3": lambda b: imagecodecs.zstd_encode(b, level=3),
    "lz4": lambda b: imagecodecs.lz4_encode(b),
    "zlib 6": lambda b: zlib.compress(b, 6),
}


def benched(name, environment=()):
    """Bytes a second of every bench of a patch."""
    command = ["cargo", "bench", "--quiet", "--bench", "shannon", "--", name]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **dict(environment)}).stdout
    units = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
    found = re.findall(rf"{re.escape(name)}/([\w/]+)\s.*?thrpt:\s+\[\S+ \S+ (\S+) (\w+)/s", output, re.DOTALL)
    return {bench: float(median) * units[unit] for bench, median, unit in found}


PATCHES = (("CMU-1-Small-Region.svs", 600, 200), ("tcga-cr-7395-01a-01-ts1.svs", 1536, 1280))


def speed(_, data):
    rows = {}
    for name, x, y in PATCHES:
        slide = openslide.OpenSlide(data / "slides" / name)
        patch = numpy.array(slide.read_region((x, y), 0, (1024, 1024)).convert("RGB")).tobytes()
        for bench, bytes_a_second in benched(name).items():
            rows.setdefault(f"isg {bench}", {})[name] = bytes_a_second
        for peer, encode in SPEEDS.items():
            seconds = []
            for _ in range(7):
                start = time.perf_counter()
                encode(patch)
                seconds.append(time.perf_counter() - start)
            rows.setdefault(peer, {})[name] = len(patch) / numpy.median(seconds)
    names = list(next(iter(rows.values())))
    table(["MB/s of pixels, one core"] + names, [[row] + [f"{found.get(n, 0) / 1e6:.0f}" for n in names] for row, found in rows.items()])


def gpu(_, data):
    import torch
    from nvidia import nvcomp

    rows = {}
    for name, x, y in PATCHES:
        for bench, bytes_a_second in benched(f"{name}/device", {"ISG_DEVICE": "cuda"}).items():
            rows.setdefault(f"isg {bench}", {})[name] = bytes_a_second
        slide = openslide.OpenSlide(data / "slides" / name)
        patch = numpy.array(slide.read_region((x, y), 0, (1024, 1024)).convert("RGB")).ravel()
        pixels = nvcomp.as_array(numpy.tile(patch, 64)).cuda()
        for algorithm in ("LZ4", "Snappy", "GDeflate", "Deflate", "Zstd", "ANS"):
            codec = nvcomp.Codec(algorithm=algorithm)
            seconds = []
            for _ in range(12):
                torch.cuda.synchronize()
                start = time.perf_counter()
                codec.encode(pixels)
                torch.cuda.synchronize()
                seconds.append(time.perf_counter() - start)
            rows.setdefault(f"nvCOMP {algorithm}", {})[name] = 64 * patch.size / numpy.median(seconds[2:])
    names = [name for name, _, _ in PATCHES]
    table(["GB/s of pixels"] + names, [[row] + [f"{found.get(n, 0) / 1e9:.1f}" for n in names] for row, found in rows.items()])


def prefilter(isg, data):
    rows = []
    for name in ["CMU-1-Small-Region.svs", "CropBreastSlide.tiff"]:
        for side in (256, 512):
            kept = {}
            for share in (1.0, 0.75, 0.5, 0.25):
                with tempfile.NamedTemporaryFile(suffix=".csv") as file:
                    options = ["--patch-px", str(side), "--out", file.name, "--quiet"]
                    if share < 1:
                        options.append(f"--prefilter={share}")
                    subprocess.run([isg, "score", str(data / "slides" / name), *options], check=True)
                    with open(file.name) as found:
                        found = list(csv.DictReader(found))
                kept[share] = {(row["x"], row["y"]) for row in found if row["kept"] == "1"}
                if share == 1:
                    total = len(found)
                    continue
                lost, added = len(kept[1] - kept[share]), len(kept[share] - kept[1])
                rows.append([name, str(side), str(share), f"{len(found)} of {total}", str(len(kept[1])), str(lost), str(added)])
    table(["slide", "patch", "share decoded", "patches", "kept by all", "lost", "added"], rows)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=pathlib.Path)
    arguments.add_argument("--isg", default="target/release/isg")
    for other in (anatomy, speed, gpu, prefilter):
        arguments.add_argument(f"--{other.__name__}", dest="what", action="store_const", const=other, default=quality)
    arguments = arguments.parse_args()
    arguments.what(arguments.isg, arguments.data)
