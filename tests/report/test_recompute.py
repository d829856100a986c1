"""The reviewer's script docs/scripts/recompute.py, on made and on trained experiments."""

import json
import runpy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter
from tests.api.folders import environment, make_experiment, touchline
from tests.report import made_gathered as made
from tests.report import made_sets

from tools.tiny_model import write_tiny_model
from touchline.data.scores import EvaluationRecord
from touchline.experiment.runs import RunKind
from touchline.report.build import build_report
from touchline.report.local.reporting import sample_rows
from touchline.results.report_inputs import ReportInputs, ResultsAnswer
from touchline.results.run_result import RunResult

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "scripts" / "recompute.py"


@pytest.fixture(scope="module")
def script() -> Path:
    """The script, which does not need touchline."""
    imports = [line for line in SCRIPT.read_text().splitlines() if "import" in line]
    assert "touchline" not in " ".join(imports)
    return SCRIPT


def recompute(script: Path, samples: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and output of the script, without a process of its own: scipy loads once."""
    code = runpy.run_path(str(script))["main"](str(samples), str(results))
    return code, capsys.readouterr().out


def write(folder: Path, gathered: ReportInputs) -> tuple[Path, Path]:
    """samples.jsonl and what `touchline results --json` prints."""
    report = build_report(gathered)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sample_rows(report)))
    answer = ResultsAnswer(runs=gathered.runs, analyses=report.analyses, test_sets=report.test_sets)
    (folder / "results.json").write_bytes(TypeAdapter(ResultsAnswer).dump_json(answer))
    return folder / "samples.jsonl", folder / "results.json"


def rescored(run: RunResult, values: Sequence[float], metric: str, clusters: Sequence[str | None]) -> RunResult:
    """The run with other scores of its items, by a metric of the user's own."""
    records = []
    for record in run.evaluations:
        samples = [
            replace(sample, value=float(value), cluster=cluster)
            for sample, value, cluster in zip(record.samples, values, clusters, strict=True)
        ]
        records.append(replace(record, samples=tuple(samples), score=metric))
    return replace(run, evaluations=tuple(records))


def repeated(record: EvaluationRecord, rng: np.random.Generator) -> EvaluationRecord:
    """Three sampled answers to each item."""
    samples = [
        replace(sample, repeat=repeat, exact=bool(right), match=bool(right))
        for sample in record.samples
        for repeat, right in enumerate(rng.random(3) < 0.6)
    ]
    return replace(record, samples=tuple(samples), repeats=3)


def many_experiments(rng: np.random.Generator) -> list[tuple[str, ReportInputs]]:
    """Designs, seeds, missing runs, metrics, repeats and clusters of many kinds."""
    made_ones = [
        (f"design {number}, {seeds} seeds", made.factorial(rng, design, seeds, tied=tied))
        for number, (design, tied) in enumerate(made.DESIGNS)
        for seeds in (1, 2, 3)
    ]
    crossed = made.factorial(rng, {"models": ("1B", "3B"), made.RANK: ("4", "16", "64")}, 3)
    half = [run for run in crossed.runs if run.kind is RunKind.CONTROL or rng.random() < 0.8]
    made_ones.append(("runs are missing", made.gathered(half, factors=crossed.factors)))
    ranks = made.factorial(rng, {made.RANK: ("4", "64")}, 5)
    apart = [replace(run, seed=run.seed + 10 * ("run_1" in run.name)) for run in ranks.runs]
    made_ones.append(("no seed in common", made.gathered(apart)))
    scales = {
        "rouge": lambda: rng.beta(2, 3, size=40),
        "loss": lambda: rng.gamma(2, 1, size=40) + 1,
        "rating": lambda: rng.integers(1, 11, size=40).astype(float),
    }
    for metric, draw in scales.items():
        for clusters in ([None] * 40, [f"document {i // 4}" for i in range(40)]):
            runs = [rescored(run, draw(), metric, clusters) for run in crossed.runs]
            made_ones.append((f"{metric}, {'in clusters' if clusters[0] else 'alone'}", made.gathered(runs)))
    sampled = [replace(run, evaluations=tuple(repeated(e, rng) for e in run.evaluations)) for run in crossed.runs]
    made_ones.append(("sampled answers", made.gathered(sampled)))
    same = [
        replace(run, evaluations=ranks.runs[1].evaluations) for run in ranks.runs if run.kind is not RunKind.CONTROL
    ]
    made_ones.append(("seeds that do not differ", made.gathered(same)))
    for seeds in ((1,), (1, 2), (1, 2, 3)):
        made_ones.append(
            (f"test sets, {len(seeds)} seeds", made.gathered(made_sets.crossed(seeds=seeds, ranks=("4", "16"))))
        )
    return made_ones


def test_every_number_is_found_again_from_the_answers_alone(
    script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (what, gathered) in enumerate(many_experiments(np.random.Generator(np.random.PCG64(8)))):
        code, out = recompute(script, *write(tmp_path / str(number), gathered), capsys)
        assert code == 0, f"{what}: {out}"
        checked = int(out.splitlines()[-1].split()[0])
        assert checked > len(gathered.runs), what


def test_a_number_that_is_not_so_is_found(script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of these alone, changed by a hundredth or a digit."""
    rng = np.random.Generator(np.random.PCG64(9))
    gathered = made.factorial(rng, {made.RANK: ("4", "64"), "train.learning_rate": ("1e-4", "1e-3")}, 3)
    samples, results = write(tmp_path, gathered)
    right = json.loads(results.read_text())
    for path in (
        ("effects", 0, "contrasts", 0, "p_value"),
        ("effects", 1, "contrasts", 0, "p_adjusted"),
        ("effects", 0, "contrasts", 0, "low"),
        ("effects", 0, "contrasts", 0, "test", "means", 2),
        ("effects", 0, "contrasts", 0, "with_items", "high"),
        ("interactions", 0, "difference", "p_value"),
        ("comparisons", 0, "difference", "low"),
        ("scores", 1, "high"),
    ):
        wrong = json.loads(json.dumps(right))
        place = wrong["analyses"][0]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = place[path[-1]] * 1.01 + 1e-6
        results.write_text(json.dumps(wrong))
        code, out = recompute(script, samples, results, capsys)
        assert (code, "DIFFERS" in out) == (1, True), path


def test_a_wrong_number_of_a_further_test_set_is_found(
    script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, results = write(tmp_path, made.gathered(made_sets.crossed()))
    right = json.loads(results.read_text())
    for path in (
        ("analyses", 2, "effects", 0, "contrasts", 1, "p_adjusted"),
        ("analyses", 1, "comparisons", 3, "difference", "p_adjusted"),
        ("test_sets", "rows", 1, "scores", "13L", "value"),
        ("test_sets", "rows", 1, "scores", "5L", "high"),
    ):
        wrong = json.loads(json.dumps(right))
        place = wrong
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = place[path[-1]] * 0.9 + 1e-3
        results.write_text(json.dumps(wrong))
        code, out = recompute(script, samples, results, capsys)
        assert (code, "DIFFERS" in out) == (1, True), path


@pytest.mark.slow
def test_it_holds_for_an_experiment_that_was_really_trained(script: Path, tmp_path: Path) -> None:
    """Two ranks, two seeds and the base model, on the tiny model; answers with a space are read as they were scored.

    The four runs train side by side in one process, which the figures do not depend on.
    """
    write_tiny_model(tmp_path / "models" / "Tiny-1M-Instruct")
    env = environment(tmp_path / "models", tmp_path / "cache") | {"TOUCHLINE_HISTORY_DIR": str(tmp_path / "history")}
    folder = make_experiment(tmp_path / "exp", n_train=32, n_test=20)
    done = touchline(
        "run", str(folder), "seeds=[1,2]", "train.epochs=1", "train.lora.dropout=0", "compute.cohorts=always", env=env
    )
    assert done.returncode == 0, done.stderr
    answer = touchline("results", str(folder), "--json", env=env)
    (folder / "results.json").write_text(answer.stdout)
    told = json.loads(answer.stdout)["analyses"][0]["effects"][0]["contrasts"][0]["test"]
    assert (told["kind"], told["seeds"], told["reference_seeds"]) == ("paired t-test", [1, 2], [1, 2])
    # -I: an interpreter that knows nothing of this folder.
    command = [sys.executable, "-I", str(script), str(folder / "samples.jsonl"), str(folder / "results.json")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
