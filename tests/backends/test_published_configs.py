"""Published configs: what `touchline import` makes of each, against what its own trainer makes of it.

`tests/fixtures/published/TRAINER/NAME.yaml` is the config as published, `NAME.expected.json` what it means by its
trainer's parser and documentation, written down before the import read it: `settings` of experiment.yaml by dotted key,
and keys that must be `listed`; or `refused`, words of the error.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.backends.config_files import format_of
from tests.cases import refusal, write
from tests.faults.case import base, changed

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.backends.fields import dotted
from touchline.core.errors import InputError
from touchline.core.finding import Finding, Severity
from touchline.data.user_config import UserConfig
from touchline.experiment.experiment import Experiment
from touchline.experiment.foreign import ForeignDocument, parse_foreign
from touchline.experiment.read import read_experiment
from touchline.experiment.settings import value_of
from touchline.tools.imports.carrier import leaves
from touchline.tools.imports.importing import ImportReport

pytestmark = pytest.mark.planning

PUBLISHED = Path(__file__).parents[1] / "fixtures" / "published"
FILES = sorted(PUBLISHED.glob("*/*.yaml"))
EXPECTED = {file: json.loads(file.with_suffix(".expected.json").read_text(encoding="utf-8")) for file in FILES}
TRAINED = [file for file in FILES if "settings" in EXPECTED[file]]
REFUSED = [file for file in FILES if "refused" in EXPECTED[file]]


def name_of(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"


def imported(file: Path, folder: Path) -> tuple[ImportReport, Experiment]:
    """Import a config into a folder, and read what was written."""
    report = api.import_experiment([file], folder / "experiment.yaml")
    return report, read_experiment(Path(report.path).read_text(encoding="utf-8"), report.path).experiment


def document_of(file: Path) -> ForeignDocument:
    return parse_foreign(file.read_text(encoding="utf-8"), str(file), format_of(file.parent.name).dialect)


def plain(value: object) -> object:
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    given = {"steps": getattr(value, "steps", None), "minutes": getattr(value, "minutes", None)}
    return {key: each for key, each in given.items() if each is not None} if any(given.values()) else value


@pytest.mark.parametrize("trainer", sorted({file.parent.name for file in FILES}))
def test_each_trainer_has_five_published_configs(trainer: str) -> None:
    files = [file for file in FILES if file.parent.name == trainer]
    assert len(files) >= 5
    for file in files:
        head = file.read_text(encoding="utf-8").splitlines()[:2]
        assert "https://" in head[0]
        assert "Licence" in head[1]


@pytest.mark.parametrize("file", TRAINED, ids=name_of)
def test_every_setting_means_the_same(file: Path, tmp_path: Path) -> None:
    """Field by field, the defaults of both tools included."""
    _, experiment = imported(file, tmp_path)
    wanted: Mapping[str, object] = EXPECTED[file]["settings"]
    assert {key: plain(value_of(experiment, key)) for key in wanted} == wanted


@pytest.mark.parametrize("file", TRAINED, ids=name_of)
def test_what_differs_is_listed(file: Path, tmp_path: Path) -> None:
    report, _ = imported(file, tmp_path)
    assert set(EXPECTED[file]["listed"]) - {each.key for each in report.not_carried} == set()


@pytest.mark.parametrize("file", TRAINED, ids=name_of)
def test_every_key_is_in_the_file_or_in_the_list(file: Path, tmp_path: Path) -> None:
    """A key is in the file if a setting is named for it, and in the list with its own name or that of its group."""
    report, _ = imported(file, tmp_path)
    named = {part for each in report.carried for part in each.source.split(" x ")}
    named |= {each.key for each in report.not_carried}
    lost = []
    for path, _value in leaves(document_of(file).data):
        if not any(dotted(path[:end]) in named for end in range(1, len(path) + 1)):
            lost.append(dotted(path))
    assert lost == []


@pytest.mark.parametrize("file", REFUSED, ids=name_of)
def test_another_training_is_refused_with_what_to_do(file: Path, tmp_path: Path) -> None:
    (finding,) = refusal(api.import_experiment, [file], tmp_path / "experiment.yaml").findings
    assert EXPECTED[file]["refused"] in finding.message
    assert "touchline check" in (finding.hint or "")
    assert finding.where.line is not None
    assert not (tmp_path / "experiment.yaml").exists()


def errors_of(report: ImportReport, experiment: Experiment, folder: Path) -> list[Finding]:
    """Return the errors of `check`, with a model and data of the file's own columns, planned for a GPU."""
    model = folder / "models" / (experiment.models[0] if experiment.models else "MODEL")
    write_tiny_model(model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = 1 << 17
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    # So many that a warm-up of some steps is part of the training.
    count = max(400, 2 * (experiment.train.warmup_steps or 0) * experiment.train.global_batch_size)
    rows = [row_of(experiment, number) for number in range(count)]
    data = folder / experiment.data.file
    data.parent.mkdir(exist_ok=True)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows[:-50]), encoding="utf-8")
    (data.parent / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[-50:]), encoding="utf-8")
    path = Path(report.path)
    text = path.read_text(encoding="utf-8")
    # Where all rows train, the rows to test are the user's own.
    train = f'  train: "{experiment.data.train}"'
    text = text.replace(train, f"  test: {Path(experiment.data.file).parent}/test.jsonl\n{train}")
    gpu = "  gpu: A100-80GB\n"
    text = text.replace("compute:\n", f"compute:\n{gpu}") if "\ncompute:\n" in text else f"{text}\ncompute:\n{gpu}"
    path.write_text(text, encoding="utf-8")
    settings = UserConfig(models_dir=folder / "models", cache_dir=folder / "cache", history_dir=folder / "history")
    _, findings = api.check([path], settings)
    # Packages and environments of trainers are this machine's matter.
    return [each for each in findings if each.severity is Severity.ERROR and each.code not in ("BK003", "BK004")]


