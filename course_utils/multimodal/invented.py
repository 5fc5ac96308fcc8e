"""Signs that no street has seen: any picture on any plate, photographed like the stand-in's.

Forty-three real signs hold few combinations: nearly every picture stands on one plate only. Invented ones hold hundreds,
so that a network can learn what a word means apart from the signs it came with, and be asked about combinations it never saw.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from course_utils import progress
from course_utils.datasets import Dataset, Split, cache
from course_utils.datasets.standins import camera, drawing, pictograms
from course_utils.datasets.standins.drawing import BLACK, BLUE, GREY, RED, WHITE, YELLOW, Canvas, Colour
from course_utils.multimodal.signs import PICTURES, SIGNS, Sign, describe

FACE_SIZE = 128  # pixels of a sign seen from the front
COLOURS: dict[str, Colour] = {
    "black": BLACK, "white": WHITE, "red": RED, "blue": BLUE, "grey": GREY, "yellow": YELLOW,
}  # fmt: skip
# Border, field, ink, stripes: the schemes of the real signs.
SCHEMES = (
    ("red", "white", "black", False),
    ("white", "blue", "white", False),
    ("grey", "white", "grey", True),
    ("white", "red", "white", False),
    ("white", "yellow", "black", False),
)
# Shape -> corners, angle of the first one, radius, shift down, and where the picture goes: y and scale.
PLATES = {
    "circle": (72, 0.0, 0.99, 0.0, 0.0, 0.98),
    "triangle": (3, 270.0, 1.09, 0.22, 0.2, 0.84),
    "upturned triangle": (3, 90.0, 1.09, -0.22, -0.2, 0.84),
    "octagon": (8, 22.5, 1.03, 0.0, 0.0, 0.98),
    "diamond": (4, 0.0, 1.02, 0.0, 0.0, 0.84),
}
DRAWINGS: dict[str, Callable[[Canvas], None]] = {
    "nothing": lambda canvas: None,
    "two cars": lambda canvas: pictograms.overtaking(canvas, BLACK, BLACK, left_is_truck=False),
    "truck and car": lambda canvas: pictograms.overtaking(canvas, BLACK, BLACK, left_is_truck=True),
    "truck": pictograms.truck,
    "crossing": pictograms.crossing_priority,
    "stop": lambda canvas: canvas.text("STOP", height=0.56, colour=BLACK, width=1.5),
    "bar": lambda canvas: canvas.box(-0.66, -0.17, 0.66, 0.17, BLACK),
    "exclamation mark": pictograms.exclamation_mark,
    "curve": pictograms.curve,
    "double curve": pictograms.double_curve,
    "bumps": pictograms.bumps,
    "skidding car": pictograms.slippery,
    "narrowing road": pictograms.narrows_on_the_right,
    "worker": pictograms.road_works,
    "traffic light": pictograms.traffic_lights,
    "walker": pictograms.pedestrian,
    "two children": pictograms.children,
    "bicycle": pictograms.bicycle,
    "snowflake": pictograms.snowflake,
    "deer": pictograms.deer,
    "turning arrow": pictograms.turn,
    "straight arrow": pictograms.ahead,
    "forked arrow": pictograms.ahead_or_turn,
    "slanting arrow": pictograms.keep,
    "ring of arrows": pictograms.roundabout,
}
DRAWN_TO_THE_LEFT = ("curve",)  # the others with a side are drawn to the right
WHITE_DRAWINGS = ("turning arrow", "straight arrow", "forked arrow", "slanting arrow", "ring of arrows")
WITH_A_SIDE = tuple(sorted({sign.picture for sign in SIGNS.values() if sign.side}))


def every_sign() -> list[Sign]:
    """All combinations of shape, colour scheme, picture and side that can be drawn, the real ones' among them."""
    numbers = sorted({sign.picture for sign in SIGNS.values() if sign.picture not in PICTURES}, key=int)
    found = []
    for shape in PLATES:
        for border, field, ink, stripes in SCHEMES:
            for picture in [*PICTURES, *numbers]:
                for side in ("left", "right") if picture in WITH_A_SIDE else ("",):
                    colour = "" if picture == "nothing" else "coloured" if picture == "traffic light" else ink
                    found.append(Sign(shape, border, field, picture, colour, side, stripes))
    return found


