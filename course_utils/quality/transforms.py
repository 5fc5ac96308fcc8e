"""What may be done to a picture in training without making its quality label wrong, and what may not.

Usual augmentation teaches a network to ignore what it changes. A scorer must not ignore blur, noise, contrast or colour:
they are what it scores. What is left is where things are, and which way round. Even a small rotation or zoom interpolates
between pixels, and that is a blur.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class QualityAugment:
    """Mirroring and whole-pixel shifts, a draw of its own for every image; no pixel gets a new value.

    For a `Learner`: `augment=QualityAugment()`.

    Args:
        shift: at most this many pixels in either direction; what is missing at the border is mirrored in.
        flip: mirror half of the images, left and right exchanged.

    Built in lesson 06, exercise 06.6.
    """

    def __init__(self, shift: int = 4, flip: bool = True) -> None:
        if shift < 0:
            raise ValueError(f"shift={shift}; expected a number of pixels, at least 0")
        self.shift, self.flip = shift, flip

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """`(batch, C, H, W)` -> the same shape."""
        count, _, height, width = x.shape
        mirrored = torch.rand(count, generator=generator) < 0.5
        offset = torch.randint(0, 2 * self.shift + 1, (2, count), generator=generator)
        if self.flip:
            x = torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(3), x)
        if not self.shift:
            return x
        wide = F.pad(x, [self.shift] * 4, mode="reflect")
        rows = (offset[0][:, None] + torch.arange(height)).to(x.device)  # (batch, H)
        columns = (offset[1][:, None] + torch.arange(width)).to(x.device)
        image = torch.arange(count, device=x.device)[:, None, None]
        return wide[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def test_transform() -> Any:
    """`(3, H, W)` uint8 -> float in [0, 1]: what a data set's images need before a scorer sees them."""
    return _to_float


def train_transform(seed: int = 0, shift: int = 4) -> Any:
    """As `test_transform`, then `QualityAugment` with a generator of its own; for `EVADataset(transform=...)`."""
    augment, generator = QualityAugment(shift), torch.Generator().manual_seed(seed)

    def transform(image: Tensor) -> Tensor:
        return augment(_to_float(image)[None], generator)[0]

    return transform


test_transform.__test__ = False  # type: ignore[attr-defined]  # no test, whatever pytest thinks of the name


def _to_float(image: Tensor) -> Tensor:
    return image.float() / 255


# Each takes (batch, C, H, W) in [0, 1] and a strength from 0 to 1, and changes what a quality label is about.
def _contrast(x: Tensor, strength: float) -> Tensor:
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (x - mean) * (1 - strength)


def _noise(x: Tensor, strength: float) -> Tensor:
    return (x + 0.2 * strength * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def _resize(x: Tensor, strength: float) -> Tensor:
    small = F.interpolate(x, scale_factor=1 - 0.75 * strength, mode="bilinear", antialias=True)
    return F.interpolate(small, size=x.shape[2:], mode="bilinear")


def _rotate(x: Tensor, strength: float) -> Tensor:
    angle = torch.tensor(0.5 * strength)
    matrix = torch.stack(
        [torch.stack([angle.cos(), -angle.sin(), angle * 0]), torch.stack([angle.sin(), angle.cos(), angle * 0])]
    )
    grid = F.affine_grid(matrix.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _erase(x: Tensor, strength: float) -> Tensor:
    side = round(x.shape[2] * strength / 2)
    result = x.clone()
    result[:, :, :side, :side] = 0.5
    return result


def _standardize(x: Tensor, strength: float) -> Tensor:
    usual = (x - x.mean(dim=(1, 2, 3), keepdim=True)) / x.std(dim=(1, 2, 3), keepdim=True) * 0.25 + 0.5
    return torch.lerp(x, usual.clamp(0, 1), strength)


FALSIFYING = {
    "contrast jitter": _contrast,
    "noise": _noise,
    "resize": _resize,
    "rotation": _rotate,
    "erasing": _erase,
    "standardisation": _standardize,
}
