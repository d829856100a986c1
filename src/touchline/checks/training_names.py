"""Rules on what a training's names and folders say against what its config says."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from touchline.checks.rule import Fault, rule
from touchline.checks.views import TrainingView
from touchline.domain.finding import Severity
from touchline.domain.stated import Stated, StatedTraining

_TOKEN: Final = r"(?:^|(?<=[^a-z0-9]))(?:{})(?=$|[^a-z0-9.]|\.(?!\d))"
_NUMBER: Final = r"\d+(?:\.\d+)?"
_NAMED: Final = (
    ("rank", rf"(?:lora[-_]?)?rank[-_=]?({_NUMBER})|lora[-_]?r[-_=]?(\d+)|r(8|16|32|64|128|256)"),
    ("alpha", rf"lora[-_]?alpha[-_=]?({_NUMBER})"),
    ("learning_rate", rf"(?:lr|learning[-_]rate)[-_=]?({_NUMBER}e-?\d+|0?\.\d+)"),
    ("epochs", rf"({_NUMBER})[-_]?ep(?:ochs?)?"),
    ("seed", r"seed[-_=]?(\d+)"),
)
"""Settings that people write into names, each with how they write them."""
_PATTERNS: Final = tuple((field, re.compile(_TOKEN.format(pattern))) for field, pattern in _NAMED)
_RUN_FILES: Final = frozenset({"finetune.yaml", "setup_finetune.yaml"})
_NEAR: Final = 1e-6


@rule("TR026", Severity.WARNING)
def name_of_another_setting(view: TrainingView) -> Iterator[Fault]:
    """The name of a run, or its output folder, says another rank, alpha, learning rate, epochs or seed than its config.

    Why: results are compared by their names: a rank of 32 in a folder that is called `1B_rank64` is reported as 64.

    Fix: the setting that the name says, or another name.

    Bad: llamafactory
        output_dir: saves/qwen_rank64
        lora_rank: 32

    Good: llamafactory
        output_dir: saves/qwen_rank64
        lora_rank: 64
        lora_alpha: 128
    """
    stated = view.stated
    told: set[str] = set()
    for name in _names(stated):
        for field, pattern in _PATTERNS:
            at: Stated[float] | None = getattr(stated, field)
            said = {next(group for group in match.groups() if group) for match in pattern.finditer(name.lower())}
            if at is None or len(said) != 1 or field in told:
                continue
            (text,) = said
            if math.isclose(float(text), at.value, rel_tol=_NEAR):
                continue
            told.add(field)
            yield Fault(message=f"{name} is called by {field.replace('_', ' ')} {text}, and {at} is trained", at=at)


def _names(stated: StatedTraining) -> list[str]:
    """Return the names of a training: its run's folder, and the last part of its output folder."""
    found = [stated.subject] if PurePosixPath(stated.where.path).name in _RUN_FILES else []
    if stated.backend == "peft":
        found = [stated.subject]
    if stated.output_dir is not None:
        found.append(PurePosixPath(stated.output_dir.value).name)
    return list(dict.fromkeys(found))


@rule("CK015", Severity.ERROR)
def output_over_the_base(view: TrainingView) -> Iterator[Fault]:
    """The output folder is the folder of the base model.

    Why: the trainer refuses a folder with content, or writes over the base's config, tokenizer and weights; whoever
    loads the base afterwards gets the adapter with it. torchtune refuses a folder within the base's as well.

    Fix: a folder of the run's own.

    Bad: llamafactory
        model_name_or_path: models/Qwen2.5-0.5B-Instruct
        output_dir: ./models//Qwen2.5-0.5B-Instruct/

    Good: llamafactory
        model_name_or_path: models/Qwen2.5-0.5B-Instruct
        output_dir: ./models/Qwen2.5-0.5B-Instruct-lora
    """
    stated = view.stated
    output = stated.output_dir
    written = "$" if output is None else _plain(output.value)
    if output is None or "$" in written:
        return
    for base in (stated.model, stated.model_path):
        if base is None:
            continue
        place = _plain(base.value)
        if written == place:
            message = f"{output} is the folder of the base model ({base})"
            yield Fault(message=message, at=output, hint="output_dir: runs/...")
            return
        if stated.backend == "torchtune" and base is stated.model_path and written.startswith(place + "/"):
            message = f"{output} is inside the folder of the base model ({base}), which torchtune refuses"
            yield Fault(message=message, at=output, hint="output_dir: runs/...")
            return


def _plain(path: str) -> str:
    """A path in one spelling: no doubled slashes, no `.` and `..`, no slash at its end, a home written as `~`."""
    text = path.strip().removeprefix("file://")
    text = re.sub(r"^(?:\$\{?HOME\}?)(?=/|$)", "~", text)
    plain = posixpath.normpath(text)
    return plain[1:] if plain.startswith("//") else plain
