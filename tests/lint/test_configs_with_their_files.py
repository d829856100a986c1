"""What a config's job script, plan, names and files tell of it: found where it is so, silent where it only looks so."""

import json
import os
from pathlib import Path

import pytest
from tests.cases import parametrize, some
from tests.faults.case import base, changed
from tests.faults.harness import check_files, codes, errors
from tests.lint.trainings import found, stated, view

from touchline.core.finding import Finding, Severity
from touchline.lint.local.local_files import row_keys
from touchline.lint.training_settings import _name_setting_mismatch, _output_over_base_model

pytestmark = pytest.mark.planning
FACTORY, TRL, TUNE, STAGE = base("llamafactory"), base("trl"), base("torchtune"), base("qlora_stage")
HEADER = "#!/bin/bash\n#SBATCH --cpus-per-task=8\n#SBATCH --mem=64G\n#SBATCH --time=08:00:00\n"


def _of(findings: list[Finding], code: str) -> list[Finding]:
    return [each for each in findings if each.code == code]


def test_names_are_held_against_settings_and_look_alikes_are_left_alone() -> None:
    values = {"rank": 16, "learning_rate": 2e-4, "epochs": 3.0, "seed": 7, "alpha": 32.0}
    right = [
        *("run_rank16", "r16_lr2e-4", "lr0.0002-seed7", "3epochs", "lora_r16_alpha32", "rank16.v2", "lora_alpha32"),
        *("crank64", "frank64x", "seedling5", "rank", "r2", "lr5", "step64", "llama3_8b", "epoch_0", "v64", "2024-r3"),
        *("rank8_or_rank64", "rerank64", "deepseek-r1", "zephyr-alpha-1"),
    ]
    wrong = [
        "1B_rank64",
        "qwen-lora-r8",
        "x_r64",
        "lr1e-4_long",
        "seed42",
        "5ep",
        "lora_alpha=64",
        "rank-32",
        "rank_8.5",
    ]
    for name in right:
        assert list(_name_setting_mismatch(view(stated("trl", output_dir=f"out/{name}", **values)))) == [], name
    for name in wrong:
        assert len(list(_name_setting_mismatch(view(stated("trl", output_dir=f"out/{name}/", **values))))) == 1, name


def test_the_output_is_the_base_in_whatever_spelling() -> None:
    same = [
        *(("models/a", "models/a/"), ("models/a", "./models//a"), ("/m/a", "/m/b/../a"), ("~/m/a", "$HOME/m/a")),
        *(("/m/a", "//m/a/."), ("org/name", "org/name")),
    ]
    other = [
        ("models/a", "models/a-lora"),
        ("models/a", "models"),
        ("models/a", "models/a/out"),
        ("$M", "$M/x"),
        ("a", "A"),
    ]
    for model, output in same:
        assert len(list(_output_over_base_model(view(stated("trl", model=model, output_dir=output))))) == 1, output
    for model, output in other:
        assert list(_output_over_base_model(view(stated("trl", model=model, output_dir=output)))) == [], output


def test_a_job_of_one_gpu_decides_whether_the_weights_fit(tmp_path: Path) -> None:
    large = changed(TRL, "HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen/Qwen2.5-32B-Instruct")
    told = {
        "gpu:a40:1": {"ME020": Severity.ERROR},
        "gpu:nvidia_a100_80gb_pcie:1": {},
        "gpu:h100:1": {},
        "gpu:a40:4": {"ME020": Severity.WARNING},
        "gpu:1": {},
    }
    for index, (gres, wanted) in enumerate(told.items()):
        script = f"{HEADER}#SBATCH --gres={gres}\nCFG=sft.yaml\ntrl sft --config $CFG\n"
        findings = check_files({"sft.yaml": large, "train.slurm": script}, tmp_path / str(index))
        assert {each.code: each.severity for each in findings if each.code.startswith("ME02")} == wanted, gres
    by_option = check_files({"sft.yaml": large, "train.slurm": script}, tmp_path / "option", {"gpu": "A40"})
    assert [each.severity for each in _of(by_option, "ME020")] == [Severity.ERROR]


def test_a_config_that_two_jobs_name_is_of_no_one_machine(tmp_path: Path) -> None:
    large = changed(TRL, "HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen/Qwen2.5-32B-Instruct")
    jobs = {
        f"{kind}.slurm": f"{HEADER}#SBATCH --gres=gpu:{kind}:1\ntrl sft --config sft.yaml\n" for kind in ("a40", "h100")
    }
    assert "ME020" not in codes(check_files({"sft.yaml": large, **jobs}, tmp_path))


