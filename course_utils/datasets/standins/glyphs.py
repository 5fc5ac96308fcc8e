"""Glyphs: as many classes of handwritten-looking symbols as you ask for, 28x28 grey, drawn in seconds.

The stand-in for Tiny-ImageNet and ImageNet at 28x28 grey, where all that an experiment needs is many classes of small
pictures. It looks like neither: numbers measured on it say nothing about the real data, so `Dataset.standin` is true
and titles say so. Data card: data/glyphs.md.

A class is a few strokes (lines, arcs, curves), joined as a hand would join them. An image of it is drawn with another
hand: the strokes bend, the whole is turned, stretched and moved, the pen, the ink and the paper differ, and stray
strokes of other glyphs lie about. The idea of classes made of joined strokes comes from B. Lake, R. Salakhutdinov,
J. Tenenbaum, Human-level concept learning through probabilistic program induction, Science 350, 2015 (Omniglot).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from course_utils import progress
from course_utils.datasets import cache
from course_utils.datasets.dataset import Dataset, Split, own_group

SIZE = 28  # pixels
SPLITS = ("train", "validation", "test")
STROKES = (2, 4)  # fewest and most strokes of a glyph
POINTS = 24  # points on a stroke
KNOTS = 5  # a stroke bends at so many places
CLUTTER = 3  # stray strokes in an image
STRAY = 5  # random numbers for a stray stroke
NORMALS = 4 + STROKES[1] * KNOTS * 2  # normal random numbers for an image: turn, shear, shift, and where the knots go
UNIFORMS = 4 + CLUTTER * (1 + STRAY) + 2  # pen, ink, paper, noise, the stray strokes, width and height
PROTOTYPE, SHAPE, LOOK, PAPER = range(4)  # what a random generator is for


@dataclass(frozen=True)
class Difficulty:
    """How much images of one class differ: standard deviations, or (lowest, highest) of a uniform range."""

    bend: float = 0.09  # how far a knot of a stroke moves, in half heights of a glyph
    turn: float = 0.20  # radians
    shear: float = 0.18
    size: tuple[float, float] = (5.5, 10.0)  # half height of the glyph, pixels; width and height differ
    shift: float = 1.8  # pixels
    pen: tuple[float, float] = (0.6, 1.25)  # radius of the pen, pixels
    ink: tuple[float, float] = (0.35, 0.9)  # brightness above the paper
    paper: tuple[float, float] = (0.0, 0.25)  # brightness of the paper
    noise: tuple[float, float] = (0.03, 0.14)  # per pixel
    clutter: tuple[float, float] = (0.2, 0.9)  # brightness of a stray stroke, share of the ink's


def load(name: str = "glyphs") -> Dataset:
    """The data set with its usual counts: 200 classes, each with 100 training, 20 validation and 50 test images.

    name: "glyphs", or the data set it stands in for ("tiny_imagenet_gray", "imagenet_28_gray").
    """
    return draw(name=name)


def draw(
    num_classes: int = 200,
    train_images: int = 100,
    test_images: int = 50,
    seed: int = 0,
    *,
    validation_images: int = 20,
    name: str = "glyphs",
) -> Dataset:
    """Draw glyphs, or read them from the cache. Images (1, 28, 28), bright ink on dark paper.

    num_classes: any number from 2. Class k of a seed is the same glyph whatever the number of classes.
    train_images, validation_images, test_images: of each class, at least 1. Asking for more leaves the others as they are.
    seed: another seed, other glyphs.

    The same arguments give the same bytes on the same machine. Raises ValueError for counts or a seed that cannot be.
    """
    counts = {"train": train_images, "validation": validation_images, "test": test_images}
    for split, count in counts.items():
        _whole(f"{split}_images", count, 1, "images of each class")
    _whole("num_classes", num_classes, 2, "classes, because one cannot be told from another")
    _whole("seed", seed, 0, "or more")
    key = f"glyphs-{_code_version()}-{num_classes}-{train_images}-{validation_images}-{test_images}-{seed}"
    arrays = cache.cached_arrays(key, lambda: _draw(num_classes, counts, seed))
    splits = {}
    start = 0
    for split in SPLITS:
        x, y = arrays[f"{split}_x"], arrays[f"{split}_y"]
        splits[split] = Split(x, y, own_group(x, start))
        start += len(x)
    digits = len(str(num_classes - 1))
    classes = tuple(f"glyph {label:0{digits}d}" for label in range(num_classes))
    return Dataset(name=name, classes=classes, source="standin", **splits)


def prototype(seed: int, label: int) -> np.ndarray:
    """The strokes of a class as they were meant: (strokes, POINTS, 2), x and y in [-1, 1], y down."""
    generator = np.random.default_rng([seed, label, PROTOTYPE])
    strokes: list[np.ndarray] = []
    for _ in range(generator.integers(STROKES[0], STROKES[1] + 1)):
        stroke = _stroke(generator)
        if strokes and generator.random() < 0.75:  # most strokes start on an earlier one, as in a letter
            earlier = strokes[generator.integers(len(strokes))]
            start = earlier[generator.choice([0, POINTS // 2, POINTS - 1])]
            stroke = stroke - stroke[0] + start
        else:
            stroke = stroke - stroke.mean(axis=0) + generator.uniform(-0.6, 0.6, 2)
        strokes.append(stroke)
    glyph = np.stack(strokes)
    low, high = glyph.min(axis=(0, 1)), glyph.max(axis=(0, 1))
    # A flat glyph stays flat, but not a dash. The 0.1 is never met in practice: it keeps a dot from a division by 0.
    extent = np.maximum(high - low, max(0.6 * (high - low).max(), 0.1))
    return (glyph - (low + high) / 2) / (extent / 2)


def _stroke(generator: np.random.Generator) -> np.ndarray:
    """A line, an arc or a curve somewhere near the origin, (POINTS, 2)."""
    along = np.linspace(0, 1, POINTS)
    kind = generator.choice(["line", "arc", "curve"], p=[0.3, 0.35, 0.35])
    angle = generator.uniform(0, 2 * np.pi)
    if kind == "line":
        length = generator.uniform(0.7, 1.8)
        return np.outer(along * length, [np.cos(angle), np.sin(angle)])
    if kind == "arc":
        radius = generator.uniform(0.3, 0.7)
        sweep = generator.choice([-1, 1]) * generator.uniform(0.6, 2.0) * np.pi
        angles = angle + sweep * along
        return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    corners = generator.uniform(-1, 1, (4, 2))  # of a cubic Bezier curve
    weights = np.stack([(1 - along) ** 3, 3 * along * (1 - along) ** 2, 3 * along**2 * (1 - along), along**3], axis=1)
    return weights @ corners


def _draw(num_classes: int, counts: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for split in SPLITS:
        arrays[f"{split}_x"] = np.empty((num_classes * counts[split], 1, SIZE, SIZE), dtype=np.uint8)
        arrays[f"{split}_y"] = np.repeat(np.arange(num_classes, dtype=np.int64), counts[split])
    with progress.bar(num_classes, "drawing glyphs") as bar:
        for label in range(num_classes):
            glyph = prototype(seed, label)
            for number, split in enumerate(SPLITS):
                # Each draws one array with a row for an image, so more images leave the earlier rows as they are.
                uses = (SHAPE, LOOK, PAPER)
                shape, look, paper = (np.random.default_rng([seed, label, use, number]) for use in uses)
                first = label * counts[split]
                images = _images(glyph, counts[split], shape, look, paper, Difficulty())
                arrays[f"{split}_x"][first : first + counts[split], 0] = images
            bar.update()
    return arrays


def _images(
    glyph: np.ndarray,
    count: int,
    shape: np.random.Generator,
    look: np.random.Generator,
    paper: np.random.Generator,
    hard: Difficulty,
) -> np.ndarray:
    """`count` images of a glyph, uint8 (count, SIZE, SIZE).

    Generators: shape of how the strokes run, look of size, pen, ink and stray strokes, paper of the noise.
    """
    normal = shape.standard_normal((count, NORMALS))
    uniform = look.random((count, UNIFORMS))
    # One number for each image from a uniform range, (count, 1, 1).
    pen, ink, light, noise, *clutter = (
        (low + (high - low) * uniform[:, column])[:, None, None]
        for column, (low, high) in enumerate((hard.pen, hard.ink, hard.paper, hard.noise, *CLUTTER * (hard.clutter,)))
    )
    image = ink * _ink(_by_another_hand(glyph, normal, uniform[:, -2:], hard), pen)
    for strength, numbers in zip(clutter, np.split(uniform[:, 4 + CLUTTER : -2], CLUTTER, axis=1), strict=True):
        image = np.maximum(image, ink * strength * _ink(_stray(numbers), pen))
    image = light + (1 - light) * image + noise * paper.standard_normal(image.shape, dtype=np.float32)
    return np.rint(255 * image.clip(0, 1)).astype(np.uint8)


def _by_another_hand(glyph: np.ndarray, normal: np.ndarray, uniform: np.ndarray, hard: Difficulty) -> np.ndarray:
    """The points of a glyph's strokes in pixels, (images, strokes, POINTS, 2), for normal and uniform (images, ...)."""
    strokes = len(glyph)
    knots = hard.bend * normal[:, 4 : 4 + strokes * KNOTS * 2].reshape(-1, strokes, KNOTS, 2)
    points = glyph + np.einsum("pk,nskc->nspc", _between_knots(), knots)
    turn, shear = hard.turn * normal[:, 0], hard.shear * normal[:, 1]
    low, high = hard.size
    width, height = (low + (high - low) * uniform).T
    matrix = np.empty((len(normal), 2, 2))  # stretch, shear, then turn
    matrix[:, 0, 0], matrix[:, 0, 1] = np.cos(turn) * width, (np.cos(turn) * shear - np.sin(turn)) * height
    matrix[:, 1, 0], matrix[:, 1, 1] = np.sin(turn) * width, (np.sin(turn) * shear + np.cos(turn)) * height
    centre = (SIZE - 1) / 2 + hard.shift * normal[:, 2:4]
    return np.einsum("nij,nspj->nspi", matrix, points) + centre[:, None, None]


