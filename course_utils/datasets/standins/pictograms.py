"""The little pictures on traffic signs, drawn from lines, discs and polygons.

Each function draws around the origin of the canvas inside a box of about -0.5 to 0.5; the caller places and scales it.
"""

from __future__ import annotations

import math

from course_utils.datasets.standins.drawing import BLACK, GREEN, WHITE, YELLOW, Canvas, Colour, arc


def car(canvas: Canvas, colour: Colour = BLACK) -> None:
    """A car from behind."""
    canvas.polygon([(-0.34, -0.06), (-0.22, -0.36), (0.22, -0.36), (0.34, -0.06)], colour)
    canvas.box(-0.44, -0.08, 0.44, 0.22, colour)
    canvas.box(-0.42, 0.2, -0.22, 0.38, colour)
    canvas.box(0.22, 0.2, 0.42, 0.38, colour)
    canvas.polygon([(-0.23, -0.08), (-0.16, -0.28), (0.16, -0.28), (0.23, -0.08)], WHITE)


def truck(canvas: Canvas, colour: Colour = BLACK) -> None:
    """A truck from the side, its cab to the left."""
    canvas.box(-0.14, -0.48, 0.6, 0.18, colour)
    canvas.polygon([(-0.6, 0.18), (-0.6, -0.08), (-0.46, -0.28), (-0.2, -0.28), (-0.2, 0.18)], colour)
    canvas.polygon([(-0.52, -0.06), (-0.43, -0.19), (-0.29, -0.19), (-0.29, -0.06)], WHITE)
    for x in (-0.4, 0.14, 0.42):
        canvas.disc(x, 0.24, 0.13, colour)


def overtaking(canvas: Canvas, left: Colour, right: Colour, left_is_truck: bool) -> None:
    """Two vehicles side by side."""
    x, y, scale = canvas.x, canvas.y, canvas.scale
    canvas.move(x - 0.33 * scale, y, scale * (0.56 if left_is_truck else 0.7))
    (truck if left_is_truck else car)(canvas, left)
    canvas.move(x + 0.35 * scale, y, scale * 0.7)
    car(canvas, right)
    canvas.move(x, y, scale)


def crossing_priority(canvas: Canvas) -> None:
    """A broad road that goes ahead and a narrow one across."""
    canvas.line([(-0.36, 0.02), (0.36, 0.02)], 0.13, BLACK, round_ends=False)
    canvas.box(-0.13, -0.2, 0.13, 0.52, BLACK)
    canvas.polygon([(0, -0.58), (-0.2, -0.18), (0.2, -0.18)], BLACK)


def exclamation_mark(canvas: Canvas) -> None:
    canvas.polygon([(-0.13, -0.5), (0.13, -0.5), (0.07, 0.18), (-0.07, 0.18)], BLACK)
    canvas.disc(0, 0.38, 0.12, BLACK)


def curve(canvas: Canvas) -> None:
    """A road that bends to the left; mirrored, to the right."""
    canvas.arrow([(0.24, 0.5), (0.24, 0.06), (0.16, -0.1), (-0.36, -0.46)], 0.18, 0.3, BLACK)


def double_curve(canvas: Canvas) -> None:
    road = [(0.14, 0.52), (0.14, 0.3), (-0.16, 0.06), (-0.16, -0.08), (0.14, -0.26), (0.14, -0.56)]
    canvas.arrow(road, 0.17, 0.26, BLACK)


def bumps(canvas: Canvas) -> None:
    canvas.box(-0.58, 0.2, 0.58, 0.36, BLACK)
    for x in (-0.27, 0.27):
        canvas.polygon(arc(x, 0.22, 0.25, 0.34, 180, 360), BLACK)


def slippery(canvas: Canvas) -> None:
    """A car, tilted, above its skid marks."""
    x, y, scale = canvas.x, canvas.y, canvas.scale
    canvas.move(x, y - 0.28 * scale, scale * 0.72)
    car(canvas)
    canvas.move(x, y, scale)
    for side in (-0.18, 0.18):
        wave = [(side + 0.13 * math.sin(step * math.pi / 5), 0.04 + 0.05 * step) for step in range(11)]
        canvas.line(wave, 0.09, BLACK)


