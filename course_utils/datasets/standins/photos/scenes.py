"""Photograph-like scenes in EVA's six categories, drawn with polygons, gradients and fractal textures.

Every scene is sharp, clean and full of fine texture: an undistorted picture has quality 1. What is shown says nothing
about its quality. A canvas is three times as large as the finished picture, and averaging it down keeps edges smooth.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

FINE = 3  # the canvas has FINE times the pixels of the picture, in each direction
Generator = np.random.Generator
Colour = tuple[int, int, int]


def draw_scene(category: int, size: int, generator: Generator) -> np.ndarray:
    """An undistorted scene, float32 (size, size, 3) in 0 to 255; `category` is an index into EVA's categories."""
    canvas = _Canvas(size * FINE, generator)
    PAINTERS[category](canvas, generator)
    image = canvas.array().reshape(size, FINE, size, FINE, 3).mean(axis=(1, 3))
    image += texture(size, generator, roughness=0.9)[..., None] * 11  # the same grain of the world everywhere
    light = 1 + 0.12 * texture(size, generator, roughness=2.2)
    return np.clip(image * light[..., None], 0, 255).astype(np.float32)


def texture(size: int, generator: Generator, roughness: float = 1.0) -> np.ndarray:
    """Noise whose amplitude falls with frequency to the power `roughness`, as in photographs; mean 0, deviation 1.

    Source: Field 1987, "Relations between the statistics of natural images and the response properties of cortical cells".
    """
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij"))
    frequency[0, 0] = np.inf
    phase = np.exp(2j * np.pi * generator.random(frequency.shape))
    field = np.fft.irfft2(phase / frequency**roughness, s=(size, size))
    return (field - field.mean()) / field.std()


class _Canvas:
    """A square picture; positions and lengths are shares of its side, y runs down."""

    def __init__(self, side: int, generator: Generator) -> None:
        self.side, self.generator = side, generator
        self.image = Image.new("RGB", (side, side))
        self.pen = ImageDraw.Draw(self.image)

    def array(self) -> np.ndarray:
        return np.asarray(self.image, dtype=np.float32)

    def gradient(self, top: Colour, bottom: Colour, start: float = 0.0, stop: float = 1.0, rough: float = 0.0) -> None:
        """A band from `start` to `stop`, from one colour to the other, with a texture of strength `rough`."""
        first, last = round(start * self.side), round(stop * self.side)
        part = np.linspace(0, 1, max(1, last - first))[:, None, None]
        band = np.broadcast_to((1 - part) * np.array(top) + part * np.array(bottom), (last - first, self.side, 3))
        if rough:
            grain = texture(self.side, self.generator, 1.0)[first:last, :, None]
            band = band + rough * grain
        self.image.paste(Image.fromarray(np.clip(band, 0, 255).astype(np.uint8)), (0, first))

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self.pen.polygon([(x * self.side, y * self.side) for x, y in points], fill=colour)

    def ellipse(self, x: float, y: float, wide: float, high: float, colour: Colour) -> None:
        box = [(x - wide) * self.side, (y - high) * self.side, (x + wide) * self.side, (y + high) * self.side]
        self.pen.ellipse(box, fill=colour)

    def line(self, points: list[tuple[float, float]], width: float, colour: Colour) -> None:
        pixels = [(x * self.side, y * self.side) for x, y in points]
        self.pen.line(pixels, fill=colour, width=max(1, round(width * self.side)))

    def ball(self, x: float, y: float, radius: float, colour: Colour, steps: int = 9) -> None:
        """A lit sphere: discs that shrink towards the light and get brighter."""
        for step in range(steps):
            share = step / steps
            shade = _shade(colour, 0.45 + 0.75 * share)
            shift = 0.3 * radius * share
            self.ellipse(x - shift, y - shift, radius * (1 - share), radius * (1 - share), shade)

    def strokes(self, x: float, y: float, wide: float, high: float, colour: Colour, count: int, length: float) -> None:
        """Short hairs or blades within an ellipse, brighter and darker than `colour`."""
        for _ in range(count):
            angle, distance = self.generator.uniform(0, 2 * np.pi), np.sqrt(self.generator.random())
            px, py = x + wide * distance * np.cos(angle), y + high * distance * np.sin(angle)
            tone = self.generator.uniform(0.6, 1.4)
            shade = _shade(colour, tone)
            lean = self.generator.normal(0, 0.4)
            self.line([(px, py), (px + length * lean, py - length)], 0.006, shade)


def _colour(generator: Generator, low: int = 40, high: int = 230) -> Colour:
    """A muted colour, as surfaces have them: a brightness, and a third of its range of hue."""
    tone, hue = generator.uniform(low, high), generator.uniform(-1, 1, 3)
    red, green, blue = np.clip(tone + hue * (high - low) / 3, 5, 250)
    return int(red), int(green), int(blue)


def _shade(colour: Colour, factor: float, added: int = 0) -> Colour:
    """The colour in more or less light."""
    red, green, blue = (min(255, round(value * factor) + added) for value in colour)
    return red, green, blue


