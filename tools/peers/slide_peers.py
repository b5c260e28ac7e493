#!/usr/bin/env python3
"""Compares `isg slide` with OpenSlide and tifffile, pixel by pixel.

    python tools/peers/slide_peers.py [--isg target/release/isg] [--seed 1] [SLIDE ...]

For every slide named: level 0 against OpenSlide where OpenSlide opens it, every level against tifffile. Without names,
or with --generate, TIFFs of many kinds are written to a temporary folder with tifffile and compared with it:
tile sizes, strips, planar, 16 bit, both byte orders, LZW and deflate with predictor, JPEG 4:4:4, 4:2:2, 4:2:0, RGB JPEG,
JPEG 2000, SubIFD and IFD pyramids, palettes, bilevel. Needs numpy, tifffile, imagecodecs, openslide-python; where they
are absent it says so in one line and ends.
"""
import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import imagecodecs
    import numpy as np
    import tifffile
except ImportError as missing:
    print(f"slide_peers: skipped, {missing}")
    sys.exit(0)
try:
    import openslide
except ImportError:
    openslide = None


def isg_level(isg, path, level, width, height):
    with tempfile.NamedTemporaryFile(suffix=".png") as out:
        subprocess.run(
            [isg, "slide", "region", path, "--level", str(level), "--x", "0", "--y", "0",
             "--width", str(width), "--height", str(height), "--out", out.name],
            check=True, capture_output=True, text=True)
        return imagecodecs.png_decode(pathlib.Path(out.name).read_bytes()).astype(int)


def rgb8(page, pixels):
    """tifffile's native samples as 8-bit RGB by the rules isg documents."""
    pixels = np.asarray(pixels)
    if pixels.ndim == 3 and page.planarconfig == 2:
        pixels = np.moveaxis(pixels, 0, -1)
    if page.photometric == 3:
        table = np.asarray(page.colormap) >> 8
        return np.moveaxis(table[:, pixels], 0, -1).astype(int)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype == np.uint16:
        pixels = pixels >> max(page.bitspersample - 8, 0) if page.bitspersample > 8 else pixels
    elif page.bitspersample < 8:
        pixels = pixels.astype(int) * 255 // ((1 << page.bitspersample) - 1)
    pixels = pixels.astype(int)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if page.photometric == 0:
        pixels = 255 - pixels
    colours, extra = pixels, page.extrasamples
    if extra:
        colours, alpha = pixels[..., :-len(extra)], pixels[..., -len(extra)][..., None]
        if extra[0] == 1:
            colours = np.minimum(colours + 255 - alpha, 255)
        elif extra[0] == 2:
            colours = (colours * alpha + 255 * (255 - alpha) + 127) // 255
    return np.repeat(colours, 3, axis=-1) if colours.shape[-1] == 1 else colours[..., :3]


def pages_by_size(tif):
    found = {}
    for page in tif.pages:
        for one in [page, *(page.pages or [])]:
            found.setdefault((one.imagewidth, one.imagelength), one)
    return found


def compare(isg, path, report):
    path = str(path)
    info = subprocess.run([isg, "slide", "info", path, "--json"], capture_output=True, text=True)
    if info.returncode:
        report(path, "-", "refused", info.stderr.strip())
        return
    info = json.loads(info.stdout)
    tif = None
    try:
        tif = tifffile.TiffFile(path)
        pages = pages_by_size(tif)
    except Exception as problem:  # a picture file, or a container tifffile does not know
        report(path, "-", "tifffile", f"cannot read it: {problem}")
    slide = None
    if openslide:
        try:
            slide = openslide.OpenSlide(path)
        except openslide.OpenSlideError:
            pass
    for level in info["levels"]:
        width, height = level["width_px"], level["height_px"]
        if width * height > 1 << 28:
            continue
        ours = isg_level(isg, path, level["level"], width, height)
        if tif and (width, height) in pages:
            page = pages[width, height]
            try:
                theirs = rgb8(page, page.asarray())
                difference(report, path, level["level"], "tifffile", ours, theirs)
            except Exception as problem:
                report(path, level["level"], "tifffile", f"cannot decode it: {problem}")
        if slide and level["level"] == 0:
            try:
                rgba = np.asarray(slide.read_region((0, 0), 0, (width, height))).astype(int)
            except openslide.OpenSlideError as problem:
                print(f"{pathlib.Path(path).name}  level 0  openslide: cannot read it: {problem}", flush=True)
                continue
            theirs = np.where(rgba[..., 3:] == 0, 255, rgba[..., :3])
            difference(report, path, 0, "openslide", ours, theirs)


def difference(report, path, level, peer, ours, theirs):
    if ours.shape != theirs.shape:
        report(path, level, peer, f"shapes {ours.shape} and {theirs.shape}")
        return
    apart = np.abs(ours - theirs)
    report(path, level, peer, f"max {apart.max()}, {np.count_nonzero(apart)} of {apart.size} samples differ")


def picture(rng, height, width):
    """Smooth blobs with noise: compressible, with edges and flat parts."""
    y, x = np.mgrid[0:height, 0:width]
    out = np.full((height, width, 3), 235.0)
    for _ in range(60):
        cy, cx, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(3, max(4, min(height, width) / 6))
        inside = np.exp(-(((y - cy) ** 2 + (x - cx) ** 2) / r ** 2) ** 2)[..., None]
        out = out * (1 - inside) + inside * rng.uniform(30, 220, 3)
    out += rng.normal(0, 4, out.shape)
    return np.clip(out, 0, 255).astype(np.uint8)


