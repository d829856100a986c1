"""Whatever lies in the folder: a report all the same, with an issue that says what is missing and why."""

import json
import os
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from tests.results.made_seed002 import NAME, RUNS, log_of, make, write_checkpoint
from tests.tiers import examples

from touchline.core.errors import HostError, InputError
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import RunStatus, TrainingOutcome
from touchline.history import scan as lines
from touchline.report.build import build_report
from touchline.report.markdown import results_markdown
from touchline.report.report import Report
from touchline.results.imported import evaluations, find, folders
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult

pytestmark = [pytest.mark.planning, pytest.mark.slow]

BOMB = "a: &a [x]\n" + "".join(f"b{k}: &b{k} [*a, *a, *a, *a, *a, *a, *a, *a]\n" for k in range(2000))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path, weights=False)


def titles(gathered: ReportInputs, subject: str | None = None) -> list[str]:
    return [each.title for each in gathered.issues if subject in (None, each.subject)]


def one(gathered: ReportInputs, name: str) -> RunResult:
    return next(run for run in gathered.runs if run.name == name)


def as_json(gathered: ReportInputs) -> str:
    """What `--json` does with it; and the report is written whatever it holds."""
    report = build_report(gathered)
    assert results_markdown(report, (), "").startswith("# ")
    return TypeAdapter(Report).dump_json(report).decode()


# ---- nothing to report -----------------------------------------------------------------------------------------------


def test_a_folder_without_runs_a_file_or_nothing_is_one_clear_fault(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "words.json").write_text("[]")
    (tmp_path / "notes.txt").write_text("nothing")
    for path, words in (
        (tmp_path, "contains no run"),
        (tmp_path / "notes.txt", "not a directory"),
        (tmp_path / "gone", "not exist"),
    ):
        with pytest.raises(InputError, match=words):
            find(path)


def test_a_folder_that_may_not_be_read_is_one_clear_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(HostError, match="Permission denied"):
        find(folder)


# ---- parts that cannot be read ---------------------------------------------------------------------------------------


def test_a_run_folder_that_may_not_be_read_leaves_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "3B_rank4":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(folders.os, "scandir", refuse)
    gathered = find(folder)
    assert [run.name for run in gathered.runs] == ["1B_rank4", "1B_rank64", "3B_rank64"]
    (issue,) = [each for each in gathered.issues if each.title == "folder cannot be read"]
    assert "3B_rank4" in issue.text
    assert "Permission denied" in issue.text