def _sky(canvas: _Canvas, generator: Generator, horizon: float) -> None:
    evening = generator.random() < 0.3
    top, bottom = ((60, 60, 120), (240, 160, 100)) if evening else ((70, 120, 200), (190, 215, 240))
    canvas.gradient(top, bottom, 0, horizon, rough=9)


def _meadow(canvas: _Canvas, generator: Generator, horizon: float) -> None:
    green = (int(generator.integers(50, 120)), int(generator.integers(90, 150)), int(generator.integers(30, 70)))
    canvas.gradient(_shade(green, 1, 30), green, horizon, 1.0, rough=16)
    for _ in range(150):
        x, y = generator.random(), generator.uniform(horizon + 0.03, 1.05)
        canvas.strokes(x, y, 0.02, 0.02, green, 1, 0.05 * (0.4 + y - horizon))


def _animal(canvas: _Canvas, generator: Generator) -> None:
    horizon = generator.uniform(0.3, 0.5)
    _sky(canvas, generator, horizon)
    _meadow(canvas, generator, horizon)
    x, y, length = generator.uniform(0.4, 0.6), generator.uniform(0.58, 0.68), generator.uniform(0.2, 0.27)
    furs: list[Colour] = [(150, 105, 65), (205, 180, 150), (120, 115, 115), (70, 55, 45), (190, 130, 70)]
    fur, side = furs[generator.integers(len(furs))], float(generator.choice([-1.0, 1.0]))
    height = length * generator.uniform(0.5, 0.7)
    dark = _shade(fur, 1 / 2)
    for leg in (-0.7, -0.45, 0.45, 0.7):
        canvas.line([(x + leg * length, y), (x + leg * length, y + height + 0.14)], 0.035, dark)
    canvas.ellipse(x, y, length, height, fur)
    head = x + side * length * 1.05, y - height * 0.9
    canvas.ellipse(*head, length * 0.45, length * 0.42, fur)
    canvas.strokes(x, y, length, height, fur, 260, 0.03)
    canvas.strokes(*head, length * 0.45, length * 0.42, fur, 80, 0.025)
    for ear in (-0.25, 0.25):
        tip = head[0] + ear * length
        canvas.polygon([(tip - 0.03, head[1] - 0.06), (tip, head[1] - 0.19), (tip + 0.03, head[1] - 0.06)], dark)
    for eye in (-0.12, 0.16):
        canvas.ellipse(head[0] + eye * length * side, head[1] - 0.01, 0.016, 0.016, (15, 15, 15))
        canvas.ellipse(head[0] + eye * length * side - 0.004, head[1] - 0.014, 0.005, 0.005, (250, 250, 250))


def _city(canvas: _Canvas, generator: Generator) -> None:
    _sky(canvas, generator, 1.0)
    left = -0.05
    while left < 1:
        wide, top = generator.uniform(0.16, 0.32), generator.uniform(0.1, 0.55)
        wall = _colour(generator, 60, 200)
        canvas.polygon([(left, top), (left + wide, top), (left + wide, 1), (left, 1)], wall)
        step = generator.uniform(0.05, 0.08)
        lit, dark = (245, 225, 150), _shade(wall, 1 / 3)
        for row in np.arange(top + 0.03, 0.92, step):
            for column in np.arange(left + 0.02, left + wide - 0.03, step):
                colour = lit if generator.random() < 0.3 else dark
                box = [(column, row), (column + step * 0.5, row), (column + step * 0.5, row + step * 0.6)]
                canvas.polygon([*box, (column, row + step * 0.6)], colour)
        left += wide + generator.uniform(0, 0.02)
    canvas.gradient((70, 70, 75), (50, 50, 55), 0.93, 1.0, rough=12)


def _human(canvas: _Canvas, generator: Generator) -> None:
    backdrop = _colour(generator, 40, 190)
    canvas.gradient(backdrop, _shade(backdrop, 1 / 2), rough=20)
    x, y = generator.uniform(0.42, 0.58), generator.uniform(0.38, 0.46)
    skins: list[Colour] = [(232, 190, 160), (200, 150, 110), (150, 100, 70), (95, 62, 45)]
    hairs: list[Colour] = [(35, 28, 25), (90, 60, 35), (180, 140, 80), (140, 140, 140)]
    skin, hair, cloth = skins[generator.integers(4)], hairs[generator.integers(4)], _colour(generator, 50, 220)
    canvas.polygon([(x - 0.36, 1), (x - 0.28, y + 0.34), (x, y + 0.26), (x + 0.28, y + 0.34), (x + 0.36, 1)], cloth)
    for stripe in np.arange(y + 0.36, 1, 0.05):
        canvas.line([(x - 0.3, stripe), (x + 0.3, stripe)], 0.012, _shade(cloth, 1 / 2))
    canvas.ellipse(x, y - 0.03, 0.215, 0.26, hair)
    canvas.line([(x, y + 0.1), (x, y + 0.3)], 0.14, skin)
    canvas.ellipse(x, y, 0.17, 0.22, skin)
    canvas.strokes(x, y - 0.2, 0.19, 0.08, hair, 160, 0.05)
    for side in (-1, 1):
        canvas.ellipse(x + side * 0.07, y - 0.02, 0.03, 0.017, (245, 245, 245))
        canvas.ellipse(x + side * 0.07, y - 0.02, 0.013, 0.015, (30, 25, 25))
        canvas.line([(x + side * 0.04, y - 0.07), (x + side * 0.11, y - 0.075)], 0.012, hair)
    canvas.line([(x, y), (x - 0.015, y + 0.07), (x + 0.015, y + 0.075)], 0.008, _shade(skin, 0.7))
    canvas.line([(x - 0.06, y + 0.125), (x, y + 0.14), (x + 0.06, y + 0.125)], 0.014, (150, 60, 60))


