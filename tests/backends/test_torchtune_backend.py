"""Backend torchtune, as the planner sees it: recipes, model builders, batches, finetune.yaml, and what it refuses."""

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.cases import parametrize, refusal, write
from tests.faults.case import base, changed
from tests.run.made_plans import BATCHES, DATA, MODEL, made_plan, made_run

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.backends.config_table import Reason
from touchline.backends.external import Launch
from touchline.backends.fields import dotted
from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import environments, get_backend, refused_settings
from touchline.backends.torchtune.backend import TRAINER
from touchline.backends.torchtune.format import TorchtuneFormat
from touchline.backends.torchtune.recipes import RECIPES, model_section, recipe_files, recipe_for
from touchline.core.catalog import Dimensions, ModelInfo, SplitInfo
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.data.user_config import UserConfig
from touchline.experiment.foreign import parse_foreign
from touchline.experiment.plan import Assumption, Plan, PlannedRun
from touchline.experiment.training import CheckpointConfig, CheckpointInterval, LoraConfig, TrainConfig
from touchline.plan.settings import Origin, collect_settings
from touchline.tools.imports.carrier import leaves
from touchline.tools.imports.importing import ImportReport

pytestmark = pytest.mark.planning

BACKEND = get_backend("torchtune")
DIMENSIONS = Dimensions(
    num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=128, norm_eps=1e-5, rope_base=1e4, tied_embeddings=True
)
TINY = replace(MODEL, dimensions=DIMENSIONS, weight_files=("model.safetensors",))
LLAMA_SCALING: dict[str, object] = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA_1B = replace(
    TINY,
    name="Llama-3.2-1B-Instruct",
    num_layers=16,
    hidden_size=2048,
    vocab_size=128256,
    context_length=131072,
    dimensions=Dimensions(
        num_heads=32,
        num_kv_heads=8,
        head_dim=64,
        intermediate_size=8192,
        norm_eps=1e-5,
        rope_base=5e5,
        rope_scaling=LLAMA_SCALING,
        tied_embeddings=True,
    ),
)


def dimensions(model: ModelInfo, **changes: object) -> ModelInfo:
    assert model.dimensions is not None
    return replace(model, dimensions=replace(model.dimensions, **changes))


def planned(*, packed: bool = False, validation: bool = True, model: ModelInfo = TINY) -> tuple[PlannedRun, Plan]:
    run = made_run()
    assert run.train is not None
    train = replace(run.train, backend="torchtune", packed=packed, global_batch_size=16, schedule="cosine")
    batches = replace(BATCHES, gradient_accumulation_steps=2, global_batch_size=16)
    run = replace(run, train=train, batches=batches, model=model.name)
    plan = made_plan(run)
    splits = (
        (*DATA.splits, SplitInfo(name="validation", num_examples=5, sha256="8" * 64)) if validation else DATA.splits
    )
    return run, replace(plan, models={model.name: model}, datasets={DATA.path: replace(DATA, splits=splits)})


@parametrize(
    "devices, validation, name",
    (1, False, "lora_finetune_single_device"),
    (1, True, "lora_finetune_single_device_val"),
    (2, False, "lora_finetune_distributed"),
    (4, False, "lora_finetune_distributed"),
    (2, True, "lora_finetune_distributed_val"),
)
def test_recipes_by_devices_and_validation(devices: int, validation: bool, name: str) -> None:
    """The table of seeds 000 and 001; they leave several GPUs with validation open."""
    recipe = recipe_for(devices, validation=validation)
    assert recipe.name == name
    assert recipe.own == validation, "stock recipes never validate"
    on_cpu = recipe_for(devices, validation=validation, on_cpu=True)
    assert on_cpu == (recipe if devices == 1 else RECIPES[True, True]), "the stock one takes NCCL for granted"


def test_recipes_are_files_that_need_torchtune_alone() -> None:
    """Each own recipe is in its files; none imports touchline, which its environment does not have."""
    for recipe in RECIPES.values():
        files = recipe_files(recipe)
        assert (f"{recipe.name}.py" in files) == recipe.own
        for text in files.values():
            nodes = list(ast.walk(ast.parse(text)))
            named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
            named |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
            assert not [name for name in named if name.startswith("touchline")]


