"""Request queue with one worker thread per base, shared by all models open in Inspect.

Requests are collected until no new one arrives for a moment, then sorted into batches: one adapter, one decoding,
longest prompts first, the active adapter first. A batch that does not fit into memory is halved. Decoding is greedy or
uses a random stream per request, so batching does not change an answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from touchline.core.errors import HostError
from touchline.data.images import load_pixels
from touchline.data.rendering.image_rule import ImageRule
from touchline.evaluate.decoding import Generation, Pixels, TokenIds, likeliest, write_answers
from touchline.evaluate.sampling import Drawing, Sampling
from touchline.evaluate.weights import ActiveAdapter, Weights

LOG = logging.getLogger("touchline.evaluate")

QUIET_SECONDS = 0.05
"""Seconds without a new request before a batch starts; Inspect submits them some milliseconds apart."""
LINGER_SECONDS = 2.0
"""Maximum seconds to wait for further requests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """Decoding settings."""

    max_new_tokens: int
    """Maximum answer length in tokens."""
    stop_ids: frozenset[int]
    """Tokens that end an answer."""
    pad_id: int
    """Padding token; masked."""
    batch_size: int
    """Maximum number of prompts per batch."""
    sampling: Sampling | None = None
    """Sampling settings; None for greedy."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """Queued prompt."""

    worn: ActiveAdapter | None
    """Adapter; None for the base."""
    prompt: TokenIds
    """Tokens of the prompt."""
    images: tuple[str, ...] = ()
    """Files of its images."""
    image_rule: ImageRule | None = None
    """Rule of the model's image processor; None for a model of text."""
    decoding: Decoding
    """Decoding settings."""
    stream: int = 0
    """Random stream for sampling."""
    future: Future[Generation] = field(default_factory=Future)
    """Future of the answer or error."""


class Engine:
    """Loaded base and its worker thread, which starts with the first request."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        """Base model; used by the worker thread only."""
        self.batches: list[int] = []
        """Sizes of the completed batches, in order."""
        self.on_batch: Callable[[int], None] = lambda count: None
        """Callback after each batch with its size, in the worker thread."""
        self._waiting: list[Request] = []
        self._arrived = threading.Condition()
        self._closed = False
        self._largest: int | None = None
        self._thread: threading.Thread | None = None

    def submit(self, request: Request) -> Future[Generation]:
        """Queue a request; raises RuntimeError after `close`."""
        with self._arrived:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="touchline engine", daemon=True)
                self._thread.start()
            self._arrived.notify()
        return request.future

    def close(self) -> None:
        """Stop after the current batch; queued requests are cancelled."""
        with self._arrived:
            self._closed = True
            waiting, self._waiting = self._waiting, []
            self._arrived.notify()
        for request in waiting:
            request.future.cancel()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _work(self) -> None:
        while self._gather():
            for batch in self._take():
                self._answer(batch)

    def _gather(self) -> bool:
        """Wait until requests have arrived and no more follow. Return False if closed."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._waiting or self._closed)
            deadline = time.monotonic() + LINGER_SECONDS
            # Each arrival notifies; a wait that times out has seen none.
            while not self._closed and time.monotonic() < deadline and self._arrived.wait(QUIET_SECONDS):
                pass
            return not self._closed

    def _take(self) -> list[list[Request]]:
        """Return all queued requests as batches, sorted by content so that arrival order has no effect."""
        with self._arrived:
            waiting, self._waiting = self._waiting, []
        groups: dict[tuple[ActiveAdapter | None, Decoding, bool], list[Request]] = {}
        for request in waiting:
            if not request.future.cancelled():
                groups.setdefault((request.worn, request.decoding, bool(request.images)), []).append(request)
        active = self.weights.active
        order = sorted(groups, key=lambda key: (key[0] != active, str(key[0]), key[1].max_new_tokens, str(key[1])))
        batches: list[list[Request]] = []
        for key in order:
            requests = sorted(groups[key], key=lambda each: (-len(each.prompt), each.prompt, each.images, each.stream))
            size = key[1].batch_size
            batches += [requests[start : start + size] for start in range(0, len(requests), size)]
        return batches

    def _answer(self, batch: list[Request]) -> None:
        """Generate for one batch and deliver the answers or the error."""
        limit = self._largest or len(batch)
        if len(batch) > limit:
            for start in range(0, len(batch), limit):
                self._answer(batch[start : start + limit])
            return
        try:
            answers = self._generate(batch)
        except Exception as error:  # noqa: BLE001 (handed to those who wait, who are in another thread)
            for request in batch:
                _deliver(request.future, error)
            return
        if answers is None:
            self._largest = max(1, len(batch) // 2)
            LOG.warning("out of memory with %d prompts side by side; continuing with %d", len(batch), self._largest)
            self._answer(batch)
            return
        self.batches.append(len(batch))
        for request, answer in zip(batch, answers, strict=True):
            _deliver(request.future, answer)
        self.on_batch(len(batch))

    def _generate(self, batch: list[Request]) -> list[Generation] | None:
        """Return the answers; None if the batch does not fit into memory but a smaller one may."""
        decoding = batch[0].decoding
        try:
            self.weights.activate(batch[0].worn)
            return write_answers(
                self.weights.model,
                [request.prompt for request in batch],
                max_new_tokens=decoding.max_new_tokens,
                stop_ids=decoding.stop_ids,
                pad_id=decoding.pad_id,
                go_on=self._check_open,
                images=_pixels(batch),
                pick=likeliest
                if decoding.sampling is None
                else Drawing(decoding.sampling, [request.stream for request in batch]),
            )
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            if len(batch) == 1:
                raise HostError(
                    "there is not enough memory for one prompt", expected="a smaller model, or a larger machine"
                ) from error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the engine is closed")


def _pixels(batch: Sequence[Request]) -> tuple[int, Pixels] | None:
    """Return the image token and the pixels of a batch. None for prompts of text."""
    rule = batch[0].image_rule
    if rule is None or not any(request.images for request in batch):
        return None
    found = load_pixels([path for request in batch for path in request.images], rule)
    values = {"pixel_values": torch.from_numpy(found.values), "image_grid_thw": torch.from_numpy(found.grids)}
    return rule.token_id, values


def _out_of_memory(error: RuntimeError) -> bool:
    """Return True for out of memory; the CPU allocator has only a message."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _deliver(future: Future[Generation], result: Generation | Exception) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
