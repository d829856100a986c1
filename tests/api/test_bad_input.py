"""Words and exit codes of commands for wrong input and for folders of other tools."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.api.folders import make_experiment, touchline
from tests.api.test_stated_facts import write_log
from tests.cases import call_main
from tests.faults.case import base, changed
from tests.results.made_seed002 import NAME, make

from tools.tiny_model import write_tiny_model
from touchline.core.files import try_lock

pytestmark = [pytest.mark.planning, pytest.mark.slow]


Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    return make_experiment(tmp_path / "exp")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "experiment.yaml").read_text()
    assert old in text
    (folder / "experiment.yaml").write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "[Tiny-1M-Instruct]",
            "[HuggingFaceTB/SmolLM2-135M-Instruct]",
            ["touchline models get SmolLM2-135M-Instruct", "models: [SmolLM2-135M-Instruct]"],
        ),
        ("data/words.json", "data/words_8L_80P_1600.json", ["touchline data create capitalization --word-length 8"]),
        ("epochs: 2", "epochs: -1", ["train.epochs", "at least 1", "experiment.yaml:7:3"]),
        ("task: capitalization", "taks: capitalization", ["did you mean 'task'"]),
        ("max_seq_len: 128", "max_seq_len: 12", ["longer than 12 tokens", "max_seq_len: 48"]),
        ("name: tiny", "name: [", ["not YAML"]),
    ],
)
def test_a_fault_in_the_file_is_said_in_words(
    call: Call, experiment: Path, old: str, new: str, said: list[str]
) -> None:
    """Exit code 2; the key, what was expected and what to type; no file is written."""
    edit(experiment, old, new)
    before = files(experiment)
    for verb in ("plan", "run"):
        done = call(verb, str(experiment))
        assert done.returncode == 2, done.stderr
        assert all(words in done.stderr for words in said), done.stderr
        assert "Traceback" not in done.stderr
        assert not done.stdout
    assert files(experiment) - {".touchline/run.lock"} == before


def test_a_truncated_shard_is_shown(env: dict[str, str], tmp_path: Path) -> None:
    shard = write_tiny_model(tmp_path / "models" / "Tiny-1M-Instruct") / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])
    here = env | {"TOUCHLINE_MODELS_DIR": str(tmp_path / "models")}
    assert touchline("models", "show", "Tiny-1M-Instruct", env=here).returncode == 1


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self/status").exists(), reason="needs a way to drop rights")
def test_no_permission_to_write_is_an_environment_fault(call: Call, experiment: Path) -> None:
    """Exit code 4 and the folder's name; root, who may write everywhere, meets a file in the folder's place instead."""
    (experiment / "runs_plan.md").mkdir()
    done = call("plan", str(experiment))
    assert done.returncode == 4, done.stderr
    assert "runs_plan.md" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_run_at_the_same_time_is_refused(call: Call, experiment: Path) -> None:
    """Exit code 3, and it says how to look at the first."""
    descriptor = try_lock(experiment / ".touchline" / "run.lock")
    assert descriptor is not None
    done = call("run", str(experiment))
    os.close(descriptor)
    assert done.returncode == 3
    assert "touchline status" in done.stderr


def test_drift_of_a_started_run_is_refused_and_accepted_on_demand(call: Call, experiment: Path) -> None:
    """Its results are moved aside, not lost; runs that have not started may change freely."""
    assert call("plan", str(experiment)).returncode == 0
    assert call("prepare", str(experiment)).returncode == 0
    edit(experiment, "learning_rate: 1e-2", "learning_rate: 2e-2")
    assert call("plan", str(experiment)).returncode == 0
    # Nobody has edited what was written for the first plan.
    done = call("prepare", str(experiment))
    assert done.returncode == 0, done.stderr
    assert "learning_rate: 0.02" in (experiment / "1M_rank2" / "setup_finetune.yaml").read_text()
    (experiment / "1M_rank2" / "metrics.jsonl").write_text("{}\n")
    edit(experiment, "learning_rate: 2e-2", "learning_rate: 3e-2")
    done = call("plan", str(experiment))
    assert done.returncode == 3
    assert "1M_rank2: train changed" in done.stderr
    assert call("plan", str(experiment), "--accept").returncode == 0
    assert (experiment / "1M_rank2" / "superseded" / "1" / "metrics.jsonl").exists()
    assert not (experiment / "1M_rank2" / "metrics.jsonl").exists()


def test_one_run_can_be_edited_and_accepted(call: Call, experiment: Path) -> None:
    """Nothing is launched with an edit that was not accepted; accepting changes that run alone, as a revision."""
    assert call("plan", str(experiment)).returncode == 0
    assert call("prepare", str(experiment)).returncode == 0
    setup = experiment / "1M_rank2" / "setup_finetune.yaml"
    setup.write_text(setup.read_text().replace("epochs: 2", "epochs: 3"))
    refused = call("run", str(experiment), "--no-probe")
    assert refused.returncode == 3
    assert "--accept" in refused.stderr
    before = json.loads((experiment / "plan.json").read_text())
    assert call("prepare", str(experiment), "--run", "1M_rank2", "--accept").returncode == 0
    after = json.loads((experiment / "plan.json").read_text())
    changed = [
        new["name"] for old, new in zip(before["runs"], after["runs"], strict=True) if old["digest"] != new["digest"]
    ]
    assert changed == ["1M_rank2"]
    assert after["revisions"][-1]["runs"] == ["1M_rank2"]
    assert "epochs: 3" in (experiment / "1M_rank2" / "finetune.yaml").read_text()
    assert call("plan", str(experiment)).returncode == 0
    assert json.loads((experiment / "plan.json").read_text()) == after
    shown = [call(verb, str(experiment)) for verb in ("plan", "status")]
    kept = "override: train.epochs = 3 for 1M_rank2, accepted"
    assert all(kept in " ".join(f"{done.stdout} {done.stderr}".split()) for done in shown)
    planned = setup.read_text()
    setup.write_text(planned.replace("rank: 2", "rank: 32"))
    wrong = call("prepare", str(experiment), "--run", "1M_rank2", "--accept")
    assert wrong.returncode == 2
    assert "1M_rank2 is named and reported as train.lora.rank: 2, the edit is 32" in wrong.stderr
    setup.write_text(planned.replace("epochs: 3", "epochs: 0"))
    wrong = call("prepare", str(experiment), "--run", "1M_rank2", "--accept")
    assert wrong.returncode == 2
    assert "setup_finetune.yaml" in wrong.stderr
    text = setup.read_text().replace("epochs: 0", "epochs: 3")
    setup.write_text(text.replace('quantization: "none"', 'quantization: "int8"'))
    wrong = call("prepare", str(experiment), "--run", "1M_rank2", "--accept")
    assert wrong.returncode == 2
    assert "evaluate.quantization must have one value" in wrong.stderr


def test_a_generated_file_that_was_edited_is_not_overwritten(call: Call, experiment: Path) -> None:
    """finetune.yaml is touchline's and refused; a script is the user's and kept."""
    assert call("plan", str(experiment)).returncode == 0
    assert call("prepare", str(experiment)).returncode == 0
    script = experiment / "1M_rank2" / "finetune.slurm"
    script.write_text(script.read_text() + "# mine\n")
    done = call("prepare", str(experiment))
    assert done.returncode == 0
    assert "finetune.slurm was changed by hand" in done.stderr
    assert script.read_text().endswith("# mine\n")
    config = experiment / "1M_rank2" / "finetune.yaml"
    config.write_text(config.read_text().replace("epochs: 2", "epochs: 9"))
    assert call("prepare", str(experiment)).returncode == 3


def test_usage_faults_end_with_two(call: Call, experiment: Path) -> None:
    """Unknown commands, options, folders and runs, and what is not planned yet."""
    assert call("plan", "nowhere").returncode == 2
    assert call("results", experiment).returncode == 2
    assert call("plann").returncode == 2
    assert call("plan").returncode == 2
    assert call("plan", str(experiment), "--jsn").returncode == 2
    assert call("plan", str(experiment)).returncode == 0
    done = call("prepare", str(experiment), "--run", "1M_rnk2")
    assert done.returncode == 2
    assert "--run 1M_rank2" in done.stderr


def test_foreign_text_cannot_steer_the_terminal(call: Call, experiment: Path) -> None:
    """Control sequences in a file's values do not reach the screen."""
    edit(experiment, "data/words.json", '"data/\\e[2J\\e]0;owned\\a.json"')
    done = call("plan", str(experiment))
    assert "\x1b" not in done.stderr + done.stdout
    assert "owned" not in done.stderr or "\x07" not in done.stderr


