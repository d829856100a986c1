"""Models and datasets on disk, as far as planning needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from touchline.core.finding import Finding
from touchline.core.quantity import Missing

COPIED_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "generation_config.json"),
    *("preprocessor_config.json", "processor_config.json"),
)
"""Files for rebuilding the tokenizer and the image processor; those of the base model are copied into checkpoints."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dimensions:
    """Dimensions of a decoder in config.json, for trainers that build the model themselves."""

    num_heads: int
    """Attention heads."""
    num_kv_heads: int
    """Heads of keys and values."""
    head_dim: int
    """Width of a head."""
    intermediate_size: int
    """Width inside the feed-forward part."""
    norm_eps: float
    """Epsilon of the norms."""
    rope_base: float
    """Base of the rotary positions."""
    rope_scaling: dict[str, object] = field(default_factory=dict)
    """Scaling of the rotary positions, as config.json has it; empty without one."""
    tied_embeddings: bool = False
    """Whether the output layer is the embedding again."""
    biased: bool = False
    """Whether attention or feed-forward layers have a bias that is not the architecture's own."""
    windowed: bool = False
    """Whether attention sees a window of the last tokens only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A model folder in Hugging Face format, read without torch."""

    name: str
    """The folder's name, `SmolLM2-135M-Instruct`."""
    path: str
    """The folder, absolute."""
    architecture: str
    """`architectures[0]` of config.json, `LlamaForCausalLM`."""
    model_type: str
    """`model_type` of config.json, `llama`."""
    dtype: str
    """Dtype of most of the weights by size, `bfloat16`, from the shards' headers."""
    num_parameters: int
    """Parameters, counted from the shards' headers (tied weights once)."""
    weight_bytes: int
    """Bytes of all shards on disk."""
    context_length: int
    """`max_position_embeddings`: the longest sequence that the model was made for, in tokens."""
    vocab_size: int
    """Rows of the embedding."""
    num_layers: int
    """`num_hidden_layers`."""
    hidden_size: int
    """`hidden_size`."""
    has_chat_template: bool
    """Whether the tokenizer has a chat template."""
    stop_token: str | None
    """The token that ends an answer: the tokenizer's eos_token."""
    config_sha256: str | Missing
    """Hash of config.json; missing where the file is not here, with the source of the dimensions."""
    tokenizer_sha256: str | Missing
    """Hash over tokenizer.json, tokenizer_config.json and the chat template; missing where they are not here, with what
    counts the tokens instead."""
    weights_sha256: str | Missing
    """Hash over the shards' names, sizes and headers; changes with shape, dtype or size, cheap to compute. Missing
    where they are not here, with what is assumed of them."""
    size_label: str
    """Short size, `135M`, `1.7B`: from the name if possible, else from the parameters."""
    family: str
    """The name up to its size, `SmolLM2`, `Llama-3.2`."""
    copied_bytes: int = 0
    """Size of the files next to its weights that every checkpoint gets a copy of, `COPIED_FILES`; 0 in older plans."""
    dimensions: Dimensions | None = None
    """Dimensions of its decoder; None where config.json does not have all of them, and in older plans."""
    weight_files: tuple[str, ...] = ()
    """Names of the shards; none in older plans."""
    vision: bool = False
    """Whether it has a vision tower (`vision_config` in config.json)."""
    findings: tuple[Finding, ...] = ()
    """Findings on the folder; with an error it cannot be trained."""

    @property
    def absent(self) -> dict[str, Missing]:
        """Return the parts that are not on this machine, with what is assumed of each."""
        parts = {"config.json": self.config_sha256, "tokenizer": self.tokenizer_sha256, "weights": self.weights_sha256}
        return {name: part for name, part in parts.items() if isinstance(part, Missing)}

    @property
    def absence(self) -> str:
        """Return in one line what is not here, what is assumed instead, and what is not checked; empty if all is."""
        absent = self.absent
        if not absent:
            return ""
        parts = ", ".join(f"{what} ({reason.missing})" for what, reason in absent.items())
        unchecked = "hashes and shapes of the weights"
        if "tokenizer" in absent:
            unchecked += ", chat template, rendering, longest answers (no example is rendered)"
        return f"missing files of {self.name}: {parts}. Not checked: {unchecked}"

    @property
    def hashes(self) -> list[str | None]:
        """Return the hashes of weights, tokenizer and config.json; None for a part that is not on this machine."""
        parts = (self.weights_sha256, self.tokenizer_sha256, self.config_sha256)
        return [None if isinstance(part, Missing) else part for part in parts]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitInfo:
    """Split of a dataset."""

    name: str
    """`train`, `validation` or `test`."""
    num_examples: int
    """Rows."""
    sha256: str
    """Hash of the split's rows, in order, in a canonical form."""


