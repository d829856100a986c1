"""A job whose script ends before it begins: the command ends too, and says why."""

import json
import platform
from pathlib import Path

import pytest
from tests.api.folders import make_experiment, tiny_settings
from tests.hostile.harness import call

from touchline.run.ledger import read_ledger


@pytest.mark.parametrize("killed_before", [False, True], ids=["never begun", "killed before"])
def test_a_script_that_never_begins_is_not_started_for_ever(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_before: bool
) -> None:
    """Twice, then no more; nor where an earlier attempt did begin and was killed."""
    tiny_settings(tmp_path, tiny_model)
    for name in ("MODELS", "CACHE", "HISTORY"):
        monkeypatch.setenv(f"TOUCHLINE_{name}_DIR", str(tmp_path / name.lower()))
    folder = make_experiment(tmp_path / "exp", ranks="[2]", n_train=16, n_test=4)
    assert call("plan", folder, "train.epochs=1", "controls=[]")[0] == 0
    assert call("prepare", folder)[0] == 0
    script = folder / "1M_rank2" / "finetune.slurm"
    script.write_text("#!/bin/bash\necho 'ModuleNotFoundError: No module named touchline' >&2\nexit 1\n")
    if killed_before:
        start = {"job_id": "local-old", "restart": 0, "token": "old", "host": platform.node(), "boot_id": "another"}
        start |= {"pid": 4_000_000, "pid_started": 1.0, "time_unix": 1.0e9, "folder": str(script.parent / "status")}
        (script.parent / "status").mkdir()
        (script.parent / "status" / "start.local-old.0.json").write_text(json.dumps(start))
    code, _, said = call("resume", folder)
    assert code == 1
    assert "failed twice the same way" in said
    assert len([entry for entry in read_ledger(folder / "ledger.jsonl") if entry.event == "submitted"]) == 2