def invent(count: int, seed: int = 0, exclude: Collection[Sign] = ()) -> list[Sign]:
    """Draw `count` different signs at random, none of which looks like a real one or one of `exclude`.

    Pictures take turns, so that with a few dozen signs every picture occurs.

    Raises:
        ValueError: there are not so many.

    Built in lesson 05.
    """
    taken = {_look(sign) for sign in (*SIGNS.values(), *exclude)}
    left = [sign for sign in every_sign() if _look(sign) not in taken]
    if not 1 <= count <= len(left):
        raise ValueError(f"count={count}: {len(left)} signs are left to invent; ask for 1 to {len(left)}")
    rng = np.random.default_rng(seed)
    by_picture: dict[tuple[str, str], list[Sign]] = {}
    for index in rng.permutation(len(left)):
        by_picture.setdefault((left[index].picture, left[index].side), []).append(left[index])
    turns = [(turn, rng.random(), sign) for group in by_picture.values() for turn, sign in enumerate(group)]
    return [sign for _, _, sign in sorted(turns, key=lambda entry: entry[:2])[:count]]


def _look(sign: Sign) -> tuple:
    return tuple(sign.attributes.values())


def draw(sign: Sign) -> Image.Image:
    """The sign seen from the front, RGBA, FACE_SIZE pixels square, nothing around it.

    Raises:
        ValueError: a shape or a picture that cannot be drawn.
    """
    if sign.shape not in PLATES or not (sign.picture in DRAWINGS or set(sign.picture) <= set(drawing.GLYPHS)):
        raise ValueError(f"{sign} cannot be drawn; shapes are {', '.join(PLATES)}, pictures {', '.join(DRAWINGS)}")
    corners, angle, radius, down, y, scale = PLATES[sign.shape]
    canvas = Canvas(FACE_SIZE)
    rim = 0.08 if sign.border in ("white", "grey") else 0.24  # as on the streets: a red rim is broad, a white one thin
    edge = WHITE if sign.border != "white" else GREY  # what the plate is cut out of
    for share, colour in ((1.0, edge), (0.96, COLOURS[sign.border]), (0.96 - rim, COLOURS[sign.field])):
        ring = [math.radians(angle + 360 * corner / corners) for corner in range(corners)]
        canvas.polygon([(radius * share * math.cos(a), down + radius * share * math.sin(a)) for a in ring], colour)
    face = canvas.finish()
    picture = _picture(sign, y, scale)
    face.alpha_composite(picture)
    if sign.stripes:
        stripes = Canvas(FACE_SIZE)
        stripes.move(0, y / 2, 1.1 if sign.shape == "circle" else 0.9)
        pictograms.diagonal_stripes(stripes)
        face.alpha_composite(stripes.finish())
    return face


def _picture(sign: Sign, y: float, scale: float) -> Image.Image:
    """The picture alone in the sign's ink. Black lines become ink, white details the field's colour."""
    canvas = Canvas(FACE_SIZE)
    mirror = sign.side == ("right" if sign.picture in DRAWN_TO_THE_LEFT else "left")
    canvas.move(0, y, scale, mirror=mirror)
    if sign.picture in DRAWINGS:
        DRAWINGS[sign.picture](canvas)
    else:
        canvas.text(sign.picture, height=0.94, colour=BLACK, width=1.36)
    pixels = np.asarray(canvas.finish()).astype(np.float64)
    ink = np.array(COLOURS.get(sign.ink.split(" ")[-1], BLACK), dtype=np.float64)
    field = np.array(COLOURS[sign.field], dtype=np.float64)
    bright = pixels[..., :3].mean(axis=2, keepdims=True) / 240
    if sign.picture in WHITE_DRAWINGS:
        bright = np.zeros_like(bright)
    paint = ink * (1 - bright) + field * bright
    grey = np.ptp(pixels[..., :3], axis=2, keepdims=True) < 40  # the lamps of a traffic light keep their colours
    pixels[..., :3] = np.where(grey, paint, pixels[..., :3])
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGBA")


def name_of(sign: Sign) -> str:
    """Short name of a sign, unique: "circle, red on white, turning arrow left"."""
    stripes = ", struck out" if sign.stripes else ""
    return f"{sign.shape}, {sign.border} on {sign.field}, {sign.picture}{' ' + sign.side if sign.side else ''}{stripes}"


