"""Images in front of a language model: the rule in a model folder, sizes from file headers, pixels read with Pillow."""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from touchline.core.errors import HostError, InputError
from touchline.core.files import open_regular, read_text_bounded
from touchline.core.json_text import parse_json
from touchline.core.quantity import Missing
from touchline.data.rendering.chat import MOST_ASPECT, NO_IMAGES, ImageRule

_PROCESSORS = ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil")
_WHOLE, _ALONE = "processor_config.json", "preprocessor_config.json"
"""Files of an image processor: with its image processor inside, or of that alone."""
_LIMIT_BYTES = 16 << 20
_BICUBIC = 3
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_EXIF = b"Exif\x00\x00"
_ORIENTATION = 0x0112
_SIDEWAYS = frozenset({5, 6, 7, 8})
"""EXIF orientations that exchange width and height."""
_SEGMENTS = 1000


def read_image_rule(folder: Path) -> ImageRule | Missing:
    """Return the rule of a model folder's image processor, or why there is none."""
    config = _read_object(folder / "config.json")
    if isinstance(config, Missing):
        return config
    if not isinstance(config.get("vision_config"), Mapping):
        return NO_IMAGES
    token = config.get("image_token_id")
    if not isinstance(token, int) or isinstance(token, bool):
        return Missing(missing="config.json has no image_token_id")
    whole = _read_object(folder / _WHOLE)
    inner = whole if isinstance(whole, Missing) else whole.get("image_processor")
    if isinstance(inner, dict):
        return _rule(inner, token, _WHOLE)
    alone = _read_object(folder / _ALONE)
    return alone if isinstance(alone, Missing) else _rule(alone, token, _ALONE)


def _read_object(path: Path) -> dict[str, object] | Missing:
    try:
        data = parse_json(read_text_bounded(path, _LIMIT_BYTES))
    except (InputError, HostError, OSError):
        return Missing(missing=f"the model folder has no {path.name} that can be read")
    except (ValueError, RecursionError):
        return Missing(missing=f"{path.name} is not JSON")
    return data if isinstance(data, dict) else Missing(missing=f"{path.name} holds no object")


def _rule(values: Mapping[str, object], token: int, name: str) -> ImageRule | Missing:
    kind = values.get("image_processor_type", values.get("feature_extractor_type"))
    if kind not in _PROCESSORS:
        return Missing(missing=f"{name} has image processor {kind!r}, but only {_PROCESSORS[0]} is supported")
    given = values.get("size")
    size = given if isinstance(given, Mapping) else {}
    found = {
        "patch": values.get("patch_size", 14),
        "merge": values.get("merge_size", 2),
        "frames": values.get("temporal_patch_size", 2),
        "least_pixels": values.get("min_pixels") or size.get("shortest_edge") or 56 * 56,
        "most_pixels": values.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280,
    }
    wrong = next((key for key, value in found.items() if not isinstance(value, int) or not 1 <= value < 1 << 40), None)
    if wrong is not None:
        return Missing(missing=f"{name}: {wrong} is {str(found[wrong])[:40]!r}, expected a positive integer")
    if any(values.get(key, True) is not True for key in ("do_resize", "do_rescale", "do_normalize")):
        return Missing(missing=f"{name}: do_resize, do_rescale or do_normalize is off, which is not supported")
    colors = {}
    for key, target in (("image_mean", "mean"), ("image_std", "std")):
        numbers = values.get(key)
        if isinstance(numbers, list) and len(numbers) == 3 and all(isinstance(each, int | float) for each in numbers):
            colors[target] = tuple(float(each) for each in numbers)
    return ImageRule(token_id=token, size_of=image_size, **found, **colors)  # type: ignore[arg-type]


# ---- sizes ----------------------------------------------------------------------------------------------------------


def image_fault(path: str) -> str | None:
    """Return what makes an image unusable, in words that name no file. None if nothing does."""
    try:
        width, height = image_size(path)
    except InputError as error:
        return error.message
    if max(width, height) > MOST_ASPECT * min(width, height):
        return f"an image has an aspect ratio above {MOST_ASPECT}, which image processors reject"
    return None


