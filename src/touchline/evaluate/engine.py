"""Request queue with one worker thread per base, shared by all models open in Inspect.

Requests are collected until no new one arrives for a moment, then sorted into batches: one adapter, one decoding,
longest prompts first, the active adapter first. Adapters with few requests share batches where they can. A batch has at
most `batch_size` prompts, and at most as many tokens as memory is likely to hold; one that does not fit is halved. The
keys and values of the prompts' common prefix are computed once for all batches of an adapter. On a CPU several batches
of an adapter are computed at once, each with its share of the threads. Decoding is greedy or uses a random stream per
request, so in float32 batching does not change an answer; in bfloat16 it may (docs/measurements.md).
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch

from touchline.core.errors import HostError, InputError
from touchline.data.images import load_pixels
from touchline.data.rendering.chat import ImageRule
from touchline.evaluate.decoding import (
    Drawing,
    Generation,
    Pixels,
    Prefix,
    Sampling,
    TokenIds,
    common_prefix,
    likeliest,
    read_prefix,
    shared_prefix,
    write_answers,
)
from touchline.evaluate.weights import ActiveAdapter, Weights
from touchline.experiment.answer_batches import SHARING_EVALUATIONS, BatchLimits, BatchSize, shares_batches

LOG = logging.getLogger("touchline.evaluate")

QUIET_SECONDS = 0.05
"""Seconds without a new request before a batch starts; Inspect submits them some milliseconds apart."""
LINGER_SECONDS = 2.0
"""Maximum seconds to wait for further requests."""
KEPT_PREFIXES = 8
"""Number of prefixes whose keys and values are kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """Decoding settings."""

    max_new_tokens: int
    stop_ids: frozenset[int]
    """Tokens that end an answer."""
    pad_id: int
    batch_size: BatchSize
    """Maximum number of prompts per batch; `auto`: as many as the device computes well."""
    sampling: Sampling | None = None
    """Sampling settings; None for greedy."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """Queued prompt."""

    worn: ActiveAdapter | None
    """Adapter; None for the base."""
    prompt: TokenIds
    images: tuple[str, ...] = ()
    """Files of its images."""
    image_rule: ImageRule | None = None
    """Rule of the model's image processor; None for a model of text."""
    decoding: Decoding
    stream: int = 0
    future: Future[Generation] = field(default_factory=Future)


