"""Data cards as pages: everything is inside them, and the contact sheet shows the images that this machine has."""

from __future__ import annotations

import base64
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from course_utils import cli, datasets
from course_utils.datasets import gtsrb
from course_utils.datasets.standins import signs
from course_utils.lessons import cards

REAL = Path(os.environ.get("COURSE_DATA", "nowhere"))
CACHE = os.environ.get("COURSE_CACHE")
FETCHING = {"script", "link", "iframe", "object", "embed", "source", "video", "audio", "base", "form"}
GAP = 2  # pixels between two images of a sheet, before it is enlarged


class Page(HTMLParser):
    """What a browser makes of a page: tags with attributes, text, and figures as (picture, caption)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.tags, self.words, self.style = path, [], "", ""
        self.figures: list[dict[str, str]] = []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._open.append(tag)
        if tag == "figure":
            self.figures.append({"caption": ""})
        if tag == "img" and "figure" in self._open:
            self.figures[-1] |= attributes

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" in self._open:
            self.style += data
        else:
            self.words += data
        if "figcaption" in self._open:
            self.figures[-1]["caption"] += data

    def pictures(self) -> list[bytes]:
        return [embedded(attributes["src"]) for tag, attributes in self.tags if tag == "img"]


def embedded(address: str) -> bytes:
    kind, _, text = address.partition(";base64,")
    assert kind == "data:image/png", address[:80]
    return base64.b64decode(text, validate=True)


def cells(png: bytes, count: int, height: int, width: int) -> np.ndarray:
    """Takes a sheet apart, by its documented layout: uint8 (count, height, width, 3)."""
    sheet = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    columns, rows = cards.COLUMNS, -(-count // cards.COLUMNS)
    scale = sheet.shape[1] // (columns * (width + GAP) + GAP)
    assert sheet.shape[:2] == (scale * (rows * (height + GAP) + GAP), scale * (columns * (width + GAP) + GAP))
    small = sheet[::scale, ::scale]
    assert np.array_equal(small.repeat(scale, 0).repeat(scale, 1), sheet)  # enlarged, not resampled
    found = []
    for position in range(count):
        top = GAP + position // columns * (height + GAP)
        left = GAP + position % columns * (width + GAP)
        found.append(small[top : top + height, left : left + width])
    return np.stack(found)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A checkout with the real cards, without data and without network, as the working directory."""
    root = tmp_path / "checkout"
    (root / "solutions").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    (root / "data" / "figures").mkdir(parents=True)
    for file in [*(ROOT / "data").glob("*.md"), *(ROOT / "data" / "figures").glob("*.png")]:
        (root / file.relative_to(ROOT)).write_bytes(file.read_bytes())
    (tmp_path / "real").mkdir()
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "real"))
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="session")
def drawings(tmp_path_factory) -> datasets.Dataset:
    """Four tracks a class of the stand-in: enough for a sheet. All of it would be drawn for a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_CACHE", str(tmp_path_factory.mktemp("drawn")))
        return signs.load("gtsrb", train_per_class=20, validation_per_class=5, test_per_class=1)


@pytest.fixture
def few_drawings(drawings, monkeypatch) -> datasets.Dataset:
    monkeypatch.setattr(datasets, "_standin", lambda name: drawings)
    return drawings


def write_gtsrb(folder: Path) -> None:
    """A GTSRB of six tracks of two images a class, in torchvision's layout. Red is the class, green the track."""
    base = folder / "gtsrb"
    head = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
    for label in range(43):
        training = base / "GTSRB" / "Training" / f"{label:05d}"
        training.mkdir(parents=True)
        names = [f"{track:05d}_{frame:05d}.ppm" for track in range(6) for frame in range(2)]
        for name in names:
            colour = (label * 5, int(name[:5]) * 40, 200)
            Image.new("RGB", (32, 32), colour).save(training / name)
        rows = "".join(f"{name};32;32;5;5;27;27;{label}\n" for name in names)
        (training / f"GT-{label:05d}.csv").write_text(head + rows)
    test = base / "GTSRB" / "Final_Test" / "Images"
    test.mkdir(parents=True)
    for label in range(43):
        Image.new("RGB", (32, 32), (label * 5, 0, 0)).save(test / f"{label:05d}.ppm")
    rows = "".join(f"{label:05d}.ppm;32;32;5;5;27;27;{label}\n" for label in range(43))
    (base / "GT-final_test.csv").write_text(head + rows)


