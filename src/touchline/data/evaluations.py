"""Finished evaluations of a run: eval/<task>_<checkpoint>.scores.json apart from Inspect's .eval log.

The scores file is written last, so its presence means that the evaluation is complete. An evaluation by other settings
is kept next to the first one as `<task>_<checkpoint>.<hash>`; nothing is ever replaced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from touchline.core.errors import InputError, TouchlineError
from touchline.core.files import FileCache, read_text_bounded
from touchline.core.near import drop_removed
from touchline.data.models import locate_model
from touchline.data.scores import AskedItem, EvaluationRecord, EvaluationScores
from touchline.experiment.document import parse
from touchline.experiment.evaluation import EvaluationConfig, EvaluationTask, set_stem
from touchline.experiment.tasks.protocol import SCORER_VERSION
from touchline.experiment.tasks.ready_made import TASKS, get_task
from touchline.experiment.validate import build

EVALUATION_FILE = "eval.yaml"
EVALUATIONS_FOLDER = "eval"
SCORES_SUFFIX = ".scores.json"
LOG_SUFFIX = ".eval"
_CONFIG_LIMIT_BYTES = 1 << 20
_SCORES_LIMIT_BYTES = 1 << 30
"""Size limit of a scores file, which holds the full prompt of every item."""
_KEPT_BYTES = 256 << 20
"""Scores files that stay in memory in parsed form."""
_SCORES: TypeAdapter[EvaluationScores] = TypeAdapter(EvaluationScores)


def read_evaluation_config(path: Path) -> EvaluationConfig:
    """Read a run's eval.yaml, with paths relative to the current folder.

    Raises:
        InputError: it is missing, or not such a file; with findings.
    """
    document = parse(read_text_bounded(path, _CONFIG_LIMIT_BYTES), str(path))
    drop_removed(document.data)
    config, findings = build(EvaluationConfig, document.data, document)
    if config is None:
        raise InputError(f"{str(path)!r} is not a valid eval.yaml", hint="touchline prepare", findings=findings)
    model = replace(config.model, path=locate_model(config.model.path, config.model.weights_sha256))
    return replace(
        config,
        model=model,
        data=config.data.with_files(lambda file: str(path.parent / file)),
        own=None if config.own is None else _placed(config.own, path.parent),
        tasks=tuple(_placed(task, path.parent) for task in config.tasks),
    )


def _placed(task: EvaluationTask, folder: Path) -> EvaluationTask:
    if task.file is None:
        return task
    modules = {str((folder / name).resolve()): sha256 for name, sha256 in task.modules.items()}
    return replace(task, file=str((folder / task.file).resolve()), modules=modules)


def settings_sha256(config: EvaluationConfig, task: EvaluationTask | None = None) -> str:
    """Return the hash of all settings that affect an item's score apart from the weights. Equal means comparable.

    Prompt, columns, system turn, items, decoding, task, version of the scorers; of a task's own file its hash instead
    of what concerns the dataset. Not the dataset's path or the run. A setting that came later joins in where it is not
    at its default, so that what was evaluated before stays comparable.

    Args:
        task: one of its further tasks; none: its own. On a further test set it has the hash that it would have on a
            single one, so that which set comes first changes nothing.
    """
    config, is_own, asked = config.on(task), config.asks_as_trained(task), config.resolved(task)
    data, evaluate = config.data, config.evaluate
    settings: dict[str, object] = {
        "task": asked.name,
        "scorer_version": SCORER_VERSION,
        "data_sha256": config.data_sha256,
        "columns": [data.input, data.output, data.messages],
        "prompt": data.prompt if is_own or task is None else prompt_of(config, task),
        "system": data.system,
        "samples": evaluate.samples,
        "decoding": ["greedy", evaluate.batch_size, evaluate.max_new_tokens],
        "tokenizer_sha256": config.model.tokenizer_sha256,
        "date": config.date,
    }
    if asked.is_file:
        about_data = ("data_sha256", "columns", "prompt", "system") if not asked.takes_data else ()
        settings = {key: value for key, value in settings.items() if key not in ("scorer_version", *about_data)}
        if asked.takes_data:
            settings["prompt"] = data.prompt
        settings["task_sha256"] = asked.code_sha256
    elif asked.name in TASKS and TASKS[asked.name].with_labels is not None:
        settings["labels"] = list(config.labels)
    if config.images_sha256 is not None and (asked.takes_data or not asked.is_file):
        settings["images"] = config.images_sha256
    if evaluate.temperature:
        settings["sampled"] = [evaluate.temperature, evaluate.top_p, evaluate.repeats, evaluate.seed]
    if evaluate.quantization != "none":
        settings["quantization"] = evaluate.quantization
    if evaluate.max_error_rate:
        settings["max_error_rate"] = evaluate.max_error_rate
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def prompt_of(config: EvaluationConfig, task: EvaluationTask) -> str | None:
    """Return the prompt of a built-in further task on the same items. Chats are asked unchanged."""
    unknown = config.data.messages is not None or task.is_file
    return None if unknown else get_task(task.name, config.labels).prompt


def evaluation_name(task: str, checkpoint: str, test_set: str | None = None) -> str:
    """Return the name of an evaluation's log and scores without suffix: `capitalization_epoch_0`, of a test set with a
    name `capitalization-9L_epoch_0`."""
    return f"{set_stem(task, test_set)}_{checkpoint}"


def evaluation_key(settings: str, base: str, adapter: str | None) -> str:
    """Return a short hash of settings and weights that identifies an evaluation of one task and checkpoint."""
    return hashlib.sha256("\n".join((settings, base, adapter or "")).encode()).hexdigest()[:8]


def scores_path(record: EvaluationRecord) -> str:
    """Return the path of a record, relative to its run's folder."""
    return f"{EVALUATIONS_FOLDER}/{record.log.removesuffix(LOG_SUFFIX)}{SCORES_SUFFIX}"


