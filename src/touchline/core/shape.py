"""A language model's dimensions, as far as memory, time and disk depend on them, and its size by its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

ENDS = ("embed_tokens", "lm_head")
"""The layers outside the blocks that adapters may name: the embedding and the output layer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """Linear layer of a block; every block has it."""

    name: str
    """Last part of its name, `q_proj`: what `target_modules` names."""
    inputs: int
    """Columns of its matrix."""
    outputs: int
    """Rows of its matrix."""
    bias: bool = False

    @property
    def parameters(self) -> int:
        """Elements of its matrix and bias."""
        return self.inputs * self.outputs + (self.outputs if self.bias else 0)

    def adapter_parameters(self, rank: int) -> int:
        """Return the elements of a LoRA pair on the layer: A of shape [rank, inputs] and B of shape [outputs, rank]."""
        return rank * (self.inputs + self.outputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionTower:
    """Image encoder in front of a language model."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    patch_size: int
    """Pixels of a patch's side."""
    merge_size: int
    """Patches, down and across, that become one token of the language model."""
    matrix_parameters: int
    """Elements of the matrices of its linear layers: what a 4-bit model holds in 4 bits."""
    joining_parameters: int
    """Of these, the elements in layers that join patches to a token: multiplied once per token, not per patch."""
    embedding_parameters: int
    """Elements of the matrix that embeds a patch."""
    parameters: int
    """Elements of the encoder and of the layers that join it to the language model."""

    @property
    def patches_per_token(self) -> int:
        """Patches of an image that become one token of the language model."""
        return self.merge_size**2


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """A decoder of equal blocks."""

    name: str
    model_type: str
    """`model_type` of config.json, `llama`."""
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    """Width of one head; heads x head_dim need not be the hidden size."""
    vocab_size: int
    """Rows of the embedding."""
    context_length: int
    """The longest sequence that the model was made for, in tokens."""
    tied_embeddings: bool
    """Whether the output layer is the embedding again."""
    gated: bool
    """Whether the feed-forward part multiplies a gate with its input (SwiGLU): three matrices instead of two."""
    linears: tuple[Linear, ...]
    """The linear layers of one block, in the model's own names; fused ones as they are (`qkv_proj`)."""
    other_parameters_per_layer: int
    """Norms and everything else of a block that is no linear layer."""
    other_parameters: int
    """Outside the blocks, apart from the embedding and the output layer: the last norm, positions, a vision tower."""
    source: str
    """Where it was read: the path or address of the config.json."""
    extrapolated: str | None = None
    """Why estimates on it go beyond what the formulas were checked on; None for Llama-like models."""
    count_error: float = 0.0
    """Standard deviation of the logarithm of the parameter count, where the config does not determine it."""
    vision: VisionTower | None = None
    """The image encoder, whose parameters are among `other_parameters`; none: text only."""

    @property
    def q_size(self) -> int:
        """Width of all queries."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all keys, and of all values."""
        return self.num_kv_heads * self.head_dim

    @property
    def linear_parameters(self) -> int:
        """Elements of the linear layers of all blocks."""
        return self.num_layers * sum(linear.parameters for linear in self.linears)

    @property
    def num_parameters(self) -> int:
        """All parameters, tied weights once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        others = self.num_layers * self.other_parameters_per_layer + self.other_parameters
        return embeddings + self.linear_parameters + others

    def adapter_parameters(self, rank: int, target_modules: tuple[str, ...]) -> int:
        """Return the parameters of a LoRA adapter on the named layers, embedding and output layer included."""
        ends = sum(name in target_modules for name in ENDS)
        return self.num_layers * sum(
            linear.adapter_parameters(rank) for linear in self.linears if linear.name in target_modules
        ) + ends * rank * (self.vocab_size + self.hidden_size)


BILLION: Final = 1_000_000_000
_FACTORS: Final = {"m": 1_000_000, "b": BILLION, "t": 1000 * BILLION}
# Not inside a word or number: of "A3B" (active parameters), "4bit" and "E2B" nothing is taken.
_SIZE = re.compile(r"(?<![a-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)([mbt])(?![a-z0-9])", re.IGNORECASE)
_EXPERTS = re.compile(r"(?<![a-z0-9])\d+e(?![a-z0-9])")
_VERSION = re.compile(
    r"^(?:q?lora_)?(?:code_)?(?:llama_?[234](?:_[1-9])?(?:_vision)?|qwen_?(?:2_5|[1-9])|gemma[1-9]?|mistral|phi[1-9](?:_5)?)_"
)
"""Version parts at the start of a builder's name: in `llama3_2_1b` the 2 is the version's, in `qwen2_1_5b` the 1 is the
size."""
CLASSES: Final = ((1.5, "1B"), (4.0, "3B"), (9.0, "7B/8B"), (15.0, "13B"), (75.0, "70B"))
"""(billions of parameters at most, name): models are sold as 1B that have 1.24 billion, as 7B that have 7.6."""


def size_of_name(name: str) -> int | None:
    """Return the parameters that a model's name states. None if it states none.

    `Qwen2.5-0.5B` 0.5 billion, `8x7B` 56 billion, `SmolLM2-135M` 135 million, `llama3_2_1b` 1 billion. The last part of
    a path that has one counts. A name that gives only active parameters (`17B-16E`, `A3B`) gives none.
    """
    for part in reversed(re.split(r"[/\\]", name.strip().lower())):
        found = _size_of_part(part)
        if found is not None:
            return found
    return None


def states_size(name: str) -> bool:
    """Return True if a name holds a size, be it of the active parameters alone."""
    return size_text(name) is not None


def size_text(name: str) -> str | None:
    """Return the size in the name of a model or a run: `1B`, `0.5B`, `135M`. None if there is none."""
    match = _SIZE.search(_plain(name.lower()))
    return None if match is None else match[0].upper().replace("X", "x")


def split_name(name: str) -> tuple[str, str]:
    """Return the size as the name of a model writes it, and what stands before it: `135M` and `SmolLM2`.

    Where there is no size, both are the whole name.
    """
    match = _SIZE.search(name.replace("_", "-"))
    if match is None:
        return name, name
    return match[0].upper().replace("X", "x"), name[: match.start()].strip("-_. ") or name


def _plain(part: str) -> str:
    """Return a name with points for the underscores that stand for them, and dashes for the others."""
    # `_` between digits is a point in `stablelm-2-1_6b` and `qwen2_1_5b`, and none after a version: `llama3_2_1b`.
    plain = re.sub(r"(?<=-)(\d)_(\d+[mb])(?![a-z0-9])", r"\1.\2", part)
    if "_" in part and "-" not in part:
        plain = re.sub(r"(?<![\d.])([01])_(\d+[mb])(?![a-z0-9])", r"\1.\2", _VERSION.sub("", part))
    return plain.replace("_", "-")


def _size_of_part(part: str) -> int | None:
    plain = _plain(part)
    match = _SIZE.search(plain)
    if match is None or _EXPERTS.search(plain, match.end()):
        return None
    experts, number, unit = match.groups()
    return round(int(experts or 1) * float(number) * _FACTORS[unit])


def size_class(num_parameters: int) -> str:
    """Return a size class: `1B`, `3B`, `7B/8B`, `13B`, `70B`, or the billions of parameters beyond."""
    billions = num_parameters / BILLION
    return next((label for most, label in CLASSES if billions <= most), f"{billions:.0f}B")


def size_label(num_parameters: int) -> str:
    """Format a size: `135M`, `1.2B`, `70.6B`."""
    billions = num_parameters / BILLION
    if billions < 0.95:
        return f"{num_parameters / 1_000_000:.0f}M"
    return f"{billions:.3g}B"
