"""Bad input: words that say what, where, what was expected, what to do; the right exit code; nothing half-written."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.api.folders import make_experiment, touchline

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
