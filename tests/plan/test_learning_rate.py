"""`train.learning_rate: auto`: one rate for all runs, by a published rule; a default never becomes a second factor."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lint.trainings import model as public_model
from tests.lint.trainings import stated
from tests.run.made_plans import MODEL, made_run
from tests.tiny_model import write_tiny_words

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.core.finding import Finding, Location, Severity
from touchline.core.quantity import Missing
from touchline.data.user_config import UserConfig
from touchline.experiment.expand import expand
from touchline.experiment.names import label_of
from touchline.experiment.plan import Plan
from touchline.experiment.read import read_experiment
from touchline.experiment.runs import RunKind, RunSpec
from touchline.experiment.training import RuleRate, rate_text, rule_rate
from touchline.lint.rule import check_view
from touchline.lint.training import Surroundings, TrainingView
from touchline.plan.run_specs import with_learning_rates

pytestmark = pytest.mark.planning

MODELS = {
    "Small-135M": replace(MODEL, hidden_size=576, num_parameters=135_000_000),
    "Llama-1B": replace(MODEL, hidden_size=2048, num_parameters=1_200_000_000),
    "Llama-70B": replace(MODEL, hidden_size=8192, num_parameters=70_000_000_000),
    "Qwen-4B": replace(MODEL, model_type="qwen3", hidden_size=2560, num_parameters=4_000_000_000),
}


@pytest.mark.parametrize(
    ("model_type", "width", "parameters", "changes", "rate"),
    [
        ("llama", 2048, 1.2e9, {}, RuleRate(4.9e-4)),
        ("llama", 4096, 8e9, {}, RuleRate(2.9e-4)),
        ("llama", 8192, 70e9, {}, RuleRate(1.7e-4)),
        ("qwen3", 2560, 4e9, {}, RuleRate(4.9e-4)),
        ("qwen2_5_vl", 2048, 3e9, {}, RuleRate(5e-4)),
        ("llama", 2048, 1.2e9, {"trains_all": True}, RuleRate(4.9e-5)),
        ("llama", 2048, 1.2e9, {"optimizer": "paged_adamw_8bit"}, RuleRate(4.9e-4)),
        ("llama", 2048, 1.2e9, {"optimizer": "muon"}, RuleRate(4.9e-4, "not AdamW")),
        ("llama", 576, 135e6, {}, RuleRate(1.3e-3, "below 0.5B parameters")),
        ("gemma3_text", 640, 270e6, {}, RuleRate(1.2e-3, "not a Llama or Qwen model, below 0.5B parameters")),
    ],
)
def test_the_rule_gives_the_published_rates_and_names_what_it_was_not_fitted_to(
    model_type: str, width: int, parameters: float, changes: dict[str, Any], rate: RuleRate
) -> None:
    """The first four and the sixth are what tinker-cookbook's `get_lr` returns, to two digits."""
    assert rule_rate(model_type, width, int(parameters), **changes) == rate


def test_rates_are_written_as_yaml_reads_them() -> None:
    for rate, text in ((2e-4, "2e-4"), (1.3e-3, "1.3e-3"), (0.000123, "1.23e-4"), (0.01, "1e-2")):
        assert rate_text(rate) == text


def _specs(experiment: Mapping[str, Any]) -> tuple[RunSpec, ...]:
    loaded = read_experiment(json.dumps(experiment), "experiment.yaml")
    return expand(loaded.experiment, {name: label_of(name) for name in MODELS}, loaded.document)


_RATE = st.sampled_from(["auto", 1e-5, 2e-4])
_LEVELS: dict[str, st.SearchStrategy[Any]] = {
    "train.method": st.just(["lora", "full"]),
    "train.optimizer": st.just(["adamw", "adafactor"]),
    "train.epochs": st.just([1, 2]),
    "train.learning_rate": st.lists(_RATE, min_size=2, max_size=3, unique=True),
}