def _nature(canvas: _Canvas, generator: Generator) -> None:
    horizon = generator.uniform(0.45, 0.6)
    _sky(canvas, generator, horizon + 0.05)
    for layer in range(3):
        tone = 150 - 35 * layer
        heights = horizon - 0.22 + 0.09 * layer + 0.06 * texture(64, generator, 1.8)[0]
        points = [(i / 63, float(height)) for i, height in enumerate(heights)]
        canvas.polygon([(0, 1), *points, (1, 1)], (tone - 30, tone - 10, tone + 10))
    _meadow(canvas, generator, horizon)
    for _ in range(int(generator.integers(2, 6))):
        x, foot = generator.random(), generator.uniform(horizon + 0.08, 0.9)
        tall = (foot - horizon + 0.15) * generator.uniform(0.5, 0.9)
        leaf = (int(generator.integers(25, 110)), int(generator.integers(70, 130)), 40)
        canvas.line([(x, foot), (x, foot - tall)], 0.025, (70, 50, 35))
        canvas.ellipse(x, foot - tall, tall * 0.35, tall * 0.45, leaf)
        canvas.strokes(x, foot - tall, tall * 0.38, tall * 0.48, leaf, 120, 0.025)


def _still_life(canvas: _Canvas, generator: Generator) -> None:
    table = generator.uniform(0.5, 0.62)
    canvas.gradient(_colour(generator, 60, 160), _colour(generator, 40, 120), 0, table, rough=7)
    wood = (int(generator.integers(110, 170)), int(generator.integers(70, 110)), 55)
    canvas.gradient(wood, _shade(wood, 0.7), table, 1.0, rough=18)
    for y in np.arange(table + 0.02, 1, 0.035):
        canvas.line([(0, y), (1, y + generator.normal(0, 0.01))], 0.006, _shade(wood, 0.6))
    if generator.random() < 0.7:
        x, vase = generator.uniform(0.25, 0.75), _colour(generator, 70, 220)
        shape = [(0.08, 0.4), (0.05, 0.3), (0.11, 0.12), (0.12, 0.0), (0.06, -0.12)]
        outline = [(x + w, table - h) for w, h in shape] + [(x - w, table - h) for w, h in reversed(shape)]
        canvas.polygon(outline, vase)
        canvas.line([(x - 0.06, table - 0.25), (x - 0.085, table)], 0.018, _shade(vase, 1, 60))
    for _ in range(int(generator.integers(3, 6))):
        radius = generator.uniform(0.07, 0.12)
        x, y = generator.uniform(0.12, 0.88), generator.uniform(table + 0.02, 0.86)
        canvas.ellipse(x + 0.03, y + radius * 0.85, radius, radius * 0.3, _shade(wood, 1 / 3))
        canvas.ball(x, y, radius, _colour(generator, 60, 235))
        canvas.strokes(x, y, radius * 0.8, radius * 0.8, (200, 190, 160), 14, 0.008)


def _other(canvas: _Canvas, generator: Generator) -> None:
    first, second = _colour(generator, 20, 120), _colour(generator, 20, 120)
    canvas.gradient(first, second, rough=14)
    for _ in range(int(generator.integers(6, 11))):
        x, y, radius = generator.random(), generator.random(), generator.uniform(0.05, 0.17)
        corners, turn = int(generator.integers(3, 7)), generator.uniform(0, 6)
        points = [
            (x + radius * np.cos(turn + 2 * np.pi * k / corners), y + radius * np.sin(turn + 2 * np.pi * k / corners))
            for k in range(corners)
        ]
        canvas.polygon(points, _colour(generator, 60, 250))
        canvas.line([*points, points[0]], 0.012, _colour(generator, 0, 90))
    for _ in range(12):
        canvas.line([(generator.random(), generator.random()) for _ in range(2)], 0.008, _colour(generator, 100, 255))


PAINTERS: tuple[Callable[[_Canvas, Generator], None], ...] = (_animal, _city, _human, _nature, _still_life, _other)
