"""Stages in experiment.yaml: read, checked where they stand, each a run of its own; where a run's values come from."""

import json
from importlib import resources
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import parametrize, refusal, some
from tests.tiers import examples

from touchline.core.errors import InputError
from touchline.core.levels import STAGE
from touchline.experiment.anchors import from_run_folder, portable_path
from touchline.experiment.expand import expand
from touchline.experiment.experiment import Experiment
from touchline.experiment.names import label_of
from touchline.experiment.partial import StatedTraining
from touchline.experiment.read import read_experiment
from touchline.experiment.runs import RUN_NAME, ControlKind, ParentLink, RunKind, RunSpec
from touchline.experiment.stages import stage_experiment, stage_settings
from touchline.experiment.stated import stated_of_run
from touchline.experiment.validate import adapter, dotted_keys_at
from touchline.lint.design import DesignView

pytestmark = pytest.mark.planning

PLAIN = "name: words\nmodels: [m-1B]\ndata: {path: all.json, input: word}\ntrain: {lora: {rank: 8}}\n"
CHAIN = (
    PLAIN
    + """\
stages:
  - {name: easy, data: {path: easy.json}}
  - name: hard
    parent: easy
    continue: adapter
    data: {path: hard.json}
    train: {epochs: 2, lora: {dropout: 0.1}, checkpoint: {every: {steps: 5}}}
"""
)


def faults_of(text: str) -> list[tuple[int | None, int | None, str, str, str | None]]:
    """(line, column, code, subject, hint) of everything that is wrong with a text."""
    caught = refusal(read_experiment, text, "experiment.yaml")
    places = [finding.where for finding in caught.findings]
    return [
        (where and where.line, where and where.column, finding.code, finding.subject, finding.hint)
        for where, finding in zip(places, caught.findings, strict=True)
    ]


def test_a_chain_is_read_as_written() -> None:
    """`continue` is a key of the file, though no name in Python."""
    easy, hard = read_experiment(CHAIN, "e.yaml").experiment.stages
    assert (easy.name, easy.parent, easy.continue_) == ("easy", None, None)
    assert (hard.parent, hard.continue_) == ("easy", "adapter")
    assert stage_settings(hard) == {
        "data.path": "hard.json",
        "train.epochs": 2,
        "train.lora.dropout": 0.1,
        "train.checkpoint.every": {"steps": 5},
    }


def test_what_a_chain_says_and_leaves_open() -> None:
    """Columns, rank and all else stay; nothing of the stages is left in it."""
    loaded = read_experiment(CHAIN, "e.yaml")
    own = stage_experiment(loaded.experiment, loaded.experiment.stages[1], loaded.document)
    assert (own.data.path, own.data.input) == ("hard.json", "word")
    assert (own.train.epochs, own.train.lora.rank, own.train.lora.dropout) == (2, 8, 0.1)
    assert own.stages == ()
    # As JSON the key is the file's.
    experiment = read_experiment(CHAIN, "e.yaml").experiment
    text = adapter(Experiment).dump_json(experiment)
    assert json.loads(text)["stages"][1]["continue"] == "adapter"
    assert adapter(Experiment).validate_json(text) == experiment


def test_faults_of_stages_are_told_where_they_stand() -> None:
    """Misspelt keys of a stage and of its settings, and values out of bounds, all in one go."""
    text = PLAIN + (
        "stages:\n"
        "  - {name: a, parnet: b}\n"
        "  - {name: b, parent: a, continue: adaptor}\n"
        "  - {name: c, train: {epochs: 0, lora: {rnk: 3}}}\n"
        "  - {name: d, data: {colour: x}}\n"
    )
    assert faults_of(text) == [
        (6, 15, "EX002", "stages.0.parnet", "did you mean 'parent'?"),
        (7, 26, "EX003", "stages.1.continue", None),
        (8, 23, "EX003", "train.epochs", None),
        (8, 41, "EX002", "stages.2.train.lora.rnk", "did you mean 'train.lora.rank'?"),
        (9, 22, "EX002", "stages.3.data.colour", faults_of(text)[-1][-1]),
    ]


