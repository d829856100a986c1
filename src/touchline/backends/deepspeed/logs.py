"""Lines of DeepSpeed, which it prints within other trainers too, of its pipeline engine and of DeepSpeed-Chat.

Sources: deepspeed/runtime/{engine,pipe/engine}.py and utils/timer.py, DeepSpeedExamples/applications/DeepSpeed-Chat.
It divides sizes by 2**30 and prints GB.
"""

from __future__ import annotations

import re

from touchline.backends.logtext.forms import VALUE, Figure, Form, FormReader, memory
from touchline.backends.logtext.parts import NUMBER

_RATE = Figure(name="train_samples_per_second", aggregation="mean")


class DeepSpeedLines(FormReader):
    """Reader of one file's lines. Only a row with a loss names the trainer."""

    trainer = "deepspeed"
    words = frozenset(
        {"skipped", "runningavgsamplespersec", "max_ma", "latency", "rank", "ppl", "perplexity", "batch", "loss"}
        | {"micro"}
    )
    forms = (
        Form(hint="skipped=", pattern=re.compile(r"\[Rank 0\] step=(?P<step>\d+), skipped=\d+, lr=\[")),
        Form(
            hint="SamplesPerSec",
            pattern=re.compile(
                rf"(?:global_step=|\b\d+/)(?P<step>\d+), RunningAvgSamplesPerSec=(?P<rate>{NUMBER}), "
                rf"CurrSamplesPerSec={VALUE}(?:, +MemAllocated={NUMBER}GB, MaxMemAllocated=(?P<peak>{NUMBER})GB)?"
            ),
            figures={
                "rate": Figure(name="train_samples_per_second", aggregation="mean", certain=False),
                "peak": memory("allocated", "GiB"),
            },
        ),
        Form(
            hint="Max_MA",
            pattern=re.compile(
                rf"\bMA {NUMBER} GB +Max_MA (?P<allocated>{NUMBER}) GB +CA {NUMBER} GB +"
                rf"Max_CA (?P<reserved>{NUMBER}) GB"
            ),
            figures={
                "allocated": memory("allocated", "GiB", phase=None),
                "reserved": memory("reserved", "GiB", phase=None),
            },
        ),
        Form(
            hint="iter time (s)",
            pattern=re.compile(
                rf"\bsteps?: +(?P<step>\d+)(?: / +(?P<steps_total>\d+))? loss: (?P<loss>{VALUE}) .*?"
                rf"iter time \(s\): (?P<seconds>{NUMBER}) samples/sec: (?P<rate>{NUMBER})"
            ),
            figures={"rate": _RATE, "seconds": Figure(name="step_seconds", aggregation="mean")},
        ),
        Form(
            hint="Rank: ",
            pattern=re.compile(
                rf"^Epoch: (?P<epoch>\d+), Step: \d+, Rank: (?P<rank>\d+), loss = (?:tensor\()?(?P<loss>{VALUE})"
            ),
            after_prefix=True,
        ),
        Form(
            hint="Latency: ",
            pattern=re.compile(
                rf"^Model Parameters: {NUMBER} [KMBT], Latency: {NUMBER}s, TFLOPs: {VALUE}, "
                rf"Samples/sec: (?P<rate>{NUMBER}), .*?"
                r"Batch Size: (?P<micro_batch_size>\d+)(?:, Sequence Length: (?P<max_seq_len>\d+))?"
            ),
            after_prefix=True,
            figures={"rate": Figure(name="train_samples_per_second", certain=False)},
        ),
        Form(
            hint="Beginning of Epoch",
            pattern=re.compile(r"^Beginning of Epoch \d+/(?P<epochs>\d+), Total Micro Batches \d+"),
            after_prefix=True,
        ),
        Form(
            hint=", loss: ",
            pattern=re.compile(rf"^(?:ppl|perplexity): {VALUE}, loss: (?P<eval_loss>{VALUE})\s*$"),
            after_prefix=True,
        ),
    )


FORMS: tuple[type[FormReader], ...] = (DeepSpeedLines,)
