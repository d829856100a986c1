"""Pixels of a training's images, read by threads ahead of the micro-batch that needs them."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from touchline.data.images import PixelBatch, load_pixels
from touchline.data.rendering.image_rule import ImageRule

_AHEAD = 2
"""Micro-batches that a thread reads ahead."""


class PixelReader:
    """Reader of the images of micro-batches. What it returns does not depend on what was read ahead.

    Args:
        rule: rule of the model's image processor.
    """

    def __init__(self, rule: ImageRule) -> None:
        self.rule = rule
        self._ahead: deque[tuple[tuple[str, ...], Future[PixelBatch]]] = deque()
        self._more: Iterator[tuple[tuple[str, ...], Future[PixelBatch]]] = iter(())

    def __call__(self, images: tuple[str, ...]) -> PixelBatch:
        """Return the pixels of a micro-batch's images."""
        if not self._ahead or self._ahead[0][0] != images:
            return load_pixels(images, self.rule)
        _, pixels = self._ahead.popleft()
        self._ahead.extend(itertools.islice(self._more, 1))
        return pixels.result()

    @contextlib.contextmanager
    def ahead(self, coming: Iterable[tuple[str, ...]], workers: int) -> Iterator[None]:
        """Read the images of the coming micro-batches ahead, for the length of a block.

        Args:
            coming: images of each micro-batch, in the order in which they will be asked for.
            workers: threads; at least one.
        """
        pool = ThreadPoolExecutor(workers, thread_name_prefix="pixels")
        self._more = ((images, pool.submit(load_pixels, images, self.rule)) for images in coming if images)
        self._ahead.extend(itertools.islice(self._more, _AHEAD * workers))
        try:
            yield
        finally:
            self._ahead.clear()
            self._more = iter(())
            pool.shutdown(cancel_futures=True)
