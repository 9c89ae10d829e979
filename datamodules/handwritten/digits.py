"""Real handwritten digits (UCI, bundled with scikit-learn) and pictures composed from them.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998;
1,797 images of 8 x 8 pixels with values 0..16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

CELL = 16
"""Side of a cell in pixels; a picture has 2 x 2 cells."""

OPERATORS = ("+", "-", "*")


@dataclass(frozen=True)
class DigitPool:
    """Digit images that one split may use.

    Attributes:
        images: (n, 8, 8) float32 in [0, 1], ink is 1.
        labels: (n,) the digits 0..9.
    """

    images: np.ndarray
    labels: np.ndarray

    def draw(self, generator: np.random.Generator) -> tuple[int, np.ndarray]:
        """Pick one digit image uniformly: its value and its (8, 8) pixels."""
        index = int(generator.integers(len(self.labels)))
        return int(self.labels[index]), self.images[index]


LOOK_ALIKES = {9: 4, 8: 3, 7: 1, 6: 0}
"""Digits and what they are taken for. All are taken for smaller ones, so two misreadings never make up for each other
in a sum; and one of them changes its last digit by 5 or 6, so that another multiple choice is right."""


def without_look_alikes(pool: DigitPool) -> DigitPool:
    """The images of a pool of which nobody is in doubt: of the digits that :data:`LOOK_ALIKES` has on neither side."""
    kept = ~np.isin(pool.labels, [*LOOK_ALIKES, *LOOK_ALIKES.values()])
    return DigitPool(pool.images[kept], pool.labels[kept])


@dataclass(frozen=True)
class MisreadPool(DigitPool):
    """Digit images whose labels are sometimes those of a look-alike.

    Attributes:
        share: Probability that a digit of :data:`LOOK_ALIKES` is read as its look-alike.
    """

    share: float

    def draw(self, generator: np.random.Generator) -> tuple[int, np.ndarray]:
        """Pick one digit image uniformly: the digit that it is read as, and its (8, 8) pixels."""
        value, pixels = super().draw(generator)
        return (LOOK_ALIKES.get(value, value) if generator.random() < self.share else value), pixels


def split_digit_pools(shares: dict[str, float], seed: int = 0) -> dict[str, DigitPool]:
    """Split the 1,797 images into disjoint pools, stratified by class.

    Args:
        shares: Share of the images by pool name; they sum to at most 1.
        seed: Seed of the shuffle.

    Raises:
        ValueError: If the shares are not positive or sum to more than 1.
    """
    if any(share <= 0 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
        raise ValueError(f"shares of the digit pools must be positive and sum to at most 1, got {shares}")
    digits = load_digits()
    images, labels = digits.images.astype(np.float32) / 16.0, digits.target
    generator = np.random.default_rng(seed)
    chosen: dict[str, list[np.ndarray]] = {name: [] for name in shares}
    for label in range(10):
        indices = generator.permutation(np.flatnonzero(labels == label))
        start = 0.0
        for name, share in shares.items():
            begin, end = round(start * len(indices)), round((start + share) * len(indices))
            chosen[name].append(indices[begin:end])
            start += share
    return {
        name: DigitPool(images[np.concatenate(parts)], labels[np.concatenate(parts)]) for name, parts in chosen.items()
    }


def _cell_of_digit(pixels: np.ndarray, generator: np.random.Generator, max_rotation: float) -> np.ndarray:
    """Enlarge one digit to a cell, turned and shifted a little: (CELL, CELL) in [0, 1]."""
    enlarged = Image.fromarray((pixels * 255).astype(np.uint8)).resize((CELL, CELL), Image.Resampling.BILINEAR)
    angle = generator.uniform(-max_rotation, max_rotation)
    shift = generator.uniform(-1.0, 1.0, size=2)
    turned = enlarged.rotate(angle, Image.Resampling.BILINEAR, translate=(float(shift[0]), float(shift[1])))  # type: ignore[arg-type]
    return np.asarray(turned, dtype=np.float32) / 255.0


def _cell_of_operator(operator: str, generator: np.random.Generator) -> np.ndarray:
    """Draw an operator sign with a hand's unsteadiness: (CELL, CELL) in [0, 1]."""
    canvas = Image.new("L", (CELL, CELL))
    draw = ImageDraw.Draw(canvas)
    x, y = (float(value) for value in 8 + generator.uniform(-1, 1, size=2))
    strokes = {
        "+": [(x - 5, y, x + 5, y), (x, y - 5, x, y + 5)],
        "-": [(x - 5, y, x + 5, y)],
        "*": [(x - 4, y - 4, x + 4, y + 4), (x - 4, y + 4, x + 4, y - 4)],
    }[operator]
    for stroke in strokes:
        wobble = generator.uniform(-0.7, 0.7, size=4)
        draw.line([float(a + b) for a, b in zip(stroke, wobble, strict=True)], fill=230, width=2)
    return np.asarray(canvas, dtype=np.float32) / 255.0


def draw_picture(
    cells: list[np.ndarray | str | None],
    generator: np.random.Generator,
    noise: float = 0.1,
    max_rotation: float = 10.0,
) -> Image.Image:
    """Compose a 32 x 32 RGB picture of 2 x 2 cells: dark paper, light ink, noise.

    Args:
        cells: Top left, top right, bottom left, bottom right: digit pixels (8, 8), an operator sign, or None (blank).
        generator: Source of the random rotation, shift and noise.
        noise: Standard deviation of the pixel noise (ink is 1).
        max_rotation: Largest rotation of a digit, in degrees.
    """
    canvas = np.zeros((2 * CELL, 2 * CELL), dtype=np.float32)
    for position, cell in enumerate(cells):
        if cell is None:
            continue
        drawn = (
            _cell_of_operator(cell, generator)
            if isinstance(cell, str)
            else _cell_of_digit(cell, generator, max_rotation)
        )
        row, column = divmod(position, 2)
        canvas[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = drawn
    canvas += generator.normal(0.0, noise, size=canvas.shape).astype(np.float32)
    return Image.fromarray((canvas.clip(0, 1) * 255).astype(np.uint8)).convert("RGB")
