#!/usr/bin/env python3
"""Whole-level reading speed: `isg`'s reader against OpenSlide 4 on the same file and cores, in one run.

    cargo build --release --benches
    python tools/peers/slide_speed.py SLIDE ... [--threads 1,2] [--repeats 5]

Reads every tile of level 0 once, cold tile caches, file in the page cache, and prints the median MB of RGB per second.
isg is measured by `cargo bench --bench slide -- --read SLIDE THREADS`; OpenSlide through openslide-python with one handle
and a thread pool (its C code releases the interpreter lock). Skips with one line where openslide-python is absent.
"""
import argparse
import concurrent.futures
import pathlib
import statistics
import subprocess
import sys
import time

try:
    import openslide
except ImportError as missing:
    print(f"slide_speed: skipped, {missing}")
    sys.exit(0)


def openslide_seconds(path, threads):
    slide = openslide.OpenSlide(path)
    slide.set_cache(openslide.OpenSlideCache(0))
    width, height = slide.dimensions
    tile = int(slide.properties.get("openslide.level[0].tile-width", 256))
    places = [(x, y) for y in range(0, height, tile) for x in range(0, width, tile)]
    size = lambda x, y: (min(tile, width - x), min(tile, height - y))
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda p: slide.read_region(p, 0, size(*p)), places, chunksize=8):
            pass
    return time.perf_counter() - start, width * height * 3 / 1e6


def isg_seconds(binary, path, threads):
    out = subprocess.run([binary, "--read", path, str(threads)], check=True, capture_output=True, text=True).stdout
    return float(out.split()[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", nargs="+")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bench", help="the built bench; default: the newest target/release/deps/slide-*")
    args = parser.parse_args()
    built = [p for p in pathlib.Path("target/release/deps").glob("slide-*") if p.suffix == ""]
    binary = args.bench or str(max(built, key=lambda p: p.stat().st_mtime))
    print(f"{'slide':40} {'threads':>7} {'isg MB/s':>9} {'OpenSlide MB/s':>14} {'ratio':>6}")
    for path in args.slides:
        for threads in map(int, args.threads.split(",")):
            ours, theirs = [], []
            for _ in range(args.repeats):
                ours.append(isg_seconds(binary, path, threads))
                try:
                    seconds, megabytes = openslide_seconds(path, threads)
                    theirs.append(megabytes / seconds)
                except openslide.OpenSlideError:
                    pass
            mine = statistics.median(ours)
            peer = statistics.median(theirs) if theirs else float("nan")
            print(f"{pathlib.Path(path).name:40} {threads:7} {mine:9.0f} {peer:14.0f} {mine / peer:6.2f}", flush=True)


main()
