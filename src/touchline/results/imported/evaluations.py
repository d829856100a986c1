"""Reader of Inspect .eval logs without Inspect: a zip of JSON files.

A truncated log or one of an unfinished evaluation gives no score, and the report names the reason. Members are read by
known names with a size limit; nothing is unpacked.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from touchline.core.files import open_regular, sha256_file
from touchline.core.finding import Severity
from touchline.core.json_text import parse_json
from touchline.data.evaluations import question_of
from touchline.data.scores import AskedItem, EvaluationScores, SampleScore
from touchline.results.imported.folders import RunFolder, below, clean_text, named_run
from touchline.results.report_inputs import Issue

_LIMITS_BYTES = {"header.json": 32 << 20, "summaries.json": 256 << 20}
_CHECKPOINT = re.compile(r"(?:epoch|step|checkpoint)[_-]\d+")
_RIGHT = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""Inspect's letters: correct, incorrect, partially correct, no answer."""
_OUTPUT_LIMIT = 2_000
_ZSTANDARD = 93
"""Zip compression number of zstd."""
_LOCAL_HEAD_BYTES = 30
_WINDOW_BYTES = 1 << 27


class EvalLogError(Exception):
    """.eval log without a usable score; the text is the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundEvaluation:
    """Imported .eval log."""

    path: Path
    record: EvaluationScores
    model: str
    """Model as named in the log, with its path if any; it identifies the run."""


def read_eval_log(path: Path) -> FoundEvaluation:
    """Read the scores of one log.

    Raises:
        EvalLogError: it is truncated, not an Inspect log, unfinished, or has no scores.
    """
    header, summaries = _members(path, "header.json", "summaries.json")
    if not isinstance(header, dict) or not isinstance(header.get("eval"), dict):
        raise EvalLogError("it has no header of Inspect's")
    status = header.get("status")
    if status != "success":
        raise EvalLogError(
            f"the evaluation ended as {clean_text(str(status))[:40]!r}, so its scores are not of all items"
        )
    if not isinstance(summaries, list) or not summaries:
        raise EvalLogError("it contains no samples")
    return _found(path, header, [summary for summary in summaries if isinstance(summary, dict)])


def read_asked(path: Path) -> dict[str, AskedItem]:
    """Read the question of each item, by id, from an .eval log. Empty if the log cannot be read."""
    try:
        (summaries,) = _members(path, "summaries.json")
    except EvalLogError:
        return {}
    return _asked([each for each in summaries if isinstance(each, dict)]) if isinstance(summaries, list) else {}


def _asked(summaries: Sequence[dict[str, object]]) -> dict[str, AskedItem]:
    """Return each item's question; an Inspect log does not contain the rendered prompt."""
    items: dict[str, AskedItem] = {}
    for summary in summaries:
        question = _question(summary.get("input"))
        if question is not None:
            items.setdefault(clean_text(str(summary.get("id"))), AskedItem(question=clean_text(question)))
    return items


def _question(asked: object) -> str | None:
    if isinstance(asked, str):
        return asked
    turns = [_dict(turn) for turn in asked] if isinstance(asked, list) else []
    texts = [(str(turn.get("role")), _turn_text(turn.get("content"))) for turn in turns]
    return question_of(texts) if texts else None


def _turn_text(content: object) -> str:
    """Return the text of a turn; of content in several parts that of the text parts."""
    if isinstance(content, list):
        return "\n".join(str(_dict(part).get("text")) for part in content if _dict(part).get("type") == "text")
    return content if isinstance(content, str) else ""


def _members(path: Path, *names: str) -> list[object]:
    """Return the parsed members of a log, none of them larger than its limit.

    Raises:
        EvalLogError: it is not a whole archive, or lacks one of them.
    """
    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            return [_member(archive, name) for name in names]
    except zipfile.BadZipFile:
        raise EvalLogError("not a complete .eval archive") from None
    except (OSError, zlib.error, EOFError, NotImplementedError, RuntimeError) as fault:
        raise EvalLogError(getattr(fault, "strerror", None) or f"it cannot be read ({type(fault).__name__})") from None


