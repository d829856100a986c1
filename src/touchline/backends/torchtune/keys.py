"""Keys and components of a torchtune config: what is misspelt or missing.

Recipes read what they need and leave the rest, so an unknown key at the top says nothing unless it looks like one that
is not there. A component takes only its own arguments: `tune validate` refuses the others, at the top of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from touchline.backends.fields import dotted, new_key, new_value, shown
from touchline.backends.interpolation import is_known
from touchline.backends.torchtune.components import (
    OTHERS,
    RELEASED,
    Component,
    component,
    is_family,
    nearest_component,
    recipe_keys,
)
from touchline.backends.torchtune.config import COMPONENT
from touchline.backends.torchtune.reading import Config, Path
from touchline.core.finding import Finding, Severity
from touchline.core.near import misspelled

NEEDED = (
    *("output_dir", "model", "tokenizer", "checkpointer", "resume_from_checkpoint", "dataset", "seed", "shuffle"),
    *("batch_size", "optimizer", "loss", "epochs", "max_steps_per_epoch", "gradient_accumulation_steps"),
    *("metric_logger", "device", "dtype"),
)
"""Keys without a default in every recipe of supervised training, DPO and distillation, in all versions."""
_OTHER_RECIPE = 3
"""So many missing keys are no slip but another recipe."""
REINFORCEMENT = frozenset({"policy_model", "ppo_epochs", "ppo_batch_size", "grpo_samples", "num_steps"})
"""Keys of recipes that generate rows while they train."""
_SEVERAL = frozenset({"datasets", "dataloader"})
_OPTIONAL = frozenset({"enable_activation_checkpointing", "compile", "lr_scheduler", "clip_grad_norm"})
LOADING = frozenset(
    {
        *("data_files", "data_dir", "name", "field", "split", "revision", "streaming", "cache_dir", "num_proc"),
        *("token", "trust_remote_code", "download_mode", "verification_mode", "keep_in_memory", "features", "sep"),
        *("delimiter", "column_names", "names", "save_infos", "storage_options", "download_config", "encoding"),
    }
)
"""Arguments of datasets.load_dataset and its local-file builders, besides a dataset's own."""


def is_training(data: Mapping[str, object]) -> bool:
    """Return True if a config is of a training, not of an evaluation, a generation or a quantization."""
    return bool({"optimizer", "epochs", "gradient_accumulation_steps", "dataset", "datasets"} & data.keys())


def is_reinforcement(data: Mapping[str, object]) -> bool:
    """Return True if rows are generated during training, by PPO or GRPO."""
    return bool(REINFORCEMENT & data.keys())


def key_findings(config: Config) -> Iterator[Finding]:
    """Yield the findings of the top-level keys."""
    present = config.data.keys()
    known = recipe_keys() | {*NEEDED, *_OPTIONAL}
    meant: set[str] = set()
    for key in present - known:
        near = misspelled(key, known, present)
        if near is not None:
            meant.add(near)
            yield config.finding(
                "BK011",
                (key,),
                f"{key}: no recipe reads this key, so it does nothing",
                f"did you mean {near!r}?",
                edits=new_key(config.document, (key,), near),
            )
    if is_training(config.data) and not is_reinforcement(config.data):
        yield from _missing(config, meant)


def _missing(config: Config, meant: set[str]) -> Iterator[Finding]:
    several = bool(_SEVERAL & config.data.keys())
    gone = [
        key
        for key in NEEDED
        if key not in config.data and key not in meant and not (several and key in ("dataset", "shuffle"))
    ]
    if len(gone) >= _OTHER_RECIPE:
        yield config.finding(
            "BK013",
            (),
            f"not of a recipe that comes with torchtune: {', '.join(gone)} are missing",
            severity=Severity.INFO,
        )
        return
    for key in gone:
        yield config.finding(
            "BK013", (key,), f"{key} is missing; the recipe reads it without a default", f"write `{key}: ...`"
        )


def component_findings(config: Config) -> Iterator[Finding]:
    """Yield the findings of the components and their arguments."""
    for path, section in config.components():
        named = section[COMPONENT]
        place = (*path, COMPONENT)
        if not is_known(named):
            continue
        if not isinstance(named, str) or not all(part.isidentifier() for part in named.split(".")):
            yield config.finding(
                "BK018", place, f"{dotted(place)}: {shown(named)} is no dotted name of a function or class"
            )
        elif named.startswith("torchtune.") and "._" not in named:
            found = component(named)
            if found is None:
                yield from _unknown(config, place, named)
            else:
                yield from _arguments(config, path, section, found)


def _unknown(config: Config, place: Path, named: str) -> Iterator[Finding]:
    near = nearest_component(named)
    if near is not None:
        yield config.finding(
            "BK018",
            place,
            f"torchtune has no {named}",
            f"did you mean {near}?",
            edits=new_value(config.document, place, near),
        )
        return
    # Forks put components of their own under torchtune's name; into a model's folder they hardly ever do.
    severity = Severity.WARNING if is_family(named) else Severity.INFO
    yield config.finding(
        "BK018", place, f"torchtune 0.1 to {RELEASED} has no {named}; not checked further", severity=severity
    )


def _arguments(config: Config, path: Path, section: Mapping[str, object], found: Component) -> Iterator[Finding]:
    loads = found.path.startswith("torchtune.datasets.") and found.takes_others
    known = (found.arguments - {OTHERS}) | (LOADING if loads else frozenset())
    for name in section.keys() - known - {COMPONENT}:
        near = misspelled(name, known, section.keys())
        place = (*path, name)
        if near is None and found.takes_others:
            continue
        yield config.finding(
            "BK011",
            place,
            f"{dotted(place)}: {found.path} has no argument {name!r}",
            f"did you mean {near!r}?" if near else f"it takes {', '.join(sorted(known))}",
            edits=() if near is None else new_key(config.document, place, near),
        )