SPLITS_IN_FILE = "in the file"
"""`split_origin` of a dataset with splits of its own."""


SEPARATE_FILES = "separate files"
"""Begin of `split_origin` of a dataset with a file for each split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """One of the files of a dataset that has several."""

    key: str
    """The dotted key that names it, `data.train`, `data.test.5L`."""
    path: str
    """The file, absolute; in a plan relative to the experiment's folder if it lies there."""
    size_bytes: int
    """Its size on disk."""
    sha256: str
    """Hash of its bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetInfo:
    """A dataset, of one file or several, and its splits."""

    path: str
    """The file, absolute; that of the training rows if there are several."""
    format: str
    """`json`, `jsonl`, `csv` or `parquet`."""
    size_bytes: int
    """Size of all files on disk."""
    sha256: str
    """Hash of the file's bytes; of several over the hashes of the training and the validation file."""
    splits: tuple[SplitInfo, ...]
    """The splits, train first; of several test sets `test` is the one named first."""
    split_origin: str
    """`in the file`, `separate files`, or how they were made: `random 80/5/15 of the whole file, seed 14`."""
    files: tuple[DataFile, ...] = ()
    """The files if there is one for each split, the training file first; none if one file has all rows."""
    test_sets: tuple[SplitInfo, ...] = ()
    """The test sets that have files of their own, by their names, in order; none if one file has all rows."""
    about: dict[str, object] = field(default_factory=dict)
    """The file's own metadata: generator, word list, license."""
    images: int = 0
    """Images in all prompts."""
    image_sha256: dict[str, str] = field(default_factory=dict)
    """Hash of each image's bytes by name, relative to the dataset's folder; only in a plan, and none in older ones."""
    findings: tuple[Finding, ...] = ()
    """Findings on the file; with an error it cannot be used."""

    @property
    def has_own_splits(self) -> bool:
        """True if the splits are in the file, or each is a file."""
        return self.split_origin == SPLITS_IN_FILE or bool(self.files)

    @property
    def all_files(self) -> tuple[DataFile, ...]:
        """Return every file, also if one has all rows."""
        whole = DataFile(key="data.path", path=self.path, size_bytes=self.size_bytes, sha256=self.sha256)
        return self.files or (whole,)

    @property
    def named_splits(self) -> tuple[SplitInfo, ...]:
        """Return the splits for tables: test sets with names by them, `test 5L`."""
        if not any(file.key.startswith("data.test.") for file in self.files):
            return self.splits
        sets = (replace(each, name=f"test {each.name}") for each in self.test_sets)
        return (*(split for split in self.splits if split.name != "test"), *sets)

    def test_set(self, name: str) -> SplitInfo | None:
        """Return a test set that has a file of its own. None without one of that name."""
        return next((each for each in self.test_sets if each.name == name), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageHashes:
    """Hashes of the bytes of a dataset's images."""

    splits: dict[str, str] = field(default_factory=dict)
    """Hash over the hashes of each split's images, in order."""
    files: dict[str, str] = field(default_factory=dict)
    """Hash of each image by name, relative to the dataset's folder."""


def changed_images(planned: Mapping[str, str], found: Mapping[str, str]) -> str | None:
    """Return the images with other content in words: `image 'a.png'`, `image 'a.png' and 7 others`, or None."""
    changed = [name for name, sha256 in found.items() if planned.get(name, sha256) != sha256]
    if not changed:
        return None
    others = f" and {len(changed) - 1} other{'s' if len(changed) > 2 else ''}" if len(changed) > 1 else ""
    return f"image {changed[0]!r}{others}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """Turn of a chat."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str
    """The text; every image stands as `<image>`."""
    images: tuple[str, ...] = ()
    """Files of the images, absolute, in the order of their places in the text."""


IMAGE_PLACE = "<image>"
"""Place of an image in a turn's text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """Example of a dataset: the turns before the answer, and the answer."""

    id: str
    """Stable within its split: `test-17`."""
    prompt: tuple[Message, ...]
    answer: str
    cluster: str | None = None
    """What it shares with other rows, a source document or a template; None if it stands alone, or was not asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedExample:
    """An example as token ids; the loss is taken on `answer_ids` alone."""

    prompt_ids: tuple[int, ...]
    """The prompt, up to and including the marker that the assistant's turn begins."""
    answer_ids: tuple[int, ...]
    """The answer and its stop token."""
    images: tuple[str, ...] = ()
    """Files of the prompt's images, in order; their tokens are in `prompt_ids`."""
