"""One number, everywhere the same: check, plan, design, results, report, and their JSON; for usual and odd scores.

The trainings and scores are made by hand, so that scores are as odd as they can be: all right, all wrong, all runs
alike, one item, one seed."""

import cProfile
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from tests.api import made_runs
from tests.api.folders import environment, tiny_settings, touchline
from tests.tiny_model import write_tiny_words

from touchline import api
from touchline.core.quantity import Quantity
from touchline.core.units import device_hours, format_bytes, format_seconds
from touchline.data.scores import EvaluationRecord
from touchline.data.user_config import UserConfig

pytestmark = [pytest.mark.planning, pytest.mark.slow]


EXPERIMENT = """\
name: tiny
task: capitalization
models: [Tiny-1M-Instruct]
data: {{path: words.json}}
train: {{epochs: 1, global_batch_size: 8, learning_rate: 1e-2, max_seq_len: 128}}
factors: {{train.lora.rank: [2, 4]}}
seeds: {seeds}
controls: [base]
"""
COMMANDS = ("check", "plan", "design", "results", "report", "status")
MOST_LINES = {"check": 20, "plan": 22, "design": 30, "results": 12, "report": 9, "status": 16, "RESULTS.md": 240}
"""Lines that a command prints for seven runs with little to say. They fall; they do not rise."""


@dataclass(frozen=True)
class Case:
    """Scores of an experiment: whether item `item` of run `run` is right."""

    right: Callable[[int, int], bool]
    seeds: int = 3
    items: int = 12


CASES = {
    "usual": Case(lambda run, item: (run * run + 5 * item) % 7 < 4),
    "all right": Case(lambda run, item: True),
    "all wrong": Case(lambda run, item: False),
    "all runs alike": Case(lambda run, item: item % 2 == 0),
    "equal means, other items": Case(lambda run, item: (7 * run + item) % 3 > 0),
    "one item": Case(lambda run, item: run % 2 == 0, items=1),
    "one seed": Case(lambda run, item: (run + item) % 3 == 0, seeds=1),
    "one seed and one item, right": Case(lambda run, item: True, seeds=1, items=1),
}


@dataclass(frozen=True)
class Seen:
    """What each command prints, and its JSON."""

    texts: dict[str, str]
    json: dict[str, Any]
    case: Case


