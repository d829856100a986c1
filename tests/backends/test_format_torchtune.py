"""torchtune's configs: read as OmegaConf reads them, their settings stated, and what `tune validate` misses told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.config_files import value_of
from tests.cases import some
from tests.faults.case import base, changed

from touchline.backends.fields import pointed
from touchline.backends.interpolation import resolve
from touchline.backends.torchtune.components import recipe_keys
from touchline.backends.torchtune.format import TorchtuneFormat
from touchline.core.finding import Finding, Severity
from touchline.core.near import misspelled
from touchline.experiment.foreign import ForeignDocument, parse_foreign
from touchline.experiment.partial import StatedTraining

pytestmark = pytest.mark.planning

BASE = base("torchtune")
FORMAT = TorchtuneFormat()
SAMPLES = os.environ.get("TOUCHLINE_SAMPLES")
GENERATION = """\
output_dir: ./
model:
  _component_: torchtune.models.llama2.llama2_7b
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: models/Llama-2-7b-hf
  checkpoint_files: {filename_format: "model-{}-of-{}.safetensors", max_filename: "00002"}
  output_dir: ${output_dir}
  model_type: LLAMA2
device: cuda
dtype: bf16
seed: 1234
tokenizer:
  _component_: torchtune.models.llama2.llama2_tokenizer
  path: models/Llama-2-7b-hf/tokenizer.model
prompt: {system: null, user: "Tell me a joke."}
max_new_tokens: 300
temperature: 0.6
top_k: 300
enable_kv_cache: True
quantizer: null
"""


def read(text: str, path: str = "1B_rank8/finetune.yaml") -> ForeignDocument:
    """A text by torchtune's rules."""
    return parse_foreign(text, path, FORMAT.dialect)


def findings(text: str) -> tuple[Finding, ...]:
    """What is said of a config."""
    return FORMAT.read(read(text)).findings


def told(text: str) -> list[tuple[str, str, str]]:
    """(code, severity, subject) of what is said of a config."""
    return [(each.code, each.severity.value, each.subject) for each in findings(text)]


def training(text: str) -> StatedTraining:
    """The training of a config."""
    (found,) = FORMAT.read(read(text)).trainings
    return found


def test_a_valid_config_has_no_findings() -> None:
    assert findings(BASE) == ()


def test_the_settings_are_stated_with_their_places() -> None:
    stated = training(BASE)
    assert stated.subject == "1B_rank8"
    assert value_of(stated.model) == "lora_llama3_2_1b"
    assert value_of(stated.model_path) == "models/Llama-3.2-1B"
    assert value_of(stated.method) == "lora"
    assert stated.rank is not None
    assert (stated.rank.value, stated.rank.key) == (8, "model.lora_rank")
    line = BASE.splitlines().index("  lora_rank: 8") + 1
    assert (stated.rank.where.line, stated.rank.where.column) == (line, 3)
    assert value_of(stated.target_modules) == ("q_proj", "v_proj", "output_proj", "mlp")
    assert value_of(stated.learning_rate) == 3e-4
    assert value_of(stated.max_seq_len) == 2048
    assert value_of(stated.output_dir) == "runs/words_rank8"
    assert [(source.name.value, source.kind) for source in stated.sources] == [("data/words.json", "file")]
    assert stated.save_cadence is not None
    assert (stated.save_cadence.value, stated.save_cadence.is_default) == (
        "epoch",
        True,
    )
    assert stated.max_steps is None


@pytest.mark.parametrize(
    ("old", "new", "method", "bits"),
    [
        ("lora_llama3_2_1b", "qlora_llama3_2_1b", "qlora", 4),
        ("  lora_rank: 8", "  quantize_base: True\n  lora_rank: 8", "qlora", 4),
        ("lora_llama3_2_1b", "lora_llama3_2_3b", "lora", None),
    ],
)
def test_the_method_is_seen_by_builder_or_setting(old: str, new: str, method: str, bits: int | None) -> None:
    stated = training(changed(BASE, old, new))
    assert value_of(stated.method) == method
    assert (stated.quantization_bits.value if stated.quantization_bits else None) == bits


def test_a_model_without_an_adapter_is_trained_in_full() -> None:
    text = changed(BASE, "torchtune.models.llama3_2.lora_llama3_2_1b", "torchtune.models.llama3_2.llama3_2_1b")
    lines = [line for line in text.splitlines() if "lora_" not in line and "save_adapter" not in line]
    text = "\n".join(lines).replace("llama3_2_1b\n", "llama3_2_1b\n").replace("  apply_to_mlp: True\n", "")
    stated = training(text)
    assert value_of(stated.method) == "full"
    assert stated.rank is None
    assert stated.save_adapter_only is None


