"""What a config's job script, plan or names tell of it: found where it is so, silent where it only looks so."""

import json
from pathlib import Path

import pytest
from tests.faults.case import base, changed
from tests.faults.harness import check_files, codes, errors
from tests.lint.trainings import found, stated, view

from touchline.core.finding import Finding, Severity
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
    text = changed(FACTORY, "save_total_limit: 2\n", "")
    many = changed(text, "max_samples: 4000", "max_samples: 100000")
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