def test_the_keys_of_a_stage_are_known_by_the_files_names() -> None:
    """Through the list, and without Python's underscore."""
    assert dotted_keys_at(Experiment, ("stages", 0)) == (
        *("name", "parent", "continue", "parent_checkpoint", "model", "data", "train"),
    )
    assert dotted_keys_at(Experiment, ("stages", "x")) == ()
    assert dotted_keys_at(Experiment, (0,)) == ()


def runs_of(text: str) -> list[RunSpec]:
    loaded = read_experiment(text, "e.yaml")
    labels = {model: label_of(model) for model in loaded.experiment.models}
    return list(expand(loaded.experiment, labels, loaded.document))


def links(text: str) -> dict[str, str | None]:
    return {run.name: run.link.parent if run.link else None for run in runs_of(text) if run.kind is RunKind.FINE_TUNED}


def test_every_stage_is_a_run_that_goes_on_from_its_parent() -> None:
    """Parents first; data and settings of its own; its stage among its levels."""
    easy, hard = runs_of(CHAIN)
    assert (easy.name, hard.name) == ("1B_rank8_easy", "1B_rank8_hard")
    assert (easy.data.path, hard.data.path) == ("easy.json", "hard.json")
    assert (easy.train.epochs, hard.train.epochs, hard.train.lora.rank, hard.train.lora.alpha) == (1, 2, 8, 16.0)
    assert easy.link is None
    assert hard.link == ParentLink(stage="hard", parent="1B_rank8_easy", continue_="adapter", parent_checkpoint="last")
    assert [level.value for run in (easy, hard) for level in run.levels if level.factor == STAGE] == ["easy", "hard"]


def test_levels_hold_for_all_stages_and_chains_do_not_cross() -> None:
    """Every condition and seed has a chain of its own."""
    text = CHAIN + "factors: {train.learning_rate: [1e-3, 1e-4]}\nseeds: [1, 2]\n"
    found = links(text)
    assert len(found) == 8
    for child, parent in found.items():
        assert parent == (child.replace("_hard", "_easy") if child.endswith("_hard") else None)
    rates = {run.name: run.train.learning_rate for run in runs_of(text)}
    assert all(rates[child] == rates[parent] for child, parent in found.items() if parent is not None)
    assert list(found).index("1B_rank8_lr0.001_easy") < list(found).index("1B_rank8_lr0.001_hard")


def test_a_tree_of_stages_and_its_levels() -> None:
    """Any stage above may be the parent, by its last checkpoint or its best."""
    text = (
        CHAIN + "  - {name: other, parent: easy, continue: merge, parent_checkpoint: best, train: {lora: {rank: 2}}}\n"
    )
    assert links(text) == {"1B_rank8_easy": None, "1B_rank8_hard": "1B_rank8_easy", "1B_rank8_other": "1B_rank8_easy"}
    other = runs_of(text)[-1]
    assert (other.link.continue_, other.link.parent_checkpoint) == ("merge", "best")
    assert (other.train.lora.rank, other.train.lora.alpha) == (2, 4.0)
    # A factor does not reach the stage.
    text = (
        CHAIN.replace("epochs: 2", "epochs: 2, learning_rate: 0.5") + "factors: {train.learning_rate: [1e-3, 1e-4]}\n"
    )
    assert {run.train.learning_rate for run in runs_of(text) if run.link} == {0.5}


def test_names_of_stages_stay_unique() -> None:
    """Whatever run_names and stages are put together; a parent is found by the name that it got."""
    text = (
        CHAIN.replace("name: easy", "name: x_y").replace("parent: easy", "parent: x_y").replace("name: hard", "name: y")
    )
    text += "run_names: 'r{epochs}'\nfactors: {train.epochs: [1]}\n"
    assert links(text) == {"r1_x_y": None, "r1_y": "r1_x_y"}
    clash = (
        text.replace("r{epochs}", "{epochs}")
        .replace("train.epochs: [1]", "data.system: [a, a_x]")
        .replace("{epochs}", "{system}")
    )
    found = links(clash)
    assert len({name.casefold() for name in found}) == len(found) == 4
    assert all(parent in found for parent in found.values() if parent is not None)
    assert all(RUN_NAME.fullmatch(name) for name in found)