def test_a_fault_is_found_at_its_key(subtests: pytest.Subtests) -> None:
    for old, new, code, subject in [
        ("lora_rank: 8", "lora_rnk: 8", "BK011", "model.lora_rnk"),
        ("  lora_alpha: 16", "  lora_alpha: 16\n  hidden_dropout: 0.1", "BK011", "model.hidden_dropout"),
        ("gradient_accumulation_steps: 4", "gradient_acumulation_steps: 4", "BK011", "gradient_acumulation_steps"),
        ("log_every_n_steps: 1", "log_every_n_step: 1", "BK011", "log_every_n_step"),
        ("  split: train", "  spilt: train", "BK011", "dataset.spilt"),
        ("batch_size: 4", "batch_size: lots", "BK012", "batch_size"),
        ("epochs: 1", "epochs: -1", "BK012", "epochs"),
        ("epochs: 1", "epochs: 1.5", "BK012", "epochs"),
        ("lora_rank: 8", "lora_rank: 0", "BK012", "model.lora_rank"),
        ("lora_dropout: 0.0", "lora_dropout: 5", "BK012", "model.lora_dropout"),
        ("shuffle: True", "shuffle: Treu", "BK012", "shuffle"),
        ("max_seq_len: 2048", "max_seq_len: -1", "BK012", "tokenizer.max_seq_len"),
        ('"output_proj"]', '"o_proj"]', "BK012", "model.lora_attn_modules.2"),
        ("batch_size: 4\n", "", "BK013", "batch_size"),
        ("lr: 3e-4", "lr: '3e-4'", "BK014", "optimizer.lr"),
        ("epochs: 1", "epochs: 1\nepochs: 1", "BK015", "epochs"),
        ("log_dir: ${output_dir}/logs", "log_dir: ${outdir}/logs", "BK018", "metric_logger.log_dir"),
        ("lora_llama3_2_1b", "lora_llama3_2_1bb", "BK018", "model._component_"),
        ("lora_llama3_2_1b", "lora_llama3_2_70b", "BK018", "model._component_"),
        ("torchtune.models.llama3.llama3", "torchtune.modles.llama3.llama3", "BK018", "tokenizer._component_"),
        ("_component_: torch.optim.AdamW", "_component_: 'no name'", "BK018", "optimizer._component_"),
    ]:
        with subtests.test(old=old, new=new):
            found = [(each.code, each.subject) for each in findings(changed(BASE, old, new))]
            assert found == [(code, subject)]


def test_what_is_valid_is_left_alone(subtests: pytest.Subtests) -> None:
    """References that only the tool can follow, somebody's own keys and components, other versions' settings."""
    for old, new in [
        ("batch_size: 4", "batch_size: ${oc.env:BATCH}"),
        ("batch_size: 4", "batch_size: ???"),
        ("  split: train", "  split: 'train[:90%]'"),
        ("  split: train", "  field: train"),
        ("  data_files: data/words.json\n  split: train", "  data_files: {test: a.json}\n  split: test"),
        ("  data_files: data/words.json", "  data_dir: data"),
        ("compile: False", "compile: {model: True, loss: False}"),
        ("clip_grad_norm: 1.0", "clip_grad_norm: inf"),
        ("seed: 14", "seed: null"),
        ("device: cuda", "device: cuda:1"),
        ("device: cuda", "device: cuda\nmy_own_key: 3"),
        ("device: cuda", "device: cuda\ntop_p: 0.9"),
        ("torch.optim.AdamW", "bitsandbytes.optim.PagedAdamW8bit"),
        ("torchtune.datasets.instruct_dataset", "my_project.data.words"),
        ("torchtune.models.llama3.llama3_tokenizer", "torchtune.models.qwen3.qwen3_tokenizer_of_mine"),
    ]:
        with subtests.test(old=old, new=new):
            assert findings(changed(BASE, old, new)) == ()


def test_a_config_of_generation_is_read_and_states_no_training() -> None:
    document = read(GENERATION)
    assert FORMAT.claims(document.data, "custom.yaml")
    reading = FORMAT.read(document)
    assert reading.trainings == ()
    assert reading.findings == ()


def test_another_recipe_is_told_as_such_and_not_as_a_list_of_missing_keys() -> None:
    text = BASE
    for line in ("epochs: 1\n", "max_steps_per_epoch: null\n", "shuffle: True\n"):
        text = changed(text, line, "")
    assert told(text) == [("BK013", "info", "")]


def test_generated_rows_are_not_counted_as_examples() -> None:
    """PPO's batches are of prompts; its arithmetic is another one."""
    stated = training(BASE + "ppo_epochs: 2\nnum_steps: 100\n")
    assert stated.epochs is None
    assert stated.micro_batch_size is None
    assert stated.learning_rate is not None


@pytest.mark.parametrize(("limit", "fires"), [("2048", True), ("null", False)])
def test_the_tokenizer_that_masks_the_end_token_is_named(limit: str, fires: bool) -> None:
    text = changed(BASE, "torchtune.models.llama3.llama3_tokenizer", "torchtune.models.qwen2_5.qwen2_5_tokenizer")
    found = told(changed(text, "max_seq_len: 2048", f"max_seq_len: {limit}"))
    assert (("BK019", "warning", "tokenizer.max_seq_len") in found) is fires


