"""What a real project lost weeks to, fault by fault, each caught here from text and small data before anything runs."""

import json
from pathlib import Path

import pytest
from tests.faults.case import base, changed
from tests.faults.harness import check_files, codes, errors

from tools.tiny_model import write_tiny_model
from touchline.core.finding import Finding, Severity
from touchline.lint.memory import table_limit

pytestmark = pytest.mark.planning

STAGE = base("qlora_stage")
SCRIPT = base("sbatch")


def _stage(name: str, folder: str, extra: str = "") -> str:
    text = changed(STAGE, '"Words - stage 1"', f'"{name}"')
    return text.replace("models/stage1", f"models/{folder}").replace("data/stage1", f"data/{folder}") + extra


def _jsonl(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _vqa(answers: list[str], count: int = 240) -> str:
    """Rows of four questions about images, each always answered alike."""
    questions = ["What is the procedure?", "Which tool is it?", "What state is it in?", "How many are there?"]
    return _jsonl(
        [{"question": questions[n % 4], "image": f"frame_{n:03d}.png", "answer": answers[n % 4]} for n in range(count)]
    )


def _found(files: dict[str, str], tmp_path: Path, **options: object) -> list[Finding]:
    return check_files(files, tmp_path, options)


def test_a_curriculum_stage_that_trains_a_fresh_adapter(tmp_path: Path) -> None:
    first = _stage("Exp4 curriculum - stage 1", "exp4_stage1")
    second = _stage("Exp4 curriculum - stage 2", "exp4_stage2")
    files = {"exp4_stage1.yaml": first, "exp4_stage2.yaml": second}
    assert "EX144" in codes(_found(files, tmp_path / "bad"))
    files["exp4_stage2.yaml"] = second + "prev_checkpoint: models/exp4_stage1\n"
    assert "EX144" not in codes(_found(files, tmp_path / "good"))


def test_labels_that_are_four_constants_one_for_each_question(tmp_path: Path) -> None:
    assert "DA321" in codes(_found({"train.jsonl": _vqa(["nephrectomy", "grasper", "idle", "2"])}, tmp_path))


def test_a_stage_whose_answers_are_all_the_same(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"input": f"frame {n}", "output": "Robotic surgery"} for n in range(80)]
    assert "DA320" in codes(_found({"train.jsonl": _jsonl(rows)}, tmp_path))


def test_an_order_that_a_shuffling_sampler_destroys(tmp_path: Path) -> None:
    words = [{"input": f"word{n:03d}", "output": f"Word{n:03d}"} for n in range(60)]
    own = [{"input": f"test{n:03d}", "output": f"Test{n:03d}"} for n in range(20)]
    files = {
        "experiment.yaml": "name: order\nmodels: [tiny]\ntask: capitalization\nevaluate: {samples: all}\n"
        "data: {path: random.json}\nfactors:\n  data.path: [random.json, ordered.json]\ncontrols: [base]\n",
        "random.json": json.dumps({"train": words[::-1], "validation": own[:5], "test": own[5:]}),
        "ordered.json": json.dumps({"train": words, "validation": own[:5], "test": own[5:]}),
    }
    assert "EX102" in codes(_found(files, tmp_path))


def test_an_experiment_that_is_another_one_under_a_new_name(tmp_path: Path) -> None:
    one = changed(STAGE, '"Words - stage 1"', '"Exp2 reordered"')
    other = changed(one, '"Exp2 reordered"', '"Exp5 sequential"').replace("models/stage1", "models/exp5")
    assert "EX140" in codes(_found({"exp2.yaml": one, "exp5.yaml": other}, tmp_path))


def test_checkpointing_that_is_switched_off_in_vain(tmp_path: Path) -> None:
    text = changed(STAGE, "gradient_checkpointing: true", "gradient_checkpointing: false")
    (found,) = [each for each in _found({"stage.yaml": text}, tmp_path) if each.code == "BK019"]
    assert found.where is not None
    assert found.where.line == text.splitlines().index("  gradient_checkpointing: false") + 1


def test_an_epoch_that_was_counted_without_accumulation(tmp_path: Path) -> None:
    """1,341 rows in steps of 16 are 84 a epoch; 21 is what comes of dividing by 64: four evaluations an epoch."""
    text = changed(STAGE, "save_steps: 50", "save_steps: 21").replace("eval_steps: 50", "eval_steps: 21")
    rows: list[dict[str, object]] = [{"question": f"q{n}", "answer": f"a{n % 7}"} for n in range(1341)]
    assert "TR017" in codes(_found({"stage.yaml": text, "data/stage1/train.jsonl": _jsonl(rows)}, tmp_path))


