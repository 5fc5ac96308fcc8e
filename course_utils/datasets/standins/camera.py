"""From a flat sign to a small photograph of it: background, perspective, light, dirt, blur and noise.

What stays the same while a car drives past a sign (the sign, its place, the light) is drawn once a track as a `Scene`;
what changes from frame to frame (distance, shake, focus, sensor noise) is drawn in `photograph`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 32  # pixels of a finished image
FINE = 3  # the sign is projected at FINE times that resolution, then averaged: this is what a sensor does

Vector = np.ndarray


@dataclass(frozen=True)
class Difficulty:
    """How bad the photographs are; one number for each hardship."""

    shift: float = 1.2  # standard deviation of the sign's place, pixels
    smallest: float = 24.0  # width of the sign in the first frame of a track, pixels, uniform from smallest to largest
    largest: float = 29.0
    rotation: float = 4.0  # degrees, standard deviation
    perspective: float = 0.025  # shift of the corners, share of the width, standard deviation
    darkest: float = 0.25  # brightness, log-uniform from darkest to brightest
    brightest: float = 1.2
    haze: float = 0.35  # largest share of the contrast that haze takes away
    cast: float = 0.05  # colour cast, standard deviation of log gain of a channel
    occlusion: float = 0.05  # probability that something hangs in front of the sign
    blur: float = 0.35  # largest radius of the defocus, pixels
    motion: float = 0.06  # probability of motion blur
    noise: float = 3.0  # largest standard deviation of the sensor noise, of 255


@dataclass(frozen=True)
class Scene:
    """What all frames of one track share."""

    face: Image.Image  # RGBa (premultiplied), the sign, faded and dirty
    background: np.ndarray  # (H, W, 3) float, larger than an image so that frames can look at different parts
    centre: Vector  # (2,) pixels
    width: float  # of the sign in the first frame, pixels
    growth: float  # factor on the width by the last frame
    rotation: float  # degrees
    corners: np.ndarray  # (4, 2) shift of the face's corners, share of its width
    light: np.ndarray  # (SIZE, SIZE, 3) factor on the image
    haze: float  # what haze adds to every channel
    clearness: float  # share of the contrast that is left
    motion: int  # length of the motion blur in pixels, 1 is none
    noise: float


def draw_scene(face: Image.Image, generator: np.random.Generator, hard: Difficulty) -> Scene:
    """Choose a place, a light and a state of repair for one sign."""
    haze = generator.uniform(0.0, hard.haze) * generator.uniform(0.0, 1.0)
    brightness = np.exp(generator.uniform(np.log(hard.darkest), np.log(hard.brightest)))
    return Scene(
        face=_weathered(face, generator, hard),
        background=_background(generator),
        centre=SIZE / 2 + generator.normal(0.0, hard.shift, 2).clip(-2 * hard.shift, 2 * hard.shift),
        width=generator.uniform(hard.smallest, hard.largest),
        growth=generator.uniform(1.0, 1.25),
        rotation=generator.normal(0.0, hard.rotation),
        corners=generator.normal(0.0, hard.perspective, (4, 2)),
        light=_light(generator, hard) * brightness,
        haze=haze * generator.uniform(120, 230),
        clearness=1.0 - haze,
        motion=int(generator.integers(2, 5)) if generator.random() < hard.motion else 1,
        noise=generator.uniform(1.0, hard.noise),
    )


def photograph(scene: Scene, moment: float, generator: np.random.Generator, hard: Difficulty) -> np.ndarray:
    """One frame of a track, uint8 (3, 32, 32). `moment` runs from 0 (far away) to 1 (just before the car passes)."""
    width = scene.width * (1 + (scene.growth - 1) * moment)
    centre = scene.centre + generator.normal(0.0, 0.6, 2)
    corners = scene.corners + generator.normal(0.0, 0.012, (4, 2))
    sign = _project(scene.face, centre, width, scene.rotation + generator.normal(0.0, 1.5), corners)  # (32, 32, 4)
    spare = scene.background.shape[0] - SIZE
    offset = np.clip(spare * (0.5 + 0.35 * (moment - 0.5)) + generator.integers(-1, 2, 2), 0, spare).astype(int)
    behind = scene.background[offset[0] : offset[0] + SIZE, offset[1] : offset[1] + SIZE]
    image = sign[..., :3] + behind * (1.0 - sign[..., 3:] / 255.0)
    image = _blurred(image, generator.uniform(0.0, hard.blur), scene.motion)
    image = (image * scene.clearness + scene.haze) * scene.light * np.exp(generator.normal(0.0, 0.05))
    image = image + generator.normal(0.0, scene.noise, image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8).transpose(2, 0, 1)


def _project(face: Image.Image, centre: Vector, width: float, rotation: float, corners: np.ndarray) -> np.ndarray:
    """The face seen in perspective, premultiplied RGBA (32, 32, 4), float 0 to 255."""
    square = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    angle = np.deg2rad(rotation)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    place = (centre + (square + corners) @ turn.T * width) * FINE  # where the four corners land
    side = face.size[0]
    source = (square + 0.5) * side
    fine = (SIZE * FINE, SIZE * FINE)
    seen = face.transform(
        fine, Image.Transform.PERSPECTIVE, _homography(place, source).tolist(), Image.Resampling.BILINEAR
    )
    return np.asarray(seen.reduce(FINE), dtype=np.float64)


def _homography(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The eight numbers of the perspective map that takes four points (4, 2) to four others."""
    rows, values = [], []
    for (x, y), (u, v) in zip(start, end, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(np.array(rows), np.array(values))


def _weathered(face: Image.Image, generator: np.random.Generator, hard: Difficulty) -> Image.Image:
    """The face with faded colours, stains and, sometimes, a branch or a sticker over it."""
    pixels = np.asarray(face, dtype=np.float32)
    colours, alpha = pixels[..., :3], pixels[..., 3:]
    grey = (pixels[..., 0:1] + pixels[..., 1:2] + pixels[..., 2:3]) / 3
    faded = generator.uniform(0.0, 0.45)
    paint = colours * (1 - faded) + (0.7 * grey + 40) * faded
    stained = paint * _smooth_noise(generator, face.size[0], cells=5, low=0.75, high=1.08)[..., None]
    image = Image.fromarray(np.dstack([stained.clip(0, 255), alpha]).astype(np.uint8), "RGBA")
    if generator.random() < hard.occlusion:
        _occlude(image, generator)
    return image.convert("RGBa")


def _occlude(image: Image.Image, generator: np.random.Generator) -> None:
    """A few leaves, or one patch, in a dull colour, starting from the rim."""
    pen, side = ImageDraw.Draw(image), image.size[0]
    angle = generator.uniform(0, 2 * np.pi)
    start = side / 2 * (1 + 0.9 * np.array([np.cos(angle), np.sin(angle)]))
    colour = tuple(int(c) for c in generator.uniform((30, 50, 20), (130, 140, 100)))
    for _ in range(int(generator.integers(1, 6))):
        x, y = start + generator.normal(0, 0.11 * side, 2)
        radius = generator.uniform(0.05, 0.13, 2) * side
        pen.ellipse((x - radius[0], y - radius[1], x + radius[0], y + radius[1]), fill=(*colour, 255))


def _background(generator: np.random.Generator) -> np.ndarray:
    """Sky over trees or walls, with a few poles, boxes and blobs in front: float (44, 44, 3)."""
    side = SIZE + 12
    upper = generator.uniform((90, 110, 120), (225, 235, 250))
    lower = generator.uniform(25, 150) * generator.uniform((0.75, 0.85, 0.6), (1.05, 1.1, 0.95))  # green, brown or grey
    horizon = generator.uniform(-0.2, 1.2) * side
    slope = 1 / (1 + np.exp(-(np.arange(side) - horizon) / generator.uniform(0.7, 8.0)))  # 0 above, 1 below
    image = upper * (1 - slope[:, None, None]) + lower * slope[:, None, None] + np.zeros((side, side, 1))
    canvas = Image.fromarray(image.astype(np.uint8), "RGB")
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(generator.integers(2, 9))):
        x, y, width, height = generator.uniform((-8, -8, 2, 2), (side, side, 22, 26))
        # Now and then as bright and colourful as a sign: a shop, a car, another sign.
        level = (20, 20, 20), ((240, 240, 240) if generator.random() < 0.4 else (120, 120, 110))
        pure = generator.uniform(*level)
        colour = tuple(int(c) for c in pure * 0.5 + pure.mean() * 0.5)  # streets are rarely gaudy
        shape = pen.ellipse if generator.random() < 0.5 else pen.rectangle
        shape((x, y, x + width, y + height), fill=colour)
    for _ in range(int(generator.integers(0, 3))):
        ends = generator.uniform(-4, side + 4, 4)
        pen.line(tuple(ends), fill=(int(generator.uniform(20, 200)),) * 3, width=int(generator.integers(1, 4)))
    texture = _smooth_noise(generator, side, cells=int(generator.integers(6, 22)), low=0.78, high=1.2)
    blurred = canvas.filter(ImageFilter.GaussianBlur(generator.uniform(0.0, 2.0)))
    return np.asarray(blurred, dtype=np.float64) * texture[..., None]


