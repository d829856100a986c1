"""axolotl's (0.19) rows of `type: chat_template`, and its batching of a dataset.

The answer's own tokens and the end token just after it are the labels. Source: src/axolotl/prompt_strategies/
chat_template.py, utils/chat_templates, checked against them in tests/backends.

Read in utils/samplers/multipack.py, core/trainers/base.py, core/builders/causal.py, utils/data/utils.py and
utils/trainer.py.

Examples longer than `sequence_len` are dropped. With packing, those without a label token are dropped too. Packing is
first-fit (`pack_group`, whose docstring says decreasing, sorts nothing) in the sampler's order, repeated in every
epoch, in groups of 100,000. A pack holds up to micro_batch_size × sequence_len tokens and 200 examples. It is one
micro-batch of a single sequence, padded to a multiple of sequence_len. Without packing, a micro-batch is padded to its
longest example, rounded up to 64; the steps of all epochs are counted at once (`calculate_total_num_steps`), so the
last epoch may end before its last examples.

The number of packs per epoch is limited to the minimum of four other random orders. Their generator's state is unknown,
so the number of steps is a range.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from touchline.backends.hf_loop import hf_forecast, steps_per_epoch
from touchline.backends.simulation import (
    Examples,
    MicroBatches,
    RowSettings,
    TrainedRow,
    checked,
    cut_at_end,
    forecast,
    in_one_row,
    keep,
    permutation,
    side_by_side,
)
from touchline.core.catalog import Message
from touchline.core.estimate import MicroBatch
from touchline.core.quantity import Missing
from touchline.core.units import plural
from touchline.data.packing.forecast import BatchForecast, Batching, BatchSettings
from touchline.data.packing.simple import Filled, first_fit, one_each
from touchline.data.rendering.text import Ids, ModelText, ShownRow

_TURNS = "{% for m in messages %}"
_QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

TEMPLATES: dict[str, str] = {
    "chatml": (
        _TURNS + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama3": (
        _TURNS + "{% if loop.first %}{{ bos_token }}{% endif %}"
        "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "qwen_25": (
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\n"
        + _QWEN_SYSTEM
        + "<|im_end|>\n' }}{% endif %}"
        + _TURNS
        + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        + _TURNS
        + "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim }}"
        "{{ '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "phi_3": (
        "{{ bos_token }}" + _TURNS + "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' if m.role != 'assistant' }}"
        "{% if m.role == 'user' %}{{ '<|assistant|>\n' }}{% elif m.role == 'assistant' %}"
        "{{ m.content + '<|end|>\n' }}{% endif %}{% endfor %}"
    ),
}
OWN = ("tokenizer_default", "tokenizer_default_fallback_")
"""Names that mean the model's own template, the second with another one after it for models without."""


_OTHER = "\u2756"
_END_WITHIN = 3
"""The end token is looked for among so many tokens after the answer."""


def training_row(text: ModelText, row: ShownRow, settings: RowSettings) -> TrainedRow | Missing:
    """Render a row by the chat_template strategy (`roles_to_train: [assistant]`, `train_on_eos: turn`).

    Raises:
        ChatTemplateError: the template refuses the chat, or there is none.
    """
    if row.media:
        return Missing(missing="rows with images need the model's processor, which is not simulated")
    if settings.dataset.partition(".")[0] not in ("", "chat_template"):
        return Missing(missing=f"the prompt format {settings.dataset!r} of axolotl is not supported here")
    template = _template(text, settings)
    if isinstance(template, Missing):
        return template
    turns = (*row.example.prompt, Message(role="assistant", content=row.example.answer))
    written = text.render(turns, generation=False, template=template)
    ids, places = text.ids_with_places(written)
    labels = [False] * len(ids)
    for index, turn in enumerate(turns):
        if turn.role != "assistant" and not settings.trains_on_prompt:
            continue
        span = _span(text, turns, index, template, written)
        if span is None:
            return Missing(missing="a turn is missing in the template's output")
        _train(labels, ids, [at for at, (first, last) in enumerate(places) if first < span[1] and last > span[0]], text)
    too_long = settings.max_seq_len is not None and len(ids) > settings.max_seq_len
    return TrainedRow(ids=ids, labels=tuple(labels), uncut=len(ids), left_out=too_long)