def test_commands_name_the_recipe_and_the_state() -> None:
    own = frozenset({"run_components", "lora_finetune_single_device_val"})
    launch = Launch(program="/env/bin/tune", model=None, modules=own, devices=1, state=None, step=0)
    fresh = "/env/bin/tune run lora_finetune_single_device_val --config finetune.yaml"
    assert " ".join(TRAINER.command(launch)) == fresh
    resumed = TRAINER.command(replace(launch, state="/run/resume/step_4", step=4))
    assert " ".join(resumed).startswith(f"{fresh} resume_from_checkpoint=True checkpointer.adapter_checkpoint=/run/")
    several = TRAINER.command(replace(launch, devices=4, modules=frozenset({"run_components"}), model="/models/here"))
    assert " ".join(several) == (
        "/env/bin/tune run --nproc_per_node 4 lora_finetune_distributed --config finetune.yaml "
        "checkpointer.checkpoint_dir=/models/here"
    )
    both = TRAINER.command(replace(launch, devices=2, modules=frozenset({"lora_finetune_distributed_val"})))
    assert " ".join(both) == (
        "/env/bin/tune run --nproc_per_node 2 lora_finetune_distributed_val --config finetune.yaml"
    )


def test_known_sizes_are_named_and_others_built_by_their_dimensions() -> None:
    lora = LoraConfig(rank=64)
    named = model_section(LLAMA_1B, lora)
    assert named["_component_"] == "torchtune.models.llama3_2.lora_llama3_2_1b"
    assert (named["lora_rank"], named["lora_alpha"]) == (64, 128.0)
    assert "embed_dim" not in named
    built = model_section(TINY, lora)
    assert built["_component_"] == "torchtune.models.llama3_2.lora_llama3_2"
    assert (built["embed_dim"], built["rope_base"], built["scale_factor"]) == (64, 10000, 1)
    assert model_section(dimensions(LLAMA_1B, rope_base=1e4), lora)["_component_"] == built["_component_"]
    qwen = model_section(replace(TINY, model_type="qwen2"), lora)
    assert qwen["_component_"] == "torchtune.models.qwen2.lora_qwen2"
    assert "scale_factor" not in qwen
    attention = model_section(TINY, LoraConfig(target_modules=("q_proj", "o_proj")))
    assert (attention["lora_attn_modules"], attention["apply_lora_to_mlp"]) == (["q_proj", "output_proj"], False)


@parametrize(
    "model, train, message",
    (replace(TINY, model_type="gemma"), {}, "expected llama and qwen2"),
    (replace(TINY, dimensions=None), {}, "lacks dimensions"),
    (dimensions(TINY, head_dim=32), {}, "are not the width 64"),
    (dimensions(TINY, biased=True), {}, "a bias"),
    (dimensions(TINY, rope_scaling={"rope_type": "yarn", "factor": 4.0}), {}, "scaled as yarn"),
    (TINY, {"lora": LoraConfig(target_modules=("q_proj", "up_proj"))}, "up_proj alone"),
    (TINY, {"lora": LoraConfig(target_modules=("gate_proj", "up_proj", "down_proj"))}, "an attention layer"),
    (TINY, {"lora": LoraConfig(target_modules=("q_proj", "lm_head"))}, "lm_head"),
    (TINY, {"base_dtype": "bfloat16", "lora": LoraConfig(dtype="float32")}, "have one dtype"),
    (TINY, {"quantization": "nf4"}, "quantization: nf4"),
    (TINY, {"optimizer": "adamw_8bit"}, "optimizer: adamw_8bit"),
    (TINY, {"checkpoint": CheckpointConfig(every=CheckpointInterval(steps=5))}, "checkpoint.every"),
)
def test_the_impossible_is_refused(model: ModelInfo, train: dict[str, object], message: str) -> None:
    found = refused_settings(model, replace(TrainConfig(backend="torchtune", max_seq_len=128), **train))
    assert any(message in each.message for each in found), found
    assert all(each.severity is Severity.ERROR and each.hint for each in found)


def test_defaults_are_accepted() -> None:
    assert refused_settings(TINY, TrainConfig(backend="torchtune", max_seq_len=128)) == ()
    bfloat16 = TrainConfig(
        backend="torchtune", max_seq_len=128, base_dtype="bfloat16", lora=LoraConfig(dtype="bfloat16")
    )
    assert refused_settings(LLAMA_1B, bfloat16) == ()


