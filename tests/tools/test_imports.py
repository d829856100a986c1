"""`touchline import`: every value of a source is carried over or listed, and several trainings are one design."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from tests.backends.config_files import format_of
from tests.cases import parametrize, refusal, write
from tests.faults.case import base, changed
from tests.hostile.harness import VALUES
from tests.tiers import examples

from touchline import api
from touchline.backends.config_table import Carried, ImportedTraining, Reason
from touchline.backends.fields import dotted
from touchline.backends.registry import import_table
from touchline.core.errors import InputError, PolicyError
from touchline.core.finding import Finding, Location
from touchline.experiment.expand import expand
from touchline.experiment.experiment import Experiment
from touchline.experiment.foreign import parse_foreign
from touchline.experiment.names import ModelLabel
from touchline.experiment.read import LoadedExperiment, read_experiment
from touchline.experiment.settings import value_of
from touchline.experiment.write import to_yaml
from touchline.tools.imports.carrier import LocalPlaces, leaves, left_over
from touchline.tools.imports.design import design_of
from touchline.tools.imports.importing import ImportReport
from touchline.tools.imports.training import carry_training

pytestmark = pytest.mark.planning

TRAINERS = ("axolotl", "llamafactory", "qlora_stage", "torchtune", "torchtune_setup")
SUMMARY = """\
experiment: {name: ranks 1, project: capitalization, question: "Does rank matter?", date: "2026-01-02", dir: /x}
tools: {preparation: torchtune, evaluation: inspect-ai}
variables: {lora_rank: [4, 8]}
controls:
  {system_prompt: "", prompt: "Capitalize: {input}\\n", dataset_type: chat_completion, epochs: 2, batch_size: 4,
   gradient_accumulation_steps: 2, validation_during_training: true, vibe: good}
models: {base: [{name: Tiny-1M, path: models/Tiny-1M, size_gb: 0.1}]}
data: {training: {path: words.json, dataset_label: words, format: json, size_kb: 1}}
output: {wandb_project: p}
runs:
  - {name: r4, type: fine-tuned, model: Tiny-1M, parameters: {lora_rank: 4}}
  - {name: r8, type: fine-tuned, model: Tiny-1M, parameters: {lora_rank: 8, lr: 3e-4, mood: calm}}
  - {name: base, type: control, model: Tiny-1M, parameters: {}}
  - {name: old, type: eval-only, model: Tiny-1M, parameters: {checkpoint_path: /old}}
evaluation:
  temperature: 0.0
  max_tokens: 7
  scorers: [{name: match}]
  tasks: [{name: cap, script: task.py, dataset: same}]
  matrix: [{run: r4, tasks: [cap], epochs: [0, 1]}, {run: r8, tasks: [cap], epochs: [0, 1]}]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def imported(*paths: Path, out: str = "new/experiment.yaml") -> tuple[ImportReport, LoadedExperiment]:
    report = api.import_experiment(paths, Path(out))
    return report, read_experiment(Path(report.path).read_text(encoding="utf-8"), report.path)


EXTRA = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).map(
        lambda name: f"z{name}"
    ),
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=8), st.lists(st.integers(), max_size=2)),
    max_size=4,
)


