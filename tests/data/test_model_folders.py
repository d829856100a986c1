"""A model's folder is read without opening a weight, and whatever is wrong with it is told, never raised."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tests.cases import parametrize, refusal
from tests.tiers import examples

from tools.tiny_model import CONTEXT_LENGTH, HIDDEN, LAYERS
from touchline.core.catalog import Message, ModelInfo
from touchline.core.errors import InputError
from touchline.core.finding import Severity
from touchline.data.models import find_models, load_model, load_renderer, read_model
from touchline.data.rendering.sandbox import ChatTemplateError
from touchline.data.weights import ShardHeaderError, read_shard

pytestmark = pytest.mark.planning


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "models" / "Tiny-135M-Instruct"))


def errors(model: ModelInfo) -> list[str]:
    return [finding.code for finding in model.findings if finding.severity is Severity.ERROR]


def said(model: ModelInfo) -> str:
    return "\n".join(finding.message for finding in model.findings)


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes a key out."""
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def split_into_shards(folder: Path) -> dict[str, str]:
    """Replace the single file by two shards and an index."""
    from safetensors.numpy import load_file

    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


def test_a_whole_folder_has_no_findings(folder: Path) -> None:
    model = read_model(folder)
    assert model.findings == ()
    assert (model.name, model.size_label, model.family) == ("Tiny-135M-Instruct", "135M", "Tiny")
    assert (model.architecture, model.model_type, model.dtype) == ("LlamaForCausalLM", "llama", "float32")
    assert (model.context_length, model.num_layers, model.hidden_size) == (CONTEXT_LENGTH, LAYERS, HIDDEN)
    assert model.has_chat_template
    assert model.stop_token == "<|im_end|>"
    assert model.weight_bytes == (folder / "model.safetensors").stat().st_size
    assert abs(model.num_parameters * 4 - model.weight_bytes) < 4096
    assert Path(model.path).is_absolute()


def test_reading_twice_gives_the_same_and_a_change_of_anything_gives_other_hashes(folder: Path) -> None:
    first = read_model(folder)
    assert read_model(folder) == first
    edit(folder / "config.json", rope_theta=1.0)
    assert read_model(folder).config_sha256 != first.config_sha256
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert read_model(folder).tokenizer_sha256 != first.tokenizer_sha256
    save_file({"a": np.zeros(3, np.float32)}, folder / "model.safetensors")
    assert read_model(folder).weights_sha256 != first.weights_sha256


def test_shards_weigh_as_much_as_the_single_file(folder: Path) -> None:
    single = read_model(folder)
    split_into_shards(folder)
    sharded = read_model(folder)
    assert sharded.findings == ()
    assert sharded.num_parameters == single.num_parameters


Harm = Callable[[Path], object]
FIRST, SECOND = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
SIZES = ("max_position_embeddings", "vocab_size", "num_hidden_layers", "hidden_size")


