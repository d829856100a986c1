"""submit_all.sh against stand-ins for sbatch and squeue, and the experiment's README."""

import os
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.cases import python_program, write
from tests.run.made_plans import SITE, made_control, made_plan, made_run

from touchline.experiment.experiment import EvaluateConfig
from touchline.experiment.plan import Plan
from touchline.experiment.runs import ParentLink
from touchline.run.folders import ExperimentFolder
from touchline.run.scripts.folder import experiment_files, parents_first, run_files, wanted_checkpoints

pytestmark = pytest.mark.planning

SBATCH = """\
import os, pathlib, sys
folder = pathlib.Path({state!r})
name = os.path.basename(os.getcwd()) + ("-eval" if sys.argv[-1] == "eval.slurm" else "")
with open(folder / "calls", "a") as stream:
    stream.write("|".join([os.getcwd(), *sys.argv[1:]]) + "\\n")
if name in (folder / "refused").read_text().split("\\n"):
    sys.exit("sbatch: error: Batch job submission failed: QOSMaxSubmitJobPerUserLimit")
count = len((folder / "calls").read_text().splitlines())
print(f"{{100 + count}};cluster")
"""
SQUEUE = """\
import pathlib, sys
folder = pathlib.Path({state!r})
with open(folder / "looks", "a") as stream:
    stream.write("|".join(sys.argv[1:]) + "\\n")
text = (folder / "queue").read_text()
if text == "down":
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
sys.stdout.write(text)
"""


@dataclass
class Experiment:
    root: Path
    state: Path
    plan: Plan
    queue: list[str] = field(default_factory=list)
    down: bool = False
    refused: tuple[str, ...] = ()

    def submit(self, *, path: str | None = None) -> subprocess.CompletedProcess[str]:
        (self.state / "calls").write_text("")
        (self.state / "looks").write_text("")
        (self.state / "queue").write_text("down" if self.down else "".join(f"{line}\n" for line in self.queue))
        (self.state / "refused").write_text("\n".join(self.refused))
        return subprocess.run(
            ["bash", str(self.root / "submit_all.sh")],
            cwd="/",
            env=os.environ | {"PATH": path or f"{self.state}:{os.environ['PATH']}", "CDPATH": "/:/usr"},
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def calls(self) -> list[tuple[str, ...]]:
        lines = (self.state / "calls").read_text().splitlines()
        return [(Path(folder).name, *words) for folder, *words in (line.split("|") for line in lines)]

    def put(self, name: str) -> None:
        write(self.root / name, "")


def make(tmp_path: Path, plan: Plan) -> Experiment:
    root, state = tmp_path / "exp 'of' $mine", tmp_path / "state"
    state.mkdir()
    for run in plan.runs:
        (root / run.name).mkdir(parents=True)
        for name, text in run_files(plan, run, SITE).items():
            (root / run.name / name).write_text(text)
    (root / "plan.json").touch()
    for name, text in experiment_files(plan).items():
        (root / name).write_text(text)
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE)):
        python_program(state / name, text.format(state=str(state)))
    return Experiment(root=root, state=state, plan=plan)


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return make(tmp_path, made_plan())


ALL = [
    ("1M_rank4", "--parsable", "finetune.slurm"),
    ("1M_rank64", "--parsable", "finetune.slurm"),
    ("1M_rank4_hard", "--parsable", "--dependency=afterany:101", "finetune.slurm"),
    ("1M_rank4", "--parsable", "--dependency=afterany:101", "eval.slurm"),
    ("1M_rank64", "--parsable", "--dependency=afterany:102", "eval.slurm"),
    ("1M_rank4_hard", "--parsable", "--dependency=afterany:103", "eval.slurm"),
    ("1M_base", "--parsable", "eval.slurm"),
]


def test_everything_is_submitted_once_and_each_id_printed(experiment: Experiment) -> None:
    done = experiment.submit()
    assert done.returncode == 0, done.stderr
    assert experiment.calls == ALL
    assert done.stdout.splitlines() == [
        "1M_rank4: 101",
        "1M_rank64: 102",
        "1M_rank4_hard: 103",
        "1M_rank4-eval: 104",
        "1M_rank64-eval: 105",
        "1M_rank4_hard-eval: 106",
        "1M_base-eval: 107",
    ]
    assert "7 submitted, 0 not" in done.stderr
    assert len((experiment.state / "looks").read_text().splitlines()) == 1