def test_a_long_name_keeps_its_parent() -> None:
    """Names are cut to what a folder may be called."""
    long = "s" * 80
    found = links(CHAIN.replace("hard\n", long + "\n"))
    assert len(found) == 2
    assert all(RUN_NAME.fullmatch(name) for name in found)


def test_controls_are_of_the_base_on_each_stages_items() -> None:
    """They go on from nothing and have no stage."""
    controls = [run for run in runs_of(CHAIN + "controls: [base]\n") if run.kind is RunKind.CONTROL]
    assert [(run.data.path, run.link) for run in controls] == [("easy.json", None), ("hard.json", None)]
    assert all(level.factor != STAGE for run in controls for level in run.levels)


@parametrize(
    "old, new, code",
    ("parent: easy", "parent: esay", "EX121"),
    ("parent: easy", "parent: hard", "EX121"),
    ("    parent: easy\n", "", "EX121"),
    ("    continue: adapter\n", "", "EX121"),
    ("name: hard", "name: Easy", "EX121"),
    ("name: hard", "name: ../hard", "EX121"),
)
def test_stages_that_are_no_chain_have_no_runs(old: str, new: str, code: str) -> None:
    """Nothing is trained from the base model that was to go on from something."""
    caught = refusal(runs_of, CHAIN.replace(old, new))
    assert code in {finding.code for finding in caught.findings}
    assert all(finding.where is not None and finding.where.line for finding in caught.findings)


def test_where_settings_of_stages_stand() -> None:
    """A finding about a run points into its stage; of what the stage does not say, at the experiment's own key."""
    loaded = read_experiment(CHAIN, "e.yaml")
    hard = stated_of_run(runs_of(CHAIN)[1], loaded.document)
    assert (hard.epochs.where.line, hard.sources[0].name.where.line) == (11, 10)
    assert hard.rank.where.line == 4
    # It is no setting that nobody wrote.
    assert "data.path" in read_experiment(CHAIN, "e.yaml").given
    assert "train.epochs" not in read_experiment(CHAIN, "e.yaml").given
    both = CHAIN.replace("data: {path: easy.json}", "data: {path: easy.json}, train: {epochs: 1}")
    assert "train.epochs" in read_experiment(both, "e.yaml").given
    # The hash of the file's data does not know of keys that nobody wrote.
    loaded = read_experiment(PLAIN, "e.yaml")
    assert loaded.experiment.stages == ()
    assert loaded.sha256 == "d552bbe5d81fc1bfdb2fd3f5e4de388088e79d4afebc1aa65d9e38dff204ab80"


def test_the_example_is_a_chain() -> None:
    """As it comes with the package: short words, then long ones."""
    text = (resources.files("touchline.examples") / "curriculum" / "experiment.yaml").read_text(encoding="utf-8")
    trained = [run for run in runs_of(text) if run.kind is RunKind.FINE_TUNED]
    assert [(run.name, run.data.path) for run in trained] == [
        ("135M_rank8_easy", "data/words_5L_80P_400.json"),
        ("135M_rank8_hard", "data/words_10L_80P_400.json"),
    ]
    assert trained[1].link == ParentLink(stage="hard", parent="135M_rank8_easy", continue_="adapter")


TEXT = """\
name: cap
task: capitalization
models: [SmolLM2-135M-Instruct]
data: {path: data/w.json}
train:
  learning_rate: 1e-3
  micro_batch_size: 4
  packed: false
  lora: {rank: 8}
factors:
  train.lora.rank: [4, 64]
seeds: [3, 5]
controls: [base]
"""
PAIRS = """\
name: cap
data: {path: data/w.json}
train: {epochs: 3}
pairs:
  - {models: [SmolLM2-135M-Instruct], train.learning_rate: 1e-3}
  - {models: SmolLM2-360M-Instruct, train.learning_rate: 1e-3}
  - {models: Llama-3.2-1B-Instruct, train.learning_rate: 2e-4}
"""


def stated(text: str) -> list[StatedTraining]:
    loaded = read_experiment(text, "experiment.yaml")
    names = {name for pair in loaded.experiment.pairs for name in _names(pair.get("models", []))}
    labels = {name: label_of(name) for name in {*loaded.experiment.models, *names}}
    runs = expand(loaded.experiment, labels, loaded.document)
    return [stated_of_run(run, loaded.document) for run in runs if run.kind.value == "fine-tuned"]


