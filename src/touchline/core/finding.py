"""Finding: a problem of an input with its place, the expected value and a hint; and notes on results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """Severity of a finding; only an error stops the command."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """A place in a file; lines and columns count from 1."""

    path: str
    """The file, as the user named it."""
    line: int | None = None
    """The line, from 1; none when the file as a whole is meant."""
    column: int | None = None
    """The column, from 1."""

    def __str__(self) -> str:
        parts = [self.path, *(str(part) for part in (self.line, self.column) if part is not None)]
        return ":".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """Replacement of one line of a file."""

    path: str
    """The file, as the user named it."""
    line: int
    """The line, from 1."""
    old: str
    """Current text of the line, without its newline; the edit is invalid if it differs."""
    new: str | None
    """New text of the line; None deletes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Problem of an input."""

    code: str
    """A stable code: two letters for the subject and three digits."""
    severity: Severity
    """Whether it stops the command."""
    subject: str
    """The key, run, model or file it is about."""
    message: str
    """Problem and expected value."""
    where: Location | None = None
    """Place of the problem."""
    hint: str | None = None
    """Command to type, or text to write instead."""
    edits: tuple[Edit, ...] = ()
    """Safe fix, if there is one: `touchline check --fix` makes these edits."""
    allowed: bool = False
    """Whether it is an error that the user allowed; its severity is INFO then."""
    allowable: bool = True
    """Whether `allow` applies to it; not where nothing can be planned until it is fixed."""
    runs: tuple[str, ...] = ()
    """Runs it is about; empty if it is about the whole file."""


class NoteCode(StrEnum):
    """Kind of a note. The value is its sentence; names in braces stand for the note's data."""

    ATTEMPTS_FAILED = "{count} attempt(s) ended with an error (last: {reason}, exit code {code})"
    ATTEMPTS_KILLED = "{count} attempt(s) were killed (no exit record), and their saved state was used"
    FAILED_EXIT = "training completed although its job failed (the exit code is ignored)"
    METRICS_UNREAD = "steps and losses are unknown: {file} cannot be read ({reason})"
    STEPS_REPEATED = "{count} steps were done again after a kill"
    CHECKPOINT_UNUSABLE = "checkpoint {name} cannot be used: {problems}"
    EVALUATIONS_LEFT_OUT = "{evaluations} of other weights not used"
    EVALUATIONS_KEPT = "{evaluations} with other settings kept, but not used in comparisons: {settings}"
    NOT_EVALUATED = "not evaluated: {evaluation}"
    ANSWERS_NOT_SCORED = "{evaluation}: {count} answers could not be generated or scored and count as wrong"
    TRAINED_ON = "trained on {machine}"
    NOT_COMPARED = "not compared with {other}: {reason}"
    ONE_SEED = "one seed: differences between levels describe these checkpoints, not the settings"
    SELECTED_ON_TEST = (
        "selected on test: {checkpoint} of {run} is the best of {best_of} checkpoints on these items. Its score "
        "is too high, but its interval and p value are corrected"
    )
    OPTIONAL_STOPPING = (
        "effects of factors and interactions are not tested, because the runs depend on earlier results. The "
        "strategy tests its contrasts at its looks"
    )
    STATED = "{text}"
    """Anything that no decision depends on."""


@dataclass(frozen=True, slots=True)
class Note:
    """Note on a run or an analysis."""

    code: NoteCode
    data: Mapping[str, object] = field(default_factory=dict)
    """Values of the sentence, by name."""

    def __str__(self) -> str:
        """Return the sentence."""
        return self.code.value.format(**self.data)

    @classmethod
    def stated(cls, text: str) -> Note:
        """Return a note with a text of its own."""
        return cls(NoteCode.STATED, {"text": text})

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> dict[str, object]:
        """Return the schema by which a note is a string in JSON."""
        del source, handler
        return {
            "type": "function-after",
            "function": {"type": "no-info", "function": cls.stated},
            "schema": {"type": "str"},
            "serialization": {"type": "to-string", "when_used": "always"},
        }
