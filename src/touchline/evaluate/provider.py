"""Inspect model provider `touchline`: many models on one loaded base.

Prompts are rendered to token ids by the training code (`touchline.data.rendering`); Inspect never tokenizes. Decoding
is greedy unless a temperature is given: a model's own generation settings are ignored. Unsupported settings that would
change answers (tools, several choices, stop sequences ...) are refused.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import datetime
import functools
import hashlib
import math
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, cast

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ContentImage,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from touchline.core.catalog import IMAGE_PLACE, Message
from touchline.core.errors import InputError
from touchline.core.files import write_atomic
from touchline.core.quantity import Missing
from touchline.data.models import load_renderer
from touchline.data.rendering.chat import ChatRenderer, images_of
from touchline.evaluate.checkpoint import Checkpoint, require_packages, resolve_checkpoint
from touchline.evaluate.decoding import Generation, Sampling
from touchline.evaluate.engine import Decoding, Engine, Request
from touchline.evaluate.loading import BaseForm
from touchline.evaluate.own_task import next_stream
from touchline.evaluate.weights import ActiveAdapter, Weights, pick_device, pick_dtype
from touchline.experiment.answer_batches import BatchSize
from touchline.experiment.value_types import Quantization

DEFAULT_BATCH_SIZE = 64
DEFAULT_MAX_NEW_TOKENS = 256
CONNECTIONS_PER_BATCH = 4
"""Number of batches of prompts waiting at once, so that the next batch is full when one ends."""
CONNECTIONS_LIMIT = 4096
"""Maximum number of items waiting at the model; each costs Inspect an event loop task."""
DATE_KEY = "touchline_date"
BATCH_SIZE_KEY = "touchline_batch_size"
QUANTIZATION_KEY = "touchline_quantization"
GPUS_KEY = "touchline_gpus"
"""Keys in `extra_body` for a task's frozen date and batch size, and for the form of its base where it is not usual."""
PROMPT_KEY = "touchline_prompt"
"""Metadata key of an output for the rendered prompt."""

_REFUSED = (
    "stop_seqs",
    "best_of",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "response_schema",
    "system_message",
    "reasoning_effort",
    "reasoning_tokens",
)
"""Inspect settings that would change answers and are not supported."""

_engines: dict[tuple[str, str, str, BaseForm], Engine] = {}
_engines_lock = threading.Lock()


def shared_engine(path: str, dtype: str = "auto", device: str = "auto", form: BaseForm | None = None) -> Engine:
    """Return the engine of a base, loaded on first use; one per (base, dtype, device, form) in this process.

    Without a form it is one that is loaded already: a task may ask another model of the base, to grade answers.
    """
    place = pick_device(device)
    choice = pick_dtype(dtype, place)
    key = (path, choice.dtype, str(place))
    with _engines_lock:
        if form is None:
            form = next((known[3] for known in _engines if known[:3] == key), BaseForm())
        if (*key, form) not in _engines:
            _engines[*key, form] = Engine(Weights(path, choice, place, form))
        return _engines[*key, form]


def release_engines(keep: str | None = None) -> None:
    """Release every loaded base except that of the folder `keep`."""
    with _engines_lock:
        for key in [key for key in _engines if key[0] != keep]:
            _engines.pop(key).close()


