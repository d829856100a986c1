"""Scores of lm-evaluation-harness on one checkpoint, in a separate process.

The harness usually needs its own environment, because it brings hundreds of megabytes of packages; it is found by
TOUCHLINE_LM_EVAL_PYTHON, beside this interpreter, or on PATH. It runs offline: the data of the tasks must be on this
machine. Its output is kept unchanged.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

from touchline.core.errors import HostError, RunsFailedError
from touchline.core.files import disk_errors, inside, open_regular, write_atomic
from touchline.data.benchmarks import (
    GENERAL_FOLDER,
    MARKER_SUFFIX,
    GeneralMarker,
    finished_general,
    general_marker_text,
    general_settings_sha256,
)
from touchline.data.worker import OFFLINE, QUIET
from touchline.evaluate.children import run_program
from touchline.evaluate.job import EvaluationJob, resolve_job, say
from touchline.evaluate.weights import pick_device, pick_dtype
from touchline.experiment.experiment import GeneralConfig

LM_EVAL_PYTHON = "TOUCHLINE_LM_EVAL_PYTHON"
"""Environment variable with the interpreter of an environment that has the harness."""
LOG_NAME = "lm_eval.log"
_PROGRAM = "lm_eval"
_OFFLINE_DATA = {"HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "WANDB_API_KEY")
_TAIL_BYTES = 4096


def harness_program() -> Path | None:
    """Return the harness command; None if it is not installed."""
    named = os.environ.get(LM_EVAL_PYTHON)
    if named:
        beside = Path(named).expanduser().parent / _PROGRAM
        return beside.absolute() if os.access(beside, os.X_OK) else None
    found = shutil.which(_PROGRAM, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    return None if found is None else Path(found).absolute()


def score_general(experiment: Path, run: str, checkpoint: str, dtype: str, scratch: Path) -> None:
    """Score a checkpoint with the harness, unless it is not configured or already done.

    Args:
        experiment: experiment folder and working directory, so that tasks may name files in it.
        run: run name.
        checkpoint: checkpoint name.
        dtype: dtype: auto, float32 or bfloat16.
        scratch: scratch folder of this process.

    Raises:
        HostError: the harness is not installed.
        RunsFailedError: it ended with an error.
        TouchlineError: the checkpoint is missing, or differs from the plan.
    """
    job = resolve_job(inside(experiment, run), checkpoint)
    general = job.config.evaluate.general
    if general is None or finished_general(job.folder, job.config, checkpoint, job.adapter_sha256):
        return
    settings = general_settings_sha256(job.config, experiment)
    program = harness_program()
    if program is None:
        raise HostError(
            "evaluate.general asks for lm-evaluation-harness, and its command lm_eval is not here",
            expected=f"lm_eval beside this Python or on the path, or {LM_EVAL_PYTHON} with another environment's",
            hint="python -m venv lm-eval && lm-eval/bin/pip install 'lm-eval[hf]==0.4.13'",
        )
    say(f"{run} {checkpoint}: general ability: {', '.join(general.tasks)}")
    work = scratch / f"{GENERAL_FOLDER}-{run}-{checkpoint}"
    begun = time.monotonic()
    written = _run(program, job, general, experiment, work, dtype)
    _publish(job, written, settings, time.monotonic() - begun)
    say(f"{run} {checkpoint}: general ability: scored")


def _run(program: Path, job: EvaluationJob, general: GeneralConfig, experiment: Path, work: Path, dtype: str) -> Path:
    """Run the harness. Return its results file.

    Raises:
        RunsFailedError: it ended with an error, or wrote no results.
    """
    with disk_errors("folder", work):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
    config = work / "config.json"
    # A file, and not the command line: there a comma in a path would begin another setting.
    write_atomic(config, json.dumps(_config(job, general, experiment, work / "out", dtype), indent=1))
    environment = {key: value for key, value in os.environ.items() if key not in (*_SECRETS, "PYTHONPATH")}
    log = work / LOG_NAME
    try:
        code = run_program(
            [str(program), "run", "--config", str(config)],
            folder=experiment,
            environment=environment | OFFLINE | QUIET | _OFFLINE_DATA,
            log=log,
        )
    except OSError as error:
        raise HostError(f"{str(program)!r} could not be started: {error.strerror}") from None
    found = sorted((work / "out").glob("*/results_*.json"))
    if code != 0 or len(found) != 1:
        last_line = _last_line(log)
        raise RunsFailedError(f"lm_eval ended with code {code}{f': {last_line}' if last_line else ''}")
    log.replace(found[0].parent / LOG_NAME)
    return found[0]


def _config(job: EvaluationJob, general: GeneralConfig, experiment: Path, out: Path, dtype: str) -> dict[str, object]:
    """Return the harness configuration; remote code is never enabled."""
    place = pick_device("auto")
    model: dict[str, object] = {"pretrained": job.checkpoint.model.path, "dtype": pick_dtype(dtype, place).dtype}
    if job.config.gpus > 1 and place.type == "cuda":
        # The harness divides the layers among all visible GPUs.
        model["parallelize"] = True
    if job.checkpoint.adapter is not None:
        model["peft"] = str(job.checkpoint.adapter)
    config: dict[str, object] = {
        "model": "hf",
        "model_args": model,
        "tasks": list(general.tasks),
        "batch_size": job.config.evaluate.batch_size,
        "device": str(place),
        "output_path": str(out),
        "log_samples": True,
        "apply_chat_template": general.chat_template,
    }
    if general.include_path is not None:
        config["include_path"] = str(experiment / general.include_path)
    if general.limit is not None:
        config["limit"] = general.limit
    if general.num_fewshot is not None:
        config["num_fewshot"] = general.num_fewshot
    return config


def _publish(job: EvaluationJob, results: Path, settings: str, seconds: float) -> None:
    """Move the output into the run folder, then write its marker."""
    folder = inside(job.folder, GENERAL_FOLDER)
    place, marker = inside(folder, job.name), folder / f"{job.name}{MARKER_SUFFIX}"
    with disk_errors("folder", folder):
        folder.mkdir(exist_ok=True)
        # Old words beside new scores would be a lie; without them it is scored again.
        marker.unlink(missing_ok=True)
        if place.is_dir():
            shutil.rmtree(place)
        results.parent.replace(place)
    text = general_marker_text(
        GeneralMarker(
            run=job.config.run,
            checkpoint=job.name,
            adapter_sha256=job.adapter_sha256,
            base_sha256=job.config.model.weights_sha256,
            settings_sha256=settings,
            results=results.name,
            seconds=seconds,
        )
    )
    write_atomic(marker, text)


def _last_line(log: Path) -> str:
    """Return the last output line, which is the message of an exception."""
    try:
        with open_regular(log) as stream:
            stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = stream.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip()[:300] if lines else ""