@hypothesis_settings(max_examples=examples(25))
@given(trainer=st.sampled_from(TRAINERS), extra=EXTRA, nested=EXTRA)
def test_values_are_carried_over_or_listed(trainer: str, extra: dict[str, object], nested: dict[str, object]) -> None:
    """Whatever keys stand in a config: each is the source of a setting, or in the list with its line."""
    known = yaml.safe_load(base(trainer))
    data = {**known, **{key: value for key, value in extra.items() if key not in known}, "zz": nested or 1}
    format_ = format_of(trainer)
    document = parse_foreign(yaml.safe_dump(data, allow_unicode=True), "config.yaml", format_.dialect)
    reading, table = format_.read(document), import_table(trainer)
    assert table is not None
    training = carry_training("a", document, reading, table, LocalPlaces(Path(), Path()))
    left = [*training.left, *left_over(document, reading, table, training.seen)]
    listed = {each.key: each for each in left}
    for path, value in leaves(document.data):
        key = dotted(path)
        if path[0] in extra or path[0] == "zz":
            assert listed[key].value == value
            assert listed[key].where[0].line is not None
            assert listed[key].reason is Reason.UNKNOWN
        else:
            assert any(dotted(path[:end]) in {*listed, *training.seen} for end in range(1, len(path) + 1)), key
    assert {each.source for each in training.settings.values() if not each.is_default} != set()


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_dotted_name_is_not_taken_for_a_nested_key(trainer: str) -> None:
    document = parse_foreign(f'{base(trainer)}\n"lora.r": 77\n"train.lr": 0.5\n', "a.yaml", format_of(trainer).dialect)
    reading, table = format_of(trainer).read(document), import_table(trainer)
    assert table is not None
    training = carry_training("a", document, reading, table, LocalPlaces(Path(), Path()))
    left = [(each.key, each.value) for each in left_over(document, reading, table, training.seen)]
    assert ("lora.r", 77) in left
    assert ("train.lr", 0.5) in left


LEVELS: Mapping[str, tuple[object, ...]] = {
    "models": ("A", "B"),
    "seeds": (1, 2, 3),
    "train.learning_rate": (1e-4, 2e-4),
    "train.lora.rank": (4, 8),
    "train.lora.target_modules": (["q_proj"], ["q_proj", "v_proj"]),
    "train.epochs": (1, 2),
}


ROWS = st.fixed_dictionaries({key: st.sampled_from(levels) for key, levels in LEVELS.items()})


@hypothesis_settings(max_examples=examples(20))
@given(st.lists(ROWS, min_size=1, max_size=8))
def test_the_design_has_exactly_the_trainings_of_the_source(rows: list[dict[str, Any]]) -> None:
    """Crossed, paired or with gaps: the runs of experiment.yaml are those that were read, or a note says which."""
    where = Location(path="a")
    trainings = [
        ImportedTraining(
            name=str(index),
            settings={key: Carried(value=value, source=key, where=where) for key, value in row.items()},
            left=(),
        )
        for index, row in enumerate(rows)
    ]
    data, notes = design_of(trainings)
    data = {"name": "x", **data, "data": {"path": "x"}}
    loaded = read_experiment(to_yaml(data), "experiment.yaml")
    labels = {name: ModelLabel(name=name, size="1B", family="f") for name in ("A", "B")}
    runs = expand(loaded.experiment, labels, loaded.document)

    def shown(row: Mapping[str, Any]) -> str:
        return json.dumps({key: row[key] for key in LEVELS})

    made = {
        shown({"models": run.model, "seeds": run.seed, **{key: setting_of(run, key) for key in LEVELS if "." in key}})
        for run in runs
    }
    wanted = {shown(row) for row in rows}
    assert wanted <= made
    extra = sum("that the source lacks" in note for note in notes)
    assert len(made) == len(wanted) + extra
    assert any("the same run" in note for note in notes) == (len(wanted) < len(rows))


def setting_of(run: Any, key: str) -> object:
    value = value_of(run, key)
    return list(value) if isinstance(value, tuple) else value


def test_a_folder_of_configs_is_one_experiment_with_factors(here: Path) -> None:
    """Rank and alpha that keep their ratio are one factor; what differs and is lost is named."""
    for rank in (8, 32):
        for rate in ("1e-4", "2e-4"):
            text = changed(base("axolotl"), "lora_r: 16", f"lora_r: {rank}")
            text = changed(text, "lora_alpha: 32", f"lora_alpha: {2 * rank}")
            text = changed(text, "learning_rate: 0.0002", f"learning_rate: {rate}")
            text += f"rope_theta: {rank}\n"
            write(here / "sweep" / f"r{rank}_{rate}.yaml", text)
    write(here / "sweep" / "ds.json", '{"zero_optimization": {"stage": 2}}')
    report, loaded = imported(here / "sweep")
    experiment = loaded.experiment
    assert (report.title, len(report.trainings)) == ("axolotl config", 4)
    assert experiment.factors == {"train.learning_rate": [1e-4, 2e-4], "train.lora.rank": [32, 8]}
    assert experiment.name == "sweep"
    assert any("differ between the runs" in note and "rope_theta" in note for note in report.notes)
    assert any("ds.json" in note for note in report.notes)
    (rate,) = (each for each in report.carried if each.key == "train.learning_rate")
    assert (rate.source, set(rate.values)) == ("learning_rate", {1e-4, 2e-4})
    shared = next(each for each in report.not_carried if each.key == "dataset_prepared_path")
    assert len(shared.where) == 4