@pytest.fixture(scope="module", params=CASES)
def seen(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    case = CASES[request.param]
    root = tmp_path_factory.mktemp("numbers")
    folder, settings = root / "tiny", tiny_settings(root, tiny_model)
    folder.mkdir()
    (folder / "experiment.yaml").write_text(EXPERIMENT.format(seeds=list(range(1, case.seeds + 1))))
    write_tiny_words(folder / "words.json", 32, 8, case.items)
    env = environment(settings.models_dir, root / "cache", root / "history")
    plan = api.plan(folder, settings).plan
    api.prepare(folder, settings)
    before = json.loads(touchline("design", str(folder), "--detect", "5", "--json", env=env).stdout)
    planned = [touchline("plan", str(folder), "--dry-run", *more, env=env).stdout for more in ([], ["--json"])]
    records = TypeAdapter(EvaluationRecord)
    for number, run in enumerate(plan.runs):
        if run.train is not None:
            made_runs.train(plan, run, folder / run.name)
        path = made_runs.evaluate(plan, run, folder / run.name, case.items)
        record = records.validate_json(path.read_bytes())
        right = [case.right(number, item) for item in range(case.items)]
        samples = tuple(replace(each, exact=is_, match=is_) for each, is_ in zip(record.samples, right, strict=True))
        path.write_bytes(records.dump_json(replace(record, samples=samples)))
    texts, documents = {"plan before": planned[0]}, {"design before": before, "plan before": json.loads(planned[1])}
    for verb in COMMANDS:
        words = [verb, str(folder), *({"plan": ["--dry-run"], "design": ["--detect", "5"]}.get(verb, []))]
        done = touchline(*words, env=env)
        assert done.returncode < 2, done.stderr
        texts[verb] = done.stdout
        documents[verb] = json.loads(touchline(*words, "--json", env=env).stdout)
    texts["plan --show all"] = touchline("plan", str(folder), "--dry-run", "--show", "all", env=env).stdout
    texts |= {name: (folder / name).read_text() for name in ("RESULTS.md", "report.html")}
    return Seen(texts, documents, case)


def numbers(document: Any) -> Iterator[float]:
    if isinstance(document, dict | list):
        for each in document.values() if isinstance(document, dict) else document:
            yield from numbers(each)
    elif isinstance(document, float):
        yield document


def test_scores_are_equal_everywhere(seen: Seen) -> None:
    reported = {run["name"]: run for run in seen.json["report"]["report"]["runs"]}
    assert len(reported) == 2 * seen.case.seeds + 1
    for number, run in enumerate(seen.json["results"]["runs"]):
        right = sum(seen.case.right(number, item) for item in range(seen.case.items))
        score = run["exact_match"]
        assert (score["k"], score["n"]) == (right, seen.case.items)
        assert reported[run["name"]]["exact_match"] == score
        assert reported[run["name"]].get("difference") == run.get("difference")
        value, low, high = (f"{100 * each:.1f}" for each in (right / seen.case.items, score["low"], score["high"]))
        row = re.search(rf"^{run['name']} .*$", seen.texts["results"], re.MULTILINE)
        assert row
        assert f"{value}% ({low} to {high}; {right}/{seen.case.items})" in row[0]
        assert re.search(rf"^\| `{run['name']}` .*{value}% \({low} to {high}\)", seen.texts["RESULTS.md"], re.MULTILINE)


def test_the_detectable_difference_is_equal_in_check_and_plan(seen: Seen) -> None:
    (checked,) = [each["message"] for each in seen.json["check"]["findings"] if each["code"] == "EX110"]
    (planned,) = re.findall(r"15% discordant +(.*?)  ", seen.texts["plan --show all"])
    (cells,) = re.findall(r".*15% discordant.*", seen.texts["plan --show all"])
    *_, difference, adjusted = re.split(r" {2,}", cells.strip())
    holm = "after Holm, " if adjusted != difference else ""
    assert f"vs. base {adjusted} ({holm}" in " ".join(seen.texts["plan"].split())
    assert f"{planned} if 15% are discordant" in checked


def test_the_design_detects_what_the_plan_says(seen: Seen) -> None:
    """Before anything has run: afterwards the design counts on its own runs."""
    now = seen.json["design before"]["now"]["detectable"]
    (row,) = re.findall(r"does train.lora.rank matter.*", seen.texts["plan --show all"])
    if seen.case.seeds == 1:
        assert "one seed" in row
        assert now["missing"]
    elif reason := re.search("more than 100 points|too few to show", row):
        assert reason[0] in now["missing"]
    else:
        text = f"{now['value']:.1f} points ({now['low']:.1f} to {now['high']:.1f})"
        assert text in row
        assert f"rank {text}" in seen.texts["plan"]


def test_costs_are_equal_in_plan_and_design(seen: Seen) -> None:
    plan, now = seen.json["plan"]["plan"], seen.json["design"]["now"]
    assert (now["device_hours"], now["wall_seconds"]) == (plan["gpu_hours"], plan["wall_seconds"])
    hours = device_hours(TypeAdapter(Quantity).validate_python(plan["gpu_hours"]))
    assert "nothing, " in seen.texts["plan"]
    assert hours in seen.texts["design"] or seen.case.seeds == 1
    assert f"predicted {hours}" in seen.texts["RESULTS.md"]
    assert f"predicted {hours}" in unescape(seen.texts["report.html"])


def test_times_and_disk_of_the_plan_add_up(seen: Seen) -> None:
    """The times of training and the evaluations are the total; disk has one form in plan and report."""
    plan = seen.json["plan before"]["plan"]
    (said,) = re.findall(r"with (.*?) of evaluation, (.*) disk", " ".join(seen.texts["plan before"].split()))
    training = sum(run["train_seconds"].get("value", 0.0) for run in plan["runs"])
    assert said == (format_seconds(plan["wall_seconds"]["value"] - training), format_bytes(1e6 * plan["disk"]["value"]))
    assert f"predicted {said[1]}" in seen.texts["RESULTS.md"]


def test_no_number_is_beyond_its_range(seen: Seen) -> None:
    """No difference below that of one answer is said to be detected, nothing is infinite, a p value is a chance."""
    least = 100 / (32 * seen.case.items)
    for verb, text in seen.texts.items():
        assert verb == "report.html" or not re.search(r"\bnan\b|\binf\b|\d[eE]-\d+ points|detects \S*e-", text), verb
        assert all(math.isfinite(each) for each in numbers(seen.json.get(verb)))
    for each in (seen.json["design"]["now"], *seen.json["design"]["alternatives"]):
        if "missing" not in each["detectable"]:
            assert least <= each["detectable"]["low"] <= each["detectable"]["value"] <= each["detectable"]["high"]
    for p in re.findall(r"\bp = (\d[\d.e-]*\d)", seen.texts["RESULTS.md"]):
        assert 0 < float(p) <= 1
    differences = [run["difference"] for run in seen.json["results"]["runs"] if run.get("difference")]
    assert len(differences) == 2 * seen.case.seeds
    for each in differences:
        assert -1 <= each["low"] <= each["value"] <= each["high"] <= 1
        assert 0 < each["p_value"] <= each["p_adjusted"] <= 1


def test_odd_scores_establish_nothing(seen: Seen) -> None:
    """Without a spread there is no evidence: neither of a difference nor of precision."""
    assert re.match(r"Not established|All fine-tuned runs score .* separate them", seen.texts["report"])
    assert "missing" in seen.json["design"]["cheapest"]


def test_few_lines_are_printed(seen: Seen) -> None:
    lines = {verb: len(seen.texts[verb].splitlines()) for verb in MOST_LINES}
    assert {verb: number for verb, number in lines.items() if number > MOST_LINES[verb]} == {}


CALLS_EXPERIMENT = """\
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
    (folder / "experiment.yaml").write_text(CALLS_EXPERIMENT.format(ranks=list(range(1, runs + 1))))
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
