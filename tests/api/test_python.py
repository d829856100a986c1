"""`import touchline`: the verbs as Python functions."""

import inspect
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.api.folders import environment, make_experiment

import touchline
import touchline.plan.build
from touchline.core.errors import InputError, PolicyError
from touchline.results.frame import Results

ROOT = Path(__file__).resolve().parents[2]
FINISHED = ROOT / "tests" / "fixtures" / "written-by-0.1.0" / "finished"


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FINISHED, tmp_path / "finished"))


def test_the_import_is_light() -> None:
    """Neither pandas, torch, scipy nor anything of touchline's own rooms loads before a verb is called."""
    program = "import sys, touchline; import json; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout))
    assert not loaded & {"numpy", "pandas", "pydantic", "scipy", "torch", "transformers"}
    assert {name for name in loaded if name.startswith("touchline")} == {"touchline"}


def test_every_verb_is_a_function_with_optional_settings() -> None:
    """A verb that shares its name with a package is called, and the package's modules are still reached."""
    from touchline import api

    for name in touchline.__all__[1:]:
        verb = getattr(touchline, name)
        assert callable(verb), name
        parameters = inspect.signature(verb).parameters
        assert "settings" not in parameters or parameters["settings"].default is None, name
        assert set(inspect.signature(getattr(api, name)).parameters) == set(parameters), name
        assert name in dir(touchline)
    assert touchline.plan.build is sys.modules["touchline.plan.build"]
    with pytest.raises(AttributeError):
        touchline.nothing  # noqa: B018


def test_results_as_a_table(experiment: Path) -> None:
    """One row per run; levels are numbers, and what was not measured is no number."""
    results = touchline.results(str(experiment))
    frame = results.to_frame()
    assert list(frame.index) == [run.name for run in results]
    levels = frame["train.lora.rank"].dropna()
    assert len(levels) >= 2
    assert [float(level) for level in levels] == sorted(float(level) for level in levels)
    trained = next(run for run in results if run.train_losses)
    assert math.isclose(frame.loc[trained.name, "train_seconds"], trained.train_seconds.value)
    assert math.isclose(frame.loc[trained.name, "score"], trained.score.value)
    control = next(run for run in results if not run.train_losses)
    assert math.isnan(frame.loc[control.name, "train_seconds"])
    assert results == touchline.results(experiment)


def test_an_experiment_built_in_python_plans_like_its_file(place: Path) -> None:
    """Its file is written into the user's folder; run by run the plan is that of the same YAML; edits are kept."""
    by_hand, made = make_experiment(place / "by_hand"), make_experiment(place / "made")
    (made / "experiment.yaml").unlink()
    read = touchline.read_experiment(by_hand)
    assert read.folder == str(by_hand)
    experiment = touchline.Experiment(folder="made", **read.written)
    planned, expected = touchline.plan(experiment), touchline.plan(read)
    assert planned.folder.root == made
    assert [run.digest for run in planned.plan.runs] == [run.digest for run in expected.plan.runs]
    assert planned.plan == replace(expected.plan, revisions=planned.plan.revisions)
    assert (by_hand / "experiment.yaml").read_text().count("{rank: 4, dropout: 0.1}") == 1, (
        "a file that says the same stays"
    )

    changed = touchline.plan(experiment.with_values({"factors.train.lora.rank": [8]}))
    assert [run.name for run in changed.plan.runs] == ["1M_rank8", "1M_base"]
    assert touchline.read_experiment("made").factors == {"train.lora.rank": [8]}
    text = f"# mine\n{(made / 'experiment.yaml').read_text()}"
    (made / "experiment.yaml").write_text(text)
    with pytest.raises(PolicyError, match="was edited"):
        touchline.plan(experiment)
    with pytest.raises(PolicyError, match="a different experiment"):
        touchline.write_experiment(experiment.with_values({"seeds": [2]}), by_hand)
    assert (made / "experiment.yaml").read_text() == text

    shown = planned._repr_html_()
    assert "<pre" in shown
    assert all(run.name in shown for run in planned.plan.runs)
    assert repr(planned) == planned.screen()


