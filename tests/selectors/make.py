"""Writes the fixture beside it that tests/selectors.rs reads: images and what scikit-image, OpenCV and scipy make of them.

Run by hand where numpy, scipy, scikit-image, opencv-python-headless and safetensors are installed; the output is committed.

    python tests/selectors/make.py
"""

import pathlib

import cv2
import numpy
from safetensors.numpy import save_file
from scipy import ndimage
from skimage import filters

here = pathlib.Path(__file__).parent
CANNY = [(100, 200, 3, False), (60, 150, 3, True), (700, 1500, 5, False), (300, 500, 5, True), (9000, 20000, 7, False)]


def drawing(height, width, seed):
    """Discs and stripes with noise: edges in every direction, some strong, some weak."""
    random = numpy.random.default_rng(seed)
    y, x = numpy.mgrid[:height, :width]
    picture = numpy.full((height, width, 3), [226, 214, 229], float)
    for _ in range(max(1, height * width // 700)):
        cy, cx = random.uniform(0, height), random.uniform(0, width)
        inside = (y - cy) ** 2 + (x - cx) ** 2 < random.uniform(2, 11) ** 2
        picture[inside] += random.uniform([-130, -150, -70], [30, 20, 20])
    stripes = numpy.sin(x * 0.35 + y * 0.2) > 0.4
    picture[stripes] -= random.uniform(0, 40)
    return numpy.clip(picture + random.normal(0, 4, picture.shape), 0, 255).astype(numpy.uint8)


def images():
    yield "discs", drawing(61, 83, 1)
    yield "tall", drawing(70, 17, 2)
    yield "noise", numpy.random.default_rng(3).integers(0, 256, (33, 40, 3), dtype=numpy.uint8)
    yield "grey", numpy.repeat(drawing(31, 29, 4)[..., :1], 3, axis=2)
    yield "two_levels", numpy.where(drawing(20, 20, 5)[..., :1] > 190, 250, 90).repeat(3, 2).astype(numpy.uint8)
    yield "column", drawing(45, 1, 6)
    yield "row", drawing(1, 45, 7)
    yield "two", drawing(2, 2, 8)
    yield "one", drawing(1, 1, 9)
    yield "white", numpy.full((24, 30, 3), 255, numpy.uint8)


arrays = {}
for name, image in images():
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    numbers = grey.astype(float)
    arrays[f"{name}.rgb"] = image
    arrays[f"{name}.grey"] = grey
    arrays[f"{name}.otsu"] = numpy.array([filters.threshold_otsu(grey)], numpy.uint8)
    # scikit-image halves the squared length (two axes) and its kernels carry 1/4; ours carry 1/8.
    arrays[f"{name}.gradient"] = numpy.array([255 / 2**0.5 * filters.sobel(grey / 255).mean()])
    for low, high, aperture, l2 in CANNY:
        edges = cv2.Canny(grey, low, high, apertureSize=aperture, L2gradient=l2)
        arrays[f"{name}.canny.{low}.{high}.{aperture}.{int(l2)}"] = numpy.packbits(edges > 0)
    dog = ndimage.gaussian_filter(numbers, 1.0) - ndimage.gaussian_filter(numbers, 1.6)
    log = ndimage.gaussian_laplace(numbers, 2.0)
    for filtered, values in (("dog", dog), ("log", log)):
        arrays[f"{name}.{filtered}"] = values.astype(numpy.float32)
        arrays[f"{name}.{filtered}.energy"] = numpy.array([(values**2).mean()])
save_file(arrays, here / "peers.safetensors")
print((here / "peers.safetensors").stat().st_size, "bytes")
