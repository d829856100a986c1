"""Tokens of an image by the rule of the image processor.

A Qwen-like image processor scales an image so that both sides are multiples of patch x merge pixels and its area lies
between two limits; every merge x merge patches become one token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from touchline.core.quantity import Missing

MOST_ASPECT = 200
"""Largest ratio of an image's sides that an image processor accepts."""
NO_IMAGES = Missing(missing="the model takes text only")
"""Rule of a model without a vision tower."""
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRule:
    """Rule of a model's image processor."""

    token_id: int
    """Token that stands for a part of an image."""
    patch: int
    """Pixels of a patch's side."""
    merge: int
    """Patches, down and across, per token."""
    frames: int
    """Equal frames per patch; an image is a film of one."""
    least_pixels: int
    """Lower limit of the scaled area."""
    most_pixels: int
    size_of: Callable[[str], tuple[int, int]]
    mean: tuple[float, ...] = _CLIP_MEAN
    std: tuple[float, ...] = _CLIP_STD

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Return the patches of an image, down and across.

        Raises:
            ValueError: one side is more than `MOST_ASPECT` times the other.
        """
        if max(width, height) > MOST_ASPECT * min(width, height):
            raise ValueError(f"{width} x {height} pixels")
        factor = self.patch * self.merge
        down, across = round(height / factor) * factor, round(width / factor) * factor
        if down * across > self.most_pixels:
            scale = math.sqrt(height * width / self.most_pixels)
            down = max(factor, math.floor(height / scale / factor) * factor)
            across = max(factor, math.floor(width / scale / factor) * factor)
        elif down * across < self.least_pixels:
            scale = math.sqrt(self.least_pixels / (height * width))
            down = math.ceil(height * scale / factor) * factor
            across = math.ceil(width * scale / factor) * factor
        return down // self.patch, across // self.patch

    def tokens(self, width: int, height: int) -> int:
        """Return the tokens of an image."""
        down, across = self.grid(width, height)
        return down * across // self.merge**2

    def tokens_of(self, path: str) -> int:
        """Return the tokens of an image file.

        Raises:
            InputError: it cannot be read.
        """
        return self.tokens(*self.size_of(path))

    def patches_of(self, path: str) -> int:
        """Return the patches of an image file.

        Raises:
            InputError: it cannot be read.
        """
        down, across = self.grid(*self.size_of(path))
        return down * across
