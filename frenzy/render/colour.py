"""A light-to-dark colour scale with even steps to the eye, and text that stays legible on it."""

import math

RGB = tuple[float, float, float]

STOPS = ("#fff6e0", "#fdd08a", "#f6934b", "#d9483b", "#7d1238")  # cream, sand, orange, red, wine: lightness falls throughout
NOTHING = "#ffffff"


def _linear(colour: str) -> RGB:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))

    def decoded(x: float) -> float:
        return x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4

    return decoded(red), decoded(green), decoded(blue)


def _hex(linear: RGB) -> str:
    def encoded(x: float) -> int:
        x = min(max(x, 0.0), 1.0)
        return round(255 * (12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055))

    return "#" + "".join(f"{encoded(x):02x}" for x in linear)


def oklab(colour: str) -> RGB:
    """sRGB "#rrggbb" -> OKLab (Ottosson, 2020), where equal distances look equal."""
    r, g, b = _linear(colour)
    long = math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b)
    medium = math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b)
    short = math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def srgb(lab: RGB) -> str:
    """OKLab -> sRGB "#rrggbb"; what lies outside sRGB is clipped."""
    lightness, a, b = lab
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return _hex(
        (
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        )
    )


def heat(level: float) -> str:
    """0..1 -> a colour from light to dark; 0 itself is white."""
    if level <= 0:
        return NOTHING
    position = min(level, 1.0) * (len(STOPS) - 1)
    index = min(int(position), len(STOPS) - 2)
    first, second = oklab(STOPS[index]), oklab(STOPS[index + 1])
    part = position - index
    return srgb(tuple(x + (y - x) * part for x, y in zip(first, second, strict=True)))  # type: ignore[arg-type]


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio, 1..21."""

    def luminance(colour: str) -> float:
        r, g, b = _linear(colour)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def ink(background: str) -> str:
    """Black or white, whichever reads better."""
    return max(("#000000", "#ffffff"), key=lambda colour: contrast(colour, background))