def test_a_log_that_may_not_be_opened_is_an_issue(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = lines.open_regular

    def refuse(path: Path) -> object:
        if path.name == "slurm-61000503.out":
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(lines, "open_regular", refuse)
    gathered = find(folder)
    assert len(gathered.runs) == 4
    assert one(gathered, "3B_rank4").outcome is TrainingOutcome.NOT_STARTED
    assert "a file cannot be read" in titles(gathered, "3B_rank4")
    assert isinstance(one(gathered, "3B_rank4").final_train_loss, Missing)


NO_TEXT = {
    "1B_rank4": bytes(range(32)) * 4000,
    "1B_rank64": b"PK\3\4" + bytes(5000),
    "3B_rank4": b"\x1f\x8b" + bytes(300),
    "3B_rank64": b"",
}
"""Control characters, an archive, broken gzip, and nothing."""


def test_logs_that_are_no_text(folder: Path) -> None:
    for name, content in NO_TEXT.items():
        for path in (folder / name).glob("slurm-*.out"):
            path.write_bytes(content)
    gathered = find(folder)
    for name in NO_TEXT:
        assert one(gathered, name).outcome is TrainingOutcome.NOT_STARTED, name
        assert {"a file cannot be read", "no training log"} & set(titles(gathered, name)), name
    assert one(gathered, "1B_rank4").model == "Llama-3.2-1B-Instruct"
    as_json(gathered)


def test_a_log_of_other_bytes_is_read_as_far_as_it_goes(folder: Path) -> None:
    path = folder / "1B_rank4" / "slurm-61000501.out"
    path.write_bytes(b"Gr\xfc\xdfe aus K\xf6ln \xe2\x80\n" + path.read_bytes().replace("█".encode(), b"\xdb"))
    assert one(find(folder), "1B_rank4").outcome is TrainingOutcome.COMPLETE


def test_a_config_that_is_no_yaml_is_an_issue(folder: Path) -> None:
    (folder / "1B_rank4" / "finetune.yaml").write_text("batch_size: [1\nx: {\n")
    (folder / "1B_rank64" / "finetune.yaml").write_text(BOMB)
    (folder / "3B_rank4" / "setup_finetune.yaml").write_text("a: 1\na: 2\n")
    gathered = find(folder)
    for name in ("1B_rank4", "1B_rank64", "3B_rank4"):
        assert any("cannot be read" in title for title in titles(gathered, name)), name
        assert one(gathered, name).outcome is TrainingOutcome.COMPLETE
    as_json(gathered)


def test_strange_json(folder: Path) -> None:
    texts = ["[" * 100_000, "{}", "null", "[]", '{"r": "x", "peft_type": 3}', "\0", '{"r": 1e400}']
    for number, text in enumerate(texts):
        for name in ("adapter_config.json", "trainer_state.json", "all_results.json"):
            (folder / RUNS[number % 4].name / name).write_text(text)
        if number % 4 == 3 or number == len(texts) - 1:
            assert {run.outcome for run in find(folder).runs} == {TrainingOutcome.COMPLETE}


def test_links_are_not_followed_and_are_told(folder: Path, tmp_path: Path) -> None:
    (folder / "loop").symlink_to(folder)
    (folder / "elsewhere").symlink_to("/")
    (folder / "1B_rank4" / "latest.out").symlink_to("slurm-61000501.out")
    (folder / "broken").symlink_to(tmp_path / "nowhere")
    gathered = find(folder)
    assert [run.name for run in gathered.runs] == [run.name for run in RUNS]
    (issue,) = [each for each in gathered.issues if each.title == "links not followed"]
    assert "4 symbolic links" in issue.text
    through = tmp_path / "link"
    through.symlink_to(folder)
    assert [run.name for run in find(through).runs] == [run.name for run in RUNS]


def test_a_named_pipe_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "1B_rank4" / "slurm-99.out")
    os.mkfifo(folder / "README.txt")
    assert one(find(folder), "1B_rank4").outcome is TrainingOutcome.COMPLETE


# ---- names -----------------------------------------------------------------------------------------------------------

STRANGE = (
    "a\nb", "x|y`z`", "<script>alert(1)<script>", "=cmd|' C calc'!A0", "$(touch pwned)", "-rf", "é ü",
    "\u202egnp", "a" * 200, "% s %n", "name with 'quotes' and \"more\"",
)  # fmt: skip


def test_strange_folder_names_are_text_and_stay_apart(tmp_path: Path) -> None:
    for name in (*STRANGE, os.fsdecode(b"run\xff"), os.fsdecode(b"run\xfe")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "slurm-1.out").write_text(log_of(RUNS[0]))
    gathered = find(tmp_path)
    assert len({run.name for run in gathered.runs}) == len(STRANGE) + 2
    for run in gathered.runs:
        assert run.outcome is TrainingOutcome.COMPLETE
        assert all(ch.isprintable() or ch == "\ufffd" for ch in run.name)
    assert as_json(gathered).encode()


def test_what_a_log_prints_cannot_be_markup_or_secret(folder: Path) -> None:
    path = folder / "1B_rank4" / "slurm-61000501.out"
    path.write_text(
        log_of(RUNS[0], failing=False)
        + "mv: cannot stat '</script><script>alert(1)</script> HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz': "
        "No such file or directory\n"
    )
    gathered = find(folder)
    assert "hf_abcdefghij" not in as_json(gathered)
    assert one(gathered, "1B_rank4").outcome is TrainingOutcome.COMPLETE


# ---- how jobs ended --------------------------------------------------------------------------------------------------


def test_a_command_that_failed_in_the_middle_is_no_failed_exit(folder: Path) -> None:
    path = folder / "1B_rank4" / "slurm-61000501.out"
    path.write_text("mv: cannot stat 'old.out': No such file or directory\n" + log_of(RUNS[0], failing=False))
    run = one(find(folder), "1B_rank4")
    assert run.job_state is None
    assert run.status is RunStatus.TRAINED
    path.write_text(log_of(RUNS[0]) + "".join(f"copying file {k}\n" for k in range(20)))
    assert one(find(folder), "1B_rank4").job_state is None


