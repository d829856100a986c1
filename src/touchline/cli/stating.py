"""Options that state facts of past runs which their logs do not hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

Gpu = Annotated[str | None, typer.Option("--gpu", metavar="NAME", help="GPU of these runs: A100-80GB, ...")]
Gpus = Annotated[str | None, typer.Option("--gpus", metavar="N", help="Number of GPUs.")]
Model = Annotated[str | None, typer.Option("--model", metavar="MODEL", help="Base model.")]
Dataset = Annotated[
    str | None, typer.Option("--dataset", metavar="FILE", help="Dataset; its lengths give the padding.")
]
Trainer = Annotated[str | None, typer.Option("--trainer", metavar="NAME", help="Trainer, by its name in lower case.")]
Method = Annotated[str | None, typer.Option("--method", metavar="lora|qlora|full", help="What was trained.")]
Precision = Annotated[str | None, typer.Option("--precision", metavar="DTYPE", help="Base dtype: bf16, fp16, fp32.")]
Facts = Annotated[
    list[str] | None,
    typer.Option("--fact", metavar="KEY=VALUE", help="Any other fact: micro_batch_size=4 (repeatable)."),
]


def stated_pairs(texts: Sequence[str]) -> dict[str, str]:
    """Return facts by key from `KEY=VALUE` texts.

    Raises:
        InputError: a text has no `=`.
    """
    from touchline.core.errors import InputError
    from touchline.history.run_facts import FACTS

    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise InputError(
            f"{', '.join(map(repr, wrong))}: not KEY=VALUE",
            expected=f"facts such as micro_batch_size=4; known: {', '.join(FACTS)}",
        )
    return {key.strip().replace("-", "_"): value.strip() for key, _, value in (text.partition("=") for text in texts)}
