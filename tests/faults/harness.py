"""Files written into an empty folder, checked in process, as a person would call it."""

import atexit
import functools
import shutil
import tempfile
import textwrap
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

from ruamel.yaml import YAML
from tests.faults.case import BASES, base
from tests.faults.experiment_files import experiment_files
from tests.faults.page_examples import RuleExample, parts_of

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.core.finding import Finding, Severity
from touchline.core.quantity import Quantity
from touchline.data.user_config import UserConfig
from touchline.experiment.requests import CheckRequest
from touchline.lint.local import checking_experiment
from touchline.lint.local import programs as validators
from touchline.lint.rule import BROKEN_RULE


def check_files(files: Mapping[str, str], folder: Path, options: Mapping[str, Any] | None = None) -> list[Finding]:
    """Write files under a folder and check it where no trainer is installed and 1 GB of disk is free."""
    root = folder / "checked"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", errors="surrogateescape"))
    places = UserConfig(models_dir=_models(root), cache_dir=folder / "cache", history_dir=folder / "history")
    free = Quantity(value=1000, unit="MB")
    with (
        mock.patch.object(validators, "program_of", return_value=None),
        mock.patch.object(checking_experiment, "free_space", return_value=free),
    ):
        _, findings = api.check([root], places, CheckRequest(**(options or {})))
    assert [each for each in findings if each.message.startswith(BROKEN_RULE)] == []
    return findings


@functools.cache
def _tiny() -> Path:
    """A folder of models with a tiny one, `tiny`, made once."""
    folder = Path(tempfile.mkdtemp(prefix="touchline-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_tiny_model(folder / "tiny")
    return folder


def _models(root: Path) -> Path:
    """The models that lie with the files, or a tiny one that is called `tiny`."""
    return root / "models" if (root / "models").is_dir() else _tiny()


def example_files(example: RuleExample) -> tuple[dict[str, str], dict[str, Any]]:
    """The files, and the options, that an example of a rule's page stands for."""
    if example.kind == "data":
        return {"data.jsonl": example.lines + "\n"}, {}
    if example.kind == "sbatch":
        whole = example.lines.startswith("#!")
        return {"train.slurm": example.lines + "\n" if whole else _after_header(base("sbatch"), example.lines)}, {}
    if example.kind == "script":
        return {"train.slurm": example.lines.replace("\\r", "\r") + "\n"}, {}
    if example.kind == "experiment":
        return {"experiment.yaml": merged("experiment", example.lines), **experiment_files()}, {}
    if example.kind == "folder":
        parts = parts_of(example.lines)
        return {path: own if kind is None else merged(kind, own or "{}") for path, kind, own in parts}, {}
    kind, *words = example.kind.split()
    name = {"torchtune": "finetune.yaml", "peft": "finetune.yaml"}.get(kind, "config.yaml")
    options = dict(word.split("=") for word in words)
    text = example.lines if example.lines.startswith("!whole") else merged(kind, example.lines)
    return {name: text}, {key: int(value) if value.isdigit() else value for key, value in options.items()}


def _after_header(script: str, lines: str) -> str:
    """A script with lines put behind its last directive."""
    own = script.splitlines()
    last = max(index for index, line in enumerate(own) if line.startswith("#SBATCH"))
    return "\n".join([*own[: last + 1], lines, *own[last + 1 :]]) + "\n"


def codes(findings: Iterable[Finding]) -> set[str]:
    return {finding.code for finding in findings}


def errors(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is Severity.ERROR]


def merged(kind: str, lines: str) -> str:
    """The base of a kind with some lines of YAML put in, mappings merged key by key."""
    (path,) = [path for path in BASES.iterdir() if path.stem == kind]
    yaml = YAML(typ="rt")
    data = yaml.load(path.read_text(encoding="utf-8"))
    _merge(data, yaml.load(textwrap.dedent(lines)))
    stream = StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def _merge(into: Any, own: Any) -> None:
    for key, value in own.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