def _names(models: object) -> list[str]:
    return [str(name) for name in models] if isinstance(models, list | tuple) else [str(models)]


def test_a_factor_s_level_is_where_its_value_comes_from() -> None:
    runs = stated(TEXT)
    assert len(runs) == 4
    ranks = [run.rank for run in runs]
    assert [(rank.value, rank.where.line, rank.where.column) for rank in ranks if rank is not None] == [
        (4, 11, 21),
        (4, 11, 21),
        (64, 11, 24),
        (64, 11, 24),
    ]
    assert [run.seed.where.column for run in runs if run.seed is not None] == [9, 12, 9, 12]


def test_a_key_of_the_file_is_where_it_stands_and_the_rest_is_default() -> None:
    run = stated(TEXT)[0]
    assert (run.learning_rate.value, run.learning_rate.key) == (0.001, "train.learning_rate")
    assert (run.learning_rate.where.line, run.learning_rate.is_default) == (6, False)
    assert run.epochs.is_default
    assert run.epochs.where.line is None
    assert (run.model.where.line, run.model.where.column) == (3, 10)
    assert run.alpha.value == 8
    assert run.alpha.is_default
    assert run.gradient_accumulation_steps.value == 4
    assert run.packed.value is False
    assert run.dtype is None
    assert [(source.name.value, source.name.where.line) for source in run.sources] == [("data/w.json", 4)]


def test_a_pair_is_where_its_settings_come_from() -> None:
    runs = stated(PAIRS)
    found = [
        (run.model.value, run.model.where.line, run.learning_rate.value, run.learning_rate.where.line)
        for run in runs
        if run.model is not None and run.learning_rate is not None
    ]
    assert found == [
        ("SmolLM2-135M-Instruct", 5, 1e-3, 5),
        ("SmolLM2-360M-Instruct", 6, 1e-3, 6),
        ("Llama-3.2-1B-Instruct", 7, 2e-4, 7),
    ]
    assert {run.subject for run in runs} >= {"135M_rank64", "1B_rank64"}


def test_what_is_left_to_touchline_is_not_stated() -> None:
    run = stated(TEXT.replace("  micro_batch_size: 4\n", "").replace("  packed: false\n", ""))[0]
    assert run.micro_batch_size is None
    assert run.gradient_accumulation_steps is None
    assert run.packed is None
    assert run.global_batch_size.is_default


@parametrize(
    "checkpoint, cadence, steps, limit, adapter",
    ("{every: epoch, keep: all}", "epoch", None, None, True),
    ("{every: {steps: 50}, keep: 2}", "steps", 50, 2, True),
    ("{every: {minutes: 20}, save: merged}", None, None, None, False),
)
def test_cadence_told(
    checkpoint: str, cadence: str | None, steps: int | None, limit: int | None, adapter: bool
) -> None:
    run = stated(TEXT.replace("  lora: {rank: 8}", f"  lora: {{rank: 8}}\n  checkpoint: {checkpoint}"))[0]
    assert (run.save_cadence.value if run.save_cadence else None) == cadence
    assert (run.save_steps.value if run.save_steps else None) == steps
    assert (run.save_limit.value if run.save_limit else None) == limit
    assert run.save_adapter_only.value is adapter


ROOT = PurePosixPath("/place/exp")


@parametrize(
    "written, found, recorded",
    ("data/words.json", "/place/exp/data/words.json", "data/words.json"),
    ("./data/../data//words.json", "/place/exp/data/words.json", "data/words.json"),
    ("data/link.json", "/elsewhere/words.json", "data/link.json"),
    ("/place/exp/data/words.json", "/place/exp/data/words.json", "data/words.json"),
    ("/place/experiment/words.json", "/place/experiment/words.json", "/place/experiment/words.json"),
    ("../exp/data/words.json", "/place/exp/data/words.json", "data/words.json"),
    ("../shared/words.json", "/place/shared/words.json", "/place/shared/words.json"),
    ("~/words.json", "/home/me/words.json", "/home/me/words.json"),
    ("..words/a.json", "/place/exp/..words/a.json", "..words/a.json"),
)
def test_a_file_below_the_folder_is_recorded_relative_to_it(written: str, found: str, recorded: str) -> None:
    """As it is written, links included; what lies elsewhere keeps its absolute path."""
    assert portable_path(written, found, ROOT) == recorded