def image_size(path: str) -> tuple[int, int]:
    """Return width and height of a PNG or JPEG file in pixels, as shown: the camera's orientation is applied.

    Raises:
        InputError: there is no such file, or it is no image of these formats.
    """
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        raise InputError("an image does not exist") from None
    return _size(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1 << 16)
def _size(path: str, size_bytes: int, modified_ns: int) -> tuple[int, int]:
    del size_bytes, modified_ns
    try:
        with open_regular(Path(path)) as stream:
            start = stream.read(2)
            if start == _JPEG:
                found = _jpeg_size(stream)
            else:
                head = start + stream.read(22)
                found = struct.unpack(">II", head[16:24]) if head.startswith(_PNG) and len(head) == 24 else None
    except (OSError, HostError, InputError, struct.error):
        raise InputError("an image cannot be read") from None
    if found is None:
        raise InputError("an image is not a valid PNG or JPEG file")
    if min(found) < 1:
        raise InputError("an image has no pixels")
    return found


def _jpeg_size(stream: BinaryIO) -> tuple[int, int] | None:
    sideways = False
    for _ in range(_SEGMENTS):
        mark = stream.read(2)
        if len(mark) < 2 or mark[0] != 0xFF:
            return None
        (length,) = struct.unpack(">H", stream.read(2))
        body = stream.read(length - 2)
        if mark[1] == 0xE1 and body.startswith(_EXIF):
            sideways = _orientation(body[len(_EXIF) :]) in _SIDEWAYS
        # Frame headers; C4, C8 and CC are tables.
        if 0xC0 <= mark[1] <= 0xCF and mark[1] not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", body[1:5])
            return (height, width) if sideways else (width, height)
    return None


def _orientation(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (at,) = struct.unpack(order + "I", tiff[4:8])
    if at + 2 > len(tiff):
        return 1
    (count,) = struct.unpack(order + "H", tiff[at : at + 2])
    for entry in range(count):
        field = tiff[at + 2 + 12 * entry : at + 14 + 12 * entry]
        if len(field) < 12:
            return 1
        tag, _, _, value = struct.unpack(order + "HHIH", field[:10])
        if tag == _ORIENTATION:
            return int(value)
    return 1


# ---- pixels ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PixelBatch:
    """Images as a vision tower reads them."""

    values: NDArray[np.float32]
    """Patches of all images, one after another; shape [patches, channels x frames x patch x patch]."""
    grids: NDArray[np.int64]
    """Frames and patches, down and across, of each image; shape [images, 3]."""


def require_pillow() -> None:
    """Require the image library.

    Raises:
        HostError: Pillow is not installed.
    """
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise HostError(
            "images need Pillow, which is not installed",
            expected="touchline with the extra `vision`",
            hint="pip install touchline[vision]",
        ) from None


def load_pixels(paths: Sequence[str], rule: ImageRule) -> PixelBatch:
    """Read images as the model's processor in transformers does, value for value.

    Raises:
        HostError: Pillow is not installed.
        InputError: an image cannot be read.
    """
    require_pillow()
    patches, grids = [], []
    for path in paths:
        values, grid = _patches(path, rule)
        patches.append(values)
        grids.append(grid)
    return PixelBatch(values=np.concatenate(patches), grids=np.asarray(grids, dtype=np.int64))


def _patches(path: str, rule: ImageRule) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with open_regular(Path(path)) as stream, Image.open(stream) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, HostError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise InputError(f"image {path!r} cannot be read: {str(error)[:200]}", expected="a PNG or JPEG file") from None
    down, across = rule.grid(image.width, image.height)
    image = image.resize((across * rule.patch, down * rule.patch), resample=Image.Resampling(_BICUBIC))
    pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32) * np.float32(1 / 255)
    mean, std = (np.asarray(each, dtype=np.float32)[:, None, None] for each in (rule.mean, rule.std))
    pixels = (pixels - mean) / std
    merge, patch = rule.merge, rule.patch
    split = pixels.reshape(3, down // merge, merge, patch, across // merge, merge, patch).transpose(1, 4, 2, 5, 0, 3, 6)
    frames = np.broadcast_to(split[:, :, :, :, :, None], (*split.shape[:5], rule.frames, patch, patch))
    return frames.reshape(down * across, -1), (1, down, across)