WRONG = changed(base("qlora_stage"), "lr: 5.0e-5", "lr: 5e-5")


def found(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    assert report["schema_version"] == 1
    return list(report["findings"])


def codes(done: subprocess.CompletedProcess[str]) -> set[str]:
    return {each["code"] for each in found(done)}


def test_an_error_has_its_place_and_the_command_ends_with_1(call: Call, tmp_path: Path) -> None:
    (tmp_path / "stage.yaml").write_text(WRONG, encoding="utf-8")
    done = call("check", "stage.yaml", "--json")
    (error,) = [each for each in found(done) if each["severity"] == "error"]
    assert done.returncode == 1
    assert set(error) == {"code", "severity", "path", "line", "column", "message", "hint"}
    assert (error["code"], error["path"]) == ("BK014", "stage.yaml")
    assert WRONG.splitlines()[error["line"] - 1].strip() == "lr: 5e-5"
    plain = call("check", "stage.yaml")
    assert f"stage.yaml:{error['line']}:{error['column']}: error BK014" in plain.stdout


def test_codes_are_selected_ignored_and_allowed(call: Call, tmp_path: Path) -> None:
    quoted = changed(base("llamafactory"), "learning_rate: 1.0e-4", 'learning_rate: "1e-4"')
    (tmp_path / "stage.yaml").write_text(quoted, encoding="utf-8")
    everything = codes(call("check", "stage.yaml", "--json"))
    assert {"BK014", "PK005"} <= everything
    assert codes(call("check", "stage.yaml", "--select", "PK", "--json")) == {"PK005"}
    ignored = call("check", "stage.yaml", "--ignore", "BK014,PK", "--json")
    assert codes(ignored) == everything - {"BK014", "PK005"}
    assert ignored.returncode == 0
    allowed = call("check", "stage.yaml", "--allow", "BK014", "--json")
    assert allowed.returncode == 0
    (told,) = [each for each in found(allowed) if each["code"] == "BK014"]
    assert told["severity"] == "info"
    wrong = call("check", "stage.yaml", "--allow", "BK999")
    assert wrong.returncode == 2
    assert "unknown code 'BK999'" in wrong.stderr


def test_what_has_one_safe_answer_is_fixed_and_shown(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "stage.yaml"
    path.write_text(WRONG, encoding="utf-8")
    shown = call("check", "stage.yaml", "--diff")
    assert "-  lr: 5e-5" in shown.stdout
    assert "+  lr: 5.0e-5" in shown.stdout
    assert path.read_text(encoding="utf-8") == WRONG
    fixed = call("check", "stage.yaml", "--fix")
    assert fixed.returncode == 0, fixed.stdout
    assert path.read_text(encoding="utf-8") == base("qlora_stage")


def test_a_code_is_explained_and_a_subject_is_listed(call: Call) -> None:
    page = call("check", "--explain", "PK001")
    assert page.returncode == 0
    assert page.stdout.startswith("# PK001: packed-batch-too-large")
    listed = call("check", "--explain", "PK")
    assert {"PK001", "PK002", "PK005"} <= set(listed.stdout.split())
    unknown = call("check", "--explain", "PK9")
    assert unknown.returncode == 2


def test_a_folder_without_configs_does_not_pass(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.md").write_text("nothing to train here\n", encoding="utf-8")
    done = call("check", "empty", "--json")
    assert done.returncode == 1
    assert codes(done) == {"EX013"}
    absent = call("check", "no/such", "neither")
    assert absent.returncode == 2
    assert "'no/such', 'neither'" in absent.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("broken.yaml", b"model: [1, 2\n"),
        ("empty.yaml", b""),
        ("latin.yaml", b"name: caf\xe9\n"),
        ("deep.yaml", b"a: " + b"[" * 500 + b"]" * 500),
        ("tag.yaml", b"a: !!python/object/apply:os.system [ls]\n"),
        ("large.yaml", b"a: b\n" * 2_200_000),
        ("bomb.yaml", b"a: &a [x,x,x,x]\n" + b"".join(b"b%d: &b%d [*a,*a,*a,*a]\n" % (n, n) for n in range(3000))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_config_is_a_finding_and_no_traceback(call: Call, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    done = call("check", name, "--json")
    assert done.returncode == 1, done.stdout
    assert "BK010" in codes(done)


def test_rings_of_links_end(call: Call, tmp_path: Path) -> None:
    tree = tmp_path / "tree" / "run"
    tree.mkdir(parents=True)
    (tree / "stage.yaml").write_text(base("qlora_stage"), encoding="utf-8")
    (tree / "up").symlink_to(tmp_path / "tree")
    (tree / "self.yaml").symlink_to(tree / "self.yaml")
    done = call("check", "tree", "--json")
    assert done.returncode == 0, done.stdout
    assert [each["path"] for each in found(done) if each["code"] == "EX012"] == ["tree/run/self.yaml", "tree/run/up"]


def test_a_plan_stops_at_an_error_until_it_is_allowed(call: Call, tmp_path: Path) -> None:
    """The data's answers are all one word; the plan says so and goes on only when told to."""
    folder = make_experiment(tmp_path / "tiny", n_train=40, n_test=60)
    data = folder / "data" / "words.json"
    rows = json.loads(data.read_text(encoding="utf-8"))
    constant = {split: [{**row, "output": "Yes"} for row in rows[split]] for split in rows}
    data.write_text(json.dumps(constant), encoding="utf-8")
    stopped = call("plan", "tiny")
    assert stopped.returncode == 2, stopped.stdout
    assert "error DA320" in stopped.stderr
    assert "--allow DA320" in stopped.stderr
    assert not (folder / "plan.json").exists()
    wrong = call("plan", "tiny", "--allow", "DA999")
    assert wrong.returncode == 2
    assert "unknown code 'DA999'" in wrong.stderr
    allowed = call("plan", "tiny", "--allow", "DA3,EV")
    assert allowed.returncode == 0, allowed.stderr
    assert "ignored error" in allowed.stdout
    assert "DA320" in allowed.stdout
    assert call("plan", "tiny").returncode == 2, "what was allowed belongs to the plan that it was given to"
    assert call("prepare", "tiny").returncode == 0, "and that plan is still there"


def test_both_rules_about_the_longest_row_name_one_length(call: Call, tmp_path: Path) -> None:
    """And with it neither fires."""
    yaml = make_experiment(tmp_path / "tiny") / "experiment.yaml"
    text = yaml.read_text()
    yaml.write_text(re.sub(r"max_seq_len: \d+", "max_seq_len: 16", text))
    hints = {each["code"]: each["hint"] for each in found(call("check", "tiny", "--json"))}
    (length,) = {re.findall(r"\d+", hints[code])[-1] for code in ("TK207", "TR041")}
    yaml.write_text(re.sub(r"max_seq_len: \d+", f"max_seq_len: {length}", text))
    assert not codes(call("check", "tiny", "--json")) & {"TK207", "TR041"}


ForeignCall = Callable[..., tuple[int, str, str]]


@pytest.fixture
def foreign_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> ForeignCall:
    monkeypatch.setenv("TOUCHLINE_HISTORY_DIR", str(tmp_path / "history"))
    return partial(call_main, monkeypatch, capsys)


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four trainings of torchtune whose jobs failed by their last command."""
    return make(tmp_path_factory.mktemp("found") / NAME)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A folder of nothing but two jobs' outputs."""
    write_log(tmp_path / "plain" / "slurm-101.out")
    write_log(tmp_path / "plain" / "slurm-102.out")
    return tmp_path / "plain"


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


RUNS = ["1B_rank4", "1B_rank64", "3B_rank4", "3B_rank64"]


def test_every_command_that_reads_works_and_writes_nothing(foreign_call: ForeignCall, seed: Path, plain: Path) -> None:
    for folder, names in ((seed, RUNS), (plain, ["slurm-101", "slurm-102"])):
        before = state(folder)
        for verb in ("status", "results"):
            code, told, talk = foreign_call(verb, folder)
            assert code == 0, (verb, talk)
            assert all(name in told for name in names), (verb, told)
            code, told, _ = foreign_call(verb, folder, "--json")
            assert code == 0
            json.loads(told)
        assert state(folder) == before


def test_what_is_not_known_is_said(foreign_call: ForeignCall, seed: Path) -> None:
    _, told, _ = foreign_call("status", seed, "--json")
    runs = json.loads(told)["runs"]
    assert [run["name"] for run in runs] == RUNS
    assert {run["seconds_left"]["missing"] for run in runs} == {"nothing was planned here"}
    assert all(run["steps_done"] for run in runs)


def test_what_needs_a_plan_refuses_such_a_folder(foreign_call: ForeignCall, seed: Path) -> None:
    before = state(seed)
    for words in (("collect",), ("clean",), ("clean", "--delete"), ("logs", "--run", "1B_rank4")):
        code, _, talk = foreign_call(words[0], seed, *words[1:])
        assert code == 2, words
        assert "experiment.yaml" in talk
    assert state(seed) == before


def test_a_folder_without_runs_is_an_error(foreign_call: ForeignCall, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for verb in ("status", "results"):
        assert foreign_call(verb, tmp_path / "empty")[0] == 2