def test_a_refused_job_keeps_no_other_back(experiment: Experiment) -> None:
    experiment.refused = ("1M_rank64", "1M_base-eval")
    done = experiment.submit()
    assert done.returncode == 1
    assert [call for call in experiment.calls if "eval.slurm" not in call] == ALL[:3]
    assert "QOSMaxSubmitJobPerUserLimit" in done.stderr
    assert "1M_rank64: not submitted, see above" in done.stderr
    assert "1M_rank64-eval: not submitted, because the training was not" in done.stderr
    assert done.stdout.splitlines()[-1] == "1M_rank4_hard-eval: 105"
    assert "4 submitted, 3 not" in done.stderr


def test_what_goes_on_from_a_refused_run_is_not_submitted(experiment: Experiment) -> None:
    experiment.refused = ("1M_rank4",)
    done = experiment.submit()
    assert done.returncode == 1
    assert "1M_rank4_hard: not submitted, because its parent 1M_rank4 was not" in done.stderr
    assert [call[0] for call in experiment.calls] == ["1M_rank4", "1M_rank64", "1M_rank64", "1M_base"]


def test_what_is_in_the_queue_is_waited_for_and_not_submitted_again(experiment: Experiment) -> None:
    """Told by folder and name: by hand, by touchline, and of another experiment with equal names."""
    root = experiment.root.resolve()
    experiment.queue = [
        f"7|1M_rank4|{root}/1M_rank4",
        f"8|evaluate 1M_rank64|{root}/1M_rank64",
        f"9|my own name|{root}/1M_rank64",
        f"10|1M_base-eval|{root}/1M_base",
        "11|1M_rank4_hard|/elsewhere/1M_rank4_hard",
        "12|a|b|c|/x",
        f"13|here|{root}",
    ]
    done = experiment.submit()
    assert done.returncode == 0, done.stderr
    assert experiment.calls == [
        ("1M_rank4_hard", "--parsable", "--dependency=afterany:7", "finetune.slurm"),
        ("1M_rank4", "--parsable", "--dependency=afterany:7", "eval.slurm"),
        ("1M_rank4_hard", "--parsable", "--dependency=afterany:101", "eval.slurm"),
    ]
    assert "1M_rank64: in the queue as 9" in done.stderr


def test_what_is_finished_is_left_alone(experiment: Experiment) -> None:
    for run in ("1M_rank4", "1M_rank64"):
        experiment.put(f"{run}/training.json")
        experiment.put(f"{run}/epoch_1/touchline.json")
    experiment.put("1M_rank4/eval/capitalization_epoch_1.scores.json")
    done = experiment.submit()
    assert done.returncode == 0
    assert experiment.calls == [
        ("1M_rank4_hard", "--parsable", "finetune.slurm"),
        ("1M_rank64", "--parsable", "eval.slurm"),
        ("1M_rank4_hard", "--parsable", "--dependency=afterany:101", "eval.slurm"),
        ("1M_base", "--parsable", "eval.slurm"),
    ]


def test_when_all_is_done_there_is_nothing_to_do(experiment: Experiment) -> None:
    for run in experiment.plan.runs:
        experiment.put(f"{run.name}/training.json")
        checkpoint = "epoch_1" if run.train else "base"
        experiment.put(f"{run.name}/{checkpoint}/x")
        experiment.put(f"{run.name}/eval/capitalization_{checkpoint}.scores.json")
    done = experiment.submit()
    assert (done.returncode, done.stdout, experiment.calls) == (0, "", [])


def test_checkpoints_that_were_not_kept_are_not_waited_for(tmp_path: Path) -> None:
    experiment = make(tmp_path, made_plan(made_run(epochs=3, evaluate=EvaluateConfig(epochs="all"))))
    experiment.put("1M_rank4/training.json")
    experiment.put("1M_rank4/epoch_2/x")
    experiment.put("1M_rank4/eval/capitalization_epoch_2.scores.json")
    assert experiment.submit().returncode == 0
    assert experiment.calls == []
    experiment.put("1M_rank4/epoch_1/x")
    assert experiment.submit().returncode == 0
    assert experiment.calls == [("1M_rank4", "--parsable", "eval.slurm")]


def test_without_an_answer_of_the_queue_nothing_is_submitted(experiment: Experiment) -> None:
    """Absence is no state: a job that is not listed by a queue that does not answer may be there."""
    experiment.down = True
    done = experiment.submit()
    assert done.returncode == 4
    assert "no job submitted" in done.stderr
    assert experiment.calls == []