def test_several_datasets_are_packed_as_the_first() -> None:
    start, end = BASE.index("dataset:"), BASE.index("seed: 14")
    each = "- {{_component_: torchtune.datasets.alpaca_dataset, packed: {}}}\n"
    text = BASE[:start] + "dataset:\n" + each.format("True") + each.format("False") + BASE[end:]
    same = text.replace("packed: False", "packed: True")
    packed = training(same).packed
    assert packed is not None
    assert packed.value
    assert packed.key == "dataset.0.packed"


@pytest.mark.parametrize(
    ("old", "fault"),
    [
        ("lora_rank: 8", "lora_rnk: 8"),
        ("log_every_n_steps: 1", "log-every-n-steps: 1"),
        ("lora_llama3_2_1b", "lora_lama3_2_1b"),
        ("lr: 3e-4", 'lr: "3e-4"'),
    ],
)
def test_an_edit_makes_the_file_right_again(old: str, fault: str) -> None:
    """What `--fix` would do leaves nothing to say, and changes one line."""
    text = changed(BASE, old, fault)
    lines = text.splitlines()
    (edit,) = [edit for each in findings(text) for edit in each.edits]
    assert lines[edit.line - 1] == edit.old
    assert edit.new is not None
    lines[edit.line - 1] = edit.new
    assert findings("\n".join(lines) + "\n") == ()


def test_references_are_followed_as_omegaconf_does() -> None:
    text = "a: 3\nb: ${a}\nc: x/${b}/y\nd:\n  e: ${a}\n  h:\n  - 1\n  - ${a}\n"
    text += "i: ${d.e}\nj: \\${a}\nk: ${oc.env:HOME}\n"
    data = resolve(read(text)).data
    assert data["b"] == 3
    assert data["c"] == "x/3/y"
    assert data["d"] == {"e": 3, "h": [1, 3]}
    assert data["i"] == 3
    assert data["j"] == "\\${a}"
    assert data["k"] == "${oc.env:HOME}"


@pytest.mark.parametrize(
    ("text", "severity"),
    [
        ("output_dir: ${OUTPUT_DIR}\n", Severity.INFO),
        ("output_dir: a\nlogs: ${outpt_dir}/logs\n", Severity.ERROR),
        ("OUTPUT_DIR: a\nlogs: ${OUTPT_DIR}/logs\n", Severity.ERROR),
    ],
)
def test_a_shells_variable_is_given_from_outside(text: str, severity: Severity) -> None:
    assert [each.severity for each in resolve(read(text)).findings] == [severity]


def test_a_name_is_near_by_letters_and_never_by_numbers() -> None:
    assert misspelled("bacth_size", ["batch_size", "epochs"]) == "batch_size"
    assert misspelled("epoch", ["epochs"]) == "epochs"
    assert misspelled("llama3_2_3b", ["llama3_2_1b"]) is None
    assert misspelled("top_p", ["top_k"]) is None
    assert misspelled("batchsize", ["batch_size"], taken=["batch_size"]) is None


@pytest.mark.parametrize(
    ("text", "written"), [("5e-5", "5.0e-5"), ("1.5e3", "1.5e+3"), ("2E4", "2.0e+4"), ("4", "4"), ("0.5", "0.5")]
)
def test_a_number_is_written_so_that_every_loader_reads_it(text: str, written: str) -> None:
    value = float(text) if text != "4" else 4
    assert pointed(text, value) == written
    for dialect in ("pyyaml", "omegaconf"):
        assert parse_foreign(f"a: {written}\n", "f", dialect).data["a"] == value


@pytest.mark.skipif(SAMPLES is None, reason="TOUCHLINE_SAMPLES names no folder of foreign configs")
def test_the_samples_are_valid() -> None:
    """Published recipe configs of the last release and of the main branch."""
    assert SAMPLES is not None
    paths = sorted(Path(SAMPLES).glob("cfg_torchtune_*.yaml"))
    assert len(paths) >= 2
    for path in some(paths):
        found = findings(path.read_text(encoding="utf-8"))
        assert [each for each in found if each.severity is not Severity.INFO] == []


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**6),
    st.floats(allow_nan=True),
    st.sampled_from(
        ["", "lots", "${batch_size}", "${.x}", "${a.b[0]}", "${oc.env:HOME}", "???", "5e-5", "torchtune.x"]
    ),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["_component_", "max_seq_len", "packed", "lr", "source", "split"]), inner),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(recipe_keys())), _VALUES, max_size=8))
def test_no_config_breaks_the_reader(data: dict[str, object]) -> None:
    """Any mix of values of any kind is read, and every finding has a place in the file."""
    whole = {**read(BASE).data, **data}
    document = ForeignDocument(path="f.yaml", data=whole, lines=())
    reading = FORMAT.read(document)
    assert len(reading.trainings) == 1
    assert all(each.where is not None for each in reading.findings)