class TouchlineAPI(ModelAPI):
    """Checkpoint or base on a shared engine.

    Args:
        model_name: folder, as in `touchline/<folder>`.
        base_url: unused; Inspect passes it to every provider.
        api_key: unused.
        config: settings of Inspect.
        batch_size: `-M batch_size=`, maximum number of prompts per batch, or auto.
        dtype: `-M dtype=`, auto, float32 or bfloat16.
        device: `-M device=`, auto, cpu or cuda.
        date: `-M date=`, for chat templates that print one; the task's own date takes precedence.
        merge: `-M merge=`, false to compute adapters next to the weights.

    Raises:
        InputError: there is no such checkpoint.
        PlanDriftError: its base has changed.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (Inspect's own signature)
        batch_size: BatchSize = DEFAULT_BATCH_SIZE,
        dtype: str = "auto",
        device: str = "auto",
        date: str | None = None,
        merge: bool = True,
    ) -> None:
        super().__init__(model_name=model_name, base_url=base_url, api_key=api_key, config=config)
        require_packages()
        if batch_size != "auto" and int(batch_size) < 1:
            raise InputError(
                f"batch_size is {batch_size}",
                expected="a positive number, or auto",
                hint="-M batch_size=64",
            )
        self.checkpoint: Checkpoint = resolve_checkpoint(model_name)
        self.batch_size = batch_size
        adapter = self.checkpoint.adapter
        self._worn = None if adapter is None else ActiveAdapter(folder=adapter, merged=merge)
        self._dtype, self._device = dtype, device
        self._date = str(date) if date is not None else datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        self._renderers: dict[str, ChatRenderer] = {}
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """Engine of the base."""
        return self._loaded(None)

    def _loaded(self, form: BaseForm | None) -> Engine:
        if self._engine is None:
            self._engine = shared_engine(self.checkpoint.model.path, self._dtype, self._device, form)
        return self._engine

    def renderer(self, date: str) -> ChatRenderer:
        """Return the renderer of chats to tokens."""
        if date not in self._renderers:
            self._renderers[date] = load_renderer(self.checkpoint.model, date)
        return self._renderers[date]

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Answer one chat.

        Raises:
            InputError: an unsupported setting is requested, or the prompt does not fit the model.
        """
        del tool_choice
        refuse_unsupported(tools, config)
        extra = config.extra_body or {}
        renderer = self.renderer(str(extra.get(DATE_KEY, self._date)))
        turns = plain_messages(input)
        text, images = renderer.prompt_text(turns), images_of(turns)
        prompt = renderer.with_image_tokens(renderer.encode(text), images, "the prompt")
        limit = config.max_tokens if config.max_tokens is not None else DEFAULT_MAX_NEW_TOKENS
        context = self.checkpoint.model.context_length
        if len(prompt) + limit > context:
            raise InputError(
                f"the prompt has {len(prompt)} tokens, and the answer up to {limit}",
                expected=f"together at most {context}, the context length of {self.checkpoint.model.name}",
            )
        decoding = Decoding(
            max_new_tokens=limit,
            stop_ids=renderer.stop_ids,
            pad_id=renderer.pad_id,
            batch_size=cast("BatchSize", extra.get(BATCH_SIZE_KEY, self.batch_size)),
            sampling=sampling_of(config),
        )
        stream = 0 if decoding.sampling is None else next_stream(config.seed, prompt)
        request = Request(
            worn=self._worn,
            prompt=prompt,
            images=images,
            image_rule=None if isinstance(renderer.images, Missing) else renderer.images,
            decoding=decoding,
            stream=stream,
        )
        form = form_of(extra)
        engine = await asyncio.to_thread(lambda: self._loaded(form)) if self._engine is None else self._engine
        answer = await wait_for(engine.submit(request))
        return self._output(renderer.decode(answer.ids), answer, text, len(prompt))

    def max_connections(self) -> int:
        """Return the number of requests that Inspect keeps waiting."""
        return connections_of(self.batch_size)

    def connection_key(self) -> str:
        """Return the model name: models have separate connections, because they share an engine and not a server."""
        return self.model_name

    def _output(self, text: str, answer: Generation, prompt: str, prompt_tokens: int) -> ModelOutput:
        reason: Literal["stop", "max_tokens"] = answer.stop_reason
        written = len(answer.ids) + (1 if reason == "stop" else 0)
        message = ChatMessageAssistant(content=text, model=self.model_name, source="generate")
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason=reason)],
            usage=ModelUsage(input_tokens=prompt_tokens, output_tokens=written, total_tokens=prompt_tokens + written),
            metadata={PROMPT_KEY: prompt},
        )


