"""Overrides and edits of experiment.yaml: which experiment each command plans and starts (decision 0041)."""

import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from tests.api import made_runs as made
from tests.tiers import examples
from tests.tiny_model import write_tiny_words

from touchline import api
from touchline.api import running
from touchline.core.errors import PlanDriftError
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan
from touchline.plan.identity import RunMark
from touchline.plan.screen import left_runs
from touchline.run import launching
from touchline.run.loaded_plan import LoadedPlan, read_planned, write_folders

pytestmark = pytest.mark.planning

FILE = {"ranks": [2, 4], "epochs": 2, "seeds": [1]}
TEXT = """\
name: tiny
task: capitalization
models: [Tiny-1M-Instruct]
data: {{path: words.json}}
train:
  epochs: {epochs}
  global_batch_size: 8
  micro_batch_size: 8
  packed: false
  learning_rate: 1e-2
  max_seq_len: 64
  base_dtype: float32
factors:
  train.lora.rank: {ranks}
seeds: {seeds}
controls: [base]
evaluate: {{batch_size: 8, max_new_tokens: 12}}
"""
RANKS = "factors.train.lora.rank=[4, 8]"


def write(folder: Path, **values: object) -> None:
    (folder / "experiment.yaml").write_text(TEXT.format(**(FILE | values)))


def new_experiment(folder: Path, **values: object) -> Path:
    folder.mkdir(parents=True)
    write_tiny_words(folder / "words.json", 40, 4, 4)
    write(folder, **values)
    return folder


def what(plan: Plan) -> list[tuple[str, str, tuple[str, ...], str]]:
    return [(run.name, run.digest, tuple(level.value for level in run.levels), str(run.train)) for run in plan.runs]


def finish(planned: LoadedPlan, names: Sequence[str], settings: UserConfig) -> None:
    """Make runs complete: trained and evaluated."""
    write_folders(planned, planned.plan.runs, settings)
    for run in planned.plan.runs:
        place = planned.folder.run(run.name)
        if run.name in names and not (place / "eval").exists():
            if run.batches is not None:
                made.train(planned.plan, run, place)
            made.evaluate(planned.plan, run, place, items=4)


def test_a_dry_run_of_what_would_be_refused_shows_the_plan_and_says_so(tmp_path: Path, settings: UserConfig) -> None:
    """What a change costs is a question that a finished experiment has too; nothing is written for it."""
    folder = new_experiment(tmp_path / "x")
    first = api.plan(folder, settings)
    finish(first, [first.plan.runs[0].name], settings)
    before = (folder / "plan.json").read_bytes()
    with pytest.raises(PlanDriftError):
        api.plan(folder, settings, ("train.epochs=3",))
    asked = api.plan(folder, settings, ("train.epochs=3",), dry_run=True)
    assert {run.train.epochs for run in asked.plan.runs if run.train is not None} == {3}
    (said,) = (note for note in asked.notes if "without --dry-run" in note)
    assert "have already started: 1M_rank2" in said
    assert "train.epochs=3 --accept" in said
    assert asked.marks["1M_rank2"] is RunMark.CHANGED
    assert (folder / "plan.json").read_bytes() == before


def test_a_plan_with_finished_runs_says_what_is_left(tmp_path: Path, settings: UserConfig) -> None:
    """A total that holds what is done is not what a user decides on."""
    folder = new_experiment(tmp_path / "x")
    first = api.plan(folder, settings)
    finish(first, [first.plan.runs[0].name], settings)
    again = api.plan(folder, settings)
    left = [run.name for run in left_runs(again.plan, again.marks)]
    assert left == [run.name for run in again.plan.runs[1:]]
    assert "Left to do  2 runs, " in again.screen()