def _member(archive: zipfile.ZipFile, name: str) -> object:
    limit = _LIMITS_BYTES[name]
    try:
        entry = archive.getinfo(name)
    except KeyError:
        raise EvalLogError(f"{name} is missing: the evaluation did not finish, or the file is truncated") from None
    try:
        if entry.compress_type == _ZSTANDARD:
            data = _zstandard(archive, entry, limit + 1)
        else:
            with archive.open(entry) as stream:
                data = stream.read(limit + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError):
        raise EvalLogError(f"{name} is damaged") from None
    if len(data) > limit:
        raise EvalLogError(f"{name} is larger than {limit >> 20} MiB")
    try:
        return parse_json(data)
    except (ValueError, RecursionError):
        raise EvalLogError(f"{name} is not JSON") from None


def _zstandard(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    """Return the first bytes of a zstd member; Python reads zstd itself only from 3.14."""
    try:
        import zstandard
    except ImportError:
        raise EvalLogError("compressed with zstd (needs the extra `eval`)") from None
    stream = archive.fp
    if stream is None:
        raise EvalLogError("the archive is closed")
    stream.seek(entry.header_offset)
    head = stream.read(_LOCAL_HEAD_BYTES)
    if len(head) < _LOCAL_HEAD_BYTES or head[:4] != b"PK\3\4":
        raise zipfile.BadZipFile
    name_bytes, extra_bytes = struct.unpack("<HH", head[26:30])
    stream.seek(name_bytes + extra_bytes, 1)
    packed = stream.read(min(entry.compress_size, limit))
    try:
        with zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).stream_reader(
            packed, read_across_frames=True
        ) as reader:
            data = reader.read(limit)
    except zstandard.ZstdError:
        raise zipfile.BadZipFile from None
    if len(data) < limit and zlib.crc32(data) != entry.CRC:
        raise zipfile.BadZipFile
    return data


def _found(path: Path, header: Mapping[str, object], summaries: Sequence[dict[str, object]]) -> FoundEvaluation:
    evaluation = _dict(header.get("eval"))
    scorer = _scorer(header, summaries)
    samples = tuple(_sample(summary, scorer) for summary in summaries)
    if not any(sample.error is None for sample in samples):
        raise EvalLogError("no item was generated")
    config = _dict(_dict(header.get("plan")).get("config"))
    data = [
        (sample.id, sample.target, clean_text(str(each.get("input"))))
        for sample, each in zip(samples, summaries, strict=True)
    ]
    settings = {
        "task": evaluation.get("task"),
        "version": evaluation.get("task_version"),
        "args": evaluation.get("task_args"),
        "scorer": scorer,
        "config": config,
    }
    model = " ".join(
        clean_text(str(each))
        for each in (
            evaluation.get("model"),
            _dict(evaluation.get("model_args")).get("model_path"),
            evaluation.get("model_base_url"),
        )
        if each
    )
    checkpoint = _CHECKPOINT.findall(model) or _CHECKPOINT.findall(str(path.parent)) or ["unknown checkpoint"]
    test_set = _dict(evaluation.get("metadata")).get("test_set")
    return FoundEvaluation(
        path=path,
        model=model,
        record=EvaluationScores(
            experiment="",
            run="",
            task=clean_text(str(evaluation.get("task") or "unnamed task"))[:200],
            checkpoint=checkpoint[-1],
            log=path.name,
            log_sha256=sha256_file(path),
            adapter_sha256=None,
            base_sha256="",
            data_sha256=_hash(data),
            settings_sha256=_hash(settings),
            decoding=_decoding(config),
            seconds=_seconds(header),
            samples=samples,
            score=scorer,
            repeats=1 + max(sample.repeat for sample in samples),
            asked=_asked(summaries),
            versions={
                clean_text(name)[:100]: clean_text(str(version))[:100]
                for name, version in _dict(evaluation.get("packages")).items()
            },
            test_set=clean_text(test_set)[:40] if isinstance(test_set, str) else None,
        ),
    )


