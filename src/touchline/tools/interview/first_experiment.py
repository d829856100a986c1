"""Generator of a commented experiment.yaml for the user's own data."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from touchline.core.catalog import ModelInfo
from touchline.core.errors import InputError, PolicyError
from touchline.core.files import write_atomic
from touchline.core.finding import Finding, Severity
from touchline.core.quantity import Missing
from touchline.core.units import plural
from touchline.data.user_config import UserConfig
from touchline.experiment.experiment import MAX_NEW_TOKENS
from touchline.experiment.read import read_experiment
from touchline.experiment.training import LORA_ALPHA_PER_RANK, LORA_RANK
from touchline.experiment.write import to_yaml, with_values
from touchline.tools.interview.answers import Defaulted, Question
from touchline.tools.interview.interview import Answer, AnswerSource, Interview, as_findings
from touchline.tools.interview.questions import QUESTIONS, open_questions, question_named

_BATCHES = (16, 8, 4, 2, 1)
_STEPS_PER_EPOCH = 20
"""Minimum steps per epoch; the batch is halved until it is reached."""
_LENGTH_STEP = 64
"""max_seq_len is rounded up to a multiple of this."""
_ANSWER_STEP = 16
"""evaluate.max_new_tokens is rounded up to a multiple of this."""


Ask = Callable[[Interview, Question, Defaulted, InputError | None], str]
"""Returns the typed answer to a question with its default, empty for the default; after an error, with that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """New experiment.yaml."""

    path: Path
    """Path of the file."""
    notes: tuple[str, ...]
    """Choices that the user should check."""
    answers: tuple[Answer, ...] = ()
    """Answers that the file was written from; none for stage configs."""
    command: str = ""
    """Command that gives the same answers; empty for stage configs."""


def start(
    target: Path | None,
    settings: UserConfig,
    *,
    given: Mapping[str, Sequence[str]],
    ask: Ask | None = None,
    replace_existing: bool = False,
) -> Start:
    """Write experiment.yaml from the answers of the interview; it is written last, after all questions.

    Args:
        target: experiment folder; None for one here with the name of the data file.
        given: answers by the names of their questions.
        ask: answers the other questions; None for their defaults.

    Raises:
        InputError: answers are wrong, with every one of them; or a question has no default.
        PolicyError: there is an experiment.yaml already.
    """
    interview = Interview(target, settings)
    try:
        _take(interview, given)
        if interview.is_folder_known:
            _refuse_existing(interview.folder, replace_existing)
        _ask_open_questions(interview, ask)
        _refuse_existing(interview.folder, replace_existing)
        return _write(interview)
    finally:
        interview.close()


def _take(interview: Interview, given: Mapping[str, Sequence[str]]) -> None:
    """Read the answers that are given, and report all wrong ones at once."""
    interview.columns_are_given = not {"input", "output"}.isdisjoint(given)
    findings: list[Finding] = []
    names = [question.name for question in QUESTIONS]
    for name in sorted(given, key=lambda name: names.index(name) if name in names else 0):
        question = question_named(name)
        try:
            _answer(interview, question, given[name], AnswerSource.FLAG)
        except InputError as error:
            findings += as_findings(error, question.flag)
    if findings:
        raise InputError(f"{plural(len(findings), 'answer')} cannot be used", findings=findings)


def _refuse_existing(folder: Path, replace_existing: bool) -> None:
    """Refuse a folder with an experiment.yaml that may not be replaced.

    Raises:
        PolicyError: it is there.
    """
    path = folder / "experiment.yaml"
    is_other = folder.exists() and not folder.is_dir()
    if is_other or (path.exists() and not replace_existing):
        raise PolicyError(
            f"{str(folder if is_other else path)!r} exists",
            expected="a new folder, or one without experiment.yaml",
            hint=f"touchline init {shlex.quote(str(folder) + '-2')}, or --replace",
        )


def _ask_open_questions(interview: Interview, ask: Ask | None) -> None:
    """Ask the open questions in order, or take their defaults."""
    while questions := open_questions(interview):
        question = questions[0]
        default = question.default(interview)
        if isinstance(default, Missing) and ask is None:
            message = f"{question.flag}: {default.missing}"
            finding = Finding(code="EX004", severity=Severity.ERROR, subject=question.flag, message=message)
            hint = f"add {question.flag} {question.metavar}"
            raise InputError("a question without a default", findings=[finding], hint=hint)
        _ask_one(interview, question, default, ask)