def _between_knots() -> np.ndarray:
    """(POINTS, KNOTS): how much each knot moves each point, by linear interpolation, smoothed by a cosine."""
    place = np.linspace(0, KNOTS - 1, POINTS)
    distance = np.abs(place[:, None] - np.arange(KNOTS)).clip(max=1)
    return (1 + np.cos(np.pi * distance)) / 2


def _stray(uniform: np.ndarray) -> np.ndarray:
    """A bent stroke anywhere in each image, (images, 1, POINTS // 2, 2), for uniform (images, STRAY)."""
    start, angle, bend, length = uniform[:, :2], 2 * np.pi * uniform[:, 2], 3 * (uniform[:, 3] - 0.5), uniform[:, 4]
    along = np.linspace(0, 1, POINTS // 2)
    angles = angle[:, None] + bend[:, None] * along  # of the pen's movement
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * ((4 + 8 * length) / len(along))[:, None, None]
    return (SIZE * start[:, None] + np.cumsum(steps, axis=1))[:, None]


def _ink(strokes: np.ndarray, pen: np.ndarray) -> np.ndarray:
    """How much ink lies on each pixel, in [0, 1], float32 (images, SIZE, SIZE).

    strokes: points in pixels (images, strokes, points, 2). pen: radius (images, 1, 1).

    A point of the pen is a Gaussian spot, and a spot is a product of a column and a row: a picture is one matrix product.
    """
    length = np.linalg.norm(np.diff(strokes, axis=2), axis=-1)  # between neighbouring points
    share = np.zeros(strokes.shape[:3])  # a point stands for half the way to each neighbour
    share[..., 1:] += length / 2
    share[..., :-1] += length / 2
    points = strokes.reshape(len(strokes), -1, 2).astype(np.float32)
    pen = pen.astype(np.float32)
    spots = [
        np.exp(-(((np.arange(SIZE, dtype=np.float32) - points[..., axis, None]) / pen) ** 2) / 2) for axis in (0, 1)
    ]
    weight = share.reshape(len(strokes), -1, 1).astype(np.float32) / (np.sqrt(2 * np.pi, dtype=np.float32) * pen)
    # Along a line the spots add up to 1 in its middle. The factor gives the line a core of full ink.
    return np.minimum(1.5 * np.matmul(spots[1].transpose(0, 2, 1), weight * spots[0]), 1)


def _whole(name: str, value: int, lowest: int, of_what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < lowest:
        raise ValueError(f"{name}={value!r}; expected a whole number, at least {lowest} {of_what}")


def _code_version() -> str:
    """Changes with the drawing code, so that the cache never serves pictures of an older version."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
