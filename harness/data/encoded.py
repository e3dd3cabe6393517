"""Encoded images (JPEG, PNG ...) to pixels, many at once, each named by its place; and one back."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np

from harness.data.source import reading, size_text
from harness.errors import HarnessError

BLOCK = 1024  # encoded images held at once
GREY_MODES = ("1", "L", "LA")  # Pillow's modes without colour
_THREADS = 4  # that decode
# Of Pillow's formats, those that decode by themselves (EPS runs a program).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
_PIXEL_LIMIT = 2**24  # of one image: a small file can promise gigabytes


def decode(images: Iterator[tuple[str, bytes | None]], count: int, mode: str) -> np.ndarray:
    """uint8 [count, C, H, W] from encoded images, each with its place.

    ``mode`` is Pillow's: 'L' (C = 1) or 'RGB' (C = 3).
    Raises HarnessError for an image that is broken, or of another size than the first.
    """
    pixels = np.empty(0, np.uint8)
    done = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        while block := list(islice(images, BLOCK)):
            decoded = pool.map(lambda image: _pixels(mode, *image), block)
            for (place, _), image in zip(block, decoded, strict=True):
                if not done:
                    pixels = np.empty((count, *image.shape), np.uint8)
                if image.shape != pixels.shape[1:]:
                    raise HarnessError(
                        f"{place}: expected images of one size, {size_text(pixels)}, got {size_text(image)}"
                    )
                pixels[done] = image
                done += 1
    return pixels


def png(pixels: np.ndarray) -> bytes:
    """A PNG file, without loss, of one image: uint8 [C, H, W], C is 1 or 3."""
    from PIL import Image

    sink = io.BytesIO()
    # Nothing but the values goes in, so that the same values are the same bytes.
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(
        sink, "PNG", optimize=True
    )
    return sink.getvalue()


def image_header(place: str, content: bytes | None) -> Any:
    """A Pillow image whose header is read, its pixels not yet."""
    from PIL import Image

    if content is None:
        raise HarnessError(f"{place}: expected the image's bytes, got none (a path alone is not followed)")
    with reading(place):
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
    if image.width * image.height > _PIXEL_LIMIT:
        raise HarnessError(
            f"{place}: refused: expected at most {_PIXEL_LIMIT} pixels, got {image.width} x {image.height}"
        )
    if image.mode[0] in "IF":  # convert() would clip such values at 255
        raise HarnessError(f"{place}: expected 8 bits a channel, got Pillow's mode '{image.mode}'")
    return image


def _pixels(mode: str, place: str, content: bytes | None) -> np.ndarray:
    """uint8 [C, H, W] of one encoded image."""
    image = image_header(place, content)
    with reading(place):
        array = np.asarray(image.convert(mode))
    return array[None] if mode == "L" else array.transpose(2, 0, 1)