# ---- the page ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", datasets.names())
def test_the_page_is_self_contained_and_holds_the_whole_card(name, root, few_drawings):
    path = cards.write_card(name, root)
    assert path == root / "build" / "data" / f"{name}.html"
    page = Page(path)
    assert not FETCHING & {tag for tag, _ in page.tags}
    assert not re.search(r"@import|url\(", page.style)
    assert all(embedded(attributes["src"]) for tag, attributes in page.tags if tag == "img")
    assert all(attributes["alt"].strip() for tag, attributes in page.tags if tag == "img")
    for _, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on") or key in ("srcset", "background", "poster")]
    for target in (attributes["href"] for tag, attributes in page.tags if tag == "a"):
        assert target.startswith("#") or (path.parent / target).is_file(), f"the page links to {target}"
    card = re.sub(r"\]\([^)]*\)|!\[[^\]]*", "", (root / "data" / f"{name}.md").read_text(encoding="utf-8"))
    missing = set(re.findall(r"\w+", card)) - set(re.findall(r"\w+", page.words))
    assert not missing and str(root) not in path.read_text(encoding="utf-8")


def test_what_a_browser_would_fetch_is_left_out(root):
    card = root / "data" / "digits.md"
    remote = '<script src="https://example.org/x.js"></script>\n\n![a plot](https://example.org/plot.png)\n'
    card.write_text(card.read_text(encoding="utf-8") + "\n" + remote, encoding="utf-8")
    page = Page(cards.write_card("digits", root))
    assert "script" not in {tag for tag, _ in page.tags} and "a plot" in page.words
    assert "example.org" not in page.path.read_text(encoding="utf-8")


def test_pictures_of_the_card_move_into_the_page(root):
    page = Page(cards.write_card("signs", root))
    assert page.pictures() == [(ROOT / "data" / "figures" / "signs_contact_sheet.png").read_bytes()]
    assert "course data get" not in page.words  # there are no real images that could be missing


def test_links_lead_to_the_checkouts_files(root):
    page = Page(cards.write_card("signs", root))
    assert "../../data/gtsrb.md" in {attributes.get("href") for tag, attributes in page.tags if tag == "a"}


