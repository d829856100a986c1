"""Facts that users state of their logs: by options, and by `touchline-facts.yaml` next to the logs or in a folder
above.

    gpu: A100-80GB            # of every log in this folder and below
    dataset: ../data/words.json
    logs:                     # of some logs only, by name
      "train_2*.out": {gpus: 2}

What a log measured counts more; what is stated counts more than a guess. Options count more than files, a file in the
log's own folder more than one above it, and what is written under `logs` more than the rest of its file.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from touchline.backends.logtext.parts import to_count, to_number
from touchline.core.errors import InputError
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding, Location, Severity
from touchline.core.near import did_you_mean, near_names
from touchline.core.observation import Observation, ObservationName
from touchline.experiment.document import SIZE_LIMIT_BYTES, YamlDocument, parse
from touchline.history.file_segment import FileSegment, HeadTailBuffer
from touchline.history.grouping import FileGroup
from touchline.history.run_facts import DTYPES, FACTS, FactKey, flag_of
from touchline.history.run_view import NO_SEGMENT, RunSegment, SourcedObservation

CODE = "US135"
_LOGS = "logs"
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


@dataclass(frozen=True, kw_only=True, slots=True)
class StatedFacts:
    """Facts stated of the files of one group."""

    facts: RunSegment = NO_SEGMENT
    """The facts; of two the later one counts."""
    dataset: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.facts.parts)


NOTHING_STATED = StatedFacts()
"""Facts of files of which nothing is stated."""


@dataclass(frozen=True, slots=True)
class _Scope:
    part: FileSegment
    pattern: str | None = None
    dataset: Path | None = None


class Stating:
    """The facts stated by options and files."""

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        """Take the options; what is wrong with them is raised when the files are loaded.

        Args:
            options: values by key of `FACTS`.
        """
        self._files: dict[Path, tuple[_Scope, ...]] = {}
        self._findings: list[Finding] = []
        self._options: list[_Scope] = []
        for key, text in (options or {}).items():
            scope = _Scope(FileSegment(file=flag_of(key)))
            value = _value_of(key, text, flag_of(key), None, self._findings)
            if value is not None:
                dataset = Path(text).expanduser() if key == "dataset" else None
                _add(scope.part, FACTS[key], value, 0)
                self._options.append(_Scope(scope.part, dataset=dataset))

    @property
    def has_options(self) -> bool:
        """Return True if an option states anything."""
        return bool(self._options)

    def load(self, groups: Sequence[FileGroup], check: Callable[[Stating], Iterable[Finding]] | None = None) -> None:
        """Read the files of facts that belong to these groups.

        Args:
            check: finds what else is wrong with the facts.

        Raises:
            InputError: with every fault of every option and file.
        """
        for path in sorted({path for group in groups for path in group.facts} - self._files.keys()):
            self._files[path] = tuple(_read(path, self._findings))
        findings = [*self._findings, *(check(self) if check is not None else ())]
        if findings:
            count = f"{len(findings)} stated fact{'s are' if len(findings) != 1 else ' is'} wrong"
            raise InputError(count, findings=findings)

    def values(self, name: ObservationName) -> list[tuple[float | str, str]]:
        """Return every value that is stated for a fact, and where."""
        found = [
            SourcedObservation(seen=seen, file=scope.part.file)
            for scope in self._scopes()
            for seen in scope.part.get(name)
        ]
        return [(each.seen.value, each.where) for each in found]

    def datasets(self) -> list[tuple[Path, str]]:
        """Return every dataset that is stated, and where."""
        return [(scope.dataset, scope.part.file) for scope in self._scopes() if scope.dataset is not None]

    def _scopes(self) -> list[_Scope]:
        return [*(scope for scopes in self._files.values() for scope in scopes), *self._options]

    def of(self, group: FileGroup) -> StatedFacts:
        """Return what is stated of a group's files; its files of facts must be loaded."""
        names = [path.name for path in group.files]
        scopes = [
            scope
            for path in group.facts
            for scope in self._files[path]
            if scope.pattern is None or any(fnmatch.fnmatchcase(name, scope.pattern) for name in names)
        ]
        scopes += self._options
        datasets = [scope.dataset for scope in scopes if scope.dataset is not None]
        return StatedFacts(
            facts=RunSegment(parts=tuple(scope.part for scope in scopes if scope.part.seen)),
            dataset=datasets[-1] if datasets else None,
        )