def read_evaluations(run_folder: Path) -> list[EvaluationRecord]:
    """Return the evaluations in a run's folder by file name. Those without a valid scores file and log are skipped."""
    folder = run_folder / EVALUATIONS_FOLDER
    if not folder.is_dir():
        return []
    found = (read_evaluation(path) for path in sorted(folder.glob(f"*{SCORES_SUFFIX}")))
    return [record for record in found if record is not None]


def question_of(turns: Sequence[tuple[str, str]]) -> str:
    """Return the question of an item: the text of its last user turn, or of all turns if it has none."""
    asked = [text for role, text in turns if role == "user"]
    return asked[-1] if asked else "\n".join(text for _, text in turns)


def read_asked(run_folder: Path, record: EvaluationRecord) -> dict[str, AskedItem]:
    """Read the items of an evaluation as asked, by id. Empty if its scores file does not hold them."""
    found = _read_scores(run_folder / scores_path(record))
    return {} if found is None else found[1]


def scores_json(scores: EvaluationScores) -> bytes:
    """Return the content of a scores file."""
    return _SCORES.dump_json(scores, indent=1)


def finished_evaluation(
    run_folder: Path, config: EvaluationConfig, checkpoint: str, adapter_sha256: str | None
) -> EvaluationRecord | None:
    """Return the evaluation of a checkpoint on the run's own task, if all requested tasks are complete with these
    settings, base model and adapter."""
    if any(finished_task(run_folder, config, task, checkpoint, adapter_sha256) is None for task in config.tasks):
        return None
    return finished_task(run_folder, config, None, checkpoint, adapter_sha256)


def finished_task(
    run_folder: Path,
    config: EvaluationConfig,
    task: EvaluationTask | None,
    checkpoint: str,
    adapter_sha256: str | None,
) -> EvaluationRecord | None:
    """Return the evaluation of a checkpoint on one task, or on the run's own for `None`."""
    name = evaluation_name(config.resolved(task).name, checkpoint, config.set_of(task))
    key = evaluation_key(settings_sha256(config, task), config.model.weights_sha256, adapter_sha256)

    def is_wanted(record: EvaluationRecord | None) -> bool:
        return record is not None and record.checkpoint == checkpoint and _answers(record, config, task, adapter_sha256)

    for stem in (name, f"{name}.{key}"):
        record = read_evaluation(run_folder / EVALUATIONS_FOLDER / f"{stem}{SCORES_SUFFIX}")
        if is_wanted(record):
            return record
    # Sets may have got their names, or others, or lost them, after this one was evaluated.
    return next((record for record in read_evaluations(run_folder) if is_wanted(record)), None)


def current_evaluation(
    record: EvaluationRecord, config: EvaluationConfig, adapter_sha256: str | None
) -> EvaluationRecord | None:
    """Return a record under the name that its test set has now; None if it is not of a requested task and set.

    Equal settings, base model and adapter decide. A test set may have got another name or place since.
    """
    for task in (None, *config.tasks):
        if _answers(record, config, task, adapter_sha256):
            test_set = config.set_of(task)
            return record if record.test_set == test_set else replace(record, test_set=test_set)
    return None


def is_current(record: EvaluationRecord, config: EvaluationConfig, adapter_sha256: str | None) -> bool:
    """Return True if a record is of a requested task, with these settings, base model and adapter."""
    return current_evaluation(record, config, adapter_sha256) is not None


def _answers(
    record: EvaluationRecord, config: EvaluationConfig, task: EvaluationTask | None, adapter_sha256: str | None
) -> bool:
    return (
        record.task == config.resolved(task).name
        and record.settings_sha256 == settings_sha256(config, task)
        and record.base_sha256 == config.model.weights_sha256
        and record.adapter_sha256 == adapter_sha256
    )


def is_earlier(record: EvaluationRecord, config: EvaluationConfig, adapter_sha256: str | None) -> bool:
    """Return True if a record is of these weights, but with other settings or a task no longer requested."""
    same_weights = record.base_sha256 == config.model.weights_sha256 and record.adapter_sha256 == adapter_sha256
    return same_weights and not is_current(record, config, adapter_sha256)


def read_evaluation(path: Path) -> EvaluationRecord | None:
    """Read one scores file. None if it is corrupt or its log is missing."""
    record = read_scores(path)
    # Only a file name: a record must not lead to a log elsewhere.
    whole = record is not None and Path(record.log).name == record.log and (path.parent / record.log).is_file()
    return record if whole else None


def read_scores(path: Path) -> EvaluationRecord | None:
    """Read one scores file, with or without its log. None if it is corrupt."""
    found = _read_scores(path)
    return None if found is None else found[0]


def _parse_scores(path: Path) -> tuple[EvaluationRecord, dict[str, AskedItem]] | None:
    """Return the record of a scores file and its items as asked; None if it is broken."""
    try:
        scores = _SCORES.validate_json(read_text_bounded(path, _SCORES_LIMIT_BYTES), strict=True)
    except (TouchlineError, ValidationError):
        return None
    members = {field.name: getattr(scores, field.name) for field in fields(EvaluationRecord)}
    return EvaluationRecord(**members), scores.asked


_read_scores = FileCache(_parse_scores, _KEPT_BYTES)
