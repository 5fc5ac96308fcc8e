"""The traffic-sign stand-in: the right signs, in tracks, neither too easy nor too hard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from course_utils import datasets
from course_utils.datasets.gtsrb import CLASSES
from course_utils.datasets.standins import signs
from course_utils.datasets.standins.faces import draw_face


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The stand-in with its default counts, drawn from scratch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield datasets.load("signs")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    return tmp_path


def small(seed: int = 0, **counts):
    return signs.load(**({"train_per_class": 5, "validation_per_class": 5, "test_per_class": 1} | counts), seed=seed)


def face(label: int) -> np.ndarray:
    """RGBA as integers (size, size, 4)."""
    return np.asarray(draw_face(label)).astype(int)


def colours_of(label: int) -> set[str]:
    """Which colours cover more than 3 % of the sign."""
    rgba = face(label)
    red, green, blue = (rgba[..., :3][rgba[..., 3] > 200]).T
    share = {
        "red": (red > 140) & (green < 80) & (blue < 90),
        "blue": (blue > 130) & (red < 80),
        "yellow": (red > 200) & (green > 150) & (blue < 90),
        "white": (red > 200) & (green > 200) & (blue > 200),
        "black": (red < 70) & (green < 70) & (blue < 70),
    }
    return {colour for colour, mask in share.items() if mask.mean() > 0.03}


def widths(label: int) -> np.ndarray:
    """Width of the plate in every row of the picture, share of the widest."""
    rows = (face(label)[..., 3] > 128).sum(axis=1)
    return rows / rows.max()


# --- what is drawn --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "colours"),
    [
        (1, {"red", "white", "black"}),
        (12, {"yellow", "white", "black"}),  # black is the rim
        (13, {"red", "white"}),
        (14, {"red", "white"}),
        (15, {"red", "white"}),
        (17, {"red", "white"}),
        (18, {"red", "white", "black"}),
        (32, {"white", "black"}),
        (35, {"blue", "white"}),
    ],
)
def test_signs_have_the_colours_of_their_kind(label, colours):
    assert colours_of(label) == colours


def test_signs_have_the_shape_of_their_kind():
    size = len(widths(0))
    high, middle, low = int(0.2 * size), size // 2, int(0.8 * size)
    for label in (18, 27, 31):  # warnings: triangles that stand
        assert widths(label)[high] < widths(label)[middle] < widths(label)[low]
    assert widths(13)[high] > widths(13)[middle] > widths(13)[int(0.7 * size)]  # yield: on its head
    assert widths(12)[middle] > 0.95 and widths(12)[high] < 0.5 and widths(12)[low] < 0.5  # diamond
    assert widths(14)[int(0.33 * size)] > 0.99 > 0.97 > widths(2)[int(0.33 * size)]  # octagon: its sides are upright
    assert widths(2)[high] == pytest.approx(0.8, abs=0.05)  # disc: 2 * sqrt(0.5**2 - 0.3**2)


def test_all_faces_differ():
    faces = [face(label) for label in range(43)]
    for first in range(43):
        for second in range(first):
            differ = (np.abs(faces[first] - faces[second]).max(axis=2) > 60).mean()
            assert differ > 0.01, (CLASSES[first], CLASSES[second])


@pytest.mark.parametrize(
    ("right", "left", "head"),  # head: where the arrow of the sign to the right ends; x, y from -1 to 1, y down
    [
        (33, 34, (0.35, -0.17)),
        (36, 37, (0.38, 0.06)),
        (38, 39, (0.3, 0.3)),
        (20, 19, (0.22, -0.16)),
    ],
)
def test_right_points_right_and_left_is_its_mirror_image(right, left, head):
    assert "right" in CLASSES[right] and "left" in CLASSES[left]
    mirrored = face(right)[:, ::-1]
    assert (np.abs(mirrored - face(left)).max(axis=2) > 60).mean() < 0.02
    brightness = face(right)[..., :3].mean(axis=2)
    arrow = brightness < 80 if right == 20 else brightness > 200  # black on white, or white on blue
    size = len(arrow)
    row, column, reach = int((head[1] + 1) / 2 * size), int((head[0] + 1) / 2 * size), size // 40
    around = slice(row - reach, row + reach + 1)
    assert arrow[around, column - reach : column + reach + 1].all()
    assert not arrow[around, size - 1 - column - reach : size - column + reach].any()


def test_unknown_class_is_refused():
    with pytest.raises(ValueError, match="43"):
        draw_face(43)


# --- the data set ---------------------------------------------------------------------------------------------------


def test_counts_names_and_labels(drawn):
    assert drawn.standin and drawn.name == "signs" and drawn.classes == CLASSES
    assert "stand-in" in drawn.title
    assert drawn.image_shape == (3, 32, 32)
    for split, count in ((drawn.train, 90), (drawn.validation, 10), (drawn.test, 30)):
        assert np.array_equal(np.bincount(split.y), np.full(43, count))


def test_tracks_stay_together_and_look_alike(drawn):
    train = drawn.train
    groups, frames = np.unique(train.group, return_counts=True)
    assert (frames == signs.FRAMES).all() and len(groups) == 43 * 90 // signs.FRAMES
    assert not set(train.group) & set(drawn.validation.group)
    assert not set(drawn.test.group) & (set(train.group) | set(drawn.validation.group))
    x = train.x.astype(float)
    same_track = (train.group[1:] == train.group[:-1]) & (train.y[1:] == train.y[:-1])
    distance = np.sqrt(((x[1:] - x[:-1]) ** 2).mean(axis=(1, 2, 3)))
    # Frames of a track are near-duplicates: a split by frame would leak. Not identical ones, though.
    assert np.median(distance[same_track]) < 0.5 * np.median(distance[~same_track])
    assert distance.min() > 1.0


def test_same_seed_same_bytes_and_another_seed_other_images(empty_cache):
    first = small()
    (empty_cache / "arrays").rename(empty_cache / "hidden")  # so that the second is drawn, not read
    second, other = small(), small(seed=1)
    for split in ("train", "validation", "test"):
        assert np.array_equal(getattr(first, split).x, getattr(second, split).x)
        assert not np.array_equal(getattr(first, split).x, getattr(other, split).x)


def test_more_images_leave_the_others_as_they_are(empty_cache):
    few, more = small(), small(test_per_class=2)
    assert np.array_equal(few.test.x, more.test.x[::2])
    assert np.array_equal(few.train.x, more.train.x)


@pytest.mark.parametrize("counts", [{"train_per_class": 7}, {"validation_per_class": 0}, {"test_per_class": 0}])
def test_impossible_counts_are_explained(counts):
    with pytest.raises(ValueError, match=next(iter(counts))):
        small(**counts)


def test_signs_cannot_be_fetched():
    with pytest.raises(ValueError, match="standin"):
        datasets.load("signs", "download")


def test_committed_contact_sheet_shows_the_current_drawings(drawn):
    """The picture in the data card is redrawn when the drawing changes (how: data/signs.md)."""
    from PIL import Image

    path = Path(__file__).parents[1] / "data" / "figures" / "signs_contact_sheet.png"
    committed = np.asarray(Image.open(path).convert("RGB")).astype(int)
    now = datasets.contact_sheet(drawn, per_class=4, columns=16, scale=2)
    assert committed.shape == now.shape
    # Another version of Pillow may round differently; another drawing differs a lot.
    assert np.abs(committed - now).mean() < 1.0


# --- its difficulty -------------------------------------------------------------------------------------------------


def as_tensors(split) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(split.x).float() / 255, torch.from_numpy(split.y)


def test_a_linear_probe_stays_under_70_percent(drawn):
    """Multinomial logistic regression on the pixels, at the strength of weight decay that suits it best of three."""
    x, y = as_tensors(drawn.train)
    x_test, y_test = as_tensors(drawn.test)
    mean = x.mean(0)
    x, x_test = (x - mean).flatten(1), (x_test - mean).flatten(1)
    torch.manual_seed(0)
    probe = nn.Linear(x.shape[1], 43)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=80, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(probe(x), y) + 3e-4 * probe.weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        accuracy = (probe(x_test).argmax(1) == y_test).float().mean().item()
        assert (probe(x).argmax(1) == y).float().mean() > 0.95  # it did learn: what fails is generalisation
    assert 0.4 < accuracy < 0.7


def test_a_small_cnn_passes_90_percent_in_ten_epochs(drawn):
    """Three convolutions, no augmentation: written here in plain torch, independent of the course's own model."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, 43))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    x, y = as_tensors(drawn.train)
    for _ in range(10):
        order = torch.randperm(len(x))
        for start in range(0, len(x) - 63, 64):
            batch = order[start : start + 64]
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimizer.step()
    network.eval()
    x_test, y_test = as_tensors(drawn.test)
    with torch.no_grad():
        accuracy = (network(x_test).argmax(1) == y_test).float().mean().item()
    assert accuracy > 0.9