def test_what_verbs_return_is_shown_short_and_in_tables(experiment: Path, tmp_path: Path) -> None:
    """`repr` is a line; notebooks get the tables of the commands, escaped, without colors of paper or ink."""
    other = Path(shutil.copytree(experiment, tmp_path / "other"))
    results, report = touchline.results(experiment), touchline.report(experiment)
    found = [results, report, touchline.compare([experiment, other]), touchline.history()]
    assert [repr(each).split(" ")[0] for each in found] == ["<results", "<report", "<comparison", "<history"]
    for each in found:
        shown = each._repr_html_()
        assert len(repr(each)) < 250
        assert len(shown) < 60_000
        assert not re.search(r"<script|(?<!-)color:#(fff|000)|background:#", shown)
    assert all(f">{run.name}<" in results._repr_html_() for run in results)
    assert str(report.page) in report._repr_html_()
    hostile = Results([replace(results[0], name="<script>alert(1)</script>\x1b[31m\ud800")])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\ud800" in hostile._repr_html_()
    assert len(Results([*results] * 50)._repr_html_()) < 20_000, "a long table is cut"


def test_the_history_as_a_table(tmp_path: Path) -> None:
    """One row per record, units in the columns' names; an empty one has the same columns."""
    place = shutil.copytree(FINISHED.parent / "history", tmp_path / "history")
    history = touchline.history(str(place))
    frame = history.to_frame()
    assert list(frame["run"]) == [row.name for row in history] != []
    assert (frame["peak_memory_gib"] > 0).all()
    assert (frame["steps_done"] == frame["steps_total"]).all()
    assert list(touchline.history(tmp_path / "none").to_frame().columns) == list(frame.columns)
    assert all(f">{row.name}<" in history._repr_html_() for row in history)


def test_figures_are_altair_charts(experiment: Path) -> None:
    """Those of the report, whole by themselves: their data inside, a fixed width, white paper under dark ink."""
    altair = pytest.importorskip("altair")
    charts = touchline.figures(experiment)
    assert {"train_loss", "scores", "estimates"} <= set(charts)
    for name, chart in charts.items():
        assert isinstance(chart, altair.LayerChart), name
        drawn = chart.to_dict()
        assert drawn["background"] == "#ffffff"
        assert drawn["width"] > 100


def test_errors_tell_what_to_do(tmp_path: Path) -> None:
    """A traceback ends with the findings, the expected value and a hint; one path stands for a list of one."""
    with pytest.raises(InputError, match="does not exist"):
        touchline.status(str(tmp_path / "nothing.yaml"))
    with pytest.raises(InputError, match="int is not a path") as caught:
        touchline.results(5)
    assert caught.value.__notes__ == ["  expected: a path, or an Experiment"]
    with pytest.raises(InputError, match="nothing to be compared with") as caught:
        touchline.compare(str(tmp_path))
    assert any("expected: two or more" in note for note in caught.value.__notes__)


@pytest.fixture
def place(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, where the tiny model stands under the name of the real one."""
    (tmp_path / "models").mkdir()
    for name in ("Tiny-1M-Instruct", "SmolLM2-135M-Instruct"):
        (tmp_path / "models" / name).symlink_to(models / "Tiny-1M-Instruct")
    for name, value in environment(tmp_path / "models", tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python_lines(page: Path) -> str:
    """The Python blocks of a page, one after the other."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))


def run_lines(page: Path) -> str:
    """What the Python blocks of a page print."""
    command = [sys.executable, "-c", python_lines(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.thorough
@pytest.mark.slow
def test_the_python_lines_of_the_guide(place: Path) -> None:
    """Experiments are built, refused, planned, run, drawn, changed, compared and read; the errors are those shown."""
    page = ROOT / "docs" / "guides" / "python.md"
    printed = run_lines(page)
    [errors] = re.findall(r"^```text\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert errors in printed
    assert "ranks: 2 runs" in printed
    assert "<comparison with 'ranks' of 'longer': 0 paired runs>" in printed
    assert (place / "train_loss.png").stat().st_size > 1000
    assert (place / "ranks" / "report.html").is_file()


@pytest.mark.thorough
@pytest.mark.slow
def test_the_notebook_runs(place: Path) -> None:
    """Every cell, in a real kernel; tables and a chart come out. The file itself holds no outputs."""
    import nbclient
    import nbformat
    from ipykernel.kernelspec import KERNEL_NAME

    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.execution_count, cell.outputs) for cell in code] == [(None, [])] * len(code)
    where = {"metadata": {"path": str(place)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name=KERNEL_NAME, resources=where).execute()
    shown = [output.data for cell in code for output in cell.outputs if "data" in output]
    tables = [data["text/html"] for data in shown if "text/html" in data]
    for title in ("Plan of words", "Results of 3 runs", "Report of words"):
        assert any(f"<b>{title}</b>" in table for table in tables), title
    assert any("image/png" in data for data in shown)