@pytest.mark.parametrize("file", TRAINED, ids=name_of)
def test_check_does_not_refuse_what_import_wrote(file: Path, tmp_path: Path) -> None:
    assert errors_of(*imported(file, tmp_path), tmp_path) == []


HARD = {
    "trl": (
        "load_in_4bit: true\nuse_peft: true\nfsdp: full_shard\nnum_processes: 4\npacking: true\nuse_dora: true\n",
        "torch_compile: true\noptim: adamw_bnb_8bit\nload_in_8bit: true\nuse_peft: true\nuse_liger_kernel: true\n",
        "num_processes: 16\n",
        "optim: muon\npacking: true\nuse_peft: true\nper_device_train_batch_size: 3\n",
    ),
    "axolotl": (
        "dp_shard_size: 4\nfsdp_config: {offload_params: true}\npeft_use_dora: true\n",
        "batch_size: 7\nmicro_batch_size: 2\n",
        "lora_alpha: 12.5\ntorch_compile: true\n",
    ),
    "llamafactory": (
        "packing: true\ncutoff_len: 1001\n",
        "pissa_init: true\nquantization_bit: 8\nenable_liger_kernel: true\nray_num_workers: 3\n",
    ),
}
"""Lines after which no trainer takes all settings, or not the source's own."""


@pytest.mark.parametrize(("trainer", "lines"), [(trainer, each) for trainer in HARD for each in HARD[trainer]])
def test_what_no_trainer_takes_is_listed_instead_of_written(trainer: str, lines: str, tmp_path: Path) -> None:
    # A warmup longer than the training on the few rows here is an error of its own.
    names = {"warmup_steps", *(line.partition(":")[0] for line in lines.splitlines())}
    kept = [line for line in base(trainer).splitlines() if line.partition(":")[0] not in names]
    file = tmp_path / "a.yaml"
    file.write_text("\n".join([*kept, lines]), encoding="utf-8")
    assert errors_of(*imported(file, tmp_path), tmp_path) == []


def row_of(experiment: Experiment, number: int) -> dict[str, object]:
    """Return a row with the columns that an experiment reads."""
    if experiment.data.messages is not None:
        turns = [{"role": "user", "content": f"what is {number}"}, {"role": "assistant", "content": f"{number % 7}"}]
        return {experiment.data.messages: turns}
    names = experiment.data.input if isinstance(experiment.data.input, tuple) else (experiment.data.input,)
    return {**{name: f"what is {number}" for name in names}, experiment.data.output: f"{number % 7}"}


