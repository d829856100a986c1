"""Finished evaluations of a run: eval/*.scores.json beside the genuine .eval logs, and whether they still apply."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from touchline.domain.evaluation import EvaluationConfig
from touchline.domain.results import EvaluationRecord
from touchline.tasks.protocol import SCORER_VERSION

_RECORD = TypeAdapter(EvaluationRecord)
_CONFIG = TypeAdapter(EvaluationConfig)
_LIMIT_BYTES = 1 << 30


def settings_sha256(config: EvaluationConfig) -> str:
    """Hash of everything but the weights that decides on the scores: equal means comparable."""
    whole = json.loads(_CONFIG.dump_json(config))
    data = {**whole["data"], "path": ""}
    evaluate = {key: whole["evaluate"][key] for key in ("samples", "batch_size", "max_new_tokens")}
    identity = [SCORER_VERSION, config.task, data, config.data_sha256, evaluate, config.model.tokenizer_sha256, "greedy"]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def read_evaluations(run_folder: Path) -> list[EvaluationRecord]:
    """Every finished evaluation of a run, by checkpoint; a file that cannot be read is none."""
    found: list[EvaluationRecord] = []
    for path in sorted((run_folder / "eval").glob("*.scores.json")):
        try:
            if path.stat().st_size <= _LIMIT_BYTES:
                found.append(_RECORD.validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue
    return found


def finished_evaluation(
    run_folder: Path, config: EvaluationConfig, checkpoint: str, adapter_sha256: str | None
) -> EvaluationRecord | None:
    """The evaluation of exactly this checkpoint with exactly these settings, whose log is still there."""
    for record in read_evaluations(run_folder):
        if (
            record.checkpoint == checkpoint
            and record.adapter_sha256 == adapter_sha256
            and record.base_sha256 == config.model.weights_sha256
            and record.settings_sha256 == settings_sha256(config)
            and (run_folder / "eval" / record.log).is_file()
        ):
            return record
    return None
