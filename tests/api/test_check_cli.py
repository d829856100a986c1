"""`touchline check` as people type it: exit codes, JSON, fixes, and input that is no input."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.api.folders import make_experiment
from tests.faults.case import base, changed

pytestmark = [pytest.mark.planning, pytest.mark.slow]

Call = Callable[..., subprocess.CompletedProcess[str]]
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
