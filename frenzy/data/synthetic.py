"""Made-up images that a network must really learn: a shape of some colour and texture before some background.

10 classes: the shape; colour, texture and background are anything, so that neither a pixel nor the mean colour says which.
100 classes: the shape times its colour and texture (5 hues, plain or striped); backgrounds are grey.
Place, size, tilt, shading and noise are random always. All of it follows from a seed; nothing is read.
"""

from collections.abc import Callable

import numpy as np

from frenzy.data.split import DataError, Split, make

COUNTS = {"train": 10_000, "test": 2_000}
SIZE = 32
CHUNK = 256  # images at a time: their pixels stay in the processor's cache
NOISE = 14.0  # the largest change of a value of 0..255


def _distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v)


def _box(u: np.ndarray, v: np.ndarray, width: float, height: float) -> np.ndarray:
    return np.minimum(width - np.abs(u), height - np.abs(v))


# inside(u, v): how far inside the shape a point lies, below 0 outside; u to the right and v down, the shape within -1..1
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "bar": lambda u, v: _box(u, v, 0.95, 0.28),
    "crescent": lambda u, v: np.minimum(0.9 - _distance(u, v), _distance(u - 0.45, v) - 0.7),
    "cross": lambda u, v: np.maximum(_box(u, v, 0.95, 0.26), _box(u, v, 0.26, 0.95)),
    "disc": lambda u, v: 0.85 - _distance(u, v),
    "frame": lambda u, v: 0.2 - np.abs(np.maximum(np.abs(u), np.abs(v)) - 0.68),
    "rails": lambda u, v: _box(u, np.abs(v) - 0.55, 0.95, 0.22),
    "ring": lambda u, v: 0.22 - np.abs(_distance(u, v) - 0.72),
    "square": lambda u, v: _box(u, v, 0.8, 0.8),
    "triangle": lambda u, v: 0.52 - np.maximum(v - 0.15, 0.866 * np.abs(u) - 0.5 * (v - 0.15)),
    "twins": lambda u, v: 0.42 - _distance(np.abs(u) - 0.55, v),
}
HUES = {  # RGB of 0..255
    "blue": (40, 70, 225),
    "green": (40, 190, 60),
    "red": (220, 40, 40),
    "violet": (185, 50, 205),
    "yellow": (230, 210, 40),
}
TEXTURES = ("plain", "striped")


def class_names(classes: int) -> tuple[str, ...]:
    """Of 10 classes the shapes; of 100 the same with hue and texture, class = 10 shape + 2 hue + texture."""
    if classes == len(SHAPES):
        return tuple(SHAPES)
    return tuple(f"{texture} {hue} {shape}" for shape in SHAPES for hue in HUES for texture in TEXTURES)


def _any_colours(count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Background, shape (n, 3) of 0..255, and whether it is striped (n,): every channel differs by 90 or more, modulo 256."""
    background = random.uniform(0, 256, (count, 3))
    shape = (background + random.uniform(90, 166, (count, 3))) % 256
    return background, shape, random.random(count) < 0.5


def _class_colours(pair: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for the pairs 2 hue + texture (n,): hues off by 25 at most, backgrounds nearly grey."""
    count = len(pair)
    background = random.uniform(25, 230, (count, 1)) + random.uniform(-12, 12, (count, 3))
    shape = np.array(list(HUES.values()))[pair // len(TEXTURES)] + random.uniform(-25, 25, (count, 3))
    return background, shape, pair % len(TEXTURES) == 1


def _frames(count: int, size: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """u, v (n, size, size) in the shape's own frame, and how many pixels a unit of them is (n, 1, 1)."""
    middle = random.uniform(-0.32, 0.32, (2, count, 1, 1)).astype(np.float32)
    radius = random.uniform(0.42, 0.66, (count, 1, 1)).astype(np.float32)
    tilt = random.uniform(-0.26, 0.26, (count, 1, 1)).astype(np.float32)
    line = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1)[None]
    x, y = (line[:, None, :] - middle[0]) / radius, (line[:, :, None] - middle[1]) / radius
    return x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt), radius * (size / 2)


def _coverage(shapes: np.ndarray, u: np.ndarray, v: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The share of each pixel that the shape covers (n, h, w), 0..1."""
    inside = np.empty_like(u)
    for i, shape in enumerate(SHAPES.values()):
        chosen = shapes == i
        inside[chosen] = shape(u[chosen], v[chosen])
    return np.clip(inside * scale + 0.5, 0, 1)


def _stripes(u: np.ndarray, v: np.ndarray, scale: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Brightness (n, h, w), 0.35 or 1 with soft edges: stripes of any direction, 2 to 3 pixels of 32 wide."""
    angle = random.uniform(0, np.pi, (len(u), 1, 1)).astype(np.float32)
    period = random.uniform(4, 6, (len(u), 1, 1)).astype(np.float32) * (u.shape[1] / SIZE)
    phase = random.uniform(0, 1, (len(u), 1, 1)).astype(np.float32)
    along = (u * np.cos(angle) + v * np.sin(angle)) * (scale / period) + phase
    wave = np.abs(along - np.floor(along) - 0.5)  # a triangle, 0 to 0.5
    return 0.35 + 0.65 * np.clip((wave - 0.25) * period + 0.5, 0, 1)


def _shading(count: int, size: int, random: np.random.Generator) -> np.ndarray:
    """(n, size, size, 1): what is added to a background of 0..255, up to 60 from side to side."""
    line = np.linspace(-1, 1, size, dtype=np.float32)
    slope = random.uniform(-30, 30, (2, count, 1, 1)).astype(np.float32)
    return (slope[0] * line[None, :, None] + slope[1] * line[None, None, :])[..., None]


def _draw(labels: np.ndarray, classes: int, size: int, random: np.random.Generator) -> np.ndarray:
    """Labels (n,) -> uint8 (n, size, size, 3)."""
    count, pairs = len(labels), classes // len(SHAPES)
    colours = _any_colours(count, random) if pairs == 1 else _class_colours(labels % pairs, random)
    background, colour = (values.astype(np.float32)[:, None, None, :] for values in colours[:2])
    u, v, scale = _frames(count, size, random)
    brightness = np.where(colours[2][:, None, None], _stripes(u, v, scale, random), np.float32(1))[..., None]
    ground = background + _shading(count, size, random)
    covered = _coverage(labels // pairs, u, v, scale)[..., None]
    noise = random.integers(0, 256, (count, size, size, 3), np.uint8) * np.float32(2 * NOISE / 255) - np.float32(NOISE)
    pixels = ground + covered * (colour * brightness - ground) + noise
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


def generate(classes: int, count: int, seed: int = 0, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (count, size, size, 3), int32 (count,): the classes 0..classes - 1, 10 or 100, in equal numbers and mixed order."""
    if classes not in (10, 100) or count < 1 or size < 8:
        raise DataError(
            f"{count} images {size}x{size} of {classes} classes; classes are 10 or 100, images 1 or more of 8x8 or more"
        )
    random = np.random.default_rng((seed, classes))
    labels = random.permutation(np.arange(count, dtype=np.int32) % classes)
    images = np.empty((count, size, size, 3), np.uint8)
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        images[part] = _draw(labels[part], classes, size, random)
    return images, labels


def load(classes: int, split: str, image_size: int | None = None) -> Split:
    """The 'train' (10,000 images) or 'test' (2,000) split of 10 or 100 classes, the same always."""
    images, labels = generate(classes, COUNTS[split], list(COUNTS).index(split), image_size or SIZE)
    return make(images, labels, class_names(classes))