@st.composite
def experiments(draw: st.DrawFn) -> dict[str, Any]:
    """Experiments that leave the rate open somewhere: crossed, in pairs, in stages, with every kind of control."""
    models = draw(st.lists(st.sampled_from([*MODELS]), min_size=1, max_size=4, unique=True))
    found: dict[str, Any] = {"name": "x", "models": models, "data": {"path": "d.json"}, "train": {}}
    if draw(st.booleans()):
        found["train"]["learning_rate"] = draw(_RATE)
    keys = draw(st.lists(st.sampled_from([*_LEVELS]), max_size=2, unique=True))
    found["factors"] = {key: draw(_LEVELS[key]) for key in keys}
    if "train.learning_rate" not in keys and draw(st.booleans()):
        found["pairs"] = [{"train.max_seq_len": 64 * n, "train.learning_rate": draw(_RATE)} for n in (1, 2)]
    elif "train.method" not in keys and draw(st.booleans()):
        found["stages"] = [
            {"name": "a", "train": {"learning_rate": draw(_RATE)}},
            {"name": "b", "parent": "a", "continue": "adapter"},
        ]
    found["controls"] = draw(st.lists(st.sampled_from(["base", "shuffled"]), max_size=2, unique=True))
    return found


@given(experiment=experiments(), data=st.data())
def test_auto_is_one_rate_for_all_runs_and_started_runs_keep_theirs(
    experiment: dict[str, Any], data: st.DataObject
) -> None:
    specs = _specs(experiment)
    open_ = [spec for spec in specs if spec.train.learning_rate == "auto" and spec.kind is RunKind.FINE_TUNED]
    names = data.draw(st.lists(st.sampled_from([spec.name for spec in open_]), unique=True)) if open_ else []
    run = made_run()
    assert run.train is not None
    before = replace(run, train=replace(run.train, learning_rate=3.3e-4))
    found = {spec.name: spec for spec in with_learning_rates(specs, MODELS, {name: before for name in names})}
    assert [*found] == [spec.name for spec in specs]
    rates = {found[spec.name].train.peak_learning_rate for spec in open_}
    assert len(rates) <= 1
    for spec in specs:
        if spec.train.learning_rate != "auto":
            assert found[spec.name].train == spec.train
            assert found[spec.name].learning_rate_reason is None
    if names:
        assert rates == {3.3e-4}
    elif open_:
        rules = [rule.value for spec in open_ if (rule := found[spec.name].rule_rate) is not None]
        (rate,) = rates
        assert min(rules) <= rate <= max(rules)
        assert all(found[spec.name].learning_rate_reason for spec in open_)


def test_while_a_model_is_missing_the_rate_stays_open() -> None:
    """`check` of an experiment for another machine: no rate is made up from half of its models."""
    specs = _specs({"name": "x", "models": ["Llama-1B", "Llama-70B"], "data": {"path": "d.json"}})
    found = with_learning_rates(specs, {"Llama-1B": MODELS["Llama-1B"]}, {})
    assert {spec.train.learning_rate for spec in found} == {"auto"}


# ---- on a disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> UserConfig:
    """A Llama and a Qwen of the same width, to which the rule gives rates 14 times apart."""
    llama, qwen = tmp_path / "models" / "Tiny-1M-Instruct", tmp_path / "models" / "Qwen-2M-Instruct"
    write_tiny_model(llama)
    shutil.copytree(llama, qwen)
    config = json.loads((qwen / "config.json").read_text())
    config |= {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    (qwen / "config.json").write_text(json.dumps(config))
    write_tiny_words(tmp_path / "words.json", 64, 8, 8)
    return UserConfig(models_dir=tmp_path / "models", cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")


def _experiment(root: Path, **changes: Any) -> Path:
    folder = root / "exp"
    folder.mkdir(exist_ok=True)
    whole = {
        "name": "exp",
        "models": ["Tiny-1M-Instruct", "Qwen-2M-Instruct"],
        "task": "capitalization",
        "data": {"path": "../words.json"},
        "train": {"max_seq_len": 128, "global_batch_size": 8, "packed": False, "lora": {"rank": 4}},
        "compute": {"gpu": "cpu"},
        **changes,
    }
    (folder / "experiment.yaml").write_text(json.dumps({key: value for key, value in whole.items() if value}))
    return folder


def _rates(plan: Plan) -> dict[tuple[str, str], float]:
    return {(run.model, run.train.method): run.train.peak_learning_rate for run in plan.runs if run.train is not None}


def _found(folder: Path, settings: UserConfig, code: str) -> list[Finding]:
    return [finding for finding in api.check([folder], settings)[0].findings if finding.code == code]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"factors": {"train.method": ["lora", "full"]}},
        {"pairs": [{"train.epochs": 1, "train.warmup_fraction": 0.1}, {"train.epochs": 2}]},
        {"models": ["Tiny-1M-Instruct"], "pairs": [{"train.method": "lora"}, {"train.method": "full"}]},
    ],
)
def test_rates_of_the_rule_that_differ_are_named_with_pairs_that_work_as_printed(
    changes: dict[str, Any], settings: UserConfig, tmp_path: Path
) -> None:
    """The plan says so in a warning; the same `check`. With the pairs, every model and method has its own."""
    folder = _experiment(tmp_path, **changes)
    before = api.plan(folder, settings, dry_run=True)
    assert len(set(_rates(before.plan).values())) == 1
    (note,) = [note for note in before.warnings if "EX159" in note]
    (finding,) = _found(folder, settings, "EX159")
    assert finding.message in note
    printed = re.search(r"pairs: (\[.*\])", finding.hint or "")
    factors = {key: value for key, value in changes.get("factors", {}).items() if key != "train.method"}
    folder = _experiment(tmp_path, **{**changes, "factors": factors, "pairs": json.loads(printed[1])})
    after = api.plan(folder, settings, dry_run=True).plan
    assert len(after.runs) == len(before.plan.runs)
    assert _rates(after).keys() == _rates(before.plan).keys()
    for (model, method), rate in _rates(after).items():
        info = after.models[model]
        rule = rule_rate(info.model_type, info.hidden_size, info.num_parameters, trains_all=method == "full")
        assert rate == rule.value
    assert _found(folder, settings, "EX159") == _found(folder, settings, "TR031") == []
    assert [finding for finding in _found(folder, settings, "EX103") if finding.severity is Severity.WARNING] == []


