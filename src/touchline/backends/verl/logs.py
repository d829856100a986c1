"""Lines of verl: `step:49 - actor/pg_loss:0.01 - timing_s/step:31.2`, one per step.

Sources: verl/utils/logger/aggregate_logger.py and trainer/ppo/metric_utils.py.
"""

from __future__ import annotations

import re

from touchline.backends.logtext.forms import VALUE, Figure, Form, FormReader, memory


class VerlLines(FormReader):
    """Reader of one file's lines."""

    trainer = "verl"
    words = frozenset({"timing_s", "throughput", "pg_loss"})
    forms = (
        Form(
            hint="step:",
            pattern=re.compile(r"(?:^|\s)step:(?P<step>\d+)(?P<rest> - (?=.*\w/[\w/]+:)[\w@/.-]+:\S.*)$"),
            figures={
                **dict.fromkeys(("train/loss", "actor/loss", "actor/pg_loss"), Figure(name="loss")),
                "val/loss": Figure(name="eval_loss"),
                **dict.fromkeys(("timing_s/step", "perf/time_per_step"), Figure(name="step_seconds")),
                "perf/throughput": Figure(name="tokens_per_second", unit="tokens/s/GPU", token_unit="real"),
                "perf/max_memory_allocated_gb": memory("allocated", "GiB"),
                "perf/max_memory_reserved_gb": memory("reserved", "GiB"),
            },
            pairs=re.compile(rf" - (?P<name>[\w@/.() -]+?):(?:np\.\w+\()?(?P<value>{VALUE})\)?(?= - |$)"),
            names_trainer=True,
        ),
    )


FORMS: tuple[type[FormReader], ...] = (VerlLines,)
"""Readers of its lines."""
