"""Model folders as text: a small authored tokenizer, a template, zero weights, small enough to stand in a test."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from tests.faults.case import base
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from touchline.backends.registry import training_row
from touchline.backends.simulation import RowSettings
from touchline.core.finding import Location
from touchline.data.rendering.chat import SpecialTokens
from touchline.data.rendering.text import ModelText, shown_row
from touchline.lint.rendering import RenderingView, rendered, special_tokens_in

DATE = "2026-01-02"
HIDDEN = 8
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<s>",
    "</s>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|eom_id|>",
    "<|end|>",
    "<eos>",
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CORPUS = (
    "Capitalize the given word: quantity system user assistant You are a helpful assistant. Paris France Capital of",
    "Capital of France: Paris Answer: yes no Paris Paris France: Paris Answer: yes quantity Quantity model",
)


@functools.cache
def tokenizer_json(*, adds_bos: str | None = None, special: tuple[str, ...] = SPECIAL) -> str:
    """tokenizer.json of a byte-level tokenizer with the special tokens of several families.

    Args:
        adds_bos: the token that it puts before every text; none: it adds nothing.
        special: the special tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    if adds_bos is not None:
        number = tokenizer.token_to_id(adds_bos)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{adds_bos}:0 $A:0", pair=None, special_tokens=[(adds_bos, number)]
        )
    return str(tokenizer.to_str())


def text_of(
    template: str | None = CHATML,
    *,
    bos: str | None = None,
    eos: str | None = "<|im_end|>",
    pad: str | None = "<|endoftext|>",
    adds_bos: bool = False,
) -> ModelText:
    tokens = SpecialTokens(bos=bos, eos=eos, pad=pad)
    return ModelText(template, tokenizer_json(adds_bos=bos if adds_bos else None), tokens, DATE)


def rendering_of(lines: str) -> RenderingView:
    """The view of a rule's example: lines that are merged into bases/rendering.yaml."""
    yaml = YAML(typ="safe", pure=True)
    values: dict[str, Any] = _merged(yaml.load(base("rendering")), yaml.load(lines) or {})
    words = values["tokenizer"]
    text = text_of(
        values["chat_template"],
        bos=words["bos_token"],
        eos=words["eos_token"],
        pad=words["pad_token"],
        adds_bos=words["adds_bos"],
    )
    rows = [row for index, each in enumerate(values["rows"]) if (row := shown_row(each, f"train-{index}")) is not None]
    assert rows, "none of the rows is a chat"
    train = values["train"]
    settings = RowSettings(
        template=train["template"],
        model=train["model"],
        dataset=train["dataset"],
        max_seq_len=train["max_seq_len"],
        trains_on_prompt=train["train_on_prompt"],
        answers_only=train["answers_only"],
    )
    render = training_row(values["backend"])
    view = RenderingView(
        text=text,
        settings=settings,
        backend=values["backend"],
        model="Tiny-Instruct",
        where_model=Location(path="models/Tiny-Instruct"),
        where_data=Location(path="data.jsonl"),
        embedding_rows=values["vocab_size"],
        special_in_data=special_tokens_in(text, rows),
    )
    return rendered(view, [("shortest", rows[0])], render)


def model_files(
    folder: str,
    template: str | None = CHATML,
    *,
    tokenizer: str | None = None,
    tokens: Mapping[str, str | None] | None = None,
    vocab_size: int | None = None,
) -> dict[str, str]:
    """The files of a model folder, as text.

    Args:
        folder: the folder that they are in.
        template: the chat template; none: a base model.
        tokenizer: tokenizer.json; the small one when not given.
        tokens: entries of tokenizer_config.json.
        vocab_size: rows of the embedding; those of the tokenizer when not given.
    """
    content = tokenizer or tokenizer_json()
    rows = vocab_size or Tokenizer.from_str(content).get_vocab_size(with_added_tokens=True)
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"} | dict(tokens or {})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "vocab_size": rows,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    files = {
        "config.json": json.dumps(config),
        "tokenizer.json": content,
        "tokenizer_config.json": json.dumps({key: value for key, value in named.items() if value is not None}),
        "model.safetensors": _zeros(rows),
    }
    if template is not None:
        files["chat_template.jinja"] = template
    return {f"{folder}/{name}": text for name, text in files.items()}


def jsonl(rows: Sequence[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _zeros(vocab_size: int) -> str:
    """A safetensors file whose bytes are all below 128, so that it can be written as text."""
    shapes = {"model.embed_tokens.weight": [vocab_size, HIDDEN], "model.norm.weight": [HIDDEN]}
    layer = "model.layers.0."
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        shapes[f"{layer}self_attn.{name}.weight"] = [HIDDEN, HIDDEN]
    shapes |= {
        f"{layer}mlp.gate_proj.weight": [2 * HIDDEN, HIDDEN],
        f"{layer}mlp.up_proj.weight": [2 * HIDDEN, HIDDEN],
        f"{layer}mlp.down_proj.weight": [HIDDEN, 2 * HIDDEN],
        f"{layer}input_layernorm.weight": [HIDDEN],
        f"{layer}post_attention_layernorm.weight": [HIDDEN],
    }
    header: dict[str, object] = {}
    offset = 0
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header)
    # The length is written in eight bytes; blanks after the header are allowed and bring each byte below 128.
    length = -(-len(text) // 256) * 256
    assert length < 1 << 15
    return f"\0{chr(length >> 8)}" + "\0" * 6 + text.ljust(length) + "\0" * offset


def _merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: _merged(below.get(key), value) for key, value in above.items()}
    return above