ROWS = {
    **{"exp1_random": 125, "exp2_qwen_reordered": 125, "exp3_stage1": 21, "exp3_stage2": 63, "exp3_stage3": 1},
    **{"exp4_stage1": 21, "exp4_stage2": 63, "exp5_sequential_cot": 125},
}
"""save_steps of each config."""


def write_configs(folder: Path) -> list[Path]:
    """Write the project's configs and data; the second curriculum stage continues the first."""
    paths = []
    for stage, steps in ROWS.items():
        text = changed(base("qlora_stage"), "models/stage1", f"models/{stage}").replace("data/stage1", f"data/{stage}")
        text = text.replace("save_steps: 50", f"save_steps: {steps}").replace("eval_steps: 50", f"eval_steps: {steps}")
        text = text.replace("gradient_checkpointing: true", "gradient_checkpointing: false")
        text = text.replace("dataloader_num_workers: 2", "dataloader_num_workers: 16")
        text = text.replace("meta-llama/Llama-3.2-1B", "Tiny-1M").replace("max_seq_len: 2048", "max_seq_len: 128")
        if stage == "exp4_stage2":
            text += "prev_checkpoint: models/exp4_stage1/checkpoint-420\n"
        paths.append(write(folder / "configs" / f"{stage}.yaml", text))
    return paths


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UserConfig:
    monkeypatch.chdir(tmp_path)
    write_tiny_model(tmp_path / "models" / "Tiny-1M")
    return UserConfig(models_dir=tmp_path / "models", cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")


def test_eight_configs_are_one_experiment(settings: UserConfig, tmp_path: Path) -> None:
    made = api.init(tmp_path / "endovis", settings, configs=write_configs(tmp_path))
    text = made.path.read_text(encoding="utf-8")
    experiment = read_experiment(text, "experiment.yaml").experiment
    train = experiment.train
    assert (train.micro_batch_size, train.global_batch_size) == (4, 16)
    assert (train.gradient_checkpointing, train.quantization, train.packed) == (False, "nf4", False)
    assert (train.checkpoint.keep, train.lora.rank, train.lora.resolved_alpha) == (3, 8, 16.0)
    assert experiment.seeds == (42,)
    assert (experiment.data.image_root, experiment.data.images) == ("../images", "image_filename")
    stages = {stage.name: stage for stage in experiment.stages}
    assert set(stages) == set(ROWS)
    for name, stage in stages.items():
        # Equal in all configs or the stage's own.
        assert stage.train["checkpoint"] == {"every": {"steps": ROWS[name]}}
        assert stage.train["validate_every_steps"] == ROWS[name]
        assert stage.data == {"train": f"../data/{name}/train.jsonl", "validation": f"../data/{name}/validation.jsonl"}
        assert stage.parent == ("exp4_stage1" if name == "exp4_stage2" else None)
    assert (stages["exp4_stage2"].continue_, train.dataloader_workers) == ("adapter", 16)
    assert experiment.evaluate.epochs == ()
    for words in ("data.test: FILE", "turns it on"):
        assert any(words in note for note in made.notes), words
        assert words in text


def write_rows(folder: Path, stage: str, train: int, validation: int) -> None:
    """Write the training and the validation rows of a stage."""
    (folder / "data" / stage).mkdir(parents=True)
    for split, count in (("train", train), ("validation", validation)):
        rows = [{"input": f"{stage} {split} {n}", "output": f"answer {n % 7}"} for n in range(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "data" / stage / f"{split}.jsonl").write_text(text, encoding="utf-8")


def as_text(path: Path) -> None:
    """Let rows of text stand for the project's images, which are not public."""
    text = re.sub(r'  (images: "image_filename"|quantization: "nf4").*\n', "", path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")


def test_the_experiment_can_be_planned_and_every_training_row_trains(settings: UserConfig, tmp_path: Path) -> None:
    configs = write_configs(tmp_path)
    for stage in ROWS:
        write_rows(tmp_path, stage, 1344 if stage == "exp1_random" else 40, 5)
    first = tmp_path / "configs" / "exp1_random.yaml"
    first.write_text(changed(first.read_text("utf-8"), "epochs: 2", "epochs: 20"), encoding="utf-8")
    made = api.init(tmp_path / "endovis", settings, configs=configs, model="Tiny-1M")
    as_text(made.path)
    plan = api.plan(made.path, settings).plan
    assert len(plan.runs) == len(ROWS)
    assert {run.link.parent for run in plan.runs if run.link is not None} == {
        next(run.name for run in plan.runs if "exp4_stage1" in run.name)
    }
    assert all(run.batches is not None and run.batches.micro_batch_size == 4 for run in plan.runs)
    steps = {run.name: run.batches.steps for run in plan.runs if run.batches is not None}
    assert next(count for name, count in steps.items() if "exp1_random" in name) == 1680
    assert all([split.num_examples for split in info.splits][1:] == [5] for info in plan.datasets.values())


def test_an_empty_stage_is_named_and_left_out(settings: UserConfig, tmp_path: Path) -> None:
    configs = write_configs(tmp_path)
    for stage in ROWS:
        write_rows(tmp_path, stage, 0 if stage == "exp3_stage3" else 20, 0 if stage == "exp2_qwen_reordered" else 4)
    for stage, parent in (("exp3_stage3", "exp3_stage2"), ("exp5_sequential_cot", "exp3_stage3")):
        with (tmp_path / "configs" / f"{stage}.yaml").open("a", encoding="utf-8") as stream:
            stream.write(f"prev_checkpoint: models/{parent}/checkpoint-9\n")
    made = api.init(tmp_path / "endovis", settings, configs=configs, model="Tiny-1M")
    stages = {stage.name: stage for stage in read_experiment(made.path.read_text("utf-8"), "x").experiment.stages}
    assert set(stages) == set(ROWS) - {"exp3_stage3"}
    # What continued the empty stage continues the stage before it.
    assert stages["exp5_sequential_cot"].parent == "exp3_stage2"
    assert "validation" not in stages["exp2_qwen_reordered"].data
    assert "validation" in stages["exp1_random"].data
    notes = "\n".join(made.notes)
    assert "stage exp3_stage3 is not imported, because ../data/exp3_stage3/train.jsonl has no rows" in notes
    assert "exp2_qwen_reordered: ../data/exp2_qwen_reordered/validation.jsonl has no rows" in notes
    as_text(made.path)
    assert len(api.plan(made.path, settings).plan.runs) == len(ROWS) - 1


def test_stages_without_any_rows_are_no_experiment(settings: UserConfig, tmp_path: Path) -> None:
    configs = write_configs(tmp_path)
    for stage in ROWS:
        write_rows(tmp_path, stage, 0, 4)
    with pytest.raises(InputError, match="no stage has rows"):
        api.init(tmp_path / "endovis", settings, configs=configs)


def test_all_faults_of_configs_come_at_once(settings: UserConfig, tmp_path: Path) -> None:
    configs = write_configs(tmp_path)
    (tmp_path / "configs" / "exp2_qwen_reordered.yaml").write_text("", encoding="utf-8")
    first = tmp_path / "configs" / "exp1_random.yaml"
    first.write_text(changed(first.read_text("utf-8"), "lr: 5.0e-5", "lr: 5e-5"), encoding="utf-8")
    caught = refusal(api.init, tmp_path / "endovis", settings, configs=configs)
    messages = " ".join(finding.message for finding in caught.findings)
    assert "exp2_qwen_reordered.yaml cannot be read: the file is empty" in messages
    assert "lr" in messages

    configs = write_configs(tmp_path)
    last = configs[-1]
    last.write_text(changed(last.read_text("utf-8"), "seed: 42", "seed: 7"), encoding="utf-8")
    with last.open("a", encoding="utf-8") as stream:
        stream.write("prev_checkpoint: models/elsewhere\n")
    caught = refusal(api.init, tmp_path / "endovis", settings, configs=configs)
    messages = " ".join(finding.message for finding in caught.findings)
    assert "seed 7 is not 42" in messages
    assert "is not in the output_dir of another config" in messages
    with pytest.raises(InputError, match="either a dataset or stage configs"):
        api.init(tmp_path / "endovis", settings)