def _ask_one(interview: Interview, question: Question, default: Defaulted, ask: Ask | None) -> None:
    problem: InputError | None = None
    while True:
        is_asked = question.is_asked or problem is not None or isinstance(default, Missing)
        text = "" if ask is None or not is_asked else ask(interview, question, default, problem)
        try:
            if text:
                _answer(interview, question, (text,), AnswerSource.KEYBOARD)
            elif isinstance(default, Missing):
                raise InputError(default.missing)
            else:
                _answer(interview, question, default.texts or (default.text,), AnswerSource.DEFAULT, default.reason)
        except InputError as error:
            if ask is None:
                raise
            problem = error
        else:
            return


def _answer(
    interview: Interview, question: Question, texts: Sequence[str], source: AnswerSource, reason: str = ""
) -> None:
    """Read an answer and keep it.

    Raises:
        InputError: the answer is wrong; nothing is kept.
    """
    if question.key is not None and question.key in (interview.value("vary") or {}):
        raise InputError(f"{question.key} already varies", expected=f"either --vary or {question.flag}")
    value = question.parse(tuple(texts), interview)
    answer = Answer(question=question.name, flag=question.flag, texts=tuple(texts), source=source, reason=reason)
    interview.keep(answer, value)


def init_command(interview: Interview) -> str:
    """Return the command that gives the answers so far, without the defaults."""
    words = ["touchline", "init", *([] if interview.target is None else [str(interview.target)])]
    for question in QUESTIONS:
        answer = interview.answers.get(question.name)
        if answer is not None and answer.source is not AnswerSource.DEFAULT:
            words += [word for text in answer.texts for word in (answer.flag, text)]
    return " ".join(map(shlex.quote, words))


def _write(interview: Interview) -> Start:
    path = interview.folder / "experiment.yaml"
    text = _yaml(interview)
    read_experiment(text, str(path))
    interview.write_example_data()
    write_atomic(path, text)
    data, labels = interview.columns, interview.labels
    task, models = interview.value("task"), interview.models
    notes = [
        f"columns: {data.messages or f'{_listed(data.input)} -> {data.output}'}",
        f"task: {task} ({plural(len(labels), 'label') if task == 'classification' else _about_task(task)})",
        f"model: {', '.join(model.name for model in models)}",
    ]
    longest, context = interview.row_tokens[2], _context(models)
    if 0 < context < longest:
        notes.append(f"warning: the longest row has {longest:,} tokens, but the model's context is {context:,}")
    answers = tuple(interview.answers[question.name] for question in QUESTIONS if question.name in interview.answers)
    return Start(path=path, notes=tuple(notes), answers=answers, command=init_command(interview))


def _listed(columns: object) -> str:
    return columns if isinstance(columns, str) else " + ".join(columns) if isinstance(columns, tuple) else str(columns)


def _quoted(value: object) -> str:
    """Return a value as portable YAML: JSON, or a plain word."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)


_WORDS = frozenset({"y", "n", "yes", "no", "true", "false", "on", "off", "null", "nan", "inf"})


def _about_task(task: str) -> str:
    return "exact match with the answer" if task == "exact_match" else "its own scores"


def _context(models: Sequence[ModelInfo]) -> int:
    """Return the shortest context of the models; 0 if none is known."""
    return min((model.context_length for model in models if model.context_length), default=0)


def _yaml(interview: Interview) -> str:
    """Return the text of experiment.yaml: every answer, with the evidence for a default as a comment."""
    value = interview.value
    base = interview.folder.absolute()
    paths = [os.path.relpath(path.absolute(), base) for path in interview.written_data()]
    factors = {key: levels for key, levels in value("vary").items() if len(levels) > 1}
    if len(paths) > 1:
        factors["data.path"] = paths
    labels = interview.labels if value("task") == "classification" else ()
    about = f"{len(labels)} labels: {', '.join(labels)}" if labels else _about_task(value("task"))
    lines = [
        "# Experiment. All settings with their keys: `touchline plan . --show settings`.",
        "# Check and estimate it with `touchline plan`, then run it with `touchline run`.",
        f"name: {_quoted(value('name'))}",
        f"question: {interview.question}   # your question",
        f"task: {_quoted(value('task'))}   # {' '.join(about.split())}",
        _line("models", f"[{', '.join(map(_quoted, value('model')))}]", interview.reason("model")),
        *_data_lines(interview, paths[-1]),
        *_train_lines(interview),
        *_factor_lines(factors),
        _line("seeds", _flow(value("seeds")), interview.reason("seeds")),
        _line("controls", _flow(value("controls")), interview.reason("controls")),
        f"evaluate: {{epochs: last, samples: all{_answer_limit(interview)}}}",
        *_compute_lines(interview),
    ]
    fixed = {key: levels[0] for key, levels in value("vary").items() if len(levels) == 1}
    return with_values("\n".join(lines) + "\n", "experiment.yaml", fixed)


def _line(key: str, value: str, reason: str) -> str:
    return f"{key}: {value}" + (f"   # {' '.join(reason.split())}" if reason else "")


def _flow(value: object) -> str:
    """Return a value as YAML: lists in brackets, numbers that no reader takes for texts."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    return to_yaml({"x": value}).partition(": ")[2].strip() if isinstance(value, float) else _quoted(value)