def test_an_epoch_has_whole_steps_only() -> None:
    """What fills no step is left out: 27 examples make 3 steps of 8, unpacked; the order is the planner's."""
    lengths = ExampleLengths(prompt=np.full(27, 20, np.uint32), answer=np.full(27, 4, np.uint32))
    train = TrainConfig(
        backend="torchtune", epochs=2, global_batch_size=8, micro_batch_size=4, max_seq_len=96, packed=False
    )
    found = BACKEND.batches(train, lengths, 1)
    assert not isinstance(found, Missing)
    assert (found.steps, found.steps_per_epoch, found.micro_batches) == (6, 3, 12)
    other = BACKEND.batches(train, lengths, 2)
    assert not isinstance(other, Missing)
    assert other.digest != found.digest, "another seed is another order"
    packed = BACKEND.batches(replace(train, packed=True, global_batch_size=3, micro_batch_size=1), lengths, 1)
    assert not isinstance(packed, Missing)
    assert (packed.steps_per_epoch, packed.largest_micro_batch_tokens) == (2, 96), "7 packs of 4 examples"
    none = BACKEND.batches(replace(train, global_batch_size=32), lengths, 1)
    assert "27 examples do not fill a global batch of 32" in none.missing


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("model", [TINY, LLAMA_1B])
def test_finetune_yaml_is_torchtunes_own_and_states_the_plan(packed: bool, model: ModelInfo) -> None:
    """Its reader finds no error in it, and in it the plan's numbers; comments explain packing and batch."""
    run, plan = planned(packed=packed, model=model)
    files = BACKEND.files(run, plan)
    assert files.keys() == {"finetune.yaml", "run.yaml", "run_components.py", "lora_finetune_single_device_val.py"}
    text = files["finetune.yaml"]
    reading = TorchtuneFormat().read(parse_foreign(text, "finetune.yaml", "omegaconf"))
    assert [each for each in reading.findings if each.severity is Severity.ERROR] == []
    (stated,) = reading.trainings
    found = (stated.micro_batch_size, stated.gradient_accumulation_steps, stated.epochs, stated.rank, stated.packed)
    assert [None if each is None else each.value for each in found] == [8, 2, 2, 4, packed]
    lines = text.splitlines()
    comment = {line: lines[place - 1] for place, line in enumerate(lines)}
    row = "packed sequences of" if packed else "examples"
    assert comment["batch_size: 8"].lower().startswith(f"# {row}")
    assert comment["gradient_accumulation_steps: 2"].startswith(f"# 8 x 2 = 16 {row}")
    assert comment["dataset:"].startswith(f"# packed: {str(packed).lower()}:")


@pytest.mark.parametrize("validation", [False, True])
def test_several_processes_on_a_cpu_take_touchlines_recipe(validation: bool) -> None:
    """With the global batch kept, and validation only where there is a split for it."""
    run, plan = planned(validation=validation)
    assert run.batches is not None
    run = replace(run, batches=replace(run.batches, gradient_accumulation_steps=1, data_parallel_size=2))
    text = BACKEND.files(run, plan)["finetune.yaml"]
    assert "lora_finetune_distributed_val.py" in BACKEND.files(run, plan)
    assert "tune run lora_finetune_distributed_val --config" in text
    assert "# 8 x 1 x 2 devices = 16 examples per optimizer step" in text
    assert ("dataset_val:" in text) == validation


def test_without_a_validation_split_the_stock_recipe_is_used() -> None:
    run, plan = planned(validation=False)
    files = BACKEND.files(run, plan)
    assert files.keys() == {"finetune.yaml", "run.yaml", "run_components.py"}
    assert "dataset_val" not in files["finetune.yaml"]


def test_the_plan_says_that_it_is_no_longer_maintained() -> None:
    fixed = {setting.key: setting.value for setting in BACKEND.fixed_settings(TrainConfig())}
    assert "no longer maintained" in fixed["train.backend"]
    assert "no longer maintained" in str(environments()["torchtune"].note)


def test_the_table_of_settings_gives_the_dtype_that_auto_becomes() -> None:
    """Base and adapter have one dtype; one that was written is given and has no reason."""
    run, plan = planned()
    assert run.train is not None
    auto = replace(run, train=replace(run.train, base_dtype="auto", lora=LoraConfig(dtype="bfloat16")))
    assumed = (Assumption(key="train.base_dtype", value="auto", reason=""),)
    rows = {row.key: row for row in collect_settings(replace(plan, runs=(auto,), assumptions=assumed))}
    row = rows["train.base_dtype"]
    assert (row.value, row.origin) == ("bfloat16", Origin.DECIDED)
    assert str(row.reason).startswith("train.lora.dtype")
    written = {row.key: row for row in collect_settings(plan)}["train.base_dtype"]
    assert (written.value, written.origin, written.reason) == ("float32", Origin.GIVEN, None)