def test_a_pipe_that_makes_every_failure_a_success(tmp_path: Path) -> None:
    lost = "(python train.py --config a.yaml) | sed 's/^/[1] /' &\nwait $!\n"
    script = SCRIPT.replace("set -euo pipefail\n", "").partition("python train.py")[0] + lost
    assert "SL030" in codes(_found({"mega.slurm": script}, tmp_path))


def test_a_config_that_is_an_empty_file(tmp_path: Path) -> None:
    files = {"exp1.yaml": _stage("Exp1", "exp1"), "exp2_qwen_reordered.yaml": ""}
    (found,) = [each for each in _found(files, tmp_path) if each.code == "BK010"]
    assert found.where is not None
    assert found.where.path.endswith("exp2_qwen_reordered.yaml")


def test_a_stage_that_points_at_another_experiments_data_without_rows(tmp_path: Path) -> None:
    third = _stage("Exp3 sequential - stage 3", "exp3_stage3").replace("data/exp3_stage3", "data/exp4_stage3")
    files = {
        "exp3_stage3.yaml": third,
        "exp4_stage3.yaml": _stage("Exp4 curriculum - stage 3", "exp4_stage3", "prev_checkpoint: models/exp4_stage2\n"),
        "data/exp4_stage3/train.jsonl": "",
    }
    assert {"EX150", "EX151"} <= codes(_found(files, tmp_path))


def test_answers_that_are_not_among_the_candidates(tmp_path: Path) -> None:
    options = ["instrument-shaft", "instrument-wrist", "kidney-parenchyma", "none"]
    rows: list[dict[str, object]] = [
        {"question": f"What is in frame {n}?", "candidates": options, "answer": options[n % 4]} for n in range(40)
    ]
    rows[7]["answer"], rows[9]["answer"] = "shaft", "kidney parenchyma"
    found = [each for each in _found({"train.jsonl": _jsonl(rows)}, tmp_path) if each.code == "DA330"]
    assert found
    assert any("instrument-shaft" in (each.hint or "") + each.message for each in found)


def test_a_parent_chosen_by_its_date_and_a_config_changed_in_place(tmp_path: Path) -> None:
    lines = (
        "CKPT=$(ls -td models/exp4/stage1/checkpoint-* | head -1)\n"
        'sed -i "s|prev_checkpoint:.*|prev_checkpoint: $CKPT|" configs/exp4_stage2.yaml\n'
        "python train.py --config configs/exp4_stage2.yaml\n"
    )
    names = {each.code for each in _found({"mega.slurm": SCRIPT.partition("python train.py")[0] + lines}, tmp_path)}
    assert {"SL046", "SL047"} <= names


def test_images_that_are_not_there(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"question": "What is it?", "image": f"images/{n}.png", "answer": f"tool {n % 5}"} for n in range(30)
    ]
    files = {"train.jsonl": _jsonl(rows), **{f"images/{n}.png": "x" for n in range(25)}}
    assert "DA373" in codes(_found(files, tmp_path))


def test_more_data_workers_than_cores(tmp_path: Path) -> None:
    text = changed(STAGE, "dataloader_num_workers: 2", "dataloader_num_workers: 64")
    assert "TR055" in codes(_found({"stage.yaml": text}, tmp_path, cpus=32))


def test_data_workers_of_runs_that_one_job_trains_at_the_same_time(tmp_path: Path) -> None:
    """16 each are within 32 cores; those of a chain on each of four GPUs are not. Configs are named from a variable."""
    text = changed(STAGE, "dataloader_num_workers: 2", "dataloader_num_workers: 16")
    files = {f"configs/exp{n}.yaml": text.replace("models/stage1", f"models/exp{n}") for n in range(8)}
    train = "python3 train.py ${ROOT}/configs/exp"
    for ending, wanted in ((" &\n", {"dataloader_num_workers: 7"}), ("\n", set[str]())):
        chains = (f"({train}{n}.yaml && {train}{n + 4}.yaml) 2>&1 | sed s/^/>/{ending}" for n in range(4))
        files["mega.slurm"] = "#!/bin/bash\n#SBATCH --cpus-per-task=32 --gres=gpu:4\nROOT=${HOME}/x\n" + "".join(chains)
        found = [each for each in _found(files, tmp_path / str(len(ending))) if each.code == "TR055"]
        assert {each.hint for each in found} == wanted
        assert all("64 (16 × 4 runs at once) data-loading processes" in each.message for each in found)