def wrote(name: str, text: str | bytes) -> Harm:
    return lambda folder: (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def edited(name: str, **changes: Any) -> Harm:
    return lambda folder: edit(folder / name, **changes)


def indexed(**more: str) -> Harm:
    """Shards, and an index that names more than they hold."""
    return lambda folder: (folder / INDEX).write_text(json.dumps({"weight_map": split_into_shards(folder) | more}))


def gone(*names: str) -> Harm:
    return lambda folder: [(folder / name).unlink() for name in names]


# fmt: off
HARMS: list[tuple[tuple[Harm, ...], list[str], str]] = [
    ((split_into_shards, gone(SECOND)), ["CK104"], f"{SECOND} is missing"),
    # The numbers in the names tell how many there should be.
    ((split_into_shards, gone(INDEX, FIRST)), ["CK102", "CK104"], ""),
    ((indexed(**{"model.extra": FIRST}),), ["CK104"], "model.extra"),
    *(((split_into_shards, wrote(INDEX, text)), ["CK102"], "") for text in (
        "", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}')),
    # A .bin is code; opening this one would raise.
    ((lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"),), ["CK103"], "pickles"),
    ((gone(WEIGHTS),), ["CK103"], "it has no weights"),
    # Cut off, of another kind, nested without end, with a number without end: named, and the rest is read.
    *(((wrote(file, text),), [code], "") for text in (
        "", "{", "[1]", "null", "[" * 100_000, '{"a": 1' + "0" * 5000 + "}") for file, code in (
        ("config.json", "CK101"), ("tokenizer_config.json", "TK103"), ("generation_config.json", "TK103"))),
    ((gone("tokenizer.json"),), ["TK101"], ""),
    # generation_config.json of another model must not crash the reading.
    *(((edited("generation_config.json", eos_token_id=ids),), [], "") for ids in (
        -1, 2**40, [-5, 2**70], "x", [None], True, 1e9, {})),
    *(((edited("config.json", **{key: value}),), ["CK101"], key) for key in SIZES for value in (
        None, 0, -1, "many", True, 1.5)),
    # A config of another model; of weights that are cut off what is missing is told as missing.
    ((edited("config.json", model_type=None),), ["TK230"], "no model_type"),
    ((edited("config.json", vocab_size=31),), ["TK230"], "vocab_size 31"),
    ((edited("config.json", num_hidden_layers=90),), ["TK230"], "num_hidden_layers 90"),
    ((edited("config.json", vocab_size=31), lambda folder: os.truncate(folder / WEIGHTS, 40)), ["CK104"], ""),
]
NOT_RENDERED: list[tuple[tuple[Harm, ...], list[str]]] = [
    *(((wrote("tokenizer.json", content),), ["TK101"]) for content in (
        b"", b"{}", b"null", b"\xff\xfe", b'{"model": {"type": "BPE"}}', b'{"version": "1.0", "model": 5}')),
    *(((edited("tokenizer_config.json", eos_token=eos), edited("generation_config.json", eos_token_id=None)), ["TK102"])
      for eos in (None, "<|not there|>", 5, {"content": 7}, {})),
    ((wrote("chat_template.jinja", "{% for %}"),), ["TK103"]),
]
# fmt: on


@pytest.mark.parametrize(("harms", "codes", "words"), HARMS)
def test_what_harms_a_folder_is_told_and_the_rest_is_read(
    folder: Path, harms: tuple[Harm, ...], codes: list[str], words: str
) -> None:
    for harm in harms:
        harm(folder)
    model = read_model(folder)
    assert errors(model) == codes
    assert words in said(model)
    assert model.num_parameters > 0 or codes[0] in ("CK102", "CK103", "CK104")


@pytest.mark.parametrize(("harms", "codes"), NOT_RENDERED)
def test_a_tokenizer_that_is_harmed_makes_no_renderer(folder: Path, harms: tuple[Harm, ...], codes: list[str]) -> None:
    for harm in harms:
        harm(folder)
    model = read_model(folder)
    assert errors(model) == codes
    with pytest.raises((InputError, ChatTemplateError)) as caught:
        load_renderer(model, "2026-01-01")
    assert isinstance(caught.value, InputError) or codes == ["TK103"]
    assert codes != ["TK101"] or [finding.code for finding in caught.value.findings] == codes


def test_an_index_does_not_lead_out_of_its_folder(folder: Path) -> None:
    """A path in an index is taken as a bare name."""
    save_file({"a": np.zeros(3, np.float32)}, folder.parent / "outside.safetensors")
    split_into_shards(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    model = read_model(folder)
    assert errors(model) == ["CK104"]
    assert model.num_parameters == 0


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True))
def test_a_shard_cut_off_anywhere_is_told(folder: Path, share: float) -> None:
    """From the first byte to the last but one, and the numbers of bytes are named."""
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    cut = int(share * len(whole))
    path.write_bytes(whole[:cut])
    try:
        model = read_model(folder)
        assert errors(model) == ["CK104"]
        assert f"{cut:,} bytes" in said(model) or f"{cut} bytes" in said(model)
    finally:
        path.write_bytes(whole)


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.one_of(st.none(), st.integers(0, 2**64 - 1)))
def test_any_bytes_are_a_shard_or_a_broken_shard(tmp_path: Path, body: bytes, length: int | None) -> None:
    """No other exception, no matter what a file holds."""
    path = tmp_path / "x.safetensors"
    path.write_bytes((b"" if length is None else struct.pack("<Q", length)) + body)
    broken = ""
    size = path.stat().st_size
    try:
        size = read_shard(path).size_bytes
    except ShardHeaderError as fault:
        broken = str(fault)
    assert size == path.stat().st_size
    assert broken == "" or "x.safetensors" in broken


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "dtype", "shape"]), inner, max_size=3)
    ),
    max_leaves=6,
)
ENTRY = st.fixed_dictionaries(
    {}, optional={"dtype": JSON, "shape": JSON, "data_offsets": JSON | st.lists(st.integers(-2, 9))}
)


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON | st.dictionaries(st.text(max_size=3), ENTRY | JSON, max_size=3))
def test_any_header_is_a_shard_or_a_broken_shard(tmp_path: Path, header: object) -> None:
    """Wrong types, infinities, negative sizes: told, and counts are whole numbers."""
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    try:
        shard = read_shard(path)
    except ShardHeaderError:
        return
    assert isinstance(header, dict)
    assert all(isinstance(tensor.elements, int) and tensor.elements >= 0 for tensor in shard.tensors.values())