def _data_lines(interview: Interview, path: str) -> Iterator[str]:
    data = interview.columns
    yield "data:"
    rows, origin = interview.split_rows("train"), interview.info.split_origin
    yield f"  path: {_quoted(path)}   # {rows:,} training rows, splits: {origin}"
    if data.messages is not None:
        yield f"  messages: {_quoted(data.messages)}   # column with the chat, whose last turn is the answer"
    else:
        yield f"  input: {_flow(data.input)}   # shown to the model as {{input}}"
        yield f"  output: {_quoted(data.output)}   # the answer to learn"
        yield '  # prompt: "Question: {input}"   # your own prompt, with any column in braces'


def _train_lines(interview: Interview) -> Iterator[str]:
    value, longest, context = interview.value, interview.row_tokens[2], _context(interview.models)
    rows = interview.split_rows("train")
    batch = next((size for size in _BATCHES if rows >= _STEPS_PER_EPOCH * size), 1)
    yield "train:"
    if value("epochs") is not None:
        yield "  " + _line("epochs", _flow(value("epochs")), interview.reason("epochs"))
    if "train.global_batch_size" not in value("vary"):
        yield f"  global_batch_size: {batch}   # {rows:,} training rows: {-(-rows // batch):,} steps per epoch"
    if "train.learning_rate" not in value("vary"):
        rate = "1e-3" if interview.has_example_data else "auto   # from a published rule, named in the plan"
        yield f"  learning_rate: {rate}"
    length = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
    length = min(length, context) if context else length
    yield f"  max_seq_len: {length}   # the longest training row has {longest} tokens"
    if value("packing") is not None:
        yield "  " + _line("packed", _quoted(value("packing")), interview.reason("packing"))
    if value("validation") is not None:
        yield f"  validate_every_steps: {value('validation')}"
    elif "validation" in interview.answers:
        yield "  # validate_every_steps: 50   # not set: the validation loss is computed at the end of each epoch"
    yield f"  # lora: {{rank: {LORA_RANK}, alpha: {LORA_RANK * LORA_ALPHA_PER_RANK}}}   # the defaults"
    if value("trainer") is not None:
        yield "  " + _line("backend", value("trainer"), interview.reason("trainer"))


def _factor_lines(factors: Mapping[str, Sequence[object]]) -> Iterator[str]:
    if factors:
        yield "factors:   # settings to compare: every combination is a run"
    else:
        yield "# factors:   # settings to compare, for example: {train.lora.rank: [8, 32]}"
    for key, levels in factors.items():
        yield f"  {key}: {_flow(levels)}"


def _answer_limit(interview: Interview) -> str:
    """Return the limit of an answer where the longest one is above the default."""
    longest = interview.answer_tokens
    return f", max_new_tokens: {-(-longest // _ANSWER_STEP) * _ANSWER_STEP}" if longest > MAX_NEW_TOKENS else ""


def _compute_lines(interview: Interview) -> Iterator[str]:
    value = interview.value
    yield "compute:"
    yield "  " + _line("executor", value("executor"), interview.reason("executor"))
    if value("gpu") is not None:
        yield "  " + _line("gpu", _quoted(value("gpu")), interview.reason("gpu"))
    if value("gpus") is not None:
        yield "  " + _line("gpus_per_run", str(value("gpus")), interview.reason("gpus"))
    yield "  # deadline: 6h   # compared with the predicted time"