def test_pins_equal_those_of_the_environment_for_tests() -> None:
    """benchmarks/peers-torchtune.txt makes the environment that tests and benchmarks use."""
    from pathlib import Path

    text = (Path(__file__).resolve().parents[2] / "benchmarks" / "peers-torchtune.txt").read_text()
    pins = {line for line in text.splitlines() if "==" in line}
    assert pins == {each for each in environments()["torchtune"].packages if not each.startswith("torch==")}


KIT = Path(__file__).parents[1] / "fixtures" / "setup_finetune"
"""A setup_finetune.yaml of cruijff_kit, and the finetune.yaml that its own script made of it."""
BASE = base("torchtune")
SETUP = base("torchtune_setup")
IMPORTED = BASE[BASE.index("  _component_") : BASE.index("\ntokenizer")]
"""The settings of the model, with those of its adapter."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report_of(*paths: Path) -> ImportReport:
    return api.import_experiment(paths, Path("new/experiment.yaml"))


def settings_of(report: ImportReport) -> dict[str, Any]:
    """The values of a single training by key; of `models` and `seeds` in a list, as experiment.yaml has them."""
    found = {each.key: each.values[0] for each in report.carried}
    return {key: [value] if key in ("models", "seeds") else value for key, value in found.items()}


def write_words(folder: Path) -> None:
    """Write data/words.json and the tiny model that the base configs name."""
    rows = [{"input": f"word{n}", "output": f"WORD{n}"} for n in range(840)]
    data = {"train": rows[:800], "validation": rows[800:820], "test": rows[820:]}
    write(folder / "data" / "words.json", json.dumps(data))
    write_tiny_model(folder / "models" / "Tiny-1M")


@pytest.mark.parametrize("name", ["setup_finetune", "finetune"])
def test_the_files_of_the_kit_mean_the_same_training(here: Path, name: str) -> None:
    """The values were written down from setup_finetune.py and its template before the import read the files."""
    expected = json.loads((KIT / f"{name}.expected.json").read_text(encoding="utf-8"))
    report = report_of(KIT / f"{name}.yaml")
    found = settings_of(report)
    assert {key: found.get(key) for key in expected["settings"]} == expected["settings"]
    assert set(expected["listed"]) - {each.key for each in report.not_carried} == set()


def test_the_setup_and_the_config_that_its_script_made_of_it_are_one_experiment(here: Path) -> None:
    setup = settings_of(report_of(KIT / "setup_finetune.yaml"))
    (here / "new" / "experiment.yaml").unlink()
    made = settings_of(report_of(KIT / "finetune.yaml"))
    assert Path(setup.pop("data.path")).name == Path(made.pop("data.path")).name
    assert setup.pop("compute.gpus_per_run") == 1
    assert setup == made


@parametrize(
    "old, new, expected",
    ("clip_grad_norm: 1.0\n", "", {"train.max_grad_norm": 1e6}),
    ("dtype: bf16", "dtype: fp32", {"train.base_dtype": "float32", "train.lora.dtype": "float32"}),
    ("save_adapter_weights_only: True\n", "", {"train.checkpoint.save": "merged"}),
    (
        "apply_lora_to_mlp: True",
        "apply_lora_to_mlp: False",
        {"train.lora.target_modules": ["q_proj", "v_proj", "o_proj"]},
    ),
    ("torch.optim.AdamW", "bitsandbytes.optim.AdamW8bit", {"train.optimizer": "adamw_8bit", "train.backend": None}),
    ("lora_llama3_2_1b", "qlora_llama3_2_1b", {"train.quantization": "nf4", "train.method": "lora"}),
    ("split: train", "column_map: {input: q, output: a}", {"data.input": "q", "data.output": "a"}),
    (
        "torchtune.datasets.instruct_dataset",
        "torchtune.datasets.chat_dataset\n  conversation_column: chat\n  conversation_style: openai",
        {"data.messages": "chat"},
    ),
    ("llama3_2.lora_llama3_2_1b", "gemma2.lora_gemma2_2b", {"train.backend": None}),
    ("compile: False", "compile: ${resume_from_checkpoint}", {"train.compile": False}),
    ("device: cuda", "device: cuda\nrun_val_every_n_steps: 25", {"train.validate_every_steps": 25}),
)
def test_a_key_is_carried_over_as_torchtune_means(here: Path, old: str, new: str, expected: dict[str, object]) -> None:
    found = settings_of(report_of(write(here / "finetune.yaml", changed(BASE, old, new))))
    if expected.pop("train.backend", "torchtune") is None:
        assert found.get("train.backend") != "torchtune"
    assert {key: found.get(key) for key in expected} == expected


@parametrize(
    "old, new, key, reason",
    ("clip_grad_norm: 1.0", "clip_grad_norm: null", "clip_grad_norm", Reason.CHANGED),
    ("seed: 14", "seed: null", "seed", Reason.CHANGED),
    ("max_steps_per_epoch: null", "max_steps_per_epoch: 50", "max_steps_per_epoch", Reason.CHANGED),
    ("apply_lora_to_mlp: True", "apply_lora_to_output: True", "model.apply_lora_to_output", Reason.CHANGED),
    ("CEWithChunkedOutputLoss", "ForwardKLLoss", "loss._component_", Reason.CHANGED),
    ("shuffle: True", "shuffle: False", "shuffle", Reason.CHANGED),
    ("split: train", "train_on_input: True", "dataset.train_on_input", Reason.CHANGED),
    ("data/words.json", "${oc.env:WORDS}", "dataset.data_files", Reason.NOT_TAKEN),
    ("torchtune.datasets.instruct_dataset", "mine.words", "dataset._component_", Reason.NOT_TAKEN),
    (IMPORTED, "  _component_: mine.model\n", "model._component_", Reason.CHANGED),
    ("device: cuda", "device: cuda\nmy_note: 7", "my_note", Reason.UNKNOWN),
    (
        "# LoRA on one GPU: tune run lora",
        "# tune run --nproc_per_node 4 lora_finetune_distributed\n# lora",
        "batch_size",
        Reason.CHANGED,
    ),
)
def test_a_key_of_another_meaning_here_is_listed(here: Path, old: str, new: str, key: str, reason: Reason) -> None:
    report = report_of(write(here / "finetune.yaml", changed(BASE, old, new)))
    assert (key, reason) in {(each.key, each.reason) for each in report.not_carried}


@parametrize(
    "old, new, key",
    ("torchtune.modules.loss.CEWithChunkedOutputLoss", "torchtune.rlhf.loss.DPOLoss", "loss._component_"),
    (
        "device: cuda",
        "device: cuda\nteacher_model: {_component_: torchtune.models.llama3_1.llama3_1_8b}",
        "teacher_model",
    ),
    ("torchtune.datasets.instruct_dataset", "torchtune.datasets.text_completion_dataset", "dataset._component_"),
    ("device: cuda", "device: cuda\ngrpo_samples: 4", "grpo_samples"),
    ("device: cuda", "device: cuda\nquantizer: {_component_: torchtune.training.quantization.X}", "quantizer"),
)
def test_another_kind_of_training_is_refused(here: Path, old: str, new: str, key: str) -> None:
    (finding,) = refusal(report_of, write(here / "finetune.yaml", changed(BASE, old, new))).findings
    assert f"({key}" in finding.message
    assert not (here / "new").exists()


def test_a_secret_is_listed_and_not_shown(here: Path) -> None:
    report = report_of(write(here / "finetune.yaml", BASE + 'hf_token: "hf_abcdef"\n'))
    (line,) = [each for each in report.not_carried if each.key == "hf_token"]
    assert line.value == "(not shown)"
    assert "hf_abcdef" not in Path(report.path).read_text(encoding="utf-8")


def test_two_splits_of_one_file_are_the_splits_of_the_data(here: Path) -> None:
    """A validation set in the same file is no other file; one in another file is data.validation."""
    held = """dataset_val:
  _component_: torchtune.datasets.instruct_dataset
  source: json
  data_files: data/words.json
  split: validation
  packed: False