def test_a_training_that_stopped_half_way_is_not_complete(folder: Path) -> None:
    text = log_of(RUNS[2])
    (folder / "3B_rank4" / "slurm-61000503.out").write_text(text[: len(text) // 2])
    gathered = find(folder)
    run = one(gathered, "3B_rank4")
    assert run.outcome is TrainingOutcome.PARTIAL
    assert run.status is RunStatus.INTERRUPTED
    assert run.steps_done is not None
    assert 0 < run.steps_done < 3000
    assert "training not complete" in titles(gathered, "3B_rank4")


def test_a_newer_log_without_a_step_does_not_hide_the_training(folder: Path) -> None:
    (folder / "1B_rank4" / "slurm-61000999.out").write_text(
        "INFO:torchtune.utils._logging:Running LoRAFinetuneRecipeSingleDevice with resolved config:\n\nbatch_size: 16\n"
        "epochs: 3\n\nTraceback (most recent call last):\n"
        "  File \"r.py\", line 1, in <module>\nFileNotFoundError: [Errno 2] No such file or directory: 'model'\n"
    )
    run = one(find(folder), "1B_rank4")
    assert run.outcome is TrainingOutcome.COMPLETE
    assert run.attempts == 2


def test_losses_that_are_no_numbers(folder: Path) -> None:
    broken = re.sub(r"(3\|1\d\d\d\|Loss: )[\d.]+:", r"\1nan:", log_of(RUNS[0]))
    assert broken.count("nan") == 20
    (folder / "1B_rank4" / "slurm-61000501.out").write_text(broken.replace("0.00154\n", "nan\n"))
    gathered = find(folder)
    assert "the loss is not finite" in titles(gathered, "1B_rank4")
    assert one(gathered, "1B_rank4").final_train_loss != 0.0
    as_json(gathered)


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_complete_log_with_a_broken_last_checkpoint_is_no_complete_run(folder: Path) -> None:
    run = folder / "1B_rank4"
    for epoch in range(3):
        write_checkpoint(run / f"epoch_{epoch}", RUNS[0], archives=False)
    os.truncate(run / "epoch_2" / "adapter_model.safetensors", 1000)
    os.truncate(run / "epoch_2" / "model.safetensors", 1000)
    gathered = find(folder)
    assert one(gathered, "1B_rank4").outcome is TrainingOutcome.PARTIAL
    assert "complete log, corrupt checkpoint" in titles(gathered, "1B_rank4")


def test_a_missing_epoch_is_told_and_checkpoints_alone_are_a_run(folder: Path) -> None:
    for name, epochs in (("1B_rank4", (0, 2)), ("some_run", (0, 1))):
        for epoch in epochs:
            write_checkpoint(folder / name / f"epoch_{epoch}", RUNS[0], archives=False)
    gathered = find(folder)
    assert [(each.run, each.name, each.expected) for each in gathered.verification.missing] == [
        ("1B_rank4", "epoch_1", False)
    ]
    run = one(gathered, "some_run")
    assert [each.name for each in run.checkpoints] == ["epoch_0", "epoch_1"]
    assert run.train_seconds == Missing(missing="no training log")
    assert "no training log" in titles(gathered, "some_run")


# ---- other layouts ---------------------------------------------------------------------------------------------------


def test_logs_beside_the_run_folders_go_to_the_run_that_they_name(folder: Path) -> None:
    for run in RUNS:
        source = folder / run.name / f"slurm-{run.job}.out"
        source.rename(folder / source.name)
    (folder / "slurm-7.out").write_text("hello\n")
    gathered = find(folder)
    assert all(run.outcome is TrainingOutcome.COMPLETE for run in gathered.runs)
    assert one(gathered, "3B_rank64").attempts == 2
    loss = one(gathered, "1B_rank4").final_train_loss
    assert isinstance(loss, Quantity)
    assert loss.where is not None
    assert loss.where.partition(":")[0] == "../slurm-61000501.out"
    assert "a log without a known run" in titles(gathered)


def test_output_in_a_folder_of_its_own_is_of_the_run_around_it(tmp_path: Path) -> None:
    run = tmp_path / "exp" / "1B_rank4"
    run.mkdir(parents=True)
    (run / "slurm-1.out").write_text(log_of(RUNS[0]))
    write_checkpoint(run / "output" / "epoch_0", RUNS[0], archives=False)
    (found,) = find(tmp_path).runs
    assert found.name == "exp/1B_rank4"
    assert [each.name for each in found.checkpoints] == ["epoch_0"]


def test_a_hugging_face_run_of_states_alone(tmp_path: Path) -> None:
    run = tmp_path / "sft_r8_seed3"
    rows = [{"step": k, "epoch": k / 100, "loss": 2.0 - k / 100, "learning_rate": 1e-4} for k in range(10, 101, 10)]
    rows.append({"step": 100, "epoch": 1.0, "eval_loss": 1.25, "eval_runtime": 3.0})
    state = {"global_step": 100, "max_steps": 100, "num_train_epochs": 1, "epoch": 1.0, "log_history": rows}
    for step in (50, 100):
        checkpoint = run / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    (found,) = find(tmp_path).runs
    assert found.steps_done == 100
    assert len(found.train_losses) == 10
    assert [point.loss for point in found.validation_losses] == [1.25]
    assert found.seed == 3


def test_many_folders_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MOST_FOLDERS", 20)
    for k in range(60):
        (tmp_path / f"r{k:02}").mkdir()
        (tmp_path / f"r{k:02}" / "slurm-1.out").write_text(log_of(RUNS[0]))
    gathered = find(tmp_path)
    assert 0 < len(gathered.runs) <= 20
    assert "too many folders" in titles(gathered)


def test_replicates_of_one_setting_do_not_count_as_one_seed_more(tmp_path: Path) -> None:
    for name in ("1B_rank4_seed1", "1B_rank4_seed2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "slurm-1.out").write_text(log_of(RUNS[0]))
    gathered = find(tmp_path)
    assert [run.seed for run in gathered.runs] == [1, 2]
    assert gathered.factors == {}


# ---- anything at all -------------------------------------------------------------------------------------------------


@settings(max_examples=examples(10), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_a_log_gives_a_report(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    text = bytearray(log_of(RUNS[0]).encode())
    seed = data.draw(st.integers(0, 2**32 - 1))
    how = data.draw(st.sampled_from(("cut", "flip", "shuffle", "twice", "insert")))
    rng = random.Random(seed)
    if how == "cut":
        del text[rng.randrange(len(text)) :]
    elif how == "flip":
        for _ in range(200):
            text[rng.randrange(len(text))] = rng.randrange(256)
    elif how == "shuffle":
        lines = bytes(text).split(b"\n")
        rng.shuffle(lines)
        text = bytearray(b"\n".join(lines))
    elif how == "twice":
        text += bytes(text)
    else:
        at = rng.randrange(len(text))
        text[at:at] = bytes(rng.randrange(256) for _ in range(500))
    root = tmp_path_factory.mktemp("damaged")
    run = root / NAME / "1B_rank4"
    run.mkdir(parents=True)
    (run / "slurm-1.out").write_bytes(text)
    (run / "finetune.yaml").write_text("epochs: 3\nbatch_size: 16\n")
    gathered = find(root / NAME)
    assert [each.name for each in gathered.runs] == ["1B_rank4"]
    assert as_json(gathered)
    if how == "cut":
        assert gathered.runs[0].outcome is not TrainingOutcome.COMPLETE or gathered.runs[0].steps_done == 1500


# ---- Inspect's logs --------------------------------------------------------------------------------------------------


def eval_log(
    path: Path, *, status: str = "success", right: int = 7, model: str = "hf/1B_rank4/epoch_2", **more: object
) -> Path:
    """An .eval log as Inspect writes them, without compression."""
    header = {
        "version": 2,
        "status": status,
        "eval": {"task": "cap", "model": model, "dataset": {"name": "words"}, "task_args": {}, "model_args": {}},
        "plan": {"config": {"temperature": 0.0, "max_tokens": 24}},
        "results": {"scores": [{"name": "match", "scorer": "match"}]},
        "stats": {"started_at": "2026-01-01T10:00:00+00:00", "completed_at": "2026-01-01T10:00:30+00:00"},
    } | more
    samples = [
        {"id": k, "epoch": 1, "input": f"w{k}", "target": f"W{k}",
         "scores": {"match": {"value": "C" if k < right else "I", "answer": f"W{k}"}}}
        for k in range(10)
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", json.dumps(header))
        archive.writestr("summaries.json", json.dumps(samples))
    return path


def test_evaluations_are_scores_with_intervals(folder: Path) -> None:
    eval_log(folder / "1B_rank4" / "logs" / "a.eval")
    eval_log(folder / "logs" / "b.eval", model="hf/x -M model_path=/y/3B_rank4/epoch_1", right=4)
    eval_log(folder / "1B_base" / "eval" / "c.eval", model="hf/base", right=1)
    gathered = find(folder)
    run, other, base = one(gathered, "1B_rank4"), one(gathered, "3B_rank4"), one(gathered, "1B_base")
    assert run.exact_match is not None
    assert (run.exact_match.k, run.exact_match.n, run.evaluations[0].checkpoint) == (7, 10, "epoch_2")
    assert other.evaluations[0].checkpoint == "epoch_1"
    assert base.kind.value == "control"
    assert base.evaluations[0].checkpoint == "base"
    assert run.evaluations[0].settings_sha256 == base.evaluations[0].settings_sha256
    assert run.evaluations[0].data_sha256 == base.evaluations[0].data_sha256
    assert isinstance(run.evaluate_seconds, Quantity)
    assert run.evaluate_seconds.value == 30


def test_found_runs_are_compared_with_the_base_of_their_size(folder: Path) -> None:
    eval_log(folder / "1B_rank4" / "eval" / "a.eval", right=9)
    eval_log(folder / "1B_rank64" / "eval" / "a.eval", right=9)
    eval_log(folder / "1B_base" / "eval" / "c.eval", model="hf/base", right=1)
    gathered = find(folder)
    assert one(gathered, "1B_base").model == "Llama-3.2-1B-Instruct"
    assert one(gathered, "1B_base").dataset == one(gathered, "1B_rank4").dataset
    (analysis,) = build_report(gathered).analyses
    compared = {each.run: each.difference for each in analysis.comparisons}
    assert compared["1B_rank4"].control == "1B_base"
    assert (compared["1B_rank4"].gained, compared["1B_rank4"].lost) == (8, 0)


def test_other_items_are_not_compared_and_failed_ones_count_as_wrong(folder: Path) -> None:
    changed: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
        "1B_rank4": lambda samples: samples[0].update(error="CUDA out of memory", scores={}),
        "1B_base": lambda samples: samples.pop(),
    }
    for name, change in changed.items():
        path = eval_log(
            folder / name / "eval" / "a.eval", model="hf/base" if name == "1B_base" else "hf/1B_rank4/epoch_2"
        )
        with zipfile.ZipFile(path) as archive:
            header, samples = archive.read("header.json"), json.loads(archive.read("summaries.json"))
        change(samples)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("header.json", header)
            archive.writestr("summaries.json", json.dumps(samples))
    gathered = find(folder)
    (analysis,) = build_report(gathered).analyses
    assert analysis.comparisons == ()
    assert [each.run for each in analysis.refusals] == ["1B_rank4"]
    run = one(gathered, "1B_rank4")
    assert run.exact_match is not None
    assert (run.exact_match.k, run.exact_match.n) == (6, 10)
    assert run.evaluations[0].samples[0].error == "CUDA out of memory"


def test_a_cut_eval_log_is_an_issue(folder: Path) -> None:
    path = eval_log(folder / "1B_rank4" / "eval" / "a.eval")
    data = path.read_bytes()
    for size in (0, 2, 30, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        gathered = find(folder)
        (issue,) = [each for each in gathered.issues if each.title == "an evaluation gives no score"]
        assert issue.where == "1B_rank4/eval/a.eval"
        assert one(gathered, "1B_rank4").evaluations == ()
        assert one(gathered, "1B_rank4").outcome is TrainingOutcome.COMPLETE


def test_evaluations_that_did_not_end_well_give_no_score(folder: Path) -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"status": "error"}, "ended as 'error'"),
        ({"status": "started"}, "ended as 'started'"),
        ({"status": "\u202e<b>"}, "ended as"),
        ({"eval": []}, "no header"),
    )
    for run, (more, _) in zip(RUNS, cases, strict=True):
        eval_log(folder / run.name / "eval" / "a.eval", **more)
    told = {each.subject: each.text for each in find(folder).issues if each.title == "an evaluation gives no score"}
    for run, (_, says) in zip(RUNS, cases, strict=True):
        assert says in told[run.name]


def test_an_archive_that_expands_without_end_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(evaluations._LIMITS_BYTES, "summaries.json", 10_000)
    path = folder / "1B_rank4" / "eval" / "a.eval"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({"status": "success", "eval": {"task": "x"}}))
        archive.writestr("summaries.json", "[" + " " * 5_000_000 + "]")
    assert any("is larger than" in each.text for each in find(folder).issues)