def test_a_missing_picture_or_card_is_named(root):
    (root / "data" / "figures" / "signs_contact_sheet.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"signs\.md shows figures/signs_contact_sheet\.png"):
        cards.write_card("signs", root)
    (root / "data" / "digits.md").unlink()
    with pytest.raises(FileNotFoundError, match=r"digits\.md is missing"):
        cards.write_card("digits", root)
    assert not (root / "build").exists()


# ---- the contact sheet -------------------------------------------------------------------------------------------


def test_the_sheet_of_digits_shows_scikit_learns_images_in_order(root):
    from sklearn.datasets import load_digits

    (figure,) = Page(cards.write_card("digits", root)).figures
    assert "Digits: real images, shipped with a library" in figure["caption"]
    published = load_digits()
    shown = cells(embedded(figure["src"]), 10 * cards.PER_CLASS, 8, 8)
    assert len({image.tobytes() for image in shown}) == len(shown)
    for position, image in enumerate(shown):
        levels = np.rint(image[..., 0] / 255 * 16)  # scikit-learn has 0 to 16
        matches = published.target[(published.images == levels).all(axis=(1, 2))]
        assert position // cards.PER_CLASS in matches


def test_real_images_stand_beside_the_stand_in(root, few_drawings, tmp_path):
    write_gtsrb(tmp_path / "real")
    page = Page(cards.write_card("gtsrb", root))
    real, drawn = page.figures
    assert real["caption"] == "GTSRB: real images, read from files on this machine."
    assert drawn["caption"] == "GTSRB stand-in (procedural): not real: drawn by the course."
    assert "not on this machine" not in page.words and ", ".join(gtsrb.CLASSES) in page.words
    count = 43 * cards.PER_CLASS
    shown = cells(embedded(real["src"]), count, 32, 32)
    assert (shown == shown[:, :1, :1]).all()  # the images above have one colour each
    assert shown[:, 0, 0, 0].tolist() == [5 * (position // cards.PER_CLASS) for position in range(count)]
    tracks = shown[:, 0, 0, 1].reshape(43, cards.PER_CLASS)
    assert all(len(set(row)) == cards.PER_CLASS for row in tracks.tolist())
    train = few_drawings.train
    of_class = [{image.tobytes() for image in train.x[train.y == label]} for label in range(43)]
    for position, image in enumerate(cells(embedded(drawn["src"]), count, 32, 32)):
        assert image.transpose(2, 0, 1).tobytes() in of_class[position // cards.PER_CLASS]


def test_missing_real_images_are_called_missing(root, few_drawings):
    page = Page(cards.write_card("fashion_mnist", root))
    assert "The real images are not on this machine." in page.words and not page.figures
    assert "course data get fashion_mnist fetches them" in page.words
    page = Page(cards.write_card("gtsrb", root))
    assert "The real images are not on this machine." in page.words
    assert [figure["caption"].partition(":")[0] for figure in page.figures] == ["GTSRB stand-in (procedural)"]


def test_damaged_images_are_an_error_not_a_missing_set(root, tmp_path, capsys):
    raw = tmp_path / "real" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for kind in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{kind}-ubyte.gz").write_bytes(b"\x1f\x8b cut short")
    with pytest.raises(datasets.DataCorrupt):
        cards.write_card("fashion_mnist", root)
    assert cli.main(["data", "card", "fashion_mnist"]) == 1
    assert "course data card: " in capsys.readouterr().err
    assert not (root / "build").exists()


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(
    not ((REAL / "gtsrb" / gtsrb.ARCHIVE).is_file() or (REAL / "gtsrb" / "GTSRB").is_dir()),
    reason="COURSE_DATA has no GTSRB",
)
def test_the_real_sheet_shows_the_publishers_images(root, few_drawings, monkeypatch):
    from torchvision.datasets import GTSRB

    monkeypatch.setenv("COURSE_DATA", str(REAL))
    if CACHE:
        monkeypatch.setenv("COURSE_CACHE", CACHE)
    real, drawn = Page(cards.write_card("gtsrb", root)).figures
    assert real["caption"].startswith("GTSRB: real images") and "not real" in drawn["caption"]
    shown = cells(embedded(real["src"]), 43 * cards.PER_CLASS, 32, 32)
    published = GTSRB(str(gtsrb.find()), split="train")
    for label in (0, 14, 42):
        files = [Path(path) for path, number in published._samples if number == label]
        track_of = {np.asarray(Image.open(file).resize((32, 32))).tobytes(): file.name[:5] for file in files}
        first = label * cards.PER_CLASS
        tracks = {track_of[image.tobytes()] for image in shown[first : first + cards.PER_CLASS]}
        assert len(tracks) == cards.PER_CLASS


# ---- the commands ------------------------------------------------------------------------------------------------


def test_course_data_card_prints_the_path(root, capsys):
    assert cli.main(["data", "card", "digits"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert Path(line) == root / "build" / "data" / "digits.html" and Path(line).is_file()


def test_course_data_get_ends_with_the_card(root, capsys, monkeypatch):
    monkeypatch.delenv("COURSE_OFFLINE")
    assert cli.main(["data", "get", "digits"]) == 0
    report, line = capsys.readouterr().out.splitlines()
    assert report.startswith("Digits: 1,198 training")
    assert line.endswith(str(root / "build" / "data" / "digits.html"))
    assert Page(root / "build" / "data" / "digits.html").figures


def test_without_a_checkout_data_are_fetched_and_no_card_is_written(root, capsys, monkeypatch):
    monkeypatch.delenv("COURSE_OFFLINE")
    monkeypatch.setattr(cli, "_find_checkout", lambda: None)
    assert cli.main(["data", "get", "digits"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 and not (root / "build").exists()


@pytest.mark.parametrize("name", ["nothing", "../digits", "README"])
def test_an_unknown_name_is_a_clear_error(name, root, capsys):
    message = f"unknown data set {name!r}; the course has {', '.join(datasets.names())}"
    with pytest.raises(ValueError, match=re.escape(message)):
        cards.write_card(name, root)
    assert cli.main(["data", "card", name]) == 1
    assert capsys.readouterr().err == f"course data card: {message}\n"
    assert not (root / "build").exists()