def narrows_on_the_right(canvas: Canvas) -> None:
    canvas.line([(-0.2, -0.46), (-0.2, 0.52)], 0.15, BLACK, round_ends=False)
    canvas.line([(0.1, -0.46), (0.1, -0.12), (0.34, 0.2), (0.34, 0.52)], 0.15, BLACK, round_ends=False)


def road_works(canvas: Canvas) -> None:
    """A worker bent over a shovel beside a heap."""
    canvas.disc(-0.06, -0.44, 0.12, BLACK)
    canvas.line([(-0.1, -0.26), (-0.24, 0.06)], 0.19, BLACK)  # back
    canvas.line([(-0.24, 0.06), (-0.1, 0.26), (-0.18, 0.5)], 0.13, BLACK)  # legs
    canvas.line([(-0.24, 0.06), (-0.4, 0.28), (-0.46, 0.5)], 0.13, BLACK)
    canvas.line([(-0.06, -0.22), (0.12, 0.02)], 0.1, BLACK)  # arm
    canvas.line([(-0.14, 0.0), (0.3, 0.34)], 0.06, BLACK)  # shovel
    canvas.polygon([(0.1, 0.54), (0.36, 0.2), (0.62, 0.54)], BLACK)  # heap


def traffic_lights(canvas: Canvas) -> None:
    canvas.box(-0.2, -0.56, 0.2, 0.56, BLACK)
    for y, colour in ((-0.36, (215, 30, 40)), (0.0, YELLOW), (0.36, GREEN)):
        canvas.disc(0, y, 0.15, colour)


def pedestrian(canvas: Canvas) -> None:
    """Somebody who walks over a zebra crossing."""
    canvas.disc(0.02, -0.48, 0.11, BLACK)
    canvas.line([(0.0, -0.28), (0.0, 0.04)], 0.2, BLACK)
    canvas.line([(0.0, 0.04), (0.17, 0.36)], 0.11, BLACK)
    canvas.line([(0.0, 0.04), (-0.17, 0.36)], 0.11, BLACK)
    canvas.line([(0.0, -0.26), (0.2, -0.04)], 0.08, BLACK)
    canvas.line([(0.0, -0.26), (-0.2, -0.04)], 0.08, BLACK)
    for x in (-0.5, -0.25, 0.0, 0.25, 0.5):
        canvas.line([(x, 0.44), (x, 0.56)], 0.13, BLACK, round_ends=False)


def children(canvas: Canvas) -> None:
    """A tall and a small child, running hand in hand."""
    for x, top, size in ((-0.24, -0.42, 1.0), (0.3, -0.16, 0.74)):
        canvas.disc(x, top, 0.12 * size, BLACK)
        hip = (x - 0.02, top + 0.5 * size)
        canvas.line([(x, top + 0.2 * size), hip], 0.19 * size, BLACK)
        for knee, foot in (((0.2, 0.72), (0.14, 0.96)), ((-0.14, 0.74), (-0.32, 0.86))):
            leg = [hip, (x + knee[0] * size, top + knee[1] * size), (x + foot[0] * size, top + foot[1] * size)]
            canvas.line(leg, 0.11 * size, BLACK)
        canvas.line([(x, top + 0.22 * size), (x - 0.24 * size, top + 0.42 * size)], 0.08 * size, BLACK)
    canvas.line([(-0.24, -0.2), (0.04, 0.06), (0.3, 0.02)], 0.08, BLACK)


def bicycle(canvas: Canvas) -> None:
    for x in (-0.34, 0.34):
        canvas.line(arc(x, 0.16, 0.24, 0.24, 0, 360, 36), 0.08, BLACK)
    canvas.line([(-0.34, 0.16), (-0.14, -0.2), (0.2, -0.2), (-0.02, 0.16), (-0.34, 0.16)], 0.08, BLACK)
    canvas.line([(-0.02, 0.16), (-0.17, -0.3)], 0.08, BLACK)
    canvas.line([(0.34, 0.16), (0.17, -0.36), (0.32, -0.4)], 0.08, BLACK)
    canvas.line([(-0.28, -0.32), (-0.06, -0.32)], 0.09, BLACK)