def test_rows_are_proposed_by_the_key_that_a_split_means(tmp_path: Path) -> None:
    rows = [{"input": f"word{n}", "output": f"Word{n}"} for n in range(600)]
    data = json.dumps({"test": rows[:50], "train": rows[50:500], "val": rows[500:]})
    held = "dataset_val:\n  _component_: {}\n  source: json\n  data_files: data/words.json\nseed: 14\n"
    named = changed(TUNE, "seed: 14\n", held.format("torchtune.datasets.instruct_dataset"))
    found_ = check_files({"finetune.yaml": named, "data/words.json": data}, tmp_path / "1")
    assert [each.hint for each in _of(found_, "BK025")] == ["field: train", "field: val"]
    fixed = named.replace("  split: train\n", "  field: train\n").replace("seed: 14", "seed: 14", 1)
    fixed = fixed.replace("  data_files: data/words.json\nseed", "  data_files: data/words.json\n  field: val\nseed")
    assert errors(check_files({"finetune.yaml": fixed, "data/words.json": data}, tmp_path / "2")) == []
    own = changed(TUNE, "torchtune.datasets.instruct_dataset", "kit.datasets.words")
    told = _of(check_files({"finetune.yaml": own, "data/words.json": data}, tmp_path / "3"), "BK025")
    assert [each.severity for each in told] == [Severity.WARNING]


def test_packing_is_advised_only_where_a_setting_packs(tmp_path: Path) -> None:
    assert "PK005" in codes(check_files({"sft.yaml": FACTORY}, tmp_path / "1"))
    assert "PK005" not in codes(check_files({"stage.yaml": STAGE}, tmp_path / "2"))


def test_checkpoints_that_nobody_deletes_are_counted_from_the_rows(tmp_path: Path) -> None:
    """At most 100,000 rows, 16 a step, twice: 12,500 steps, 125 checkpoints of 100 steps."""
    many = changed(changed(FACTORY, "save_total_limit: 2\n", ""), "max_samples: 4000", "max_samples: 100000")
    (told,) = _of(check_files({"sft.yaml": many}, tmp_path / "2"), "BK022")
    assert "up to 125 checkpoints" in told.message


def test_an_experiment_and_a_short_training_need_no_validation_rule() -> None:
    for backend, epochs, fires in (
        ("llamafactory", 7.0, True),
        ("llamafactory", 4.0, False),
        ("torchtune", 5.0, False),
    ):
        assert ("TR025" in found(view(stated(backend, epochs=epochs)))) == fires, (backend, epochs)
    assert "TR025" not in found(view(stated("peft", epochs=30.0)))


def test_records_that_runs_write_are_no_configs(tmp_path: Path) -> None:
    training = {"schema_version": 1, "experiment": "e", "run": "r", "run_digest": "d", "steps": 3, "checkpoints": []}
    export = {"schema_version": 1, "experiment": "e", "run": "r", "run_digest": "d", "kind": "adapter", "files": {}}
    files = {
        "1B_rank8/finetune.yaml": TUNE,
        "1B_rank8/training.json": json.dumps(training),
        "1B_rank8/copy/touchline.json": json.dumps(export),
    }
    assert {
        each.code for each in check_files(files, tmp_path) if "json" in (each.where.path if each.where else "")
    } == set()


def test_a_changed_copy_is_nobody_elses_config(tmp_path: Path) -> None:
    edits = [
        'cp base.yaml "$CFG"; sed -i s/a/b/ "${CFG}"',
        'CFG=$(mktemp --suffix=.yaml); cat base.yaml > "$CFG"; sed -i s/a/b/ $CFG',
        "CFG=/scratch/$SLURM_JOB_ID/x.yaml; sed -i s/a/b/ $CFG",
        "sed s/a/b/ base.yaml > other.yaml",
        "sed -i s/a/b/ results.txt",
    ]
    for index, edit in enumerate(edits):
        script = f"{HEADER}#SBATCH --gres=gpu:1\n{edit}\naxolotl train $CFG\n"
        assert "SL046" not in codes(check_files({"train.slurm": script}, tmp_path / str(index))), edit
    for index, edit in enumerate(
        [
            'sed -i.bak "s/a/b/" "${CONFIG_DIR}/base.yaml"',
            "CFG=conf/base.yaml\nyq -i '.lr = 1' $CFG",
            "perl -pi -e 's/a/b/' base.yaml",
            "ls conf/*.yaml | xargs sed -i s/a/b/ base.yaml",
            'CONFIG_FILE=$1\nsed -i "s/a/b/" "$CONFIG_FILE"',
        ]
    ):
        script = f"{HEADER}#SBATCH --gres=gpu:1\n{edit}\naxolotl train base.yaml\n"
        assert "SL046" in codes(check_files({"train.slurm": script}, tmp_path / f"w{index}")), edit


