"""Which files are one run: by their names, before any is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from touchline.history.grouping import group_files, key_of

pytestmark = pytest.mark.planning


def groups(folder: Path, *names: str, of: tuple[str, ...] = ()) -> list[list[str]]:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x\n")
    asked = [folder / name for name in of] or [folder]
    return [[str(path.relative_to(folder)) for path in group.files] for group in group_files(asked)]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("train_21.out", "train_21.err", True),
        ("slurm-77.out", "slurm-77.err", True),
        ("job.o123", "job.e123", True),
        ("train.log", "train.err", True),
        ("run_stdout.txt", "run_stderr.txt", True),
        ("x_trainer_log.jsonl", "x_all_results.json", True),
        ("x.yaml", "x_trainer_log.jsonl", True),
        ("a.log.gz", "a.err", True),
        ("slurm-77.out", "slurm-78.out", False),
        ("a_1.log", "a_2.log", False),
        ("job.o1", "job.e2", False),
        ("a.log", "b.log", False),
    ],
)
def test_files_of_one_run_have_one_key(one: str, other: str, same: bool) -> None:
    assert (key_of(Path(one)) == key_of(Path(other))) is same


def test_streams_are_pairs_and_jobs_are_apart(tmp_path: Path) -> None:
    found = groups(tmp_path, "slurm-1.out", "slurm-1.err", "slurm-2.out", "slurm-2.err")
    assert found == [["slurm-1.err", "slurm-1.out"], ["slurm-2.err", "slurm-2.out"]]


def test_state_files_and_a_config_belong_to_the_only_log_of_a_folder(tmp_path: Path) -> None:
    found = groups(tmp_path, "slurm-1.out", "trainer_log.jsonl", "all_results.json", "llama3_lora.yaml")
    assert [sorted(each) for each in found] == [
        ["all_results.json", "llama3_lora.yaml", "slurm-1.out", "trainer_log.jsonl"]
    ]


def test_a_named_file_brings_its_own_run_along_and_no_other(tmp_path: Path) -> None:
    names = ("a.out", "a.err", "b.out", "b.err")
    assert groups(tmp_path, *names, of=("a.out",)) == [["a.err", "a.out"]]


def test_of_checkpoints_only_the_newest_state_counts(tmp_path: Path) -> None:
    found = groups(
        tmp_path,
        "run/checkpoint-9/trainer_state.json",
        "run/checkpoint-10/trainer_state.json",
        "run/adapter_config.json",
    )
    assert ["run/checkpoint-10/trainer_state.json"] in found
    assert not any("checkpoint-9/" in name for each in found for name in each)


def test_links_and_environments_are_not_walked(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    found = groups(tmp_path, "a.log", ".venv/lib/b.log", "node_modules/c.txt")
    assert found == [["a.log"]]


def test_a_file_that_is_not_there_is_a_group_of_its_own(tmp_path: Path) -> None:
    assert [group.files for group in group_files([tmp_path / "gone.log"])] == [(tmp_path / "gone.log",)]