def test_a_registered_dataset_is_found_beside_the_config(here: Path) -> None:
    columns = {"prompt": "who", "response": "what", "images": "faces"}
    registry = {"quotations": {"file_name": "q.json", "columns": columns}}
    write(here / "configs" / "data" / "dataset_info.json", json.dumps(registry))
    _, loaded = imported(write(here / "configs" / "a.yaml", base("llamafactory") + "media_dir: ../photos\n"))
    assert (loaded.experiment.data.images, loaded.experiment.data.image_root) == ("faces", "../photos")
    assert loaded.experiment.data.path == "../configs/data/q.json"
    assert (loaded.experiment.data.input, loaded.experiment.data.output) == ("who", "what")


def test_a_summary_becomes_factors_controls_and_the_task(here: Path) -> None:
    report, loaded = imported(write(here / "kit" / "experiment_summary.yaml", SUMMARY))
    experiment = loaded.experiment
    assert report.trainings == ("r4", "r8")
    assert (experiment.name, experiment.question, experiment.task) == ("ranks_1", "Does rank matter?", "capitalization")
    assert experiment.pairs == (
        {"train.learning_rate": 1e-4, "train.lora.rank": 4},
        {"train.learning_rate": 3e-4, "train.lora.rank": 8},
    )
    assert (experiment.controls, experiment.seeds, experiment.models) == (("base",), (14,), ("Tiny-1M",))
    assert (experiment.train.global_batch_size, experiment.train.epochs) == (8, 2)
    assert (experiment.evaluate.epochs, experiment.evaluate.max_new_tokens) == ("all", 7)
    assert experiment.data.prompt == "Capitalize: {input}\n"
    assert experiment.data.path == "../kit/words.json"
    left = {each.key: each for each in report.not_carried}
    assert (left["runs.1.parameters.mood"].value, left["controls.vibe"].value) == ("calm", "good")
    assert left["runs.3"].value["parameters"] == {"checkpoint_path": "/old"}
    assert any("mood" in note for note in report.notes)


HOSTILE = {
    "empty.yaml": ("", "the file is empty"),
    "list.yaml": ("- a\n- b\n", "key: value"),
    "broken.yaml": ("a: [1\nb: }\n", "not YAML"),
    "template.yaml": ("base_model: {{ model }}\nlora_r: {% raw %}\n", "is a template"),
    "other.yaml": ("a: 1\n", "cannot be imported"),
    "tag.yaml": ("a: !!python/object/apply:os.system [ls]\n", "tag"),
    "huge.yaml": ("# " + "x" * (1 << 20) + "\na: 1\n", "larg"),
}


def test_hostile_files_are_refused_all_at_once(here: Path) -> None:
    files = [write(here / name, text) for name, (text, _) in HOSTILE.items()]
    (here / "binary.yaml").write_bytes(b"\xff\x00\xfe")
    caught = refusal(api.import_experiment, [*files, here / "binary.yaml", here / "absent.yaml"], here / "e.yaml")
    messages = {finding.subject: finding.message for finding in caught.findings}
    for name, (_, words) in HOSTILE.items():
        assert words in messages[name], (name, messages[name])
    assert {"binary.yaml", "absent.yaml"} <= messages.keys()
    assert "experiment_summary.yaml" in (caught.expected or "")
    assert not (here / "e.yaml").exists()


SOURCES = {**{f"{name}.yaml": base(name) for name in TRAINERS}, "experiment_summary.yaml": SUMMARY}


