"""Any picture as 28x28 grey, by one rule that gives the same bytes on every machine.

Centre crop to a square, grey, then area resampling: every pixel of the result is the mean brightness of the area that
it covers, fractions of pixels counted as fractions. Grey is Pillow's mode "L", the luma of ITU-R 601-2:
0.299 R + 0.587 G + 0.114 B. Pillow's BOX filter counts a pixel at an area's rim wholly or not at all, so the mean is
taken here. Rotation marks of cameras (EXIF) are not followed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 28  # pixels
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")  # 8 bits a channel or fewer


def grey28(image: Image) -> np.ndarray:
    """A picture of any size as uint8 (28, 28). Transparency is dropped. Raises ValueError for more than 8 bits a channel."""
    if image.mode not in MODES:
        raise ValueError(f"a picture of mode {image.mode!r}; expected 8 bits a channel, such as 'L' or 'RGB'")
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    if square.mode not in ("1", "L", "RGB"):
        square = square.convert("RGB")
    return area_mean(np.asarray(square.convert("L")))


def area_mean(square: np.ndarray) -> np.ndarray:
    """uint8 (side, side) to uint8 (28, 28): the mean of each of 28x28 equal areas, halves rounded up."""
    side = len(square)
    overlap = _overlap(side)
    # Whole numbers below 2**53 are exact in float64, so the order of the sums, which differs by machine, cannot matter.
    total = (overlap @ square.astype(np.float64) @ overlap.T).astype(np.int64)
    return ((2 * total + side**2) // (2 * side**2)).astype(np.uint8)


@lru_cache(maxsize=128)
def _overlap(side: int) -> np.ndarray:
    """(28, side): how much of each pixel lies in each of 28 equal parts of `side` pixels, in 28ths of a pixel."""
    part, pixel = side * np.arange(SIZE)[:, None], SIZE * np.arange(side)
    shared = np.minimum(part + side, pixel + SIZE) - np.maximum(part, pixel)
    return shared.clip(min=0).astype(np.float64)