def _train(labels: list[bool], ids: Ids, tokens: list[int], text: ModelText) -> None:
    """Take the loss on a turn's own tokens, and on the end token just after them."""
    for at in tokens:
        labels[at] = True
    after = tokens[-1] + 1 if tokens else len(ids)
    end = text.id(text.tokens.eos)
    stop = next((at for at in range(after, min(after + _END_WITHIN + 1, len(ids))) if ids[at] == end), None)
    if stop is not None:
        labels[stop] = True


def _template(text: ModelText, settings: RowSettings) -> str | Missing | None:
    name = settings.template or OWN[0]
    if name == OWN[0] or (name.startswith(OWN[1]) and text.template is not None):
        return None
    name = name.removeprefix(OWN[1])
    if "{%" in name or "{{" in name:
        return name
    return TEMPLATES.get(name) or Missing(missing=f"axolotl's template {name!r} is not supported here")


def _span(
    text: ModelText, turns: tuple[Message, ...], index: int, template: str | None, written: str
) -> tuple[int, int] | None:
    """Return the character span of a turn's text: it begins where another text would differ."""
    other = Message(role=turns[index].role, content=_OTHER)
    place = text.render((*turns[:index], other, *turns[index + 1 :]), generation=False, template=template).find(_OTHER)
    content = turns[index].content
    for each in (content, content.strip()):
        if place >= 0 and written.startswith(each, place):
            return place, place + len(each)
    return None