def nodes(node: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value, groups and lists included."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from nodes(value, (*path, key))


@hypothesis_settings(max_examples=examples(15))
@given(source=st.sampled_from(sorted(SOURCES)), data=st.data())
def test_any_value_anywhere_gives_a_file_that_can_be_read_or_an_error(source: str, data: st.DataObject) -> None:
    """Never a traceback, and never a file that touchline itself refuses."""
    tree = yaml.safe_load(SOURCES[source])
    *above, last = data.draw(st.sampled_from(list(nodes(tree))))
    node = tree
    for key in above:
        node = node[key]
    node[last] = data.draw(st.sampled_from(VALUES))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / source
        path.write_bytes(yaml.safe_dump(tree, allow_unicode=True).encode(errors="surrogatepass"))
        out = Path(folder) / "e" / "experiment.yaml"
        findings: tuple[Finding, ...] = ()
        try:
            report = api.import_experiment([path], out)
        except InputError as error:
            findings = error.findings
        else:
            read_experiment(out.read_text(encoding="utf-8"), "experiment.yaml")
            assert TypeAdapter(ImportReport).dump_json(report)
        assert not any(str(out) in str(each.where) for each in findings)
        assert out.exists() is not bool(findings)


def test_sources_of_several_kinds_are_an_error_that_names_each(here: Path) -> None:
    write(here / "mixed" / "a.yaml", base("axolotl"))
    write(here / "mixed" / "b.yaml", base("llamafactory"))
    with pytest.raises(InputError, match="2 kinds") as caught:
        api.import_experiment([here / "mixed"])
    assert len(caught.value.findings) == 2
    write(here / "kit.yaml", SUMMARY)
    with pytest.raises(InputError, match="2 experiments"):
        api.import_experiment([here / "kit.yaml", here / "mixed" / "a.yaml"])
    (here / "none").mkdir()
    for source in (here / "none", here / "absent.yaml"):
        with pytest.raises(InputError) as caught:
            api.import_experiment([source])
        assert caught.value.findings


def test_an_existing_file_is_never_replaced(here: Path) -> None:
    source = write(here / "a.yaml", base("axolotl"))
    report, _ = imported(source)
    before = Path(report.path).read_bytes()
    with pytest.raises(PolicyError):
        api.import_experiment([source], Path(report.path))
    assert Path(report.path).read_bytes() == before
    with pytest.raises(PolicyError):
        api.import_experiment([source], source / "experiment.yaml")
    assert api.import_experiment([source]).path == "experiment.yaml"
    with pytest.raises(PolicyError) as caught:
        api.import_experiment([source])
    assert caught.value.hint == "--out new/experiment.yaml"


@parametrize(
    "old, new, key",
    ("learning_rate: 0.0002", "learning_rate: -1", "learning_rate"),
    ("num_epochs: 2", "num_epochs: 1.5", "num_epochs"),
    ("val_set_size: 0.05", "val_set_size: 200", "val_set_size"),
    ("output_dir: outputs/alpaca", 'output_dir: "a\\u2028name: evil\\nx: 1"', "output_dir"),
)
def test_a_value_that_experiment_yaml_does_not_take_is_listed(here: Path, old: str, new: str, key: str) -> None:
    report, loaded = imported(write(here / "a.yaml", changed(base("axolotl"), old, new)))
    assert any(each.key == key for each in report.not_carried)
    assert loaded.experiment.name == "a"


@pytest.mark.parametrize("trainer", ["axolotl", "llamafactory", "trl"])
def test_a_number_of_warmup_steps_stays_that_number(here: Path, trainer: str) -> None:
    text = "".join(line for line in base(trainer).splitlines(True) if not line.startswith("warmup"))
    report, loaded = imported(write(here / "a.yaml", f"{text}\nwarmup_steps: 17\n"))
    assert loaded.experiment.train.warmup(1000) == 17
    assert "train.warmup_fraction" not in {each.key for each in report.carried}, "one setting says it"
    assert "warmup_steps" not in {each.key for each in report.not_carried}


SCRIPTS = {
    "sft.py": "from trl import SFTConfig\nargs = SFTConfig(learning_rate=1e-4)\n",
    "run.sh": "#!/bin/bash\ntrl sft --learning_rate 1e-4\n",
    "train": "#!/usr/bin/env python3\nprint(1)\n",
}


def test_a_script_is_refused_as_a_script_with_what_to_do(here: Path) -> None:
    found = refusal(api.import_experiment, [write(here / name, text) for name, text in SCRIPTS.items()]).findings
    assert len(found) == len(SCRIPTS)
    assert all("is a script" in each.message for each in found)
    assert all("to_json_string" in (each.hint or "") for each in found)


def test_one_training_has_no_keys_that_differ_between_trainings(here: Path) -> None:
    """A key listed twice for one training is no factor; a key that one of two trainings lacks is."""
    text = changed(base("llamafactory"), "dataset: quotations", "dataset: quotations,more,others")
    first = write(here / "a" / "one.yaml", text)
    report, _ = imported(first)
    assert sum(each.key == "dataset" for each in report.not_carried) >= 2
    assert not any("differ between the runs" in note for note in report.notes)
    other = write(here / "a" / "two.yaml", f"{text}\nmax_samples: 12\n")
    report, _ = imported(first, other, out="both/experiment.yaml")
    (note,) = (note for note in report.notes if "differ between the runs" in note)
    assert "max_samples" in note
    assert "dataset" not in note


def test_numbers_of_gpus_that_differ_are_listed_and_counted_in_the_batch(here: Path) -> None:
    """The machine is one for all runs of an experiment; the batch is part of the training."""
    sources = [write(here / f"g{n}.yaml", f"{base('llamafactory')}\nray_num_workers: {n}\n") for n in (2, 4)]
    report, loaded = imported(*sources)
    experiment = loaded.experiment
    assert experiment.factors == {"train.global_batch_size": [32, 64]}
    assert experiment.compute.gpus_per_run == 1
    assert sorted(each.value for each in report.not_carried if each.key == "ray_num_workers") == [2, 4]


def test_no_row_is_lost_where_all_of_them_train(here: Path) -> None:
    """Without a validation split the file is that of the training rows, and `check` asks for others to test."""
    text = changed(base("llamafactory"), "val_size: 0.1\n", "")
    source = write(here / "all.yaml", text)
    report, loaded = imported(source)
    assert loaded.experiment.data.train is not None
    assert loaded.experiment.data.path is None
    (left,) = (each for each in report.not_carried if each.key == "val_size")
    assert "data.test" in left.why
    # Beside a training that holds rows back, the file is split for both, and the list says so.
    other = write(here / "held.yaml", base("llamafactory"))
    report, loaded = imported(source, other, out="both/experiment.yaml")
    assert loaded.experiment.data.path is not None
    assert "val_size" in {each.key for each in report.not_carried}


@parametrize("lines", "test_split_size: 0.2", "dataset_mixture: {datasets: [{id: a/b}], test_split_size: 0.2}")
def test_a_share_that_trl_holds_back_is_held_back(here: Path, lines: str) -> None:
    text = "".join(line for line in base("trl").splitlines(True) if not line.startswith("dataset"))
    _, loaded = imported(write(here / "a.yaml", f"{text}\n{lines}\n"))
    assert loaded.experiment.data.train_fraction == 0.8
    assert loaded.experiment.data.path is not None


AXOLOTL = """\
base_model: Tiny-90K
datasets: [{path: train.jsonl, type: alpaca, ds_type: json}]
TESTS
adapter: lora
lora_r: 8
lora_alpha: 16
lora_target_linear: true
sequence_len: 64
micro_batch_size: 2
gradient_accumulation_steps: 2
num_epochs: 2
learning_rate: RATE
output_dir: out
"""
LLAMAFACTORY = """\
model_name_or_path: Tiny-90K
stage: sft
do_train: true
finetuning_type: lora
dataset: words
dataset_dir: .
template: qwen
output_dir: out
eval_dataset: EVAL
"""
REGISTRY = {
    "words": {"file_name": "train.json", "columns": {"prompt": "a", "response": "b"}},
    "held_out": {"file_name": "held_out.json", "columns": {"prompt": "a", "response": "b"}},
    "other_columns": {"file_name": "other.json", "columns": {"prompt": "question", "response": "b"}},
}


@pytest.fixture
def here_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset_info.json").write_text(json.dumps(REGISTRY))
    return tmp_path


def imported_files(configs: dict[str, str]) -> tuple[ImportReport, Experiment]:
    for name, text in configs.items():
        Path(name).write_text(text)
    report = api.import_experiment([Path(name) for name in configs], Path("new/experiment.yaml"))
    return report, read_experiment(Path(report.path).read_text(), report.path).experiment


def axolotl(tests: str, rate: str = "0.0002") -> str:
    return AXOLOTL.replace("TESTS", tests).replace("RATE", rate)


VALIDATION = "test_datasets: [{path: held_out.jsonl, type: alpaca, ds_type: json}]"


@parametrize(
    "config, validation, left",
    (axolotl(VALIDATION), "../held_out.jsonl", None),
    (axolotl("test_datasets: [{path: train.jsonl, type: alpaca, ds_type: json}]"), None, "test_datasets.0.path"),
    (axolotl("test_datasets: [{path: held_out.jsonl, type: chat_template}]"), None, "test_datasets.0.path"),
    (axolotl(VALIDATION[:-1] + ", {path: b.jsonl, type: alpaca}]"), "../held_out.jsonl", "test_datasets.1.path"),
    (LLAMAFACTORY.replace("EVAL", "held_out"), "../held_out.json", None),
    (LLAMAFACTORY.replace("EVAL", "other_columns"), None, "eval_dataset"),
)
def test_a_validation_file_is_carried(here_too: Path, config: str, validation: str | None, left: str | None) -> None:
    report, experiment = imported_files({"config.yaml": config})
    data = experiment.data
    assert (data.validation, data.train is None) == (validation, validation is None)
    # Without test rows nothing is evaluated, and the import says what to add.
    assert (experiment.evaluate.epochs == ()) == (validation is not None)
    assert any("data.test: FILE" in note for note in report.notes) == (validation is not None)
    listed = {each.key for each in report.not_carried if "validation" in each.why and each.reason is not Reason.SAME}
    assert listed == ({left} if left is not None else set())


def test_trainings_with_and_without_a_validation_file_are_one_design(here_too: Path) -> None:
    report, experiment = imported_files({"one.yaml": axolotl(VALIDATION), "two.yaml": axolotl("", "0.0004")})
    assert (experiment.data.train, experiment.data.validation) == ("../train.jsonl", "../held_out.jsonl")
    assert experiment.factors == {"train.learning_rate": [0.0002, 0.0004]}
    assert any(note.startswith("two: validated on ../held_out.jsonl") for note in report.notes)


def test_several_training_files_are_levels_together_with_their_validation_files(here_too: Path) -> None:
    other = axolotl(VALIDATION).replace("train.jsonl", "more.jsonl").replace("held_out.jsonl", "more_held_out.jsonl")
    _, experiment = imported_files({"one.yaml": axolotl(VALIDATION), "two.yaml": other})
    assert experiment.data.train == "../train.jsonl"
    assert [dict(pair) for pair in experiment.pairs] == [
        {"data.train": "../train.jsonl", "data.validation": "../held_out.jsonl"},
        {"data.train": "../more.jsonl", "data.validation": "../more_held_out.jsonl"},
    ]


def test_a_share_of_held_out_rows_gives_way_to_separate_files(here_too: Path) -> None:
    report, experiment = imported_files(
        {"one.yaml": axolotl(VALIDATION), "two.yaml": axolotl("val_set_size: 0.1", "0.0004")}
    )
    assert experiment.data.train == "../train.jsonl"
    assert any(note.startswith("two: trains on all rows, not on a fraction of 0.9") for note in report.notes)
    assert [each.why for each in report.not_carried if each.key == "val_set_size"] == [
        "all rows of the file train: others have separate files"
    ]
    assert not any("differ between the runs" in note and "val_set_size" in note for note in report.notes)