def _light(generator: np.random.Generator, hard: Difficulty) -> np.ndarray:
    """Colour of the light, a gradient across the picture and sometimes the edge of a shadow: (32, 32, 3)."""
    colour = np.exp(generator.normal(0.0, hard.cast, 3))
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    angle = generator.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    light = 1 + generator.uniform(0.0, 0.3) * along
    if generator.random() < 0.25:
        light = light * np.where(along > generator.uniform(-0.5, 0.5), 1.0, generator.uniform(0.45, 0.8))
    return light[..., None] * colour


def _blurred(image: np.ndarray, radius: float, motion: int) -> np.ndarray:
    """Defocus, then the average of `motion` copies, each one pixel further: the car moves while the shutter is open."""
    picture = Image.fromarray(image.clip(0, 255).astype(np.uint8), "RGB")
    if radius > 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(radius))
    pixels = np.asarray(picture, dtype=np.float64)
    if motion > 1:
        edged = np.pad(pixels, ((0, 0), (motion // 2, motion - 1 - motion // 2), (0, 0)), mode="edge")
        pixels = np.mean([edged[:, shift : shift + SIZE] for shift in range(motion)], axis=0)
    return pixels


def _smooth_noise(generator: np.random.Generator, side: int, cells: int, low: float, high: float) -> np.ndarray:
    """Random patches (side, side), about `cells` across, values between low and high."""
    coarse = Image.fromarray(generator.uniform(low, high, (cells, cells)).astype(np.float32), "F")
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
