"""Rules on names: target modules, and run names and folders against the config."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from touchline.backends.registry import traits_of
from touchline.core.finding import Severity
from touchline.experiment.partial import Stated, StatedTraining
from touchline.lint.rule import Violation, rule
from touchline.lint.views import TrainingView

_TOKEN: Final = r"(?:^|(?<=[^a-z0-9]))(?:{})(?=$|[^a-z0-9.]|\.(?!\d))"
_NUMBER: Final = r"\d+(?:\.\d+)?"
_IN_NAMES: Final = (
    ("rank", rf"(?:lora[-_]?)?rank[-_=]?({_NUMBER})|lora[-_]?r[-_=]?(\d+)|r(8|16|32|64|128|256)"),
    ("alpha", rf"lora[-_]?alpha[-_=]?({_NUMBER})"),
    ("learning_rate", rf"(?:lr|learning[-_]rate)[-_=]?({_NUMBER}e-?\d+|0?\.\d+)"),
    ("epochs", rf"({_NUMBER})[-_]?ep(?:ochs?)?"),
    ("seed", r"seed[-_=]?(\d+)"),
)
"""Settings in names, each with its usual spelling."""
_PATTERNS: Final = tuple((field, re.compile(_TOKEN.format(pattern))) for field, pattern in _IN_NAMES)
_RUN_FILES: Final = frozenset({"finetune.yaml", "setup_finetune.yaml"})
_NEAR: Final = 1e-6


@rule("TR026", Severity.WARNING)
def name_of_another_setting(view: TrainingView) -> Iterator[Violation]:
    """Report a run name or output folder that states other settings than its config."""
    stated = view.stated
    reported: set[str] = set()
    for name in _names(stated):
        for field, pattern in _PATTERNS:
            at: Stated[float] | None = getattr(stated, field)
            said = {next(group for group in match.groups() if group) for match in pattern.finditer(name.lower())}
            if at is None or len(said) != 1 or field in reported:
                continue
            (text,) = said
            if math.isclose(float(text), at.value, rel_tol=_NEAR):
                continue
            reported.add(field)
            yield Violation(message=f"{name} is called by {field.replace('_', ' ')} {text}, and {at} is trained", at=at)


def _names(stated: StatedTraining) -> list[str]:
    """Return the names of a training: its run's folder, and the last part of its output folder."""
    found = [stated.subject] if PurePosixPath(stated.where.path).name in _RUN_FILES else []
    if traits_of(stated.backend).is_ours:
        found = [stated.subject]
    if stated.output_dir is not None:
        found.append(PurePosixPath(stated.output_dir.value).name)
    return list(dict.fromkeys(found))


@rule("CK015", Severity.ERROR)
def output_over_base_model(view: TrainingView) -> Iterator[Violation]:
    """Report an output folder that is the base model's folder."""
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
            yield Violation(message=message, at=output, hint="output_dir: runs/...")
            return
        if base is stated.model_path and written.startswith(place + "/"):
            message = f"{output} is inside the folder of the base model ({base}), which {stated.backend} refuses"
            yield Violation(message=message, at=output, hint="output_dir: runs/...")
            return


def _plain(path: str) -> str:
    """Normalize a path: no doubled slashes, `.`, `..` or slash at its end; home written as `~`."""
    text = path.strip().removeprefix("file://")
    text = re.sub(r"^(?:\$\{?HOME\}?)(?=/|$)", "~", text)
    plain = posixpath.normpath(text)
    return plain[1:] if plain.startswith("//") else plain