def _read(path: Path, findings: list[Finding]) -> Iterator[_Scope]:
    """Yield the scopes of a file: its own first, then those under `logs`, in order."""
    try:
        document = parse(read_text_bounded(path, SIZE_LIMIT_BYTES), str(path))
    except InputError as fault:
        findings += fault.findings or [_finding(str(path), fault.message, None, Location(path=str(path)))]
        return
    except (OSError, UnicodeDecodeError) as fault:
        findings.append(_finding(str(path), f"cannot be read: {fault}", None, Location(path=str(path))))
        return
    yield _scope(document, (), document.data, path, findings, None)
    logs = document.data.get(_LOGS, {})
    if not isinstance(logs, dict):
        findings.append(
            _finding(
                _LOGS,
                "logs is not a mapping of file names to facts",
                "{train.log: {gpus: 2}}",
                document.where((_LOGS,)),
            )
        )
        return
    for name, facts in logs.items():
        if not isinstance(facts, dict):
            message = f"logs.{name} is not a mapping of facts"
            findings.append(_finding(_LOGS, message, "{gpus: 2}", document.where((_LOGS, name))))
        else:
            yield _scope(document, (_LOGS, name), facts, path, findings, str(name))


def _scope(
    document: YamlDocument,
    at: tuple[str, ...],
    facts: Mapping[str, object],
    path: Path,
    findings: list[Finding],
    pattern: str | None,
) -> _Scope:
    part = FileSegment(file=path.name)
    dataset: Path | None = None
    for key, raw in facts.items():
        if key == _LOGS and not at:
            continue
        where = document.where((*at, key))
        value = _value_of(str(key), raw, str(key), where, findings)
        if value is None:
            continue
        if key == "dataset":
            dataset = path.parent / Path(str(value)).expanduser()
        fact = FACTS[str(key)]
        _add(part, fact, value, where.line or 0)
    return _Scope(part, pattern, dataset)


def _add(part: FileSegment, fact: FactKey, value: float | str, line: int) -> None:
    observation = Observation(name=fact.name, value=value, line=line, unit=fact.unit)
    part.seen.setdefault(fact.name, HeadTailBuffer()).add(observation)


def _value_of(key: str, raw: object, shown: str, where: Location | None, findings: list[Finding]) -> float | str | None:
    """Return the value of a fact's text or YAML value; None if it is wrong, with a finding."""
    fact = FACTS.get(key)
    if fact is None:
        near = near_names(key, [*FACTS, _LOGS], most=1)
        hint = did_you_mean(near, f"known here: {', '.join(FACTS)}")
        findings.append(_finding(shown, f"{shown} is not a fact that can be stated", hint, where))
        return None
    value = _typed(fact, raw)
    if value is None:
        form = "number from 0 to 1" if fact.form == "share" else fact.form
        expected = f"one of {', '.join(fact.words)}" if fact.words else f"a {form}"
        option = shown.removesuffix("...") if shown.endswith("...") else f"{shown} "
        hint = f"{option}{fact.example}" if where is None else f"{shown}: {fact.example}"
        findings.append(_finding(shown, f"{shown} is {str(raw)[:80]!r}, expected {expected}", hint, where))
    return value


def _typed(fact: FactKey, raw: object) -> float | str | None:
    if isinstance(raw, list) and fact.name == "target_modules" and all(isinstance(each, str) for each in raw):
        raw = ",".join(raw)
    if fact.form == "bool":
        text = str(raw).strip().lower()
        return "true" if text in _TRUE else "false" if text in _FALSE else None
    if isinstance(raw, bool):
        return None
    if fact.form == "word":
        text = raw.strip() if isinstance(raw, str) else str(raw) if isinstance(raw, int | float) else ""
        if not text or not text.isprintable():
            return None
        if fact.words == tuple(DTYPES):
            return DTYPES.get(text.lower())
        return text if not fact.words or text in fact.words else None
    number = to_count(raw) if fact.form == "count" else to_number(raw)
    if fact.form == "share":
        return number if number is not None and 0 <= number <= 1 else None
    return number if number is not None and number > 0 else None


def _finding(subject: str, message: str, hint: str | None, where: Location | None) -> Finding:
    return Finding(code=CODE, severity=Severity.ERROR, subject=subject, message=message, where=where, hint=hint)
