"""A canvas in unit coordinates, and the few letters and digits that traffic signs carry, drawn with strokes.

x runs from -1 (left) to 1 (right), y from -1 (top) to 1 (bottom). Everything is drawn four times too large and then
reduced, which gives smooth edges. No font is needed, so the drawings are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]

BLACK: Colour = (25, 25, 28)
WHITE: Colour = (240, 240, 238)
RED: Colour = (190, 25, 38)
BLUE: Colour = (18, 84, 168)
YELLOW: Colour = (246, 190, 20)
GREEN: Colour = (0, 135, 80)
GREY: Colour = (125, 127, 130)

SUPERSAMPLING = 4


class Canvas:
    """A square transparent picture to draw on. `move` places what is drawn next: scaled, turned, then shifted."""

    def __init__(self, size: int = 128) -> None:
        self.size = size * SUPERSAMPLING
        self.image = Image.new("RGBA", (self.size, self.size), (0, 0, 0, 0))
        self.pen = ImageDraw.Draw(self.image)
        self.move()

    def move(self, x: float = 0.0, y: float = 0.0, scale: float = 1.0, mirror: bool = False) -> None:
        """What follows is drawn around (x, y), `scale` times as large, left and right exchanged if `mirror`."""
        self.x, self.y, self.scale, self.sign = x, y, scale, -1.0 if mirror else 1.0

    def finish(self) -> Image.Image:
        """The picture at its real size, RGBA."""
        return self.image.reduce(SUPERSAMPLING)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self.pen.polygon([self._pixel(point) for point in points], fill=(*colour, 255))

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float, colour: Colour) -> None:
        self.polygon(arc(x, y, radius_x, radius_y, 0, 360, 72), colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.ellipse(x, y, radius, radius, colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def line(self, points: Sequence[Point], width: float, colour: Colour, round_ends: bool = True) -> None:
        """A line through the points, `width` thick, with round corners."""
        pixels = [self._pixel(point) for point in points]
        thick = width * self.scale * self.size / 2
        self.pen.line(pixels, fill=(*colour, 255), width=max(1, round(thick)), joint="curve")
        if round_ends:
            for x, y in (pixels[0], pixels[-1]):
                self.pen.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=(*colour, 255))

    def arrow(self, points: Sequence[Point], width: float, head: float, colour: Colour) -> None:
        """A line that ends in an arrow head; `head` is the head's length, its tip is the last point."""
        (x0, y0), (x1, y1) = points[-2], points[-1]
        length = math.hypot(x1 - x0, y1 - y0)
        along = ((x1 - x0) / length, (y1 - y0) / length)
        base = (x1 - along[0] * head, y1 - along[1] * head)
        half = head * 0.75
        self.line(
            [*points[:-1], (base[0] + along[0] * 0.02, base[1] + along[1] * 0.02)], width, colour, round_ends=False
        )
        left = (base[0] + along[1] * half, base[1] - along[0] * half)
        right = (base[0] - along[1] * half, base[1] + along[0] * half)
        self.polygon([(x1, y1), left, right], colour)

    def text(self, text: str, height: float, colour: Colour, width: float | None = None) -> None:
        """Letters of GLYPHS centred on the origin, `height` tall, squeezed to `width` if they would be wider."""
        advance, stroke = 0.74 * height, 0.17 * height
        if width is not None:
            advance = min(advance, width / len(text))
        for index, letter in enumerate(text):
            centre = (index - (len(text) - 1) / 2) * advance
            for line in GLYPHS[letter]:
                # Glyphs fill a box one wide and one tall; the stroke's own width is taken off both.
                points = [(centre + gx * (advance * 0.86 - stroke), gy * (height - stroke)) for gx, gy in line]
                self.line(points, stroke, colour)

    def _pixel(self, point: Point) -> Point:
        x = self.x + self.sign * point[0] * self.scale
        y = self.y + point[1] * self.scale
        return (x + 1) * self.size / 2, (y + 1) * self.size / 2


def arc(x: float, y: float, radius_x: float, radius_y: float, start: float, end: float, steps: int = 24) -> list[Point]:
    """Points on an ellipse. Angles in degrees: 0 is right, 90 is down, 180 left, 270 up."""
    angles = [math.radians(start + (end - start) * step / steps) for step in range(steps + 1)]
    return [(x + radius_x * math.cos(angle), y + radius_y * math.sin(angle)) for angle in angles]


# Strokes of every glyph in a box from -0.5 to 0.5 in both directions.
GLYPHS: dict[str, list[list[Point]]] = {
    "0": [[*arc(0, -0.15, 0.5, 0.35, 180, 360), *arc(0, 0.15, 0.5, 0.35, 0, 180), (-0.5, -0.15)]],
    "1": [[(-0.35, -0.25), (0.1, -0.5), (0.1, 0.5)]],
    "2": [[*arc(0, -0.2, 0.48, 0.3, 190, 385), (-0.5, 0.5), (0.5, 0.5)]],
    "3": [[*arc(0, -0.25, 0.45, 0.25, 200, 440), (-0.1, 0.0)], [(-0.1, 0.0), *arc(0, 0.25, 0.5, 0.25, 275, 520)]],
    "5": [[(0.42, -0.5), (-0.38, -0.5), (-0.45, -0.02), *arc(0, 0.18, 0.5, 0.32, 215, 505)]],
    "6": [[*arc(0.0, -0.1, 0.48, 0.4, 315, 180), (-0.48, 0.2)], arc(0, 0.2, 0.48, 0.3, 0, 360)],
    "7": [[(-0.5, -0.5), (0.5, -0.5), (-0.1, 0.5)]],
    "8": [arc(0, -0.26, 0.42, 0.24, 0, 360), arc(0, 0.24, 0.5, 0.26, 0, 360)],
    "S": [[*arc(0, -0.25, 0.45, 0.25, 330, 100), *arc(0, 0.25, 0.48, 0.25, 280, 520)]],
    "T": [[(-0.5, -0.5), (0.5, -0.5)], [(0, -0.5), (0, 0.5)]],
    "O": [[*arc(0, -0.15, 0.5, 0.35, 180, 360), *arc(0, 0.15, 0.5, 0.35, 0, 180), (-0.5, -0.15)]],
    "P": [[(-0.45, 0.5), (-0.45, -0.5), *arc(0.1, -0.22, 0.4, 0.28, 270, 450), (-0.45, 0.06)]],
}