def _scorer(header: Mapping[str, object], summaries: Sequence[dict[str, object]]) -> str:
    scores = _dict(header.get("results")).get("scores")
    if isinstance(scores, list) and scores and isinstance(scores[0], dict):
        return clean_text(str(scores[0].get("name") or scores[0].get("scorer") or "score"))[:100]
    for summary in summaries:
        for name in _dict(summary.get("scores")):
            return clean_text(name)[:100]
    raise EvalLogError("it contains no scores")


def _sample(summary: Mapping[str, object], scorer: str) -> SampleScore:
    scores = _dict(summary.get("scores"))
    score = _dict(scores.get(scorer) or next(iter(scores.values()), None))
    value = _value(score.get("value"))
    target = summary.get("target")
    error = summary.get("error")
    repeat = summary.get("epoch")
    cluster = _dict(summary.get("metadata")).get("cluster")
    text = ", ".join(str(each) for each in target) if isinstance(target, list) else str(target or "")
    return SampleScore(
        id=clean_text(str(summary.get("id"))),
        target=clean_text(text)[:_OUTPUT_LIMIT],
        output=clean_text(str(score.get("answer") or ""))[:_OUTPUT_LIMIT],
        exact=value == 1.0,
        match=value == 1.0,
        error=clean_text(str(error))[:300] if error else "no score" if value is None else None,
        repeat=repeat - 1 if isinstance(repeat, int) and repeat >= 1 else 0,
        value=value if value is not None and value not in (0.0, 1.0) else None,
        cluster=clean_text(cluster)[:_OUTPUT_LIMIT] if isinstance(cluster, str) and cluster.strip() else None,
    )


def _value(value: object) -> float | None:
    if isinstance(value, str):
        return _RIGHT.get(value)
    if isinstance(value, bool | int | float):
        number = float(value)
        return number if number == number and abs(number) != float("inf") else None
    return None


def _decoding(config: Mapping[str, object]) -> str:
    known = ("temperature", "top_p", "top_k", "max_tokens", "seed")
    parts = [f"{key} {config[key]}" for key in known if isinstance(config.get(key), int | float)]
    return clean_text(", ".join(parts)) if parts else "n/a (not in the log)"


def _seconds(header: Mapping[str, object]) -> float:
    stats = _dict(header.get("stats"))
    try:
        begin, end = (datetime.fromisoformat(str(stats[key])) for key in ("started_at", "completed_at"))
        return max((end - begin).total_seconds(), 0.0)
    except (KeyError, ValueError, TypeError):
        return 0.0


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def read_evaluations(root: Path, paths: Sequence[Path], subject: str) -> tuple[list[FoundEvaluation], list[Issue]]:
    """Read the scores of Inspect logs; return them with an issue for each log without scores."""
    found: list[FoundEvaluation] = []
    issues: list[Issue] = []
    for path in paths:
        try:
            found.append(read_eval_log(path))
        except EvalLogError as fault:
            issues.append(
                Issue(
                    weight=Severity.WARNING,
                    subject=subject,
                    title="an evaluation gives no score",
                    text=f"{path.name}: {fault}. Its scores are missing from this report.",
                    where=below(root, path),
                )
            )
    return found, issues


def evaluations_of(
    folder: RunFolder, folders: Sequence[RunFolder], loose: Sequence[FoundEvaluation]
) -> list[FoundEvaluation]:
    """Return the loose evaluations whose model names this run's folder."""
    names = [each.name for each in folders]
    return [each for each in loose if named_run(each.model, names) == folder.name]