@parametrize("entry", {"shape": [-3]}, {"shape": [1.5]}, {"data_offsets": [-8, 4]}, {"data_offsets": [9, 8]})
def test_senseless_sizes_in_a_header_are_a_broken_shard(tmp_path: Path, entry: dict[str, object]) -> None:
    """Negative, fractional, or the end before the beginning: never a count of parameters."""
    text = json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]} | entry}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(12))
    with pytest.raises(ShardHeaderError):
        read_shard(path)


def test_deep_nesting_in_a_header_is_a_broken_shard(tmp_path: Path) -> None:
    text = b'{"a": ' + b"[" * 200_000
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(ShardHeaderError):
        read_shard(path)


def test_a_tied_output_layer_that_is_stored_counts_once(folder: Path) -> None:
    """Exports that write lm_head beside the embedding it is, do not make the model larger."""
    from safetensors.numpy import load_file

    tensors = load_file(folder / "model.safetensors")
    once = read_model(folder).num_parameters
    embedding = tensors["model.embed_tokens.weight"]
    save_file({**tensors, "lm_head.weight": embedding.copy()}, folder / "model.safetensors")
    assert read_model(folder).num_parameters == once
    edit(folder / "config.json", tie_word_embeddings=False)
    assert read_model(folder).num_parameters == once + embedding.size