def test_a_model_whose_download_was_cut_off(tmp_path: Path) -> None:
    """The folder that another trainer's config names is opened: a shard that is too short ends the job at loading."""
    write_tiny_model(tmp_path / "checked" / "base")
    whole = (tmp_path / "checked" / "base" / "model.safetensors").read_bytes()
    text = changed(STAGE, "meta-llama/Llama-3.2-1B", "base")
    assert "CK104" not in codes(_found({"stage.yaml": text}, tmp_path))
    (tmp_path / "checked" / "base" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "CK104" in codes(_found({"stage.yaml": text}, tmp_path))


def _config(size: str, batch: int, *, packed: bool) -> str:
    text = changed(base("torchtune"), "batch_size: 4\n", f"batch_size: {batch}\n")
    text = changed(text, "lora_llama3_2_1b", f"lora_llama3_2_{size}")
    text = changed(text, "packed: False", f"packed: {packed}")
    return changed(text, "enable_activation_checkpointing: True", "enable_activation_checkpointing: False")


def _findings(folder: Path, *, packed: bool, **batches: int) -> list[Finding]:
    sizes = {"one": "1b", "three": "3b"}
    files = {f"{name}/finetune.yaml": _config(sizes[name], batch, packed=packed) for name, batch in batches.items()}
    return check_files(files, folder)


def _packing(findings: list[Finding]) -> list[tuple[str, Severity]]:
    return [(each.code, each.severity) for each in findings if each.code in {"PK001", "PK002", "PK003", "PK004"}]


def test_case_1_packed_within_the_limits_passes(tmp_path: Path) -> None:
    """1B at most 8, 3B at most 4: at the limit a warning, below it nothing, above it an error."""
    assert _packing(_findings(tmp_path / "below", packed=True, one=4, three=2)) == []
    at = _findings(tmp_path / "at", packed=True, one=8, three=4)
    assert errors(at) == []
    assert _packing(at) == [("PK002", Severity.WARNING)] * 2
    assert _packing(_findings(tmp_path / "over", packed=True, one=9, three=5)) == [("PK001", Severity.ERROR)] * 2


def test_case_2_unpacked_batches_may_be_larger(tmp_path: Path) -> None:
    found = _findings(tmp_path, packed=False, one=16, three=8)
    assert errors(found) == []
    assert _packing(found) == []


def test_case_3_migrating_from_unpacked_to_packed(tmp_path: Path) -> None:
    assert _packing(_findings(tmp_path / "before", packed=False, one=16)) == []
    (caught,) = [each for each in errors(_findings(tmp_path / "packed", packed=True, one=16))]
    assert caught.code == "PK001"
    assert caught.hint is not None
    assert "batch_size: 8, gradient_accumulation_steps: 8" in caught.hint
    assert "A100-80GB" in caught.message
    lowered = _findings(tmp_path / "lowered", packed=True, one=8)
    assert _packing(lowered) == [("PK002", Severity.WARNING)]
    assert errors(lowered) == []
    assert _packing(_findings(tmp_path / "lower", packed=True, one=4)) == []


@pytest.mark.parametrize(("batch", "code"), [(16, "PK001"), (11, "PK002"), (8, None)])
def test_where_the_gpu_is_known_the_estimate_decides(tmp_path: Path, batch: int, code: str | None) -> None:
    """The seeds' run took 78 GB of an A100's 80 and ended there; by the estimate 11 rows surely fit."""
    found = check_files({"finetune.yaml": _config("1b", batch, packed=True)}, tmp_path, {"gpu": "A100-80GB"})
    assert [name for name, _ in _packing(found)] == ([] if code is None else [code])


@pytest.mark.parametrize(("letters", "codes"), [(40, []), (4000, [("PK003", Severity.WARNING)])])
def test_rows_that_can_be_read_bound_the_width_without_a_tokenizer(
    tmp_path: Path, letters: int, codes: list[tuple[str, Severity]]
) -> None:
    """Sixteen rows of 40 letters were said to need the memory of 16 x 2,048 tokens."""
    rows = json.dumps([{"input": "a" * letters, "output": "A"}] * 20)
    files = {"finetune.yaml": _config("1b", 16, packed=False), "data/words.json": rows}
    assert _packing(check_files(files, tmp_path, {"gpu": "A100-80GB"})) == codes


def test_the_table_is_that_of_the_seed() -> None:
    sizes = {1_236_000_000: (8, 20), 3_213_000_000: (4, 12), 8_030_000_000: (2, 6), 13_000_000_000: (1, 4)}
    sizes |= {70_000_000_000: (1, 2), 405_000_000_000: (1, 1)}
    found = {
        size: tuple(table_limit(size, packed=packed, max_seq_len=2048) for packed in (True, False)) for size in sizes
    }
    assert found == sizes


def test_the_table_allows_more_of_shorter_rows_and_never_less_of_longer_ones() -> None:
    assert table_limit(1_236_000_000, packed=True, max_seq_len=512) == 32
    assert table_limit(1_236_000_000, packed=True, max_seq_len=8192) == 8
    assert table_limit(494_000_000, packed=True, max_seq_len=None) == 16
