"""The 43 sign faces: plate, border and pictogram of every class of GTSRB, as the German traffic code prints them."""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image

from course_utils.datasets.standins import pictograms
from course_utils.datasets.standins.drawing import BLACK, BLUE, GREY, RED, WHITE, YELLOW, Canvas

FACE_SIZE = 128  # pixels; a sign is at most about 100 wide when it is projected

# Class numbers of GTSRB by kind of sign.
SPEED_LIMITS = {0: "20", 1: "30", 2: "50", 3: "60", 4: "70", 5: "80", 7: "100", 8: "120"}
WARNINGS: dict[int, Callable[[Canvas], None]] = {
    11: pictograms.crossing_priority,
    18: pictograms.exclamation_mark,
    21: pictograms.double_curve,
    22: pictograms.bumps,
    23: pictograms.slippery,
    24: pictograms.narrows_on_the_right,
    25: pictograms.road_works,
    26: pictograms.traffic_lights,
    27: pictograms.pedestrian,
    28: pictograms.children,
    29: pictograms.bicycle,
    30: pictograms.snowflake,
    31: pictograms.deer,
}
# Arrow on blue, and whether it is the mirror image of the one to the right.
MANDATORY: dict[int, tuple[Callable[[Canvas], None], bool]] = {
    33: (pictograms.turn, False),
    34: (pictograms.turn, True),
    35: (pictograms.ahead, False),
    36: (pictograms.ahead_or_turn, False),
    37: (pictograms.ahead_or_turn, True),
    38: (pictograms.keep, False),
    39: (pictograms.keep, True),
    40: (pictograms.roundabout, False),
}


def draw_face(label: int) -> Image.Image:
    """The sign of class `label` (0 to 42) seen from the front, RGBA, FACE_SIZE pixels square, nothing around it."""
    canvas = Canvas(FACE_SIZE)
    if label in SPEED_LIMITS:
        _prohibition(canvas)
        text = SPEED_LIMITS[label]
        canvas.text(text, height=0.98 if len(text) == 2 else 0.84, colour=BLACK, width=1.42)
    elif label in WARNINGS:
        _warning(canvas)
        canvas.move(0, 0.2, 0.92)
        WARNINGS[label](canvas)
    elif label in MANDATORY:
        _mandatory(canvas)
        pictogram, mirror = MANDATORY[label]
        canvas.move(scale=1.06, mirror=mirror)
        pictogram(canvas)
    elif label in (19, 20):
        _warning(canvas)
        canvas.move(0, 0.2, 0.96, mirror=label == 20)
        pictograms.curve(canvas)
    elif label in (6, 32, 41, 42):
        _end_of_restriction(canvas, label)
    else:
        _other(canvas, label)
    return canvas.finish()


def _prohibition(canvas: Canvas) -> None:
    canvas.disc(0, 0, 0.99, WHITE)
    canvas.disc(0, 0, 0.95, RED)
    canvas.disc(0, 0, 0.77, WHITE)


def _warning(canvas: Canvas, upside_down: bool = False) -> None:
    flip = -1 if upside_down else 1
    for radius, colour in ((1.09, WHITE), (1.03, RED), (0.76, WHITE)):
        canvas.polygon([(x, flip * (y + 0.22)) for x, y in _corners(3, radius, 270)], colour)


def _mandatory(canvas: Canvas) -> None:
    canvas.disc(0, 0, 0.99, WHITE)
    canvas.disc(0, 0, 0.93, BLUE)


def _end_of_restriction(canvas: Canvas, label: int) -> None:
    canvas.disc(0, 0, 0.99, GREY)
    canvas.disc(0, 0, 0.94, WHITE)
    if label == 6:
        canvas.text("80", height=0.98, colour=GREY)
    elif label in (41, 42):
        canvas.move(scale=1.2)
        pictograms.overtaking(canvas, GREY, GREY, left_is_truck=label == 42)
        canvas.move()
    canvas.move(scale=1.1)
    pictograms.diagonal_stripes(canvas)


def _other(canvas: Canvas, label: int) -> None:
    if label in (9, 10):
        _prohibition(canvas)
        canvas.move(scale=1.0)
        pictograms.overtaking(canvas, RED, BLACK, left_is_truck=label == 10)
    elif label == 12:  # priority road
        for radius, colour in ((0.99, BLACK), (0.96, WHITE), (0.68, YELLOW)):
            canvas.polygon(_corners(4, radius, 0), colour)
    elif label == 13:  # yield
        _warning(canvas, upside_down=True)
    elif label == 14:  # stop
        for radius, colour in ((1.03, WHITE), (0.97, RED)):
            canvas.polygon(_corners(8, radius, 22.5), colour)
        canvas.text("STOP", height=0.62, colour=WHITE, width=1.64)
    elif label == 15:  # no vehicles
        _prohibition(canvas)
    elif label == 16:  # no trucks
        _prohibition(canvas)
        canvas.move(scale=0.92)
        pictograms.truck(canvas)
    elif label == 17:  # no entry
        canvas.disc(0, 0, 0.99, WHITE)
        canvas.disc(0, 0, 0.95, RED)
        canvas.box(-0.68, -0.17, 0.68, 0.17, WHITE)
    else:
        raise ValueError(f"there is no sign of class {label}; expected 0 to 42")


def _corners(count: int, radius: float, first_angle: float) -> list[tuple[float, float]]:
    angles = [math.radians(first_angle + 360 * corner / count) for corner in range(count)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]
