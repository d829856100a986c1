"""LLaMA-Factory's (0.9.5) batching of a dataset.

Read in data/processor/{processor_utils,supervised}.py, hparams/data_args.py and train/sft/workflow.py.

Examples are cut to `cutoff_len`, starting with the longer of prompt and answer. With packing, each pack is filled with
the longest examples that fit, in groups of 1000. A pack may hold one token less than `cutoff_len`, and is padded to
`cutoff_len`. In both cases widths are rounded up to a multiple of 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchline.backends.hf_loop import hf_forecast
from touchline.backends.simulation import Examples, checked
from touchline.data.packing.forecast import BatchForecast, Batching, BatchSettings
from touchline.data.packing.simple import batch_edges, first_fit_decreasing, one_each

PAD_TO_MULTIPLE_OF = 8
"""Of its collator, in training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaFactoryBatching:
    """LLaMA-Factory's batching, with the options that change it."""

    preprocessing_batch_size: int = 1000
    """Examples that are packed together."""
    preprocessing_num_workers: int | None = None
    """Processes that pack a share of the examples each."""

    def forecast(
        self, lengths: NDArray[np.uint32], settings: BatchSettings, labels: NDArray[np.uint32] | None = None
    ) -> BatchForecast:
        """Simulate the batches of these examples, each with one prompt and one answer.

        Args:
            lengths: tokens of each example, shape [examples].
            settings: the settings; `max_seq_len` is `cutoff_len`, at least 2 where packed.
            labels: of these, the answer's; none: all of them.

        Raises:
            ValueError: a size is not positive, or there is no example.
        """
        total, answers = checked(lengths, settings, labels)
        cutoff = settings.max_seq_len
        if not settings.packed:
            examples = shortened(total - answers, answers, cutoff)
            filled = one_each(len(total))
            return hf_forecast(
                examples=examples,
                filled=filled,
                settings=settings,
                capacity=cutoff,
                multiple=PAD_TO_MULTIPLE_OF,
                notes=[],
            )
        if cutoff < 2:
            raise ValueError("LLaMA-Factory packing needs a cutoff_len of at least 2")
        examples = shortened(total - answers, answers, cutoff - 1)
        edges = batch_edges(len(total), self.preprocessing_batch_size, self.preprocessing_num_workers)
        notes = [
            f"a pack has {cutoff - 1} example tokens, one less than cutoff_len, padded to "
            f"{-(-cutoff // PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF} (neat_packing with flash-attention 2 "
            "removes the padding)"
        ]
        if len(edges) > 2:
            notes.append(
                f"examples are packed {self.preprocessing_batch_size} at a time, in {len(edges) - 1} batches (a "
                "validation split by val_size would shuffle them first)"
            )
        return hf_forecast(
            examples=examples,
            filled=first_fit_decreasing(examples.tokens, cutoff - 1, edges),
            settings=settings,
            capacity=cutoff - 1,
            multiple=PAD_TO_MULTIPLE_OF,
            width=cutoff,
            notes=notes,
        )


def shortened(prompts: NDArray[np.int64], answers: NDArray[np.int64], cutoff: int) -> Examples:
    """Apply LLaMA-Factory's `infer_seqlen`. A short answer shortens the prompt, a short prompt the answer. Otherwise
    both are shortened in proportion.

    Args:
        prompts: tokens of each prompt, shape [examples].
        answers: tokens of each answer, shape [examples].
        cutoff: tokens of prompt and answer at most.
    """
    # The share is computed in floating point and cut off, as there, so that the last bit agrees.
    share = (cutoff * (answers / (prompts + answers))).astype(np.int64)
    room = np.where(answers * 2 < cutoff, cutoff, np.where(prompts * 2 < cutoff, cutoff - prompts, share))
    answer = np.minimum(room, answers)
    prompt = np.minimum(np.maximum(cutoff - answer, 0), prompts)
    return Examples(
        kept=np.arange(len(prompts)),
        tokens=prompt + answer,
        labels=answer,
        truncated=np.flatnonzero((prompt < prompts) | (answer < answers)),
        answers_cut=np.flatnonzero(answer < answers),
        dropped=np.zeros(0, np.int64),
    )


BATCHING: Batching = LlamaFactoryBatching()