def test_data_workers_of_a_config_are_held_against_the_cores_of_its_job(tmp_path: Path) -> None:
    """The user's number of cores goes before the script's."""
    many = changed(FACTORY, "dataloader_num_workers: 2", "dataloader_num_workers: 16")
    files = {"sft.yaml": many, "train.slurm": f"{HEADER}#SBATCH --gres=gpu:1\nllamafactory-cli train sft.yaml\n"}
    assert "TR055" in codes(check_files(files, tmp_path / "8"))
    assert "TR055" not in codes(check_files(files, tmp_path / "32", {"cpus": 32}))


ROWS = [{"input": f"word {number}", "output": f"Word {number}"} for number in range(80)]
LIST, SPLITS = json.dumps(ROWS), json.dumps({"train": ROWS, "test": ROWS[:1]})
TUNE = changed(base("torchtune"), "  split: train\n", "  split: train\n  column_map: {input: input, output: output}\n")
AXOLOTL = changed(base("axolotl"), "path: tatsu-lab/alpaca", "path: data/words.jsonl")
LINES = "".join(json.dumps({"instruction": each["input"], "output": each["output"]}) + "\n" for each in ROWS)
REGISTRY = json.dumps({"quotations": {"file_name": "words.json"}})


def _codes(tmp_path: Path, **files: str) -> set[str]:
    found = check_files({name.replace("__", "/").replace("_D_", "."): text for name, text in files.items()}, tmp_path)
    return {each.code for each in _hard(found) if each.code.startswith("BK02")}


def _hard(found: list[Finding]) -> list[Finding]:
    return [each for each in found if each.severity is not Severity.INFO]


def test_files_as_the_configs_say_are_left_alone(tmp_path: Path) -> None:
    assert _codes(tmp_path / "1", finetune_D_yaml=TUNE, data__words_D_json=LIST) == set()
    split = changed(TUNE, "  split: train\n", "  field: train\n")
    assert _codes(tmp_path / "2", finetune_D_yaml=split, data__words_D_json=SPLITS) == set()
    assert _codes(tmp_path / "3", a_D_yml=AXOLOTL, data__words_D_jsonl=LINES) == set()
    files = {"data__dataset_info_D_json": REGISTRY, "data__words_D_json": LIST}
    assert _codes(tmp_path / "4", l_D_yaml=base("llamafactory"), **files) == set()


def test_a_config_for_another_machine_says_nothing(tmp_path: Path) -> None:
    assert _codes(tmp_path, finetune_D_yaml=TUNE, a_D_yml=AXOLOTL, l_D_yaml=base("llamafactory")) == set()


def test_a_misspelt_file_is_an_error_with_the_name_that_is_there(tmp_path: Path) -> None:
    found = check_files({"finetune.yaml": changed(TUNE, "words.json", "wrods.json"), "data/words.json": LIST}, tmp_path)
    (told,) = [each for each in found if each.code == "BK023"]
    assert told.severity is Severity.ERROR
    assert told.hint == "did you mean data/words.json?"


def test_field_and_split_are_held_against_the_file(tmp_path: Path) -> None:
    of_list = changed(TUNE, "  split: train\n", "  field: train\n")
    assert _codes(tmp_path / "1", finetune_D_yaml=of_list, data__words_D_json=LIST) == {"BK025"}
    assert _codes(tmp_path / "2", finetune_D_yaml=TUNE, data__words_D_json=SPLITS) == {"BK025"}
    other = changed(of_list, "field: train", "field: training")
    assert _codes(tmp_path / "3", finetune_D_yaml=other, data__words_D_json=SPLITS) == {"BK025"}
    form = changed(TUNE, "source: json", "source: csv")
    assert "BK025" in _codes(tmp_path / "4", finetune_D_yaml=form, data__words_D_json=LIST)