def test_the_dtype_is_that_of_most_bytes(folder: Path) -> None:
    """Not of most tensors, and not what config.json claims."""
    tensors = {"big": np.zeros(1000, np.float16), "a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)}
    save_file(tensors, folder / "model.safetensors")
    assert read_model(folder).dtype == "float16"


def test_code_of_the_model_is_a_warning(folder: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoModel": "modeling_x.X"})
    assert [(f.code, f.severity) for f in read_model(folder).findings] == [("CK105", Severity.WARNING)]


def test_further_stop_tokens_come_from_the_generation_config(folder: Path) -> None:
    """Chat models end a turn with another token than a text."""
    vocabulary = load_renderer(read_model(folder), "2026-01-01")
    edit(folder / "generation_config.json", eos_token_id=[0, 2])
    assert load_renderer(read_model(folder), "2026-01-01").stop_ids == vocabulary.stop_ids | {0, 2}


def test_special_tokens_may_be_objects_or_stand_in_the_older_map(folder: Path) -> None:
    plain = read_model(folder)
    edit(folder / "tokenizer_config.json", eos_token={"content": "<|im_end|>", "lstrip": False})
    assert read_model(folder).tokenizer_sha256 == plain.tokenizer_sha256
    edit(folder / "tokenizer_config.json", eos_token=None)
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    assert read_model(folder).tokenizer_sha256 == plain.tokenizer_sha256


@parametrize(
    "pack",
    lambda text: text,
    lambda text: [{"name": "tool_use", "template": "no"}, {"name": "default", "template": text}],
    ids=["text", "named"],
)
def test_a_template_in_the_config_renders_as_one_in_its_own_file(folder: Path, pack: Callable[[str], object]) -> None:
    """A string, or a list of named ones of which the default counts."""
    messages = [Message(role="user", content="hello")]
    expected = load_renderer(read_model(folder), "2026-01-01").prompt_text(messages)
    apart = folder / "chat_template.jinja"
    edit(folder / "tokenizer_config.json", chat_template=pack(apart.read_text()))
    apart.unlink()
    model = read_model(folder)
    assert model.has_chat_template
    assert load_renderer(model, "2026-01-01").prompt_text(messages) == expected


@parametrize("entry", None, 5, [], [{"name": ["default"]}], [{"name": "rag", "template": "x"}], {"a": "b"})
def test_a_model_without_a_template_is_said_to_have_none(folder: Path, entry: object) -> None:
    """Told, and no error: base models are trained too, on plain text."""
    (folder / "chat_template.jinja").unlink()
    edit(folder / "tokenizer_config.json", chat_template=entry)
    model = read_model(folder)
    assert not model.has_chat_template
    assert [(finding.code, finding.severity) for finding in model.findings] == [("TK104", Severity.INFO)]
    assert load_renderer(model, "2026-01-01").prompt_text([Message(role="user", content="hello")]) == "hello\n"


def test_sizes_of_the_part_that_writes_text_and_older_names_are_read(folder: Path) -> None:
    """Models that also see keep them one level down; GPT-2 calls them otherwise."""
    data = json.loads((folder / "config.json").read_text())
    inner = {k: data.pop(k) for k in ("max_position_embeddings", "num_hidden_layers", "hidden_size", "vocab_size")}
    (folder / "config.json").write_text(json.dumps(data | {"text_config": inner}))
    assert read_model(folder).num_layers == LAYERS
    old = {"n_positions": 64, "n_layer": 3, "n_embd": 8, "vocab_size": 10}
    (folder / "config.json").write_text(json.dumps(data | old))
    model = read_model(folder)
    assert (model.context_length, model.num_layers, model.hidden_size) == (64, 3, 8)
    assert model.findings == ()


@pytest.mark.parametrize("listed", [[], {}, "Llama", [5], None])
def test_an_odd_list_of_architectures_is_no_crash(folder: Path, listed: object) -> None:
    edit(folder / "config.json", architectures=listed)
    assert read_model(folder).architecture == ""


@parametrize("name, size, family", ("Qwen2.5-1.5B-Instruct", "1.5B", "Qwen2.5"), ("Qwen3-30B-A3B", "30B", "Qwen3"))
def test_sizes_are_read_from_names(folder: Path, name: str, size: str, family: str) -> None:
    model = read_model(folder.rename(folder.parent / name))
    assert (model.size_label, model.family) == (size, family)


@pytest.mark.parametrize("name", ["Phi-3-mini", "gpt2", "my model", "llama-4bit"])
def test_without_a_size_in_the_name_the_parameters_tell_it(folder: Path, name: str) -> None:
    model = read_model(folder.rename(folder.parent / name))
    assert (model.size_label, model.family) == (f"{model.num_parameters / 1000:.0f}K", name)


def test_models_are_found_by_name_and_hidden_folders_are_not(folder: Path) -> None:
    models_dir = folder.parent
    shutil.copytree(folder, models_dir / ".Tiny.1234.tmp")
    shutil.copytree(folder, models_dir / "Another")
    (models_dir / "not-a-model").mkdir()
    (models_dir / "a-file").write_text("")
    assert [model.name for model in find_models(models_dir)] == ["Another", "Tiny-135M-Instruct"]
    assert find_models(models_dir / "nowhere") == []
    assert find_models(models_dir / "a-file") == []


def test_a_model_is_loaded_by_name_and_by_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a bare name means the one under models_dir, whatever lies here."""
    by_name = load_model(folder.name, folder.parent)
    assert load_model(str(folder), Path("/nowhere")) == by_name
    elsewhere = folder.parent.parent / "elsewhere"
    shutil.copytree(folder, elsewhere / folder.name)
    monkeypatch.chdir(elsewhere)
    assert load_model(folder.name, folder.parent).path == by_name.path
    assert load_model(f"./{folder.name}", folder.parent).path == str(elsewhere / folder.name)
    assert load_model(folder.name, Path("/nowhere")).path == str(elsewhere / folder.name)


@pytest.mark.parametrize("name", ["tiny-135m-instruct", "Tiny-135M-Instuct", "Org/Tiny-135M-Instrct"])
def test_an_unknown_model_names_the_near_ones(folder: Path, name: str) -> None:
    caught = refusal(load_model, name, folder.parent)
    assert "Tiny-135M-Instruct" in caught.message
    assert "did you mean 'Tiny-135M-Instruct'?" in str(caught.hint)


def test_an_unknown_model_says_how_to_get_it(tmp_path: Path) -> None:
    """Our own command for the one that touchline can write, the hub's for others, quoted for a shell."""
    hostile = tmp_path / "models of 'mine'"
    for name, hint in (
        ("SmolLM2-135M-Instruct", "touchline models get SmolLM2-135M-Instruct"),
        ("Llama-3.2-1B", "hf download meta-llama/Llama-3.2-1B --local-dir "),
        ("my-model-7b", "hf download ORG/my-model-7b --local-dir "),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "touchline models get SmolLM2-135M-Instruct"),
        ("meta-llama/Llama-3.2-1B", "hf download meta-llama/Llama-3.2-1B --local-dir "),
    ):
        caught = refusal(load_model, name, hostile)
        assert str(caught.hint).startswith(hint)
        assert "models there: none" in caught.message


def test_a_hub_id_is_called_one(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither `has no config.json` of a folder that has one, nor a download of what is here already."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    caught = refusal(load_model, f"SomeOrg/{folder.name}", folder.parent)
    assert "a Hugging Face Hub id" in caught.message
    assert str(folder.parent / "SomeOrg" / folder.name) in caught.message
    assert "config.json" not in caught.message
    assert caught.hint == f"models: [{folder.name}]"
    snapshot = tmp_path / "hub" / "models--SomeOrg--Other-1B" / "snapshots" / "abc"
    shutil.copytree(folder, snapshot)
    assert refusal(load_model, "SomeOrg/Other-1B", tmp_path / "nothing").hint == f"models: [{snapshot}]"
    for name, is_gated in {
        "meta-llama/Llama-3.2-1B-Instruct": True,
        "Llama-3.2-3B": True,
        "gemma-2-2b-it": True,
        "google/gemma-3-1b-it": True,
        "Qwen/Qwen2.5-0.5B-Instruct": False,
        "Qwen2.5-0.5B": False,
        "TinyLlama-1.1B-Chat-v1.0": False,
        "allenai/OLMo-2-0425-1B": False,
    }.items():
        hint = str(refusal(load_model, name, tmp_path / "nothing").hint)
        assert ("gated: first accept its license" in hint) == is_gated, name
        assert "ORG/" not in hint, name
        assert f"--local-dir {tmp_path / 'nothing' / name.rpartition('/')[2]}" in hint


@pytest.mark.parametrize("name", ["~nobody-of-that-name/x", "x" * 5000, "a\nb", "../..", ".", "/", "a/b/c/d"])
def test_a_senseless_name_is_an_input_fault(tmp_path: Path, name: str) -> None:
    (tmp_path / "models").mkdir()
    refusal(load_model, name, tmp_path / "models")


def test_a_folder_without_config_is_said_to_be_cut_off(folder: Path) -> None:
    """Instead of being called unknown beside its own name."""
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"has no config\.json"):
        load_model(folder.name, folder.parent)
