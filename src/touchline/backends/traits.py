"""Behaviour of a trainer that rules depend on: `TRAITS` of a backend's `facts.py`.

A trainer without the file has the defaults: nothing about it is known that a rule could use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from touchline.core.shape import ModelShape
from touchline.experiment.foreign import ForeignDocument

_ALL_LINEAR: Final = frozenset({"all", "all-linear", "all_linear"})


def _trainer_loads(document: ForeignDocument, section: str) -> bool:
    del document, section
    return False


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerTraits:
    """Behaviour of a trainer. A field's default is that of a trainer of which nothing is known."""

    is_ours: bool = False
    """Whether it is touchline's own: one device, and steps counted in examples."""
    hf_loop: bool = False
    """Whether it trains with transformers' Trainer."""
    loop_of: str | None = None
    """The trainer whose loop it runs, with that one's batching and memory; None for a loop of its own."""

    drops_incomplete: bool = False
    """Whether an incomplete micro-batch or accumulation at the end of an epoch is dropped, not computed."""
    steps_are_simulated: bool = False
    """Whether the steps of an epoch are known only from the simulation of its packing."""
    packs: bool = True
    """Whether a setting makes it pack."""
    packing_needs: str | None = None
    """The setting of the length, without which it cannot pack; None if it has a default."""
    eager_attention_leaks: bool = False
    """Whether packed examples attend to each other with eager attention."""
    long_rows: str = "cuts them"
    """Treatment of examples longer than the limit, the end of the answer first."""
    refuses_long_rows: bool = False
    """Whether it does not start with such examples."""
    fails_beyond_context: bool = False
    """Whether it fails at rows longer than the model's context."""

    uses_default_dtype: bool = False
    """Whether the element type that a config leaves open is surely the default."""
    shards_by_itself: bool = False
    """Whether several devices share weights, gradients and optimizer states without a setting (FSDP)."""
    sharding_settings: tuple[str, ...] = ()
    """Settings that alone determine sharding; none where a launcher's config may do so."""
    stage_words: tuple[str, ...] = ()
    """Words before `stage 2` that make it a stage of sharding, not of training."""
    layer_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Its own names of layers, with those of config.json's models."""
    zero_alpha_is_default: bool = False
    """Whether an alpha of 0 stands for its default."""

    cluster_rank: int = 0
    """Rank among the trainers that `touchline init` proposes on a cluster, 1 for the first; 0: not proposed."""
    many_epochs: int | None = None
    """Epochs from which memorization goes unseen without validation. More if each leaves a checkpoint to evaluate;
    None if unknown.
    """
    validates_on_split: bool = False
    """Whether validation needs no data of its own, but takes a split of the training's dataset."""

    parent_key: str = "parent"
    """Setting for the adapter to continue from."""
    resumes_by_itself: bool = False
    """Whether it resumes from checkpoints in its output folder without a setting."""
    folder_is_chain: bool = False
    """Whether the configs of a folder are stages of one chain."""
    fewer_checkpoints: str = "save_total_limit: 2"
    """Setting that leaves fewer checkpoints."""
    smaller_checkpoints: str | None = None
    """Setting that leaves smaller checkpoints of an adapter; None if they are small already."""

    model_keys: tuple[str, ...] = ()
    """Keys with the model's name in files that its users keep next to a config."""
    own_headers: bool = False
    """Whether prompts end with headers of its own, whatever the model's template writes."""
    plain_rows: bool = False
    """Whether rows of plain text are trained on unchanged."""
    masked_end_hint: str | None = None
    """Setting that takes the loss on the end of an answer, where it is masked."""

    packing_ways: Mapping[str, str] = field(default_factory=dict)
    """Ways of packing that it uses (`train/leaks.py`), with the setting for each."""
    names_field: bool = False
    """Whether a config can name the key of a JSON object under which the rows are."""
    needs_field: bool = False
    """Whether rows under a key are found only if the config names the key."""
    loads_by_itself: Callable[[ForeignDocument, str], bool] = _trainer_loads
    """Function that returns True if the user's own code builds the dataset of a section, in any way."""
    registry: str | None = None
    """File in which datasets are registered by name."""
    registry_key: str = ""
    """Key of the folder with that file. The folder is `data` without it."""

    neutral: Mapping[str, str] = field(default_factory=dict)
    """Settings without effect on the weights, and what each changes instead: dotted keys of experiment.yaml, or the
    beginning of some with a dot behind it. A sweep over them shows no difference.
    """
    shuffles: bool = False
    """Whether the order of a file's rows is shuffled in every epoch, and so has no effect either."""

    def neutral_effect(self, key: str) -> str | None:
        """Return the effect of a setting other than on the weights. Return None if it changes the weights."""
        for known, effect in self.neutral.items():
            if key == known or (known.endswith(".") and key.startswith(known)) or key == known.removesuffix("."):
                return effect
        return None


TRAITS_UNKNOWN = TrainerTraits()


def adapted(
    shape: ModelShape, targets: tuple[str, ...] | None, names: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """Return the model's own names of the adapted layers; all layers if the config leaves them open.

    Args:
        targets: layers in the trainer's names.
        names: a trainer's own names of layers, with those of config.json's models.
    """
    own = [linear.name for linear in shape.linears]
    if not targets or _ALL_LINEAR & set(targets):
        return tuple(own)
    wanted = {name for target in targets for name in (target, *names.get(target, ()))}
    found = tuple(name for name in own if name in wanted or any(each.endswith(f".{name}") for each in wanted))
    return found or tuple(own)