def test_an_experiment_that_has_begun_keeps_its_rate_when_it_grows(settings: UserConfig, tmp_path: Path) -> None:
    """Another model would move the middle: its runs get the rate of those that have started, and plans stay equal."""
    folder = _experiment(tmp_path, models=["Tiny-1M-Instruct"])
    first = api.plan(folder, settings).plan
    (rate,) = set(_rates(first).values())
    name = first.runs[0].name
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "metrics.jsonl").write_text("")
    _experiment(tmp_path)
    grown = api.plan(folder, settings).plan
    assert len(grown.runs) == 2
    assert set(_rates(grown).values()) == {rate}
    assert not api.plan(folder, settings).changed
    (folder / name / "metrics.jsonl").unlink()
    assert set(_rates(api.plan(folder, settings).plan).values()) != {rate}


def test_the_warning_needs_a_model_that_the_rule_was_fitted_to() -> None:
    """Three times off either way is a warning; elsewhere information, and in other tools' configs nothing."""
    rule = RuleRate(4.9e-4)
    for rate, known, severity in (
        (1.7e-4, rule, None),
        (1.4e-3, rule, None),
        (1.0e-4, rule, Severity.WARNING),
        (1.6e-3, rule, Severity.WARNING),
        (1.6e-3, RuleRate(4.9e-4, "below 0.5B parameters"), Severity.INFO),
        (1.6e-3, None, None),
    ):
        view = TrainingView(
            stated=replace(stated(learning_rate=rate, method="lora"), rule_rate=known),
            model=public_model(),
            data=Missing(missing="none"),
            around=Surroundings(),
        )
        found = check_view(view, Location(path="experiment.yaml"), "run")
        assert [each.severity for each in found if each.code == "TR031"] == ([severity] if severity else []), rate


@pytest.mark.parametrize(
    ("changes", "is_reported"),
    [
        ({"train": {"learning_rate": 1e-3}}, True),
        ({"train": {"learning_rate": 5e-3}}, False),
        ({"train": {"learning_rate": "auto"}}, False),
        ({"factors": {"train.learning_rate": [1e-5, 5e-3]}}, False),
        ({"pairs": [{"train.learning_rate": 1e-5}, {"train.learning_rate": 5e-3}]}, False),
    ],
)
def test_a_rate_far_from_the_rule_is_a_warning_unless_it_is_a_level(
    changes: dict[str, Any], is_reported: bool, settings: UserConfig, tmp_path: Path
) -> None:
    """The rule gives this model 9.2e-3."""
    found = _found(_experiment(tmp_path, models=["Tiny-1M-Instruct"], **changes), settings, "TR031")
    assert [(finding.hint or "").rpartition(": ")[2] for finding in found] == (["9.2e-3"] if is_reported else [])