"""
    same = report_of(write(here / "finetune.yaml", BASE + held))
    own = {each.key: each.reason for each in same.not_carried if each.key.startswith("dataset_val")}
    assert len(own) == 5
    assert set(own.values()) == {Reason.SAME}
    Path(same.path).unlink()
    other = settings_of(report_of(write(here / "finetune.yaml", BASE + held.replace("words", "held"))))
    assert other["data.train"] == "../data/words.json"
    assert other["data.validation"] == "../data/held.json"


def test_a_slice_that_trains_is_the_share_that_trains(here: Path) -> None:
    text = changed(BASE, "split: train", 'split: "train[:95%]"')
    held = "dataset_val:\n  _component_: torchtune.datasets.instruct_dataset\n  source: json\n"
    text += f'{held}  data_files: data/words.json\n  split: "train[95%:]"\n'
    assert settings_of(report_of(write(here / "finetune.yaml", text)))["data.train_fraction"] == 0.95


@parametrize(
    "old, new, expected",
    ("gpus: 1", "gpus: 4", {"train.global_batch_size": 16, "compute.gpus_per_run": 4}),
    ("Tiny-1M", "Llama-3.3-70B-Instruct", {"train.global_batch_size": 16, "compute.gpus_per_run": 4}),
    ("lora_rank: 8\n", "", {"train.lora.rank": 64, "train.lora.alpha": 128}),
    ("epochs: 2\n", "gradient_accumulation_steps: 8\n", {"train.epochs": 1, "train.global_batch_size": 32}),
    ("run_val_every_n_steps: 10\n", "", {"train.validate_every_steps": None}),
    ('prompt: "Capitalize the given word: {input}\\n"\n', "", {"data.prompt": "{input}\n"}),
    ('dataset_type: "chat_completion"', "input_key: q\noutput_key: a", {"data.input": "q", "data.output": "a"}),
    ("lr: 3e-4", "base_recipe: llama3_2/1B_lora_single_device", {"train.learning_rate": None}),
)
def test_a_key_of_the_setup_is_as_its_script_says(here: Path, old: str, new: str, expected: dict[str, object]) -> None:
    found = settings_of(report_of(write(here / "setup_finetune.yaml", changed(SETUP, old, new))))
    assert {key: found.get(key) for key in expected} == expected


def test_a_folder_of_runs_is_one_experiment(here: Path) -> None:
    """The config that trains is read, not the setup that it was made of; the data next to the runs is no config."""
    for rank in (4, 8):
        text = changed(BASE, "lora_rank: 8", f"lora_rank: {rank}")
        write(here / "ranks" / f"r{rank}" / "finetune.yaml", changed(text, "lora_alpha: 16", f"lora_alpha: {2 * rank}"))
        write(here / "ranks" / f"r{rank}" / "setup_finetune.yaml", SETUP)
    write(here / "ranks" / "words.json", "[]")
    report = report_of(here / "ranks")
    assert (report.title, len(report.trainings)) == ("torchtune config", 2)
    (rank_key,) = [each for each in report.carried if each.key == "train.lora.rank"]
    assert rank_key.values == (4, 8)
    assert any("setup_finetune.yaml" in note for note in report.notes)


SAME_KEYS = (
    *(
        "model.lora_rank",
        "model.lora_alpha",
        "model.lora_dropout",
        "model.lora_attn_modules",
        "model.apply_lora_to_mlp",
    ),
    *("optimizer._component_", "optimizer.lr", "optimizer.weight_decay", "optimizer.fused"),
    *("tokenizer.max_seq_len", "batch_size", "gradient_accumulation_steps", "epochs", "seed", "clip_grad_norm"),
    *("lr_scheduler.num_warmup_steps", "loss._component_", "compile", "dtype", "enable_activation_checkpointing"),
    *("dataset.packed", "save_adapter_weights_only"),
)
"""Keys of a config whose values a prepared run has again."""


def test_the_config_that_is_prepared_is_the_one_that_was_imported(here: Path) -> None:
    """The run's own finetune.yaml has the source's values, key by key, whatever the words between them."""
    write_words(here)
    text = changed(BASE.replace("Llama-3.2-1B", "Tiny-1M"), "max_seq_len: 2048", "max_seq_len: 128")
    report = report_of(write(here / "finetune.yaml", text))
    settings = UserConfig(models_dir=here / "models", cache_dir=here / "cache", history_dir=here / "history")
    plan = api.plan(Path(report.path), settings, dry_run=True).plan
    made = yaml.safe_load(get_backend("torchtune").files(plan.runs[0], plan)["finetune.yaml"])
    made["lr_scheduler"]["num_warmup_steps"] = made["lr_scheduler"]["warmup_steps"]

    def values(data: dict[str, Any]) -> dict[str, object]:
        flat = {dotted(path): value for path, value in leaves(data)}
        return {key: flat[key] for key in SAME_KEYS}

    assert values(made) == values(parse_foreign(text, "finetune.yaml", "omegaconf").data)