def generate(folder, seed):
    rng = np.random.default_rng(seed)
    base = picture(rng, 301, 397)
    grey = base[..., 1]
    count = itertools.count()

    def write(name, data, **options):
        path = folder / f"{next(count):03}_{name}.tif"
        pyramid = options.pop("pyramid", 0)
        subifds = options.pop("subifds", False)
        order = options.pop("byteorder", "<")
        big = options.pop("bigtiff", False)
        with tifffile.TiffWriter(path, byteorder=order, bigtiff=big) as tif:
            tif.write(data, subifds=pyramid if subifds else None, metadata=None, **options)
            for level in range(pyramid):
                step = 2 << level
                tif.write(data[::step, ::step], subfiletype=1, metadata=None, **options)
        return path

    paths = []
    add = lambda *args, **options: paths.append(write(*args, **options))
    for order in "<>":
        for name, options in {
            "none": {}, "lzw": {"compression": "lzw"}, "lzw_pred": {"compression": "lzw", "predictor": True},
            "deflate": {"compression": "deflate"}, "deflate_pred": {"compression": "deflate", "predictor": True},
            "packbits": {"compression": "packbits"},
        }.items():
            for layout in ({"tile": (64, 64)}, {"tile": (48, 112)}, {"rowsperstrip": 7}, {"rowsperstrip": 301}):
                add(f"rgb_{name}", base, byteorder=order, photometric="rgb", **options, **layout)
            if name != "packbits":
                wide = base.astype(np.uint16) * 257 + rng.integers(0, 200, base.shape).astype(np.uint16)
                add(f"rgb16_{name}", wide, byteorder=order, photometric="rgb", tile=(64, 64), **options)
                add(f"grey16_{name}", wide[..., 0], byteorder=order, photometric="minisblack", tile=(64, 64), **options)
            planes = np.moveaxis(base, -1, 0)
            add(f"planar_{name}", planes, byteorder=order, photometric="rgb", planarconfig="separate", tile=(64, 64), **options)
            add(f"planar_strips_{name}", planes, byteorder=order, photometric="rgb", planarconfig="separate", rowsperstrip=16, **options)
            add(f"grey_{name}", grey, byteorder=order, photometric="minisblack", tile=(128, 128), **options)
            add(f"white_{name}", grey, byteorder=order, photometric="miniswhite", rowsperstrip=32, **options)
            alpha = np.concatenate([base, rng.integers(0, 256, grey.shape + (1,)).astype(np.uint8)], axis=-1)
            add(f"rgba_{name}", alpha, byteorder=order, photometric="rgb", extrasamples=["unassalpha"], tile=(64, 64), **options)
        table = rng.integers(0, 65536, (3, 256)).astype(np.uint16)
        add("palette", grey, byteorder=order, photometric="palette", colormap=table, tile=(64, 64))
        add("bilevel", grey > 128, byteorder=order, photometric="minisblack", rowsperstrip=20)
        add("pyramid_lzw", base, byteorder=order, photometric="rgb", tile=(64, 64), compression="lzw", pyramid=3)
        add("subifd_deflate", base, byteorder=order, bigtiff=True, photometric="rgb", tile=(64, 64), compression="deflate", pyramid=3, subifds=True)
    for quality in (30, 75, 95):
        for subsampling in ((1, 1), (2, 1), (2, 2), (4, 1)):
            options = {"compression": "jpeg", "compressionargs": {"level": quality}, "subsampling": subsampling}
            add(f"jpeg_ycbcr_{quality}_{subsampling[0]}{subsampling[1]}", base, photometric="ycbcr", tile=(64, 96), **options)
            add(f"jpeg_strips_{quality}_{subsampling[0]}{subsampling[1]}", base, photometric="ycbcr", rowsperstrip=48, **options)
        add(f"jpeg_rgb_{quality}", base, photometric="rgb", tile=(240, 240), compression="jpeg", compressionargs={"level": quality, "outcolorspace": "rgb"})
        add(f"jpeg_grey_{quality}", grey, photometric="minisblack", tile=(128, 128), compression="jpeg", compressionargs={"level": quality})
        add(f"jpeg_pyramid_{quality}", base, photometric="ycbcr", tile=(64, 64), pyramid=2, **options)
    for level in (0, 20, 40, 60):
        for mct in (True, False):
            for reversible in (True, False):
                args = {"level": level, "mct": mct, "reversible": reversible, "codecformat": "j2k"}
                add(f"jp2k_{level}_{mct}_{reversible}", base, photometric="rgb", tile=(96, 128), compression="jpeg2000", compressionargs=args)
    for resolutions in (1, 2, 4, 7):
        args = {"level": 35, "resolutions": resolutions, "codecformat": "jp2"}
        add(f"jp2_resolutions_{resolutions}", base, photometric="rgb", tile=(80, 112), compression="jpeg2000", compressionargs=args)
    add("jp2k_grey", grey, photometric="minisblack", tile=(64, 64), compression="jpeg2000", compressionargs={"level": 40})
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", nargs="*")
    parser.add_argument("--isg", default="target/release/isg")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--generate", action="store_true")
    args = parser.parse_args()

    worst = []

    def report(path, level, peer, text):
        print(f"{pathlib.Path(path).name}  level {level}  {peer}: {text}", flush=True)
        if not text.startswith("max 0,"):
            worst.append(path)

    for path in args.slides:
        compare(args.isg, path, report)
    if args.generate or not args.slides:
        with tempfile.TemporaryDirectory() as folder:
            for path in generate(pathlib.Path(folder), args.seed):
                compare(args.isg, path, report)
    print(f"{len(worst)} comparisons not equal")


main()
