"""Augmentation: it stays in range, never mirrors, and does what its arguments say."""

from __future__ import annotations

import math

import pytest
import torch

from course_utils.augment import Affine

STILL = {"degrees": 0.0, "translate": 0.0, "scale": 0.0, "shear": 0.0, "brightness": 0.0, "contrast": 0.0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def marks(count: int, size: int = 32) -> torch.Tensor:
    """Three discs: red above the middle, green to its right, blue below; a mirror image turns the other way round."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    middle, far = (size - 1) / 2, size / 5
    x = torch.zeros(count, 3, size, size)
    for channel, (row, column) in enumerate([(middle - far, middle), (middle, middle + far), (middle + far, middle)]):
        x[:, channel] = ((rows - row) ** 2 + (columns - column) ** 2 <= 9).float()
    return x


def centres(x: torch.Tensor) -> torch.Tensor:
    """(batch, channels, 2): centre of mass of each channel as (right, down)."""
    size = x.shape[-1]
    mass = x.sum(dim=(2, 3))
    right = (x.sum(dim=2) * torch.arange(size)).sum(dim=2) / mass
    down = (x.sum(dim=3) * torch.arange(size)).sum(dim=2) / mass
    return torch.stack([right, down], dim=2)


def turn(x: torch.Tensor) -> torch.Tensor:
    """Twice the signed area of red-green-blue, per image: its sign says whether the image is mirrored."""
    red, green, blue = centres(x).unbind(dim=1)
    a, b = green - red, blue - red
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


@pytest.mark.parametrize(
    "affine",
    [Affine(), Affine(degrees=30, translate=0.1, scale=0.3, shear=0.3), Affine(degrees=180, translate=0, shear=0)],
    ids=["default", "strong", "any angle"],
)
def test_no_draw_mirrors_an_image(affine):
    x = marks(500)
    affine.contrast = affine.brightness = 0.0  # the background stays black, so that centres of mass are the discs'
    assert (turn(x) > 10).all() and (turn(x.flip(3)) < -10).all()  # the measure sees a mirror image
    assert (turn(affine(x, generator())) > 10).all()


def test_values_stay_in_range_at_the_extremes():
    x = (torch.rand(200, 3, 16, 16, generator=generator()) > 0.5).float()
    out = Affine(brightness=0.9, contrast=0.9)(x, generator())
    assert out.shape == x.shape and out.min() >= 0 and out.max() <= 1
    assert not torch.equal(out, x)


def test_nothing_asked_nothing_changed():
    x = torch.rand(8, 1, 13, 17, generator=generator())
    assert torch.allclose(Affine(**STILL)(x, generator()), x, atol=1e-5)


def test_shifts_are_a_fraction_of_the_image_both_ways():
    x = marks(400)
    moved = centres(Affine(**{**STILL, "translate": 0.1})(x, generator())) - centres(x)
    assert moved.abs().max() <= 0.1 * 32 + 0.05
    for axis in (0, 1):
        assert moved[..., axis].max() > 2.8 and moved[..., axis].min() < -2.8
    assert moved.std(dim=1).max() < 0.05  # the whole image moves as one


def test_rotation_keeps_the_angle_it_was_given():
    x = marks(400)
    arms = centres(Affine(**{**STILL, "degrees": 20.0})(x, generator()))
    arm = arms[:, 1] - (arms[:, 0] + arms[:, 2]) / 2  # from the middle to the green disc, which lay to the right
    angle = torch.atan2(arm[:, 1], arm[:, 0]) * 180 / math.pi
    assert 18 < angle.max() < 20.5 and -20.5 < angle.min() < -18
    length = (arms[:, 0] - arms[:, 2]).norm(dim=1)
    assert length.std() < 0.05 * length.mean()  # no stretching


def test_zoom_is_within_its_bounds():
    arms = centres(Affine(**{**STILL, "scale": 0.25})(marks(400), generator()))
    before = centres(marks(1))[0]
    zoom = (arms[:, 0] - arms[:, 2]).norm(dim=1) / (before[0] - before[2]).norm()
    assert 1.2 < zoom.max() < 1.27 and 0.73 < zoom.min() < 0.8


def test_brightness_is_a_factor_and_contrast_keeps_the_mean():
    x = 0.25 + 0.25 * torch.rand(300, 1, 8, 8, generator=generator())  # too dark to be clamped
    ratio = Affine(**{**STILL, "brightness": 0.3})(x, generator()) / x
    assert ratio.std(dim=(1, 2, 3)).max() < 1e-4 and 1.28 < ratio.max() <= 1.3001 and 0.6999 <= ratio.min() < 0.72
    out = Affine(**{**STILL, "contrast": 0.5})(x, generator())
    assert torch.allclose(out.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)), atol=1e-5)
    spread = out.std(dim=(1, 2, 3)) / x.std(dim=(1, 2, 3))
    assert 1.45 < spread.max() <= 1.5001 and 0.4999 <= spread.min() < 0.55


def test_every_sample_has_its_own_draw_and_the_generator_decides():
    x = torch.rand(1, 3, 16, 16, generator=generator()).repeat(4, 1, 1, 1)
    first, again, other = (Affine()(x, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.allclose(first[0], first[1])
