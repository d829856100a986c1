"""Controls in experiment.yaml: which runs they become, what they are called, and what they are kept out of."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import some
from tests.tiers import examples

from touchline.core.errors import InputError
from touchline.experiment.expand import expand
from touchline.experiment.names import label_of
from touchline.experiment.read import read_experiment
from touchline.experiment.runs import ControlKind, RunKind, RunSpec
from touchline.lint.design import DesignView

pytestmark = pytest.mark.planning

PLAIN = "name: words\nmodels: [m-1B]\ndata: {path: all.json}\n"
SWEEP = PLAIN + "factors: {train.lora.rank: [4, 64]}\nseeds: [3, 5]\n"
CHAIN = (
    SWEEP + "stages:\n  - {name: easy, data: {path: easy.json}}\n  - {name: hard, parent: easy, continue: adapter}\n"
)


def runs_of(text: str) -> tuple[RunSpec, ...]:
    """The runs of an experiment."""
    loaded = read_experiment(text, "experiment.yaml")
    models = loaded.experiment.models
    return expand(loaded.experiment, {name: label_of(name) for name in models}, loaded.document)


def only(runs: tuple[RunSpec, ...], control: ControlKind | None) -> list[RunSpec]:
    """The runs that are this control; None: those that the experiment asks about."""
    return [run for run in runs if run.control is control]


def test_each_control_is_one_run_of_each_model() -> None:
    """Names tell what they are; fine-tuned runs come first, and what is asked about before its controls."""
    runs = runs_of(SWEEP + "controls: [shuffled, noop, base]\n")
    assert [(run.name, run.kind, run.control) for run in runs] == [
        ("1B_rank4", RunKind.FINE_TUNED, None),
        ("1B_rank4_seed5", RunKind.FINE_TUNED, None),
        ("1B_rank64", RunKind.FINE_TUNED, None),
        ("1B_rank64_seed5", RunKind.FINE_TUNED, None),
        ("1B_shuffled", RunKind.FINE_TUNED, ControlKind.SHUFFLED),
        ("1B_base", RunKind.CONTROL, ControlKind.BASE),
        ("1B_noop", RunKind.CONTROL, ControlKind.NO_OP),
    ]


def test_a_shuffled_control_is_the_first_condition_and_seed() -> None:
    """Everything but its name, its levels and what it is stays the same."""
    runs = runs_of(SWEEP + "controls: [shuffled]\n")
    (shuffled,) = only(runs, ControlKind.SHUFFLED)
    first = runs[0]
    assert (shuffled.train, shuffled.data, shuffled.seed, shuffled.evaluate) == (
        first.train,
        first.data,
        first.seed,
        first.evaluate,
    )
    assert shuffled.seed == 3


def test_controls_have_no_level_of_what_is_asked_about() -> None:
    """Else an effect of the rank would count a run on wrong labels."""
    runs = runs_of(SWEEP + "controls: [base, noop, shuffled]\n")
    for run in some(runs):
        factors = {level.factor for level in run.levels}
        assert factors == ({"models"} if run.control is not None else {"models", "train.lora.rank", "seeds"})


def test_each_dataset_and_model_has_its_own_controls() -> None:
    """Two files and two models: four of each kind, and every name is its own."""
    text = (
        "name: words\nmodels: [a-1B, b-3B]\ndata: {path: words_5L.json}\n"
        "factors: {data.path: [words_5L.json, words_9L.json], train.lora.rank: [4, 8]}\n"
        "controls: [base, noop, shuffled]\n"
    )
    runs = runs_of(text)
    assert len({run.name.casefold() for run in runs}) == len(runs)
    for kind in ControlKind:
        found = only(runs, kind)
        assert {(run.model, run.data.path) for run in found} == {
            (model, path) for model in ("a-1B", "b-3B") for path in ("words_5L.json", "words_9L.json")
        }
        assert {level.factor for run in found for level in run.levels} == {"models", "data.path"}


def test_a_chain_is_shuffled_stage_by_stage() -> None:
    """Each stage goes on from the shuffled one before it, and not from the right one."""
    runs = runs_of(CHAIN + "controls: [base, shuffled]\n")
    easy, hard = only(runs, ControlKind.SHUFFLED)
    assert (easy.name, hard.name) == ("1B_shuffled_easy", "1B_shuffled_hard")
    assert easy.link is None
    assert hard.link.parent == easy.name
    assert easy.data.path == "easy.json"
    base = only(runs, ControlKind.BASE)
    assert [run.name for run in base] == ["1B_base_easy", "1B_base_all"]
    assert all(run.link is None for run in base)


def test_a_fine_tuned_run_may_not_have_a_controls_name() -> None:
    """Two runs in one folder would overwrite each other."""
    for kind in ControlKind:
        with pytest.raises(InputError) as caught:
            runs_of(PLAIN + f"controls: [{kind.value}]\nrun_names: '{{model_size}}_{kind.value.upper()}'\n")
        assert caught.value.findings[0].code == "EX009"


def test_a_stage_may_not_have_a_shuffled_stages_name() -> None:
    """Here the clash is of the stages, not of the chains."""
    with pytest.raises(InputError, match="not unique"):
        runs_of(
            PLAIN + CHAIN.split("seeds: [3, 5]\n")[1] + "run_names: '{model_size}_shuffled'\ncontrols: [shuffled]\n"
        )


def test_an_unknown_control_is_told_with_those_that_there_are() -> None:
    """All that can be asked for are named."""
    with pytest.raises(InputError) as caught:
        read_experiment(PLAIN + "controls: [bse]\n", "experiment.yaml")
    assert "'base', 'noop' or 'shuffled'" in caught.value.findings[0].message


def test_rules_on_designs_do_not_see_controls_as_conditions() -> None:
    """A shuffled control is no replicate of the condition that it is of."""
    loaded = read_experiment(SWEEP + "controls: [shuffled, base]\n", "experiment.yaml")
    runs = expand(loaded.experiment, {"m-1B": label_of("m-1B")}, loaded.document)
    view = DesignView(experiment=loaded.experiment, document=loaded.document, runs=runs, datasets={})
    assert [run.control for run in view.trained] == [None] * 4


@settings(max_examples=examples(25), deadline=None)
@given(
    controls=st.sets(st.sampled_from([kind.value for kind in ControlKind])),
    ranks=st.lists(st.integers(1, 512), min_size=1, max_size=3, unique=True),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
    files=st.lists(st.sampled_from(["a.json", "b.json", "c_1.json", "c_2.json"]), min_size=1, max_size=3, unique=True),
)
def test_controls_change_no_other_run(controls: set[str], ranks: list[int], seeds: list[int], files: list[str]) -> None:
    """With or without them, what the experiment asks about is the same; names are unique whatever the case."""
    text = PLAIN + f"factors: {{train.lora.rank: {ranks}, data.path: {files}}}\nseeds: {seeds}\n"
    alone = runs_of(text)
    runs = runs_of(text + f"controls: [{', '.join(sorted(controls))}]\n")
    assert tuple(run for run in runs if run.control is None) == alone
    assert len({run.name.casefold() for run in runs}) == len(runs) == len(alone) + len(controls) * len(files)
    assert {run.control.value for run in runs if run.control is not None} == controls
