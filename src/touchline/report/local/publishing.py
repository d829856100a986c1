"""Publishing of a run: a folder for the Hugging Face Hub with a verified checkpoint and its model card; no upload.

What names this machine or its user is replaced in known keys of a config file, and refused anywhere else.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from touchline.core.errors import InputError, PolicyError, quoted
from touchline.core.files import disk_errors, read_bytes, read_json_object, remove_temporaries, write_atomic
from touchline.core.units import plural
from touchline.data.checkpoints import read_export_marker, read_training_marker, training_complete
from touchline.data.metrics import ExportMarker
from touchline.data.metrics_file import METRICS, read_metrics
from touchline.data.public import is_hub_id, known_hub_id
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.report.model_card import CARD, CardInputs, model_card, slug
from touchline.results.checkpoint_folder import STAGE_FILE
from touchline.results.collect import collect_results
from touchline.results.scored import analyses, checkpoint_scores
from touchline.results.verification import verify_checkpoint
from touchline.run.folders import ExperimentFolder
from touchline.run.loaded_plan import one_run

PUBLISHED = "published"  # Default folder of published runs in the experiment
WEIGHTS = ".safetensors"
_BASE_KEYS = frozenset({"base_model_name_or_path", "_name_or_path", "name_or_path"})
"""Keys of config files that hold the base model's folder."""
_CONFIG_LIMIT_BYTES = 64 << 20
_HOME = re.compile(r"(?:/home/|/Users/|/root/|[A-Za-z]:\\+Users\\+)[\w.-]+")  # Path of a home folder
_TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,})\b")
"""Access tokens by their form."""
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY|CREDENTIAL", re.IGNORECASE)
_SECRET_CHARACTERS = 12  # Length of the shortest value of such a variable that is looked for
_COMMON = frozenset({"root", "user", "admin", "ubuntu", "localhost", "model", "train", "test", "data"})
"""Names of users and hosts that are ordinary words."""
_VOCABULARY = frozenset({"tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"})
"""Files whose words are those of a tokenizer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """Published run."""

    schema_version: int = 1
    """Version of this format."""
    experiment: str
    """Name of the experiment."""
    run: str
    """Name of the run."""
    checkpoint: str
    """Name of the published checkpoint."""
    folder: str
    """Folder with the files."""
    files: tuple[str, ...]
    """Names of the files."""
    base_model: str
    """Id of the base model on the Hub, or its name."""
    scores: int
    """Number of scores in the card."""
    command: str
    """Command that uploads the folder, quoted for a shell. It was not executed."""
    notes: tuple[str, ...]
    """Notes for the user."""


def publish_run(
    source: Path,
    run: str | None,
    settings: UserConfig,
    *,
    out: Path | None = None,
    checkpoint: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
) -> Published:
    """Write the folder of a run for the Hub, as `touchline.api.publish` says."""
    folder, plan, planned = one_run(source, run)
    if base_model is not None and not is_hub_id(base_model):
        raise InputError(f"--base-model {base_model!r} is not an id on the Hub", expected="ORGANIZATION/NAME")
    strategy = folder.strategy()
    cut = strategy.cut.get(planned.name)
    name, marker = _checkpoint(folder, planned, checkpoint, cut)
    verified = verify_checkpoint(plan, planned, folder.run(planned.name) / name)
    if not verified.sound:
        faults = "; ".join(f"{fault.file or name}: {fault.message}" for fault in verified.faults)
        raise PolicyError(
            f"checkpoint {name} of {planned.name} is not valid: {faults}",
            expected="files whose hashes are those of touchline.json",
            hint=f"touchline report {quoted(str(folder.root))} --deep",
        )
    target = out or folder.root / PUBLISHED / planned.name
    model = plan.models[planned.model]
    known = known_hub_id(planned.model, model.path) or known_hub_id(model.name, model.path)
    base = base_model or known or PurePath(model.name).name
    results = collect_results(plan, folder.root)
    result = next(each for each in results if each.name == planned.name)
    card = CardInputs(
        plan=plan,
        run=planned,
        result=result,
        marker=marker,
        name=name,
        metrics=read_metrics(folder.run(planned.name) / METRICS),
        scores=checkpoint_scores(result, name),
        analyses=analyses(results, plan.factors),
        is_chosen=planned.name in strategy.chosen,
        base=base,
        license=license,
    )
    place = folder.run(planned.name) / name
    texts = _texts(place, marker, base) | {CARD: model_card(card)}
    _refuse_leaks(texts, _hidden(folder, plan, settings))
    _write(target, place, marker, texts)
    repo = f"YOUR-NAME/{slug(plan.experiment)}-{slug(planned.name)}"
    return Published(
        experiment=plan.experiment,
        run=planned.name,
        checkpoint=name,
        folder=str(target),
        files=tuple(sorted(path.name for path in target.iterdir())),
        base_model=base,
        scores=len(card.scores),
        command=shlex.join(["hf", "upload", repo, str(target), ".", "--private"]),
        notes=tuple(_notes(card)),
    )


def _checkpoint(
    folder: ExperimentFolder, run: PlannedRun, wanted: str | None, cut_after_step: int | None
) -> tuple[str, ExportMarker]:
    place = folder.run(run.name)
    if run.train is None:
        raise InputError(f"{run.name} is a control without weights of its own", expected="a fine-tuned run")
    if cut_after_step is not None or not training_complete(place, run.digest):
        why = f"the training of {run.name} is not finished"
        if cut_after_step is not None:
            why = f"{run.name} was cut after step {cut_after_step:,} by the strategy: its training was not finished"
        expected = "a run whose training is complete and whose last checkpoint exists"
        raise PolicyError(why, expected=expected, hint=f"touchline status {quoted(str(folder.root))}")
    training = read_training_marker(place)
    kept = () if training is None else training.checkpoints
    name = wanted or kept[-1]
    marker = read_export_marker(place / PurePath(name).name)
    if marker is None or name != PurePath(name).name:
        raise InputError(f"{run.name} has no checkpoint {name!r}", expected=f"one of {', '.join(kept)}")
    return name, marker


def _notes(card: CardInputs) -> Iterator[str]:
    if not is_hub_id(card.base):
        yield f"the base model's id on the Hub is not known: the card has {card.base}; --base-model ORG/NAME states it"
    if card.license is None:
        yield "no license was stated: --license ID puts it into the card"
    if not card.scores:
        yield f"{card.name} is not evaluated: the card says so, and has no model-index"
    yield "replace YOUR-NAME by your name on the Hub"


def _names(marker: ExportMarker) -> list[str]:
    return sorted(name for name in marker.files if name != STAGE_FILE and PurePath(name).name == name)


def _texts(checkpoint: Path, marker: ExportMarker, base: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in (name for name in _names(marker) if not name.endswith(WEIGHTS)):
        with suppress(UnicodeDecodeError):
            found[name] = read_bytes(checkpoint / name, _CONFIG_LIMIT_BYTES).decode()
        content = read_json_object(checkpoint / name, _CONFIG_LIMIT_BYTES) if name.endswith(".json") else None
        named = {key: base for key in _BASE_KEYS if isinstance((content or {}).get(key), str)}
        if content is not None and named and name not in _VOCABULARY:
            found[name] = json.dumps(content | named, indent=2, ensure_ascii=False) + "\n"
    return found


def _write(target: Path, checkpoint: Path, marker: ExportMarker, texts: Mapping[str, str]) -> None:
    """Write the folder beside its place and rename it, so that it is whole or not there."""
    if target.exists() or target.is_symlink():
        expected = "a folder that does not exist, so that nothing of it is overwritten"
        raise PolicyError(f"{str(target)!r} exists", expected=expected, hint="choose another one with --out")
    temporary = target.parent / f".{target.name}.publishing"
    with disk_errors("folder", target):
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
        for name in (name for name in _names(marker) if name not in texts):
            try:
                # Weights are never written again; on another disk they are copied.
                (temporary / name).hardlink_to((checkpoint / name).resolve())
            except OSError:
                shutil.copyfile(checkpoint / name, temporary / name)
        for name, text in texts.items():
            write_atomic(temporary / name, text)
        remove_temporaries(temporary, texts)
        temporary.rename(target)


def _hidden(folder: ExperimentFolder, plan: Plan, settings: UserConfig) -> dict[str, str]:
    folders = [str(Path.home()), str(folder.root), str(settings.models_dir), str(settings.cache_dir)]
    folders += [model.path for model in plan.models.values()]
    files = [PurePath(file.path) for info in plan.datasets.values() for file in info.all_files]
    folders += [str(file.parent) for file in files if file.is_absolute()]
    found = {path: "a folder of this machine" for path in folders if len(PurePath(path).parts) > 2}
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SECRET_CHARACTERS and not value.startswith("/"):
            found[value] = f"the value of {name}"
    return found


def _refuse_leaks(texts: Mapping[str, str], hidden: Mapping[str, str]) -> None:
    """Refuse files that name this machine, its user or a secret, which is not repeated."""
    names = {socket.gethostname(): "the name of this host"}
    with suppress(OSError, KeyError):
        names[getpass.getuser()] = "the name of this user"
    leaks = []
    for file, text in texts.items():
        found = [what for value, what in hidden.items() if value in text]
        found += ["an access token"] if _TOKEN.search(text) else []
        # A vocabulary may hold any word.
        if file not in _VOCABULARY and not file.endswith(".jinja"):
            found += ["a home folder"] if _HOME.search(text) else []
            for name, what in names.items():
                is_own = len(name) > 2 and name not in _COMMON
                found += [what] if is_own and re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) else []
        leaks += [f"{file} holds {found[0]}"] if found else []
    if leaks:
        raise PolicyError(
            f"{plural(len(leaks), 'file')} would be published with private text: {'; '.join(leaks)}",
            expected="no folder, user, host or token of this machine in what is published",
            hint="take it out of the question, the overrides or the checkpoint's file, then publish again",
        )
