"""Settings that change no weights in the backend `peft`.

Examples are divided into optimizer steps first and laid out in rows afterwards, and the loss of a step is the mean over
its target tokens whatever the rows are: docs/decisions/0003-rows-are-layout-not-science.md.
"""

from __future__ import annotations

from typing import Final

from touchline.backends.neutral import NeutralSettings

NEUTRAL: Final = NeutralSettings(
    settings={
        "train.packed": "how examples are packed; the steps and their loss are the same",
        "train.micro_batch_size": "how a step is cut into forward passes; the step's gradient is the same",
        "train.gradient_checkpointing": "memory and time; activations are computed again, to the same values",
        "train.max_seq_len": "which examples are refused as too long; none is cut",
        "train.validate_every_steps": "how often the validation loss is measured",
        "train.checkpoint.": "what is saved and when",
    },
    shuffles=True,
)
