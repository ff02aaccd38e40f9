"""Pictures of entities: flat coloured shapes in a landscape, different for every picture of the same entity.

Drawn at twice the size and halved, so that edges are smooth. Random numbers come from `random`, not from Pillow's own
noise functions, which cannot be seeded.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Sequence
from functools import lru_cache

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from m2kr.synthetic.things import COLOURS, RGB, SETTINGS
from m2kr.synthetic.world import Entity, Person

Points = Sequence[tuple[float, float]]

SIZE = 160
_CANVAS = 2 * SIZE
_INK: RGB = (40, 34, 40)
_CREAM: RGB = (250, 240, 205)


def _pattern(name: str, step: float) -> Image.Image:
    """Return a mask (mode L, whole canvas) that is white where the second colour goes."""
    mask = Image.new("L", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(mask)
    cells = int(_CANVAS / step) + 2
    if name == "striped":
        for row in range(0, cells, 2):
            draw.rectangle((0, row * step, _CANVAS, (row + 1) * step - 1), fill=255)
    elif name == "chequered":
        for row in range(cells):
            for column in range(row % 2, cells, 2):
                x, y = column * step, row * step
                draw.rectangle((x, y, x + step - 1, y + step - 1), fill=255)
    elif name == "spotted":
        radius = step * 0.36
        for row in range(cells):
            for column in range(cells):
                x, y = (column + 0.5 * (row % 2)) * step * 1.15, row * step * 1.05
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return mask


class _Sheet:
    """A canvas with its own unit square: (0, 0) top left and (1, 1) bottom right of the place the entity takes."""

    def __init__(self, entity: Entity, rng: random.Random) -> None:
        look = entity.look
        self.count = look.count
        shade = rng.uniform(0.94, 1.05)
        self.main = _shaded(COLOURS[look.colour], shade, rng)
        self.second = _shaded(COLOURS[look.second_colour], shade, rng)
        self.image = _landscape(look.setting, rng)
        self._draw = ImageDraw.Draw(self.image)
        self._size = _CANVAS * rng.uniform(0.62, 0.82)
        free = _CANVAS - self._size
        self._x = free * rng.uniform(0.12, 0.88)
        self._y = free * rng.uniform(0.3, 0.8)
        self._flip = rng.random() < 0.5
        self._pattern = _pattern(look.pattern, self._size * 0.085) if look.pattern != "plain" else None

    def _px(self, points: Points) -> list[tuple[float, float]]:
        side = self._size
        return [(self._x + side * (1 - x if self._flip else x), self._y + side * y) for x, y in points]

    def polygon(self, points: Points, fill: RGB, line: int = 3) -> None:
        _outlined(self._draw, self._px(points), fill, line)

    def disc(self, x: float, y: float, radius: float, fill: RGB, line: int = 3) -> None:
        self.polygon(_ellipse(x, y, radius, radius, 28), fill, line)

    def line(self, points: Points, fill: RGB = _INK, width: float = 0.012) -> None:
        self._draw.line(self._px(points), fill=fill, width=max(2, round(width * self._size)), joint="curve")

    def body(self, *shapes: Points) -> None:
        """Draw shapes in the main colour with the pattern in the second one, and outline them."""
        outlines = [self._px(shape) for shape in shapes]
        mask = Image.new("L", self.image.size)
        draw = ImageDraw.Draw(mask)
        for pixels in outlines:
            draw.polygon(pixels, fill=255)
        box = mask.getbbox()
        if box is not None:  # only where the shapes are, which is faster
            mask = mask.crop(box)
            self.image.paste(self.main, box, mask)
            if self._pattern is not None:
                self.image.paste(self.second, box, ImageChops.multiply(mask, self._pattern.crop(box)))
        for pixels in outlines:
            _outlined(self._draw, pixels, None, 4)


def _outlined(draw: ImageDraw.ImageDraw, pixels: Points, fill: RGB | None, line: int) -> None:
    """Draw a polygon, unless ``fill`` is None, and its outline ``line`` wide, unless that is 0."""
    if fill:
        draw.polygon(pixels, fill=fill)
    if line:
        draw.line([*pixels, pixels[0], pixels[1]], fill=_INK, width=line, joint="curve")


def _shaded(colour: RGB, shade: float, rng: random.Random) -> RGB:
    red, green, blue = (max(0, min(255, round(value * shade + rng.uniform(-7, 7)))) for value in colour)
    return red, green, blue


def _ellipse(x: float, y: float, width: float, height: float, steps: int = 40, turn: float = 0.0) -> Points:
    cos, sin = math.cos(turn), math.sin(turn)
    points = []
    for step in range(steps):
        angle = 2 * math.pi * step / steps
        across, down = width * math.cos(angle), height * math.sin(angle)
        points.append((x + across * cos - down * sin, y + across * sin + down * cos))
    return points


@lru_cache(maxsize=len(SETTINGS))
def _sky(setting: str) -> Image.Image:
    colours = SETTINGS[setting]
    ramp = Image.linear_gradient("L").resize((_CANVAS, _CANVAS))
    return Image.composite(Image.new("RGB", ramp.size, colours.horizon), Image.new("RGB", ramp.size, colours.sky), ramp)


def _landscape(setting: str, rng: random.Random) -> Image.Image:
    """Return the background: sky, what stands at the horizon, ground, and soft noise over all of it."""
    ground = SETTINGS[setting].ground
    image = _sky(setting).copy()
    draw = ImageDraw.Draw(image)
    horizon = _CANVAS * rng.uniform(0.58, 0.7)
    if setting == "mountains":
        for _ in range(4):
            x, height, width = rng.uniform(0, _CANVAS), rng.uniform(90, 170), rng.uniform(80, 120)
            grey = rng.randrange(118, 150)
            draw.polygon(
                [(x - width, horizon), (x, horizon - height), (x + width, horizon)], fill=(grey, grey, grey + 8)
            )
            tip = [(x - width * 0.25, horizon - height * 0.75), (x, horizon - height)]
            draw.polygon([*tip, (x + width * 0.25, horizon - height * 0.75)], fill=(245, 246, 250))
    draw.rectangle((0, horizon, _CANVAS, _CANVAS), fill=ground)
    if setting == "sea":
        for _ in range(26):
            x, y = rng.uniform(0, _CANVAS), rng.uniform(horizon + 6, _CANVAS)
            draw.arc((x, y, x + 26, y + 12), 200, 340, fill=(175, 215, 240), width=3)
    elif setting == "meadow":
        for _ in range(3):
            x = rng.uniform(0, _CANVAS)
            draw.ellipse((x - 130, horizon - 26, x + 130, horizon + 70), fill=(120, 180, 80))
        for _ in range(60):
            x, y = rng.uniform(0, _CANVAS), rng.uniform(horizon + 20, _CANVAS)
            draw.line((x, y, x + rng.uniform(-3, 3), y - 9), fill=(85, 150, 60), width=2)
    elif setting == "desert":
        for _ in range(4):
            x, y = rng.uniform(0, _CANVAS), rng.uniform(horizon, _CANVAS)
            draw.chord((x - 150, y - 22, x + 150, y + 60), 180, 360, fill=(208, 168, 102))
        x, y = rng.uniform(30, _CANVAS - 30), rng.uniform(24, 60)
        draw.ellipse((x - 18, y - 18, x + 18, y + 18), fill=(255, 246, 190))
    elif setting == "snow":
        for _ in range(90):
            x, y, radius = rng.uniform(0, _CANVAS), rng.uniform(0, _CANVAS), rng.uniform(1.5, 4)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 255))
    elif setting == "forest":
        for tree in range(11):
            x = (tree + rng.uniform(0.1, 0.9)) * _CANVAS / 11
            height, green = rng.uniform(80, 150), rng.randrange(70, 105)
            draw.polygon([(x - 24, horizon + 8), (x, horizon - height), (x + 24, horizon + 8)], fill=(30, green, 50))
    grain = Image.frombytes("L", (SIZE, SIZE), rng.randbytes(SIZE * SIZE)).filter(ImageFilter.BoxBlur(1))
    noise = grain.resize(image.size, Image.Resampling.NEAREST)
    return Image.blend(image, Image.merge("RGB", (noise, noise, noise)), 0.07)


def _tower(sheet: _Sheet) -> None:
    sheet.body([(0.33, 1), (0.37, 0.3), (0.63, 0.3), (0.67, 1)])
    sheet.polygon([(0.28, 0.31), (0.5, 0.0), (0.72, 0.31)], sheet.second)
    gap = 0.66 / sheet.count
    for window in range(sheet.count):
        y = 0.33 + gap * (window + 0.5)
        size = min(0.055, gap * 0.38)
        frame = [(0.5 - size * 1.1, y - size), (0.5 + size * 1.1, y - size), (0.5 + size * 1.1, y + size)]
        sheet.polygon([*frame, (0.5 - size * 1.1, y + size)], _CREAM, 4)
        sheet.line([(0.5, y - size), (0.5, y + size)])


def _bridge(sheet: _Sheet) -> None:
    left, right, deck, foot = 0.0, 1.0, 0.44, 0.82
    span = (right - left) / sheet.count
    outline: list[tuple[float, float]] = [(left, deck)]
    for arch in range(sheet.count):
        start = left + span * arch
        radius = span * 0.36
        height = min(radius, 0.27)
        outline.append((start, foot))
        for step in range(15):
            angle = math.pi * step / 14
            outline.append((start + span / 2 - radius * math.cos(angle), foot - height * math.sin(angle)))
        outline.append((start + span, foot))
    sheet.body([*outline, (right, deck)])
    corners = [(left - 0.03, deck - 0.075), (right + 0.03, deck - 0.075), (right + 0.03, deck + 0.02)]
    sheet.polygon([*corners, (left - 0.03, deck + 0.02)], sheet.second)
    sheet.line([(left, deck - 0.15), (right, deck - 0.15)])
    for post in range(15):
        x = left + (right - left) * post / 14
        sheet.line([(x, deck - 0.15), (x, deck - 0.07)], width=0.009)


def _windmill(sheet: _Sheet) -> None:
    sheet.body([(0.3, 1), (0.39, 0.42), (0.61, 0.42), (0.7, 1)])
    sheet.polygon(
        [(0.35, 0.43), *[(0.5 - 0.15 * math.cos(a), 0.43 - 0.17 * math.sin(a)) for a in _arc()]], sheet.second
    )
    sheet.polygon([(0.45, 1), (0.45, 0.87), (0.55, 0.87), (0.55, 1)], _INK, 0)
    for blade in range(sheet.count):
        angle = 2 * math.pi * (blade / sheet.count) + 0.35
        along, across = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))

        def at(u: float, v: float, along: tuple[float, float] = along, across: tuple[float, float] = across) -> Points:
            return [(0.5 + along[0] * u + across[0] * v, 0.37 + along[1] * u + across[1] * v)]

        sheet.polygon([*at(0.1, 0), *at(0.4, 0), *at(0.4, 0.09), *at(0.1, 0.09)], _CREAM, 3)
        sheet.line([*at(0, 0), *at(0.42, 0)], width=0.018)
        sheet.line([*at(0.1, 0.045), *at(0.4, 0.045)], width=0.007)
    sheet.disc(0.5, 0.37, 0.03, _INK, 0)


def _arc(steps: int = 20) -> list[float]:
    return [math.pi * step / steps for step in range(steps + 1)]


def _boat(sheet: _Sheet) -> None:
    sheet.line([(0.47, 0.6), (0.47, 0.0)], width=0.022)
    sheet.polygon([(0.5, 0.04), (0.93, 0.54), (0.5, 0.54)], sheet.second)
    sheet.polygon([(0.44, 0.12), (0.44, 0.54), (0.14, 0.54)], sheet.second)
    sheet.body([(-0.04, 0.6), (1.04, 0.6), (0.86, 0.92), (0.14, 0.92)])
    for porthole in range(sheet.count):
        x = 0.5 + (porthole - (sheet.count - 1) / 2) * 0.17
        sheet.disc(x, 0.735, 0.058, _INK, 0)
        sheet.disc(x, 0.735, 0.043, _CREAM, 0)


def _kite(sheet: _Sheet) -> None:
    tail = [(0.5 + 0.13 * math.sin(step / 3.2) * (step > 0), 0.6 + 0.4 * step / 20) for step in range(21)]
    sheet.line(tail, sheet.second, 0.022)
    sheet.body([(0.5, -0.04), (0.86, 0.26), (0.5, 0.63), (0.14, 0.26)])
    sheet.line([(0.5, -0.04), (0.5, 0.63)], width=0.016)
    sheet.line([(0.14, 0.26), (0.86, 0.26)], width=0.016)
    for bow in range(sheet.count):
        x, y = tail[round(3 + 17 * bow / max(1, sheet.count - 1))] if sheet.count > 1 else tail[10]
        for side in (-1, 1):
            sheet.polygon([(x, y), (x + side * 0.085, y - 0.04), (x + side * 0.085, y + 0.04)], sheet.second, 3)


def _guitar(sheet: _Sheet) -> None:
    sheet.polygon([(0.45, 0.5), (0.455, 0.08), (0.545, 0.08), (0.55, 0.5)], sheet.second)
    sheet.polygon([(0.43, 0.1), (0.42, -0.06), (0.58, -0.06), (0.57, 0.1)], sheet.second)
    outline = []
    for step in range(72):
        angle = 2 * math.pi * step / 72
        # Wider below, narrow in the middle: the waist is a dip at the height of the centre.
        radius = 0.31 + 0.035 * math.sin(angle) - 0.085 * math.exp(-((math.sin(angle) + 0.12) ** 2) / 0.05)
        outline.append((0.5 + radius * math.cos(angle) * 1.08, 0.7 + radius * math.sin(angle)))
    sheet.body(outline)
    sheet.disc(0.5, 0.66, 0.085, _INK, 0)
    sheet.polygon([(0.39, 0.87), (0.61, 0.87), (0.61, 0.9), (0.39, 0.9)], _INK, 0)
    for string in range(sheet.count):
        x = 0.5 + (string - (sheet.count - 1) / 2) * 0.034
        sheet.line([(x, -0.02), (x, 0.88)], _INK, 0.02)
        sheet.line([(x, -0.02), (x, 0.88)], (255, 250, 220), 0.010)


def _bird(sheet: _Sheet) -> None:
    for feather in range(sheet.count):
        turn = (feather - (sheet.count - 1) / 2) * 0.34 + 0.12
        tip = (0.24 - 0.3 * math.cos(turn), 0.56 - 0.3 * math.sin(turn))
        side = (0.048 * math.sin(turn), -0.048 * math.cos(turn))
        shape = [(0.26, 0.56), (tip[0] - side[0], tip[1] - side[1]), (tip[0] + side[0], tip[1] + side[1])]
        sheet.polygon(shape, sheet.second, 4)
    for leg in (0.45, 0.57):
        sheet.line([(leg, 0.75), (leg, 0.98), (leg + 0.09, 0.98)], width=0.022)
    sheet.polygon([(0.93, 0.27), (1.08, 0.32), (0.93, 0.38)], (240, 180, 40))
    sheet.body(_ellipse(0.5, 0.57, 0.32, 0.24, turn=-0.3), _ellipse(0.8, 0.32, 0.155, 0.155))
    sheet.polygon([*_ellipse(0.41, 0.57, 0.2, 0.1, 24, 0.25)], sheet.second, 4)
    sheet.disc(0.84, 0.28, 0.04, _CREAM)
    sheet.disc(0.85, 0.28, 0.018, _INK, 0)


def _butterfly(sheet: _Sheet) -> None:
    wings = [(0.24, 0.34, 0.27, 0.23, 0.55), (0.29, 0.72, 0.2, 0.17, -0.6)]
    both = [(x if side else 1 - x, y, w, h, t if side else -t) for x, y, w, h, t in wings for side in (0, 1)]
    for x, y, width, height, turn in both:
        sheet.polygon(_ellipse(x, y, width + 0.045, height + 0.045, turn=turn), sheet.second, 4)
    sheet.body(*[_ellipse(x, y, width, height, turn=turn) for x, y, width, height, turn in both])
    for side in (-1, 1):
        for spot in range(sheet.count):
            across, y = ((0.16, 0.24), (0.38, 0.24), (0.16, 0.41), (0.38, 0.41), (0.22, 0.74))[spot]
            sheet.disc(0.5 + side * across, y, 0.062, _INK, 0)
            sheet.disc(0.5 + side * across, y, 0.04, _CREAM, 0)
        sheet.line([(0.5, 0.26), (0.5 + side * 0.1, 0.05)], width=0.014)
    sheet.polygon(_ellipse(0.5, 0.53, 0.042, 0.3), _INK, 0)


def _flower(sheet: _Sheet) -> None:
    sheet.line([(0.5, 0.5), (0.52, 0.8), (0.49, 1.06)], (45, 110, 55), 0.04)
    sheet.polygon(_ellipse(0.64, 0.88, 0.14, 0.05, 24, -0.5), (60, 135, 65))
    petals = []
    for petal in range(sheet.count):
        angle = 2 * math.pi * petal / sheet.count - math.pi / 2
        width = min(0.145, 0.62 / sheet.count)
        centre = (0.5 + 0.235 * math.cos(angle), 0.4 + 0.235 * math.sin(angle))
        petals.append(_ellipse(*centre, 0.2, width, 30, angle))
    sheet.body(*petals)
    sheet.disc(0.5, 0.4, 0.11, sheet.second, 4)


_PAINTERS: dict[str, Callable[[_Sheet], None]] = {
    "tower": _tower,
    "bridge": _bridge,
    "windmill": _windmill,
    "boat": _boat,
    "kite": _kite,
    "guitar": _guitar,
    "bird": _bird,
    "butterfly": _butterfly,
    "flower": _flower,
}


def _figure(image: Image.Image, person: Person, middle: float, rng: random.Random) -> None:
    """Draw ``person`` in the foreground, ``middle`` of the width from the left: coat, trousers and hat are theirs."""
    draw = ImageDraw.Draw(image)
    shade = rng.uniform(0.94, 1.05)
    coat, trousers, hat = (_shaded(COLOURS[colour], shade, rng) for colour in person.clothes)
    height = _CANVAS * rng.uniform(0.6, 0.68)
    left, top = _CANVAS * middle, _CANVAS * 0.99 - height

    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(left + height * x, top + height * y) for x, y in points]

    def shape(points: Points, fill: RGB) -> None:
        _outlined(draw, at(*points), fill, 4)

    for side in (-1, 1):
        shape([(0, 0.62), (side * 0.13, 0.62), (side * 0.12, 0.97), (side * 0.03, 0.97)], trousers)
        shape([(side * 0.1, 0.29), (side * 0.17, 0.33), (side * 0.21, 0.58), (side * 0.14, 0.6)], coat)
    shape([(-0.12, 0.27), (0.12, 0.27), (0.16, 0.66), (-0.16, 0.66)], coat)
    draw.line(at((0, 0.28), (0, 0.65)), fill=_INK, width=3)
    shape(_ellipse(0, 0.17, 0.085, 0.1, 24), (236, 200, 170))
    shape([(-0.08, 0.1), (-0.07, 0.0), (0.07, 0.0), (0.08, 0.1)], hat)
    shape([(-0.13, 0.13), (-0.13, 0.09), (0.13, 0.09), (0.13, 0.13)], hat)
    for side in (-1, 1):
        draw.ellipse(
            [point for corner in at((side * 0.035 - 0.01, 0.16), (side * 0.035 + 0.01, 0.18)) for point in corner], _INK
        )


def draw_picture(entity: Entity, variation: object, people: Sequence[Person] = ()) -> Image.Image:
    """Return picture ``variation`` of ``entity``: RGB, 160 x 160 pixels, the same each time.

    Kind, colours, pattern, count and setting are the entity's; place, size, side, shade and noise the variation's.
    Up to two ``people`` stand in front of it, in order from the left.
    """
    rng = entity.rng(f"picture/{variation}")
    sheet = _Sheet(entity, rng)
    _PAINTERS[entity.type.word](sheet)
    middles = (0.2, 0.8) if len(people) > 1 else (rng.uniform(0.18, 0.82),)
    for person, middle in zip(people, middles, strict=False):
        _figure(sheet.image, person, middle, rng)
    return sheet.image.reduce(2)


def jpeg(image: Image.Image) -> bytes:
    """Return ``image`` as JPEG bytes; equal on one Pillow version."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