def test_a_run_folder_lies_one_level_below() -> None:
    assert from_run_folder("data/words.json") == "../data/words.json"
    assert from_run_folder("/data/words.json") == "/data/words.json"


BARE = "name: words\nmodels: [m-1B]\ndata: {path: all.json}\n"
SWEEP = BARE + "factors: {train.lora.rank: [4, 64]}\nseeds: [3, 5]\n"
STAGED = (
    SWEEP + "stages:\n  - {name: easy, data: {path: easy.json}}\n  - {name: hard, parent: easy, continue: adapter}\n"
)


def controlled(text: str) -> tuple[RunSpec, ...]:
    loaded = read_experiment(text, "experiment.yaml")
    models = loaded.experiment.models
    return expand(loaded.experiment, {name: label_of(name) for name in models}, loaded.document)


def only(runs: tuple[RunSpec, ...], control: ControlKind | None) -> list[RunSpec]:
    """The runs that are this control; None: those that the experiment asks about."""
    return [run for run in runs if run.control is control]


def test_each_control_is_one_run_of_each_model() -> None:
    """Names tell what they are; fine-tuned runs come first, and what is asked about before its controls."""
    runs = controlled(SWEEP + "controls: [shuffled, noop, base]\n")
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
    runs = controlled(SWEEP + "controls: [shuffled]\n")
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
    runs = controlled(SWEEP + "controls: [base, noop, shuffled]\n")
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
    runs = controlled(text)
    assert len({run.name.casefold() for run in runs}) == len(runs)
    for kind in ControlKind:
        found = only(runs, kind)
        assert {(run.model, run.data.path) for run in found} == {
            (model, path) for model in ("a-1B", "b-3B") for path in ("words_5L.json", "words_9L.json")
        }
        assert {level.factor for run in found for level in run.levels} == {"models", "data.path"}


def test_a_chain_is_shuffled_stage_by_stage() -> None:
    """Each stage goes on from the shuffled one before it, and not from the right one."""
    runs = controlled(STAGED + "controls: [base, shuffled]\n")
    easy, hard = only(runs, ControlKind.SHUFFLED)
    assert (easy.name, hard.name) == ("1B_shuffled_easy", "1B_shuffled_hard")
    assert easy.link is None
    assert (hard.link.parent, easy.data.path) == (easy.name, "easy.json")
    base = only(runs, ControlKind.BASE)
    assert [run.name for run in base] == ["1B_base_easy", "1B_base_all"]
    assert all(run.link is None for run in base)


def test_names_of_controls() -> None:
    """Two runs in one folder would overwrite each other."""
    for kind in ControlKind:
        caught = refusal(
            controlled, BARE + f"controls: [{kind.value}]\nrun_names: '{{model_size}}_{kind.value.upper()}'\n"
        )
        assert caught.findings[0].code == "EX009"
    # Here the clash is of the stages, not of the chains.
    with pytest.raises(InputError, match="not unique"):
        controlled(
            BARE + STAGED.split("seeds: [3, 5]\n")[1] + "run_names: '{model_size}_shuffled'\ncontrols: [shuffled]\n"
        )
    # All that can be asked for are named.
    caught = refusal(read_experiment, BARE + "controls: [bse]\n", "experiment.yaml")
    assert "'base', 'noop' or 'shuffled'" in caught.findings[0].message


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
    text = BARE + f"factors: {{train.lora.rank: {ranks}, data.path: {files}}}\nseeds: {seeds}\n"
    alone = controlled(text)
    runs = controlled(text + f"controls: [{', '.join(sorted(controls))}]\n")
    assert tuple(run for run in runs if run.control is None) == alone
    assert len({run.name.casefold() for run in runs}) == len(runs) == len(alone) + len(controls) * len(files)
    assert {run.control.value for run in runs if run.control is not None} == controls