def load(signs: Sequence[Sign], train_per_class: int = 20, test_per_class: int = 10, seed: int = 0) -> Dataset:
    """Photographs `(3, 32, 32)` of signs, class i showing `signs[i]`; every image is of another scene.

    A tenth as many images as for training, at least one a class, are for validation. Kept in the cache. The same arguments
    give the same bytes on the same machine; a sign's photographs do not depend on the others in the list.

    Raises:
        ValueError: no sign, one twice, or a number of images below 1.
    """
    if not signs or len(set(signs)) != len(signs) or min(train_per_class, test_per_class) < 1:
        raise ValueError(
            f"{len(signs)} signs of which {len(set(signs))} are different, train_per_class={train_per_class}, "
            f"test_per_class={test_per_class}: give different signs, and at least 1 image of each"
        )
    counts = {"train": train_per_class, "validation": max(1, train_per_class // 10), "test": test_per_class}
    names = tuple(name_of(sign) for sign in signs)
    key = hashlib.sha256(repr((list(signs), sorted(counts.items()), seed, _code_version())).encode()).hexdigest()[:16]
    arrays = cache.cached_arrays(f"invented-{key}", lambda: _photographs(signs, counts, seed))
    splits = {s: Split(*(arrays[f"{s}_{field}"] for field in ("x", "y", "group"))) for s in counts}
    return Dataset(name="invented signs", classes=names, source="standin", **splits)


def descriptions(signs: Sequence[Sign]) -> dict[str, tuple[str, ...]]:
    """Class name -> sentences, in the same words as for the real signs."""
    return {name_of(sign): describe(sign) for sign in signs}


def beside(data: Dataset, signs: Sequence[Sign], train_per_class: int = 20, seed: int = 0) -> Dataset:
    """Real or stand-in traffic signs and invented ones in one data set, the invented ones' labels after the others'.

    Test images of invented signs are left out: what is asked for is what the real ones profit.

    Args:
        data: GTSRB or its stand-in, images `(3, 32, 32)`.

    Raises:
        ValueError: images of another shape.
    """
    if data.image_shape != (3, camera.SIZE, camera.SIZE):
        raise ValueError(
            f"{data.title} has images {data.image_shape}; invented signs are (3, {camera.SIZE}, {camera.SIZE})"
        )
    drawn = load(signs, train_per_class, 1, seed)
    parts = {}
    for split in ("train", "validation"):
        first, second = getattr(data, split), getattr(drawn, split)
        group = second.group + 1 + max(int(first.group.max(initial=0)), 0)
        parts[split] = Split(
            np.concatenate([first.x, second.x]),
            np.concatenate([first.y, second.y + data.num_classes]),
            np.concatenate([first.group, group]),
        )
    return Dataset(
        name=f"{data.name} and invented signs",
        classes=(*data.classes, *drawn.classes),
        test=data.test,
        source=data.source,
        **parts,
    )


def _photographs(signs: Sequence[Sign], counts: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    hard = camera.Difficulty()
    images: dict[str, list[np.ndarray]] = {split: [] for split in counts}
    with progress.bar(len(signs), "drawing invented signs") as bar:
        for sign in signs:
            face = draw(sign)
            identity = int.from_bytes(hashlib.sha256(name_of(sign).encode()).digest()[:4], "little")
            for number, (split, count) in enumerate(counts.items()):
                for index in range(count):
                    generator = np.random.default_rng([seed, identity, number, index])
                    scene = camera.draw_scene(face, generator, hard)
                    images[split].append(camera.photograph(scene, float(generator.random()), generator, hard))
            bar.update()
    arrays = {}
    for split, count in counts.items():
        arrays[f"{split}_x"] = np.stack(images[split])
        arrays[f"{split}_y"] = np.repeat(np.arange(len(signs)), count).astype(np.int64)
        arrays[f"{split}_group"] = np.arange(len(signs) * count, dtype=np.int64)
    return arrays


def _code_version() -> str:
    """Changes with the drawing code, so that the cache never serves pictures of an older version."""
    files = [Path(__file__), *sorted(Path(camera.__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