def test_where_there_is_no_sbatch_it_says_what_to_do(experiment: Experiment, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "id"):
        (tools / name).symlink_to(subprocess.check_output(["which", name], text=True).strip())
    done = experiment.submit(path=str(tools))
    assert done.returncode == 4
    assert "no sbatch and squeue on this machine" in done.stderr
    assert "bash finetune.slurm" in done.stderr


def test_no_name_breaks_it(tmp_path: Path) -> None:
    """The reader of experiments refuses such names; the script does not rest on that."""
    names = ["a b'c", "$(touch made)", '"; touch made #', "`x`", "*"]
    plan = made_plan(*map(made_run, names), made_control("base $HOME"))
    experiment = make(tmp_path, replace(plan, experiment="e\nrm -r x", task="t'$(x)"))
    done = experiment.submit()
    assert done.returncode == 0, done.stderr
    assert experiment.calls == [
        *((name, "--parsable", "finetune.slurm") for name in names),
        *((name, "--parsable", f"--dependency=afterany:{id_}", "eval.slurm") for id_, name in enumerate(names, 101)),
        ("base $HOME", "--parsable", "eval.slurm"),
    ]
    assert not list(experiment.root.rglob("made"))


def test_stages_come_after_their_parents_whatever_their_order() -> None:
    chain = [
        made_run("c", link=ParentLink(stage="c", parent="b", continue_="adapter")),
        made_run("b", link=ParentLink(stage="b", parent="a", continue_="merge")),
        made_run("a"),
        made_run("other", link=ParentLink(stage="x", parent="of another experiment", continue_="adapter")),
    ]
    assert [run.name for run in parents_first(chain)] == ["a", "other", "b", "c"]


def test_checkpoints_that_are_asked_for() -> None:
    asked = [
        wanted_checkpoints(made_run(epochs=3, evaluate=EvaluateConfig(epochs=epochs)))
        for epochs in ("last", "all", (0, 2, 9))
    ]
    assert asked == [["epoch_2"], ["epoch_0", "epoch_1", "epoch_2"], ["epoch_0", "epoch_2"]]
    assert wanted_checkpoints(made_control()) == ["base"]


def test_the_readme_says_what_the_folder_is_and_five_commands() -> None:
    text = experiment_files(made_plan())["README.md"]
    commands = [line.partition("#")[0].strip() for line in text.split("```")[1].splitlines()[1:]]
    assert commands[1:] == [
        "touchline status .",
        "touchline cancel . --all",
        "touchline report .",
        "bash submit_all.sh",
    ]
    assert commands[0] == "touchline submit ."
    assert all(name in text for name in ("experiment.yaml", "runs_plan.md", "RESULTS.md"))
    assert len(text.splitlines()) < 20


def test_foreign_text_is_no_markup_in_the_readme() -> None:
    plan = replace(made_plan(made_run("<b>x</b>|y")), experiment="[a](http://x)", question="<script>\n# x")
    parts = experiment_files(plan)["README.md"].split("```")
    assert len(parts) % 2
    for text in parts[::2]:
        assert "<script>" not in text
        assert "<b>" not in text
        assert "](http" not in text.replace("\\]", "")


def test_an_edited_file_is_left_and_named_and_a_stale_one_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text("name: x\n")
    (tmp_path / "experiment.yaml").touch()
    folder = ExperimentFolder(tmp_path)
    assert folder.write_experiment({"README.md": "one\n", "submit_all.sh": "#!/bin/bash\n"}) == []
    assert os.access(tmp_path / "submit_all.sh", os.X_OK)
    assert folder.write_experiment({"README.md": "two\n"}) == []
    assert (tmp_path / "README.md").read_text() == "two\n"
    (tmp_path / "README.md").write_text("mine\n")
    assert folder.write_experiment({"README.md": "three\n"}) == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine\n"
    (tmp_path / "README.md").unlink()
    assert folder.write_experiment({"README.md": "three\n"}) == []


def test_a_readme_that_touchline_has_not_written_is_left(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text("name: x\n")
    (tmp_path / "README.md").write_text("mine\n")
    assert ExperimentFolder(tmp_path).write_experiment({"README.md": "ours\n"}) == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine\n"


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    plan = made_plan(made_run("one"))
    (tmp_path / "experiment.yaml").touch()
    folder = ExperimentFolder(tmp_path)
    files = run_files(plan, plan.runs[0], SITE)
    folder.write_run("one", files)
    left, other = tmp_path / "one" / ".finetune.slurm.5c22ced7.tmp", tmp_path / "one" / ".metrics.5c22ced7.tmp"
    left.write_text("half")
    other.write_text("of another writer")
    folder.write_run("one", files)
    assert not left.exists()
    assert other.exists()