def snowflake(canvas: Canvas) -> None:
    for angle in range(0, 180, 60):
        c, s = math.cos(math.radians(angle + 30)), math.sin(math.radians(angle + 30))
        canvas.line([(-0.5 * c, -0.5 * s), (0.5 * c, 0.5 * s)], 0.09, BLACK)
        for side in (-1, 1):
            fork = (0.26 * side * c, 0.26 * side * s)
            for turn in (-50, 50):
                a = math.radians(angle + 30 + turn)
                tip = (fork[0] + 0.2 * side * math.cos(a), fork[1] + 0.2 * side * math.sin(a))
                canvas.line([fork, tip], 0.07, BLACK)


def deer(canvas: Canvas) -> None:
    """A deer that leaps to the left."""
    canvas.polygon([(-0.3, -0.18), (0.3, 0.0), (0.38, 0.12), (0.3, 0.22), (-0.26, 0.1)], BLACK)  # body
    canvas.line([(-0.22, -0.06), (-0.4, -0.32)], 0.15, BLACK)  # neck
    canvas.line([(-0.4, -0.34), (-0.54, -0.26)], 0.13, BLACK)  # head
    for tip in ((-0.4, -0.62), (-0.2, -0.58)):
        canvas.line([(-0.36, -0.38), tip], 0.055, BLACK)  # antlers
    canvas.line([(-0.34, -0.48), (-0.5, -0.56)], 0.05, BLACK)
    canvas.line([(-0.22, 0.06), (-0.5, 0.14), (-0.56, 0.32)], 0.085, BLACK)  # front legs
    canvas.line([(-0.14, 0.08), (-0.34, 0.3), (-0.42, 0.46)], 0.085, BLACK)
    canvas.line([(0.3, 0.14), (0.42, 0.34), (0.6, 0.46)], 0.095, BLACK)  # hind legs
    canvas.line([(0.24, 0.16), (0.24, 0.38), (0.42, 0.54)], 0.095, BLACK)
    canvas.line([(0.36, 0.06), (0.48, -0.04)], 0.08, BLACK)  # tail


def turn(canvas: Canvas) -> None:
    """Ahead, then to the right; mirrored, to the left."""
    corner = arc(0.06, 0.1, 0.26, 0.26, 180, 270, 8)
    canvas.arrow([(-0.2, 0.54), *corner, (0.54, -0.16)], 0.2, 0.34, WHITE)


def ahead(canvas: Canvas) -> None:
    canvas.arrow([(0, 0.58), (0, -0.6)], 0.22, 0.38, WHITE)


def ahead_or_turn(canvas: Canvas) -> None:
    """Ahead or to the right; mirrored, to the left."""
    canvas.arrow([(-0.16, 0.58), (-0.16, -0.6)], 0.18, 0.3, WHITE)
    corner = arc(0.1, 0.24, 0.26, 0.18, 180, 270, 8)
    canvas.arrow([(-0.16, 0.42), *corner, (0.56, 0.06)], 0.16, 0.28, WHITE)


def keep(canvas: Canvas) -> None:
    """Down to the right; mirrored, to the left."""
    canvas.arrow([(-0.42, -0.42), (0.44, 0.44)], 0.22, 0.4, WHITE)


def roundabout(canvas: Canvas) -> None:
    """Three arrows that chase each other anticlockwise, as where one drives on the right."""
    for start in (70, 190, 310):
        road = arc(0, 0, 0.44, 0.44, start, start - 62, 12)
        (x0, y0), (x1, y1) = road[-2:]
        reach = 0.3 / math.hypot(x1 - x0, y1 - y0)
        tip = (x1 + (x1 - x0) * reach, y1 + (y1 - y0) * reach)  # the head goes on along the tangent
        canvas.arrow([*road, (0.9 * tip[0], 0.9 * tip[1])], 0.15, 0.28, WHITE)


def diagonal_stripes(canvas: Canvas) -> None:
    """The five thin lines, from bottom left to top right, that end a restriction."""
    for shift in (-0.16, -0.08, 0.0, 0.08, 0.16):
        reach = 0.6 - abs(shift) * 0.35
        canvas.line([(shift - reach, shift + reach), (shift + reach, shift - reach)], 0.045, BLACK, round_ends=False)