class Starts:
    """Stand-in for the work on a plan: remembers each plan that a command started, and does nothing."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []

    def __call__(self, planned: LoadedPlan, *_: object, **__: object) -> Any:
        self.plans.append(planned.plan)

    def submit(self, planned: LoadedPlan, runs: object, settings: object, *_: object, **__: object) -> Any:
        self.plans.append(planned.plan)
        return planned, []


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    found = Starts()
    monkeypatch.setattr(running, "_worked", found)
    monkeypatch.setattr(launching, "submit", found.submit)
    return found


@dataclass(frozen=True)
class Row:
    """A row of the table of decision 0041."""

    recorded: tuple[str, ...]
    edit: dict[str, object] | str
    given: tuple[str, ...]
    finished: bool
    starts: dict[str, object] | None
    """Settings of what `run` starts; None if it starts nothing."""
    names: str = ""
    """What the messages name."""


RECORDED = {"ranks": [4, 8]}
NAMED = f"override: {RANKS.replace('=', ' = ', 1)}, given on 20"
RUN_ROWS = {
    "no-override": Row((), {}, (), False, {}),
    "file-edited": Row((), {"epochs": 1}, (), False, {"epochs": 1}, "train.epochs: 1"),
    "kept-and-named": Row((RANKS,), {}, (), False, RECORDED, NAMED),
    "file-edited-elsewhere": Row((RANKS,), {"epochs": 1}, (), False, None),
    "file-edited-at-the-override": Row((RANKS,), {"ranks": [2, 4, 16]}, (), False, None),
    "written-into-the-file": Row((RANKS,), RECORDED, (), False, RECORDED),
    "given-again": Row((RANKS,), {"epochs": 1}, (RANKS,), False, RECORDED | {"epochs": 1}, "train.epochs: 1"),
    "given-otherwise": Row(
        (RANKS,), {}, ("factors.train.lora.rank=[2]",), False, {"ranks": [2]}, "recorded [4, 8] (override)"
    ),
    "another-is-given": Row((RANKS,), {}, ("seeds=[1, 2]",), False, None),
    "given-first": Row((), {}, (RANKS,), False, RECORDED, NAMED),
    "finished": Row((RANKS,), {}, (), True, {}, "recorded [4, 8] (override)"),
    "finished-and-edited": Row((RANKS,), {"ranks": [2, 4, 16]}, (), True, {"ranks": [2, 4, 16]}, "recorded [4, 8]"),
    "finished-and-given": Row((RANKS,), {}, (RANKS, "seeds=[1, 2]"), True, RECORDED | {"seeds": [1, 2]}, "seeds: "),
}


def edited(folder: Path, edit: dict[str, object] | str) -> None:
    if isinstance(edit, str):
        yaml = folder / "experiment.yaml"
        yaml.write_text(f"{edit}\n{yaml.read_text()}\n{edit}\n")
    elif edit:
        write(folder, **edit)


def typed(hint: str | None, settings: UserConfig) -> list[Callable[[], LoadedPlan]]:
    """The `touchline plan` commands of a hint, each as a call."""
    commands = [shlex.split(each) for each in re.findall(r"`(touchline plan [^`]+)`", hint or "")]
    return [lambda words=words: api.plan(Path(words[2]), settings, words[3:]) for words in commands]


@pytest.mark.parametrize("name", RUN_ROWS)
def test_run_starts_what_the_user_has_chosen(name: str, tmp_path: Path, settings: UserConfig, starts: Starts) -> None:
    row, folder = RUN_ROWS[name], new_experiment(tmp_path / "c")
    first = api.plan(folder, settings, row.recorded)
    if row.finished:
        finish(first, [run.name for run in first.plan.runs], settings)
    edited(folder, row.edit)
    messages: list[str] = []

    def run() -> None:
        api.run(folder, settings, row.given, probe=False, on_message=messages.append)

    if row.starts is not None:
        run()
        wanted = api.plan(new_experiment(tmp_path / "fresh", **row.starts), settings).plan
        assert what(starts.plans[0]) == what(wanted)
        assert row.names in "\n".join(messages)
        return
    with pytest.raises(PlanDriftError) as caught:
        run()
    assert not starts.plans
    assert caught.value.exit_code == 3
    assert "recorded [4, 8] (override)" in caught.value.message
    by_file, as_recorded = typed(caught.value.hint, settings)
    fresh = new_experiment(tmp_path / "fresh", **(row.edit if isinstance(row.edit, dict) else {}))
    for choose, wanted in ((by_file, api.plan(fresh, settings, row.given).plan), (as_recorded, first.plan)):
        assert what(choose().plan) == what(wanted)
        api.run(folder, settings, probe=False)
        assert what(starts.plans[-1]) == what(wanted)


FOLLOW_ROWS: dict[str, tuple[tuple[str, ...], dict[str, object] | str, bool]] = {
    "no-override": ((), {}, True),
    "a-comment-is-no-edit": ((), "# a comment", True),
    "kept-and-named": ((RANKS,), {}, True),
    "written-into-the-file": ((RANKS,), RECORDED, True),
    "file-edited": ((), {"epochs": 1}, False),
    "file-edited-elsewhere": ((RANKS,), {"epochs": 1}, False),
    "file-edited-at-the-override": ((RANKS,), {"ranks": [2, 4, 16]}, False),
}
"""Overrides of the plan, the edit since, and whether commands that follow the plan start it."""


@pytest.mark.parametrize(
    ("name", "verb"),
    [
        *((name, "resume") for name in FOLLOW_ROWS),
        *((name, verb) for name in ("kept-and-named", "file-edited") for verb in ("submit", "evaluate", "prepare")),
    ],
)
def test_commands_that_follow_the_plan_refuse_an_edited_file(
    name: str, verb: str, tmp_path: Path, settings: UserConfig, starts: Starts
) -> None:
    recorded, edit, is_started = FOLLOW_ROWS[name]
    folder = new_experiment(tmp_path / "c")
    cluster = "compute: {executor: slurm, gpu: A100-80GB}\n" if verb == "submit" else ""
    file = folder / "experiment.yaml"
    file.write_text(file.read_text() + cluster)
    first = api.plan(folder, settings, recorded)
    edited(folder, edit)
    file.write_text(file.read_text() + (cluster if edit else ""))
    messages: list[str] = []

    def call() -> None:
        if verb == "prepare":
            messages.extend(api.prepare(folder, settings).notes)
        else:
            getattr(api, verb)(folder, settings, on_message=messages.append)

    if is_started:
        call()
        assert [what(plan) for plan in starts.plans] == ([] if verb == "prepare" else [what(first.plan)])
        assert all(override.replace("=", " = ", 1) in "\n".join(messages) for override in recorded)
        return
    with pytest.raises(PlanDriftError) as caught:
        call()
    assert not starts.plans
    for choose in typed(caught.value.hint, settings)[::-1]:
        chosen = choose().plan
        call()
        assert verb == "prepare" or what(starts.plans[-1]) == what(chosen)


OVERRIDES = {
    "ranks": ("factors.train.lora.rank", [[4, 8], [2], [2, 4]]),
    "epochs": ("train.epochs", [1, 2]),
    "seeds": ("seeds", [[1], [1, 2]]),
}
GIVEN = st.dictionaries(st.sampled_from(sorted(OVERRIDES)), st.integers(0, 2), max_size=2)


class Walk(RuleBasedStateMachine):
    """A user who edits, overrides, plans, runs, interrupts, deletes and renames.

    Every plan that is written is that of a fresh folder with the same file and the same overrides, and a plan or a run
    that is refused changes nothing.
    """

    place: Path
    config: UserConfig
    starts: Starts

    @initialize()
    def begin(self) -> None:
        self.root = self.place / f"walk{len(list(self.place.iterdir()))}"
        self.folder = new_experiment(self.root / "c0")
        self.file = dict(FILE)
        self.recorded: tuple[dict[str, object], dict[str, object]] | None = None

    @rule(key=st.sampled_from(sorted(OVERRIDES)), number=st.integers(0, 2))
    def edit(self, key: str, number: int) -> None:
        values = OVERRIDES[key][1]
        self.file[key] = values[number % len(values)]
        write(self.folder, **self.file)

    @rule()
    def comment(self) -> None:
        write(self.folder, **self.file)
        edited(self.folder, "# nothing of weight")

    @rule(given=GIVEN)
    def plan(self, given: dict[str, int]) -> None:
        self.planned(values(given), lambda words: api.plan(self.folder, self.config, words))

    @rule(given=st.one_of(st.just({}), GIVEN))
    def run(self, given: dict[str, int]) -> None:
        """`run`, interrupted before its first step."""
        wanted = values(given)
        if self.recorded is not None and (kept := self.recorded[1]):
            is_same = self.file == self.recorded[0]
            effect = self.file | wanted
            lost = [key for key, value in kept.items() if key not in wanted and effect[key] != value]
            if not wanted and is_same:
                wanted = kept if self.is_unfinished() else {}
            elif lost and self.is_unfinished():
                before = self.on_disk()
                with pytest.raises(PlanDriftError):
                    api.run(self.folder, self.config, words_of(wanted), probe=False)
                assert self.on_disk() == before
                return
        count = len(self.starts.plans)
        given_now = words_of(values(given))
        if self.planned(wanted, lambda _: api.run(self.folder, self.config, given_now, probe=False)):
            assert what(self.starts.plans[count]) == what(read_planned(self.folder).plan)

    @rule()
    def resume(self) -> None:
        if self.recorded is None:
            return
        file, overrides = self.recorded
        before, count = self.on_disk(), len(self.starts.plans)
        if self.file == file or self.file == file | overrides:
            api.resume(self.folder, self.config)
            assert what(self.starts.plans[count]) == what(read_planned(self.folder).plan)
        else:
            with pytest.raises(PlanDriftError):
                api.resume(self.folder, self.config)
        assert self.on_disk() == before

    @rule(everything=st.booleans())
    def complete(self, everything: bool) -> None:
        if self.recorded is not None:
            planned = read_planned(self.folder)
            names = [run.name for run in planned.plan.runs]
            finish(planned, names if everything else names[:1], self.config)

    @rule()
    def delete_a_run(self) -> None:
        if self.recorded is not None:
            shutil.rmtree(self.folder / read_planned(self.folder).plan.runs[0].name, ignore_errors=True)

    @rule()
    def delete_the_plan(self) -> None:
        (self.folder / "plan.json").unlink(missing_ok=True)
        self.recorded = None

    @rule()
    def rename(self) -> None:
        number = int(self.folder.name[1:]) + 1
        self.folder = self.folder.rename(self.root / f"c{number}")

    def planned(self, overrides: dict[str, object], call: Callable[[list[str]], object]) -> bool:
        """Plan, and compare with a fresh folder. Return whether a plan was written."""
        before, refused = self.on_disk(), None
        try:
            call(words_of(overrides))
        except PlanDriftError as error:
            refused = error
        if refused is not None:
            assert "have already started" in refused.message
            assert self.on_disk() == before
            return False
        fresh = new_experiment(self.root / "fresh", **self.file)
        expected = api.plan(fresh, self.config, words_of(overrides), dry_run=True).plan
        shutil.rmtree(fresh)
        plan = read_planned(self.folder).plan
        assert what(plan) == what(expected)
        assert (sorted(plan.overrides), plan.experiment_sha256) == (
            sorted(expected.overrides), expected.experiment_sha256
        )  # fmt: skip
        self.recorded = dict(self.file), overrides
        return True

    def on_disk(self) -> bytes | None:
        path = self.folder / "plan.json"
        return path.read_bytes() if path.exists() else None

    def is_unfinished(self) -> bool:
        runs = read_planned(self.folder).plan.runs
        return not all(list((self.folder / run.name / "eval").glob("*.eval")) for run in runs)


def values(given: dict[str, int]) -> dict[str, object]:
    return {key: OVERRIDES[key][1][number % len(OVERRIDES[key][1])] for key, number in given.items()}


def words_of(overrides: dict[str, object]) -> list[str]:
    return [f"{OVERRIDES[key][0]}={value}" for key, value in overrides.items()]


@pytest.mark.slow
def test_every_plan_is_that_of_a_fresh_folder(tmp_path: Path, settings: UserConfig, starts: Starts) -> None:
    Walk.place, Walk.config, Walk.starts = tmp_path, settings, starts
    run_state_machine_as_test(
        Walk,
        settings=hypothesis_settings(
            max_examples=examples(6), stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