def form_of(extra: Mapping[str, object]) -> BaseForm | None:
    """Return the form of the base that a task asks for in its `extra_body`; None if it does not say."""
    if DATE_KEY not in extra:
        return None
    quantization = cast("Quantization", extra.get(QUANTIZATION_KEY, "none"))
    return BaseForm(quantization=quantization, gpus=cast("int", extra.get(GPUS_KEY, 1)))


def connections_of(batch_size: BatchSize) -> int:
    """Return the number of requests that Inspect keeps waiting for batches of a size."""
    return CONNECTIONS_LIMIT if batch_size == "auto" else CONNECTIONS_PER_BATCH * batch_size


async def wait_for(future: Future[Generation]) -> Generation:
    """Await an answer from the worker thread without polling."""
    return await asyncio.wrap_future(future)


def plain_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """Convert Inspect's chat messages to ours.

    Raises:
        InputError: a turn has another role than system, user, assistant, or holds more than text and images.
    """
    plain: list[Message] = []
    for message in messages:
        content = message.content
        parts = content if isinstance(content, list) else []
        if message.role == "tool" or not all(isinstance(part, ContentText | ContentImage) for part in parts):
            raise InputError(
                f"a turn of role {message.role} with {'other content' if parts else 'text'}",
                expected="turns of system, user and assistant with text and image files",
            )
        if not any(isinstance(part, ContentImage) for part in parts):
            plain.append(Message(role=message.role, content=message.text))
            continue
        written = [part.text if isinstance(part, ContentText) else IMAGE_PLACE for part in parts]
        images = tuple(_image_file(part.image) for part in parts if isinstance(part, ContentImage))
        plain.append(Message(role=message.role, content="".join(written), images=images))
    return plain


def _image_file(image: str) -> str:
    """Return the file of an image. Inspect gives file content as a data URI, which is written to a temporary file.

    Raises:
        InputError: it is an address, or the content is not base64.
    """
    if "://" in image[:12]:
        raise InputError(f"image {image[:80]!r} is a URL", expected="the path of an image file")
    if not image.startswith("data:"):
        return image
    try:
        content = base64.b64decode(image.partition(",")[2], validate=True)
    except ValueError:
        raise InputError("an image's data URI is not base64", expected="the path of an image file") from None
    path = _image_folder() / hashlib.sha256(content).hexdigest()
    if not path.exists():
        write_atomic(path, content)
    return str(path)


@functools.cache
def _image_folder() -> Path:
    """Return the folder of this process's temporary images, deleted at its end."""
    folder = tempfile.TemporaryDirectory(prefix="touchline-images-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def sampling_of(config: GenerateConfig) -> Sampling | None:
    """Return the sampling settings; None for greedy decoding."""
    if not config.temperature:
        return None
    return Sampling(temperature=config.temperature, top_p=1.0 if config.top_p is None else config.top_p)


def refuse_unsupported(tools: Sequence[ToolInfo], config: GenerateConfig) -> None:
    """Refuse unsupported settings.

    Raises:
        InputError: tools, several choices, or another setting that changes answers.
    """
    if tools:
        raise InputError("the provider touchline does not call tools", expected="a task without tools")
    if config.temperature is not None and not (math.isfinite(config.temperature) and config.temperature >= 0):
        raise InputError(f"temperature {config.temperature}", expected="0 for greedy decoding, or a number above it")
    if config.top_p is not None and not 0 < config.top_p <= 1:
        raise InputError(f"top_p {config.top_p}", expected="a number above 0, at most 1")
    if config.top_p is not None and config.top_p < 1 and not config.temperature:
        raise InputError(
            f"top_p {config.top_p} without a temperature (greedy decoding)",
            expected="a temperature above 0",
        )
    if config.num_choices is not None and config.num_choices != 1:
        raise InputError(f"num_choices {config.num_choices}", expected="one answer (epochs give several per item)")
    if config.top_k is not None and config.top_k > 0:
        raise InputError(f"top_k {config.top_k}: not supported by the provider touchline", expected="top_p instead")
    asked = [name for name in _REFUSED if getattr(config, name, None)]
    if asked:
        raise InputError(
            f"the provider touchline does not support {', '.join(asked)}", expected="none of these settings"
        )
