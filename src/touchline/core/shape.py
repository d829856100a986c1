"""A language model's dimensions, as far as memory, time and disk depend on them."""

from __future__ import annotations

from dataclasses import dataclass

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
    """Whether a bias is added."""

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
    """Blocks."""
    hidden_size: int
    """Width of its residual stream."""
    intermediate_size: int
    """Width inside its feed-forward part."""
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
    """The model's name, `Llama-3.2-1B`."""
    model_type: str
    """`model_type` of config.json, `llama`."""
    num_layers: int
    """Blocks."""
    hidden_size: int
    """Width of the residual stream."""
    intermediate_size: int
    """Width inside the feed-forward part."""
    num_heads: int
    """Attention heads."""
    num_kv_heads: int
    """Heads of keys and values."""
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