@pytest.mark.parametrize("text", ["", "{", "[", "[1, 2]", '"text"', "{}", '{"a": 1}', "null", "\ufeff[]"])
def test_a_file_of_any_content_is_read_without_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    assert row_keys(path) in (None, ())


@pytest.mark.parametrize(("old", "new"), [("true", "True"), ('"seed": 3', '"seed": 3,')])
def test_json_that_only_yaml_takes_is_no_json(tmp_path: Path, old: str, new: str) -> None:
    arguments = {
        "model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct",
        **{"output_dir": "runs/a", "learning_rate": 2e-4, "per_device_train_batch_size": 4},
        **{"num_train_epochs": 2, "bf16": True, "report_to": ["none"], "seed": 3},
    }
    text = json.dumps(arguments, indent=1)
    assert _hard(check_files({"args.json": text}, tmp_path / "right")) == []
    found = _hard(check_files({"args.json": changed(text, old, new)}, tmp_path / "wrong"))
    assert [each.code for each in found] == ["BK010"]


ADAPTER = json.dumps({"base_model_name_or_path": "meta-llama/Llama-3.2-1B", "r": 8, "peft_type": "LORA"})


def _shard(count: int = 8, *, cut: int = 0) -> str:
    """A safetensors file of one tensor, perhaps without its last bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}})
    whole = len(header).to_bytes(8, "little") + header.encode() + b"x" * count
    return whole[: len(whole) - cut].decode("utf-8", errors="surrogateescape")


WHOLE = {"models/stage0/adapter_config.json": ADAPTER, "models/stage0/adapter_model.safetensors": _shard()}


def _adapter_codes(tmp_path: Path, files: dict[str, str], config: str | None = None) -> set[str]:
    text = base("qlora_stage") + "prev_checkpoint: models/stage0\n" if config is None else config
    return {code for code in codes(check_files({"stage.yaml": text, **files}, tmp_path)) if code.startswith("CK04")}


def test_a_whole_adapter_is_left_alone(tmp_path: Path) -> None:
    assert _adapter_codes(tmp_path, WHOLE) == set()


@parametrize(
    "old, new", ("Llama-3.2-1B", "Llama-3.1-8B"), ('"r": 8', '"r": 64'), ids=["a different base", "another rank"]
)
def test_an_adapter_of_another_training_is_told(tmp_path: Path, old: str, new: str) -> None:
    files = {**WHOLE, "models/stage0/adapter_config.json": changed(ADAPTER, old, new)}
    assert _adapter_codes(tmp_path, files) == {"CK042"}


def test_a_checkpoint_without_the_trainers_state_is_told(tmp_path: Path) -> None:
    """The Trainer begins at step 0 again and says nothing of it."""
    folder = "out/checkpoint-50"
    config = base("trl") + f"\nresume_from_checkpoint: {folder}\n"
    files = {f"{folder}/{name.rpartition('/')[2]}": text for name, text in WHOLE.items()}
    assert "CK043" in _adapter_codes(tmp_path / "bare", files, config)
    state = {f"{folder}/trainer_state.json": json.dumps({"global_step": 5}), f"{folder}/optimizer.pt": "x"}
    assert "CK043" not in _adapter_codes(tmp_path / "whole", {**files, **state}, config)


SAMPLES = os.environ.get("TOUCHLINE_SAMPLES")
needs_samples = pytest.mark.skipif(SAMPLES is None, reason="TOUCHLINE_SAMPLES is not set")


@needs_samples
@pytest.mark.parametrize("pattern", ["cfg_*"])
def test_valid_ones_have_neither_errors_nor_warnings(pattern: str, tmp_path: Path) -> None:
    paths = sorted(Path(str(SAMPLES)).glob(pattern))
    assert len(paths) >= 5
    for path in some(paths):
        found = check_files({path.name: path.read_text(encoding="utf-8")}, tmp_path / path.stem)
        assert [each for each in found if each.severity is not Severity.INFO] == [], path.name


@needs_samples
def test_the_smells_of_a_real_config_are_named(tmp_path: Path) -> None:
    """Complete checkpoints every 500 steps that nobody deletes: the real run left 13 of them."""
    path = Path(str(SAMPLES)) / "lf_qlora_medical.yaml"
    found = check_files({path.name: path.read_text(encoding="utf-8")}, tmp_path)
    (smell,) = [each for each in found if each.code == "BK022"]
    assert "save_only_model: false" in smell.message
    assert "no save_total_limit" in smell.message
    assert smell.hint == "save_total_limit: 3"
    assert errors(found) == []
