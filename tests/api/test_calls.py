"""What a command costs in calls of functions: a budget for each, and no more than in proportion to the runs.

Calls are the same on any machine; seconds are measured in benchmarks/budgets.py.
"""

import cProfile
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.api import made_runs
from tests.tiny_model import write_tiny_words

from touchline import api
from touchline.data.user_config import UserConfig

pytestmark = [pytest.mark.planning, pytest.mark.slow]

EXPERIMENT = """\
name: tiny
task: capitalization
models: [Tiny-1M-Instruct]
data: {{path: words.json}}
train: {{epochs: 1, global_batch_size: 8, learning_rate: 1e-2, max_seq_len: 128}}
factors: {{train.lora.rank: {ranks}}}
controls: [base]
"""
FEW, MORE, MANY = 2, 8, 14
MOST = {"plan": 140, "status": 60, "results": 10, "report": 500}
"""Thousands of calls of a command on an experiment of FEW runs and a control. They fall; they do not rise."""


def calls(verb: Callable[[], object]) -> int:
    """Return the calls of functions that a verb makes, of libraries included."""
    profile = cProfile.Profile()
    profile.runcall(verb)
    return sum(int(entry.callcount) for entry in profile.getstats())


def counted(root: Path, model: Path, runs: int) -> dict[str, int]:
    """Return the calls of each verb on an experiment of so many runs."""
    folder, models = root / f"tiny{runs}", root / "models"
    folder.mkdir()
    models.mkdir(exist_ok=True)
    if not (models / "Tiny-1M-Instruct").exists():
        (models / "Tiny-1M-Instruct").symlink_to(model)
    (folder / "experiment.yaml").write_text(EXPERIMENT.format(ranks=list(range(1, runs + 1))))
    write_tiny_words(folder / "words.json", 32, 8, 12)
    settings = UserConfig(models_dir=models, cache_dir=root / "cache", history_dir=root / "history")
    api.plan(folder, settings, dry_run=True)
    found = {"plan": calls(lambda: api.plan(folder, settings))}
    made_runs.finish(folder, settings, 12)
    verbs: dict[str, Callable[[], object]] = {
        "status": lambda: api.status(folder, settings),
        "results": lambda: api.results(folder),
        "report": lambda: api.report(folder),
    }
    return found | {verb: calls(call) for verb, call in verbs.items()}


def test_calls_keep_their_budget_and_grow_no_faster_than_the_runs(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)  # no figures: a process of its own draws them
    (tmp_path / "first").mkdir()
    counted(tmp_path / "first", tiny_model, 1)  # imports, and what is kept for the process
    few, more, many = (counted(tmp_path, tiny_model, runs) for runs in (FEW, MORE, MANY))
    assert {verb: count for verb, count in few.items() if count > 1000 * MOST[verb]} == {}
    assert {verb for verb in few if many[verb] - more[verb] > 1.2 * (more[verb] - few[verb]) + 2000} == set()
