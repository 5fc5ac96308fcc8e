"""Five ways to spoil a photograph, each with a level from 0 (untouched) to 1 (bad), and the quality that is left.

Two families play two data sets. In "optics" (EVA's part) a lens and a sensor are to blame: blur, noise and low contrast.
In "compression" (AVA's part) a coder is: JPEG, blocking and, again, low contrast. What they ask of a scorer differs: with
blur every edge that is lost costs quality, with blocking it is every edge that was added.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

LOSS = 0.9  # of quality at level 1
FAMILIES = {"optics": ("blur", "noise", "contrast"), "compression": ("jpeg", "blocking", "contrast")}
Distortion = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def quality(levels: Mapping[str, float]) -> float:
    """True quality in [0, 1] of a picture spoilt at these levels: the product of `1 - 0.9 * level`."""
    return float(np.prod([1 - LOSS * level for level in levels.values()]))


def distort(image: np.ndarray, levels: Mapping[str, float], generator: np.random.Generator) -> np.ndarray:
    """Spoil a picture, float (size, size, 3) in 0 to 255 -> uint8 of the same shape.

    The order is that of a camera: contrast, blur, noise, then what a coder does.

    Raises:
        ValueError: an unknown distortion, or a level outside 0 to 1.
    """
    wrong = {name: level for name, level in levels.items() if name not in DISTORTIONS or not 0 <= level <= 1}
    if wrong:
        raise ValueError(f"distortions {wrong}; expected levels from 0 to 1 of {', '.join(DISTORTIONS)}")
    for name, function in DISTORTIONS.items():
        if levels.get(name, 0) > 0:
            image = function(image, levels[name], generator)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _contrast(image: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    mean = image.mean()
    return mean + (image - mean) * (1 - 0.8 * level)


def _blur(image: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    return gaussian_filter(image, (2.2 * level, 2.2 * level, 0), mode="nearest")


def _noise(image: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    return image + generator.normal(0, 48 * level, image.shape)


def _jpeg(image: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    """JPEG at quality 80 down to 4, on a scale in which every step looks about as large."""
    file = io.BytesIO()
    strength = int(round(80 * (4 / 80) ** level))
    Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8)).save(file, "JPEG", quality=strength)
    return np.asarray(Image.open(file), dtype=np.float32)


def _blocking(image: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    """Every block of 4x4 pixels moves towards its mean, and the means are shifted against each other."""
    side = image.shape[0] // 4
    blocks = image[: side * 4, : side * 4].reshape(side, 4, side, 4, 3)
    flat = blocks.mean(axis=(1, 3), keepdims=True) + generator.normal(0, 16 * level, (side, 1, side, 1, 3))
    result = image.copy()
    result[: side * 4, : side * 4] = ((1 - level) * blocks + level * flat).reshape(side * 4, side * 4, 3)
    return result


DISTORTIONS: dict[str, Distortion] = {
    "contrast": _contrast,
    "blur": _blur,
    "noise": _noise,
    "blocking": _blocking,
    "jpeg": _jpeg,
}
