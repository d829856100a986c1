"""Facts about a trainer in its folder's `__init__.py`: `TRAITS`, the behaviour that rules depend on, and `MEMORY`.

A trainer without traits has the defaults: nothing about it is known that a rule could use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from touchline.core.estimate import Dtype
from touchline.core.shape import ModelShape
from touchline.experiment.foreign import ForeignDocument


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseLoss:
    """Logit storage of a trainer's releases, up to and including one."""

    before: tuple[int, ...]
    """The first release for which this no longer holds; empty: the newest."""
    typical: float
    """Bytes per token and vocabulary entry."""
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryCoefficients:
    """Storage of logits, keys and values, and adapters by a trainer."""

    vocab_bytes: float
    """Bytes per token and vocabulary entry at the peak, logits and their gradient together."""
    vocab_bytes_low: float
    vocab_bytes_high: float
    logits_of: Literal["padded", "label"]
    """Tokens with logits: all, or those with a label."""
    expands_kv: bool
    """Whether keys and values are held as wide as the queries, whatever the batch."""
    adapter_dtype: Dtype
    """Element type of adapters unless a setting gives it."""
    master_weights: bool
    """Whether a float32 copy of trained bfloat16 weights is kept."""
    source: str
    float32_adapters: Literal["promoted", "autocast", "autocast_shared"] = "autocast"
    """Handling of a float32 adapter on a 16-bit base. Promoted: without autocast, each adapted layer keeps its input in
    float32. Autocast: PEFT casts up and down again, so each layer keeps its own 16-bit copy. Shared: autocast alone
    casts, and layers with the same input share the copy.
    """
    nf4_upcasts: bool | None = False
    """Whether QLoRA turns norms, embeddings and head to float32 (`prepare_model_for_kbit_training`), and with them the
    stream of activations; none: that depends on the version, and counts in the interval's upper end only."""
    nf4_double_quant: bool = False
    nf4_input_bytes: float = 0.0
    """Bytes per element of the inputs that 4-bit layers keep for the backward pass; bitsandbytes' layers once did."""
    keeps_dequantised: bool = False
    """Whether the buffer in which 4-bit matrices are turned back to 16 bits stays."""
    fused_layers: bool = False
    """Whether kernels of its own compute norms and feed-forward parts, and so keep less for the backward pass."""
    rope_table: bool = False
    """Whether sines and cosines are held for every position of the context, in float32."""
    offloads_checkpoints: bool = False
    activation_factor: float = 1.0
    """Ratio of the memory kept per block to the formula's value, measured where the code differs."""
    relative_error: float | None = None
    """Standard deviation of the logarithm of measured over computed activations, where this stack was measured; none:
    the formula's own."""
    masks_expand_kv: bool = False
    """Whether keys and values are held as wide as the queries where rows are padded: transformers leaves grouped heads
    to the kernel only where there is no mask."""
    fused_qkv: bool = False
    """Whether queries, keys and values come from one layer with one adapter, whose result is padded with zeros where
    not all three are adapted, and is held whole by the values where nothing is expanded."""
    eager_families: tuple[str, ...] = ()
    """Values of `model_type` whose attention it computes with whole scores, as scores that are capped need."""
    unties: bool = False
    """Whether the output layer is a copy of the embedding, also where the model ties them."""
    quantises_head: bool = False
    dropout: float = 0.0
    whole_ends: bool = False
    """Whether embedding and output layer, where an adapter names them, are trained whole, in float32."""
    logits_at_once: int | None = None
    """Label tokens times vocabulary entries that have logits at once where the head is frozen; None: all of them."""
    releases: tuple[ReleaseLoss, ...] = ()
    """Loss computation in earlier releases, oldest first. `vocab_bytes` counts if the release is unknown."""
    own_release: str | None = None
    """Oldest release that touchline's own program of this trainer takes, where releases differ."""
    dynamic_extra: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Bytes per parameter that a 4-bit base stored by Unsloth takes more: typical, lowest, highest."""
    reserves: tuple[float, float, float] | None = None
    """Reserved over allocated memory, where this trainer differs from others: typical, lowest, highest."""


_ALL_LINEAR: Final = frozenset({"all", "all-linear", "all_linear"})


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerTraits:
    """Behaviour of a trainer. A field's default is that of a trainer of which nothing is known."""

    is_ours: bool = False
    """Whether it is touchline's own: one device, and steps counted in examples."""
    hf_loop: bool = False
    loop_of: str | None = None
    """The trainer whose loop it runs, with that one's batching and memory; None for a loop of its own."""

    drops_incomplete: bool = False
    """Whether an incomplete micro-batch or accumulation at the end of an epoch is dropped, not computed."""
    steps_are_simulated: bool = False
    """Whether the steps of an epoch are known only from the simulation of its packing."""
    packs: bool = True
    packing_needs: str | None = None
    """The setting of the length, without which it cannot pack; None if it has a default."""
    eager_attention_leaks: bool = False
    long_rows: str = "cuts them"
    refuses_long_rows: bool = False
    fails_beyond_context: bool = False

    uses_default_dtype: bool = False
    """Whether the element type that a config leaves open is known to be the default."""
    shards_by_itself: bool = False
    """Whether several devices share weights, gradients and optimizer states without a setting (FSDP)."""
    sharding_settings: tuple[str, ...] = ()
    """Settings that alone determine sharding; none where a launcher's config may do so."""
    stage_words: tuple[str, ...] = ()
    """Words before `stage 2` that make it a stage of sharding, not of training."""
    layer_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Its own names of layers, with those of config.json's models."""
    zero_alpha_is_default: bool = False

    cluster_rank: int = 0
    """Rank among the trainers that `touchline init` proposes on a cluster, 1 for the first; 0: not proposed."""
    many_epochs: int | None = None
    """Epochs from which memorization goes unseen without validation. More if each leaves a checkpoint to evaluate;
    None if unknown.
    """
    validates_on_split: bool = False
    """Whether validation needs no data of its own, but takes a split of the training's dataset."""

    parent_key: str = "parent"
    resumes_by_itself: bool = False
    """Whether it resumes from checkpoints in its output folder without a setting."""
    folder_is_chain: bool = False
    fewer_checkpoints: str = "save_total_limit: 2"
    smaller_checkpoints: str | None = None
    """Setting that leaves smaller checkpoints of an adapter; None if they are small already."""

    model_keys: tuple[str, ...] = ()
    """Keys with the model's name in files that its users keep next to a config."""
    own_headers: bool = False
    """Whether prompts end with headers of its own, whatever the model's template writes."""
    plain_rows: bool = False
    masked_end_hint: str | None = None
    """Setting that takes the loss on the end of an answer, where it is masked."""

    packing_ways: Mapping[str, str] = field(default_factory=dict)
    """Ways of packing that it uses (`train/leaks.py`), with the setting for each."""
    names_field: bool = False
    """Whether a config can name the key of a JSON object under which the rows are."""
    needs_field: bool = False
    """Whether rows under a key are found only if the config names the key."""
    loads_by_itself: Callable[[ForeignDocument, str], bool] = lambda document, section: False
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
        names: a trainer's own names of layers, with those of config.json's models.
    """
    own = [linear.name for linear in shape.linears]
    if not targets or _ALL_LINEAR & set(targets):
        return tuple(own)
    wanted = {name for target in targets for name in (target, *names.get(target, ()))}
    found = tuple(name for name in own if name in wanted or any(each.endswith(f".{name}") for each in wanted))
    return found or tuple(own)