Worn = tuple[ActiveAdapter | None, ...]
_Groups = dict[tuple[Worn, Decoding, bool], list[Request]]
"""Requests by active adapters, decoding, and whether they have images."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Batch:
    """Requests that are answered together."""

    requests: Sequence[Request]
    worn: Worn
    """Adapters that are active for this batch."""
    prefix: int
    """Length of the prefix that this batch shares with the other batches of these adapters."""

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def tokens(self) -> int:
        """Tokens of the longest prompt and answer."""
        return _tokens(max(self.requests, key=_tokens))

    def split(self, rows: int) -> list[_Batch]:
        """Return batches of at most `rows` requests."""
        return [
            replace(self, requests=self.requests[start : start + rows]) for start in range(0, len(self.requests), rows)
        ]

    def apart(self) -> list[_Batch]:
        """Return a batch for each adapter."""
        return [
            replace(self, requests=[each for each in self.requests if each.worn == worn], worn=(worn,))
            for worn in dict.fromkeys(each.worn for each in self.requests)
        ]


class Engine:
    """Loaded base and its worker thread, which starts with the first request."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        """Base model; used by the worker thread and the threads that it starts."""
        self.batches: list[int] = []
        """Sizes of the completed batches, in order."""
        self.on_batch: Callable[[ActiveAdapter | None, int], None] = lambda worn, count: None
        """Callback after each batch with the number of answers of each adapter, in the worker thread."""
        self.expected = 0
        """Number of requests that the next batches wait for, at most `LINGER_SECONDS`."""
        self._waiting: list[Request] = []
        self._arrived = threading.Condition()
        self._closed = False
        self._limits: BatchLimits | None = None
        self._prefixes: OrderedDict[tuple[Worn, TokenIds], Prefix] = OrderedDict()
        self._preparing = threading.Lock()
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
            for _, batches in itertools.groupby(self._take(), key=lambda batch: batch.worn):
                self._answer_all(list(batches))

    def _answer_all(self, batches: Sequence[_Batch]) -> None:
        """Answer batches of the same adapters, on a CPU several at once.

        Small matrix products divide badly over threads, so each thread computes a batch of its own. Together they have
        no more tokens than one batch may have.
        """
        threads = torch.get_num_threads() if self.weights.device.type == "cpu" else 1
        most = self.limits.tokens // max(len(batch) * batch.tokens for batch in batches)
        beside = min(threads, len(batches), most)
        if beside < 2 or len(batches[0].worn) > 1:
            for batch in batches:
                self._answer(batch)
            return

        def use_share() -> None:
            torch.set_num_threads(threads // beside)

        use_share()
        try:
            with ThreadPoolExecutor(beside, "touchline-batch", use_share) as pool:
                for batch, outcome in zip(batches, pool.map(self._generate, batches), strict=True):
                    self._finish(batch, outcome)
        finally:
            torch.set_num_threads(threads)

    def _gather(self) -> bool:
        """Wait until requests have arrived and no more follow. Return False if closed."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._waiting or self._closed)
            deadline = time.monotonic() + LINGER_SECONDS
            # Each arrival notifies; a wait that times out has seen none.
            while not self._closed and (left := deadline - time.monotonic()) > 0:
                if not self._arrived.wait(QUIET_SECONDS if len(self._waiting) >= self.expected else left):
                    break
            self.expected = 0
            return not self._closed

    @property
    def limits(self) -> BatchLimits:
        """Limits of a batch, halved where one did not fit."""
        if self._limits is None:
            self._limits = self.weights.batch_limits()
        return self._limits

    def _take(self) -> list[_Batch]:
        """Return all queued requests as batches, sorted by content so that arrival order has no effect."""
        with self._arrived:
            waiting, self._waiting = self._waiting, []
        groups: _Groups = {}
        for request in waiting:
            if not request.future.cancelled():
                groups.setdefault(((request.worn,), request.decoding, bool(request.images)), []).append(request)
        groups = self._shared(groups)
        active = self.weights.active
        order = sorted(groups, key=lambda key: (key[0] != active, str(key[0]), key[1].max_new_tokens, str(key[1])))
        batches: list[_Batch] = []
        for key in order:
            requests = sorted(
                groups[key], key=lambda each: (-len(each.prompt), each.prompt, each.images, each.stream, str(each.worn))
            )
            prompts, most = [each.prompt for each in requests], key[1].max_new_tokens
            prefix = 0 if key[2] or not prompts[-1] else shared_prefix(self.weights.model, prompts, most)
            while requests:
                rows = self.limits.rows(key[1].batch_size, _tokens(requests[0]))
                batches.append(_Batch(requests=requests[:rows], worn=key[0], prefix=prefix))
                requests = requests[rows:]
        return batches

    def _shared(self, groups: _Groups) -> _Groups:
        """Join the groups of adapters with few requests, where these can be active together."""
        found: _Groups = {}
        small: dict[Decoding, list[ActiveAdapter | None]] = {}
        for ((worn,), decoding, images), requests in groups.items():
            rows = self.limits.rows(decoding.batch_size, max(map(_tokens, requests)))
            few = shares_batches(len(requests), rows, self.weights.dtype.dtype)
            if few and not images and self.weights.can_share(worn):
                small.setdefault(decoding, []).append(worn)
            else:
                found[(worn,), decoding, images] = requests
        for decoding, adapters in small.items():
            adapters.sort(key=str)
            for start in range(0, len(adapters), SHARING_EVALUATIONS):
                together = tuple(adapters[start : start + SHARING_EVALUATIONS])
                found[together, decoding, False] = [
                    each for worn in together for each in groups[(worn,), decoding, False]
                ]
        return found

    def _answer(self, batch: _Batch) -> None:
        """Answer a batch, in parts where it is larger than what fits."""
        rows = self.limits.rows(len(batch), batch.tokens)
        if len(batch) > rows:
            for part in batch.split(rows):
                self._answer(part)
        else:
            self._finish(batch, self._generate(batch))

    def _finish(self, batch: _Batch, outcome: list[Generation] | Exception | None) -> None:
        """Deliver the outcome of a batch; answer its parts where it did not fit or cannot be shared."""
        if outcome is None:
            fewer = max(1, len(batch) // 2)
            self._limits = replace(self.limits, tokens=fewer * batch.tokens)
            LOG.warning("out of memory with %d prompts per batch: continuing with %d", len(batch), fewer)
            self._answer(batch)
        elif isinstance(outcome, InputError) and len(batch.worn) > 1:
            for part in batch.apart():
                self._answer(part)
        elif isinstance(outcome, Exception):
            for request in batch.requests:
                _deliver(request.future, outcome)
        else:
            self.batches.append(len(batch))
            for request, answer in zip(batch.requests, outcome, strict=True):
                _deliver(request.future, answer)
            for worn, count in Counter(request.worn for request in batch.requests).items():
                self.on_batch(worn, count)

    def _generate(self, batch: _Batch) -> list[Generation] | Exception | None:
        """Return the answers or the error; None if the batch does not fit into memory but a smaller one may."""
        decoding = batch.requests[0].decoding
        try:
            with self._preparing:
                self.weights.activate(*batch.worn)
                prefix = self._prefix(batch)
            return write_answers(
                self.weights.model,
                [request.prompt for request in batch.requests],
                max_new_tokens=decoding.max_new_tokens,
                stop_ids=decoding.stop_ids,
                pad_id=decoding.pad_id,
                before_pass=self._before_pass,
                images=_pixels(batch.requests),
                pick=likeliest
                if decoding.sampling is None
                else Drawing(decoding.sampling, [request.stream for request in batch.requests]),
                prefix=prefix,
                variants=[batch.worn.index(request.worn) for request in batch.requests],
            )
        except Exception as error:  # noqa: BLE001 (handed to those who wait, who are in another thread)
            if not isinstance(error, RuntimeError) or not _out_of_memory(error):
                return error
        with self._preparing:
            self._prefixes.clear()
        if len(batch) == 1:
            return HostError("not enough memory for one prompt", expected="a smaller model, or a larger machine")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _prefix(self, batch: _Batch) -> Prefix | None:
        """Return the prefix shared with other batches, computed once; None if the batch's own is far longer."""
        if not batch.prefix or common_prefix([request.prompt for request in batch.requests]) > 2 * batch.prefix:
            return None
        key = (batch.worn, batch.requests[0].prompt[: batch.prefix])
        if key not in self._prefixes:
            self._prefixes[key] = read_prefix(self.weights.model, key[1], self._before_pass, len(batch.worn))
        self._prefixes.move_to_end(key)
        while len(self._prefixes) > KEPT_PREFIXES:
            self._prefixes.popitem(last=False)
        return self._prefixes[key]

    def _before_pass(self, variants: Sequence[int]) -> None:
        if self._closed:
            raise RuntimeError("the engine is closed")
        self.weights.choose(variants)


def _tokens(request: Request) -> int:
    """Return the tokens of a request with its longest answer."""
    return len(request.prompt) + request.decoding.max_new_tokens


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