PAD_TO_MULTIPLE_OF = 64
SHORTEST = 2
"""Tokens of an example at least, where `min_sample_len` is not given."""
SAMPLED_ORDERS = 4
"""Orders that it packs to see how many packs there will be (`num_count_samples`); with as many devices, one."""
EXAMPLES_PACKED = 1_000_000
"""Examples, over the orders, that the simulation packs at most, beyond the two orders that it always packs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AxolotlBatching:
    """axolotl's batching, with the options that change it."""

    sample_packing_group_size: int = 100_000
    sample_packing_bin_size: int = 200

    def forecast(
        self, lengths: NDArray[np.uint32], settings: BatchSettings, labels: NDArray[np.uint32] | None = None
    ) -> BatchForecast:
        """Simulate the batches of these examples. A packed sequence holds at most micro_batch_size × max_seq_len
        tokens.

        Raises:
            ValueError: a size is not positive, or there is no example.
        """
        total, with_loss = checked(lengths, settings, labels)
        fits = (total <= settings.max_seq_len) & (total >= SHORTEST)
        if settings.packed:
            fits &= with_loss > 0
        examples = keep(cut_at_end(total, with_loss, int(total.max())), fits)
        notes = []
        if len(examples.dropped):
            notes.append(
                f"{plural(len(examples.dropped), 'example')} left out: longer than sequence_len, shorter than "
                f"{SHORTEST} tokens, or without a token that has a loss"
            )
        if not settings.packed:
            found = hf_forecast(
                examples=examples,
                filled=one_each(len(examples.kept)),
                settings=settings,
                capacity=settings.max_seq_len,
                multiple=PAD_TO_MULTIPLE_OF,
                notes=notes,
            )
            return _shortened(found, settings)
        return self._packed(examples, settings, notes)

    def _packed(self, examples: Examples, settings: BatchSettings, notes: list[str]) -> BatchForecast:
        count, devices = len(examples.kept), settings.data_parallel_size
        capacity = settings.micro_batch_size * settings.max_seq_len
        orders = max(2, EXAMPLES_PACKED // max(count, 1))
        epochs = min(settings.epochs, orders - 1)
        samples = min(SAMPLED_ORDERS if devices < SAMPLED_ORDERS else 1, orders - epochs)
        packed = [self._pack(examples.tokens, settings.seed + epoch, capacity) for epoch in range(epochs)]
        # Any orders will do for those whose state is not known; these repeat none of the epochs'.
        sampled = [
            self._pack(examples.tokens, settings.seed + settings.epochs + at, capacity).rows for at in range(samples)
        ]
        of_epochs = [filled.rows for filled in packed]
        counts = sorted(of_epochs + sampled)
        accumulation = settings.gradient_accumulation_steps
        limit = min(sampled)
        multiple = -(-settings.max_seq_len // PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF

        def micro_batches(filled: Filled) -> MicroBatches:
            taken = min(filled.rows, limit) // devices * devices
            tokens, labels = filled.sums(examples.tokens), filled.sums(examples.labels)
            return in_one_row(side_by_side(tokens, labels, np.arange(taken), 1), multiple=multiple)

        def steps(planned: int, beyond: int) -> int:
            """Sum the steps of all epochs, with at most `planned` packs per epoch and `beyond` in each epoch not
            simulated.
            """
            each = [*of_epochs, *[beyond] * (settings.epochs - epochs)]
            return sum(_steps(min(packs, planned) // devices, planned // devices, accumulation) for packs in each)

        possible = range(counts[0], counts[-1] + 1)
        low = min(steps(planned, counts[0]) for planned in possible)
        high = max(steps(planned, counts[-1]) for planned in possible)
        expected = min(max(steps(limit, limit), low), high)
        first = packed[0]
        taken = min(first.rows, limit) // devices * devices
        notes.append(
            f"packed again in each epoch: {counts[0]} to {counts[-1]} packs in {len(counts)} simulated orders, "
            "so steps are a range"
        )
        if count and int(np.diff(np.append(first.starts, count)).max()) == self.sample_packing_bin_size:
            notes.append(f"packs end at sample_packing_bin_size, {self.sample_packing_bin_size} examples")
        most = MicroBatch(
            rows=1, width=-(-capacity // multiple) * multiple, label_tokens=min(capacity, int(examples.labels.sum()))
        )
        return forecast(
            examples=examples,
            filled=first,
            settings=settings,
            capacity=capacity,
            epochs=(micro_batches(filled) for filled in packed),
            bound=most if epochs < settings.epochs else None,
            steps=(expected, low, high),
            rows_left_over=first.rows - taken,
            notes=notes if count else [*notes, "no examples left to train on"],
        )

    def _pack(self, tokens: NDArray[np.int64], seed: int, capacity: int) -> Filled:
        order = permutation(len(tokens), seed)
        size = self.sample_packing_group_size
        begins = range(0, len(order), size)
        groups = [
            first_fit(tokens[order[begin : begin + size]], capacity, most=self.sample_packing_bin_size)
            for begin in begins
        ]
        items = [order[begin + group.items] for begin, group in zip(begins, groups, strict=True)]
        starts = [begin + group.starts for begin, group in zip(begins, groups, strict=True)]
        none = [np.zeros(0, np.int64)]
        return Filled(items=np.concatenate(none + items), starts=np.concatenate(none + starts))


def _shortened(found: BatchForecast, settings: BatchSettings) -> BatchForecast:
    """Return a forecast with the steps that axolotl gives the Trainer: those of all epochs at once, rounded up."""
    steps = -(-found.rows * settings.epochs // settings.global_batch_size)
    if steps == found.steps:
        return found
    missing = plural(found.steps - steps, "step")
    return replace(
        found,
        steps=steps,
        steps_low=steps,
        steps_high=steps,
        steps_per_epoch=steps // settings.epochs,
        notes=(*found.notes, f"the last epoch ends {missing} early: steps are counted over all epochs at once"),
    )


def _steps(micro_batches: int, planned: int, accumulation: int) -> int:
    """Return the steps of an epoch. With fewer micro-batches than planned, the last incomplete accumulation makes no
    step.
    """
    if micro_batches == planned:
        return steps_per_epoch(planned, accumulation) if planned else 0
    return micro_batches // accumulation


BATCHING: Batching = AxolotlBatching()
