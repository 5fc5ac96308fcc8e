"""Augmentation on the device, for a whole batch at once. No flips: a mirrored "turn right" is a "turn left"."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


class Affine:
    """Small random rotations, shifts, zooms, shears, and changes of brightness and contrast, one draw a sample.

    Args:
        degrees: rotation in [-degrees, degrees].
        translate: shift as a fraction of the image, both ways.
        scale: zoom in [1 - scale, 1 + scale].
        shear: in [-shear, shear], as a fraction of the height.
        brightness, contrast: relative change, at most this much.
    """

    def __init__(
        self,
        degrees: float = 12.0,
        translate: float = 0.1,
        scale: float = 0.15,
        shear: float = 0.1,
        brightness: float = 0.2,
        contrast: float = 0.2,
    ):
        self.degrees, self.translate, self.scale, self.shear = degrees, translate, scale, shear
        self.brightness, self.contrast = brightness, contrast

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """`(batch, C, H, W)` in [0, 1] -> the same shape and range."""
        draws = (torch.rand(7, len(x), generator=generator) * 2 - 1).to(x.device)  # in [-1, 1]
        angle, shear = draws[0] * math.radians(self.degrees), draws[1] * self.shear
        zoom = 1 + draws[2] * self.scale
        cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        # Rows of the matrix that maps an output position to the input position it reads.
        top = torch.stack([cos, -sin + shear, draws[3] * 2 * self.translate], dim=1)
        bottom = torch.stack([sin, cos, draws[4] * 2 * self.translate], dim=1)
        grid = F.affine_grid(torch.stack([top, bottom], dim=1), list(x.shape), align_corners=False)
        x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        contrast = 1 + draws[5].view(-1, 1, 1, 1) * self.contrast
        brightness = 1 + draws[6].view(-1, 1, 1, 1) * self.brightness
        return (((x - mean) * contrast + mean) * brightness).clamp(0, 1)
