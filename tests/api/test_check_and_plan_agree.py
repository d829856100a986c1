"""Whatever `plan` refuses, `check` calls an error, with the same codes at the same places; and the other way round."""

import ast
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.api.seed_folders import seed_settings, write_shape
from tests.api.test_memory_and_devices import B70
from tests.cases import write_files
from tests.faults.experiment_files import experiment_files
from tests.faults.harness import example_files, merged
from tests.faults.page_examples import bad_examples, good_examples

import touchline
from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.core.errors import InputError
from touchline.core.finding import Finding, Severity
from touchline.data.user_config import UserConfig
from touchline.experiment.requests import CheckRequest
from touchline.lint.rule import all_pages

pytestmark = [pytest.mark.planning, pytest.mark.slow]

Spoil = Callable[[Path], object]
"""Changes the folder of a model."""


@dataclass(frozen=True)
class Fault:
    code: str
    """Code of its error."""
    yaml: str = ""
    """Lines put into a valid experiment.yaml, or the whole of one after `!whole`."""
    files: dict[str, str] = field(default_factory=dict)
    """Further files beside it."""
    model: Spoil | None = None
    """Change of its model, which is called `spoilt`."""
    settings: dict[str, object] = field(default_factory=dict)
    """Changes of the user's config."""


WORDS = json.loads(experiment_files()["data/words.json"])


def rows(**columns: object) -> dict[str, str]:
    """Files with a dataset of three splits whose first training row has other columns."""
    return {"data/words.json": json.dumps({**WORDS, "train": [columns, *WORDS["train"][1:]]})}


def long_rows() -> dict[str, str]:
    """Files with a dataset of rows of about 2,000 tokens."""
    words = {split: [{**row, "input": 500 * row["input"][:3]} for row in WORDS[split]] for split in WORDS}
    return {"data/words.json": json.dumps(words)}


def template(text: str) -> Spoil:
    """Return a change of the chat template of a model."""
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def renamed(old: str, new: str) -> Spoil:
    """Return a change of the name of a file of a model."""
    return lambda folder: (folder / old).rename(folder / new)


def edit(name: str, **changes: object) -> Spoil:
    """Return a change of a JSON file of a model; a value of None takes the key out."""

    def spoil(folder: Path) -> None:
        data = {**json.loads((folder / name).read_text()), **changes}
        (folder / name).write_text(json.dumps({key: value for key, value in data.items() if value is not None}))

    return spoil


def without_stop(folder: Path) -> None:
    """Take the end of an answer out of a model's files."""
    edit("tokenizer_config.json", eos_token=None)(folder)
    edit("generation_config.json", eos_token_id=None)(folder)


def cut(name: str) -> Spoil:
    """Return a change that leaves half of a file of a model."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return spoil


SLURM = "compute: {executor: slurm, gpus_per_run: 1}"

FAULTS = {
    "a misspelt model": Fault("CK100", "models: [tinny]"),
    "one model of two": Fault("CK100", "models: [tiny, tinny]"),
    "two models of one name": Fault(
        "EX009",
        "models: [tiny, other/tiny]",
        model=lambda folder: shutil.copytree(folder, folder.parent / "other" / "tiny"),
    ),
    "a config of a model that is no JSON": Fault("CK101", model=cut("config.json")),
    "weights that are pickles": Fault("CK103", model=renamed("model.safetensors", "pytorch_model.bin")),
    "half of the weights": Fault("CK104", model=cut("model.safetensors")),
    "a misspelt column": Fault("DA105", "data: {path: data/words.json, output: lable}"),
    "a dataset that is not there": Fault("DA101", "data: {path: data/wrods.json}"),
    "a dataset that is no JSON": Fault("DA102", files={"data/words.json": "[{"}),
    "an empty answer": Fault("DA105", files=rows(input="a", output="")),
    "rows that are no objects": Fault("DA103", files={"data/words.json": json.dumps({"train": [1], "test": [2]})}),
    "too few rows for splits": Fault("DA104", files={"data/words.json": json.dumps([{"input": "a", "output": "b"}])}),
    "a test row that is trained on": Fault("DA106", files=rows(**WORDS["test"][0])),
    "a prompt without a column": Fault("DA108", "data: {path: data/words.json, prompt: Go}"),
    "a broken tokenizer": Fault("TK101", model=cut("tokenizer.json")),
    "a token that ends nothing": Fault("TK102", model=without_stop),
    "a config of a tokenizer that is no JSON": Fault("TK103", model=cut("tokenizer_config.json")),
    "a chat template that is none": Fault("TK103", model=template("{% for %}")),
    "a config of another model": Fault("TK230", model=edit("config.json", hidden_size=64)),
    "shards without their index": Fault(
        "CK102", model=renamed("model.safetensors", "model-00001-of-00001.safetensors")
    ),
    "a missing key": Fault("EX004", "!whole\nname: x\ntask: capitalization\nmodels: [tiny]\n"),
    "a run that does not fit": Fault(
        "ME020",
        "models: [Llama-3.2-3B-Instruct]\ntrain: {base_dtype: float32, packed: false, micro_batch_size: 1, "
        "max_seq_len: 2048}\ncompute: {gpu: T4, gpus_per_run: 1}",
        files=long_rows(),
    ),
    "an evaluation that does not fit": Fault(
        "ME030",
        "models: [Llama-3.1-70B-Instruct]\ntrain: {backend: trl, quantization: nf4, gradient_checkpointing: true, "
        "micro_batch_size: 1}\ncompute: {executor: slurm, gpu: A100-80GB, gpus_per_run: 8}",
    ),
    "packed rows that do not fit": Fault(
        "PK001",
        "models: [Llama-3.2-3B-Instruct]\ntrain: {packed: true, micro_batch_size: 8, max_seq_len: 2048}\n"
        "compute: {gpu: A100-40GB, gpus_per_run: 1}",
        files=long_rows(),
    ),
    "rows that do not fit": Fault(
        "PK003",
        "models: [Llama-3.2-3B-Instruct]\ntrain: {packed: false, micro_batch_size: 8, max_seq_len: 2048}\n"
        "compute: {gpu: A100-40GB, gpus_per_run: 1}",
        files=long_rows(),
    ),
    "a tab": Fault("EX001", "!whole\nname: x\ntrain:\n\tepochs: 1\n"),
    "exclude that leaves nothing": Fault("EX003", "exclude: [{models: tiny}]"),
    "names that do not differ": Fault("EX009", "factors: {train.lora.rank: [4, 8]}\nrun_names: '{model_size}'"),
    "a crossing that the trainer refuses": Fault(
        "BK001", "factors: {train.method: [lora, full], train.quantization: [none, nf4]}"
    ),
    "a trainer of text for packed validation": Fault("BK001", "train: {kernels: liger}"),
    "a length beyond the context": Fault("TR002", "train: {max_seq_len: 100000}"),
    "rows that are too long": Fault("DA201", "train: {max_seq_len: 16}"),
    "slots of a cluster": Fault("BK003", f"{SLURM[:-1]}, gpu: A100-80GB, slots: 2}}"),
    "a GPU that nobody named": Fault("US133", SLURM),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = seed_settings(tmp_path_factory.mktemp("models")).models_dir
    write_shape(folder, B70, 128)
    write_tiny_model(folder / "tiny")
    return folder


@dataclass(frozen=True)
class Answers:
    """What both commands say of an experiment: codes and places of the errors."""

    plan: set[tuple[str, str]]
    check: set[tuple[str, str]]


def errors(findings: tuple[Finding, ...] | list[Finding]) -> set[tuple[str, str]]:
    return {(each.code, str(each.where)) for each in findings if each.severity is Severity.ERROR}


def asked(folder: Path, settings: UserConfig, allow: tuple[str, ...] = ()) -> Answers:
    report, findings = api.check([folder / "experiment.yaml"], settings, CheckRequest(allow=allow))
    stopping = [each for each in findings if each.severity is Severity.ERROR]
    assert report.errors == len(stopping)
    for row in report.configs:
        assert not (row.passed and any(not each.runs or row.subject in each.runs for each in stopping)), row
    refused: InputError | None = None
    try:
        api.plan(folder, settings, allow=allow, dry_run=True)
    except InputError as error:
        refused = error
    told = set() if refused is None else errors(refused.findings)
    assert bool(told) == (refused is not None), f"refused without a finding: {refused}"
    return Answers(told, errors(findings))


def make(fault: Fault, models: Path, tmp_path: Path) -> tuple[Path, UserConfig]:
    text = (
        fault.yaml.removeprefix("!whole\n")
        if fault.yaml.startswith("!whole")
        else merged("experiment", fault.yaml or "{}")
    )
    models_dir = models
    if fault.model is not None:
        models_dir = tmp_path / "models"
        shutil.copytree(models / "tiny", models_dir / "tiny")
        fault.model(models_dir / "tiny")
    settings = UserConfig(models_dir=models_dir, cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")
    folder = write_files(tmp_path / "experiment", {**experiment_files(), **fault.files, "experiment.yaml": text})
    return folder, settings


@pytest.mark.parametrize("name", FAULTS)
def test_both_refuse_a_fault_with_the_same_codes_and_places(name: str, models: Path, tmp_path: Path) -> None:
    fault = FAULTS[name]
    answers = asked(*make(fault, models, tmp_path))
    assert fault.code in {code for code, _ in answers.check}, answers.check
    assert answers.plan == answers.check


EXAMPLES = [
    (code, number)
    for code, page in all_pages().items()
    for number, example in enumerate((*bad_examples(page), *good_examples(page)))
    if example.kind == "experiment"
]
"""Experiments of the rules' pages, those that are reported and those that are not."""


@pytest.mark.parametrize(
    ("code", "number"),
    [pytest.param(*each, marks=pytest.mark.thorough if at % 8 else ()) for at, each in enumerate(EXAMPLES)],
)
def test_both_agree_on_every_example_of_the_rules(code: str, number: int, models: Path, tmp_path: Path) -> None:
    page = all_pages()[code]
    files, _ = example_files((*bad_examples(page), *good_examples(page))[number])
    settings = UserConfig(models_dir=models, cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")
    answers = asked(write_files(tmp_path / "experiment", files), settings)
    assert answers.plan == answers.check
    codes = tuple(sorted({code for code, _ in answers.check}))
    if codes:
        allowed = asked(tmp_path / "experiment", settings, codes)
        assert allowed.plan == allowed.check


_CODE = re.compile(r"[A-Z]{2}\d{3}")


def codes_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return {text for text in texts if _CODE.fullmatch(text)}


NOT_PLANNING = {
    "data/lengths.py": {"PK010"},  # files of lengths, which `pack` reads
    "data/user_config.py": {"US101"},  # the user's config, which every command reads first
    "plan/local/estimating.py": {"ME010"},  # options of `estimate`
    "plan/local/job_list.py": {"PL100", "PL103"},  # files of `place`
    "plan/placement/problem.py": {"PL100", "PL103", "PL105", "PL107", "PL111"},
    "experiment/foreign.py": {"BK010"},  # configs of other tools
    "experiment/read.py": {"EX003"},  # overrides, which `check` has none of
}
WARNINGS = {"CK105", "ME031", "PK002", "PK004", "TK104", "TR057", "US134"}
"""Codes of planning that are never errors."""


def test_every_code_of_planning_has_a_fault() -> None:
    root = Path(touchline.__file__).parent
    found: set[str] = set()
    for path in (*(each for room in ("experiment", "data", "plan") for each in (root / room).rglob("*.py")), *BACKENDS):
        found |= codes_of(root / path) - NOT_PLANNING.get(str((root / path).relative_to(root)), set())
    assert found - WARNINGS - {fault.code for fault in FAULTS.values()} - {code for code, _ in EXAMPLES} == set()


BACKENDS = tuple(Path("backends") / name for name in ("protocol.py", "registry.py", "planning.py"))


def test_a_model_with_warnings_is_planned_by_both(models: Path, tmp_path: Path) -> None:
    fault = Fault("CK105", model=edit("config.json", auto_map={"AutoModel": "code.Model"}))
    assert asked(*make(fault, models, tmp_path)) == Answers(set(), set())


def said(fault: Fault, models: Path, tmp_path: Path) -> list[Finding]:
    folder, settings = make(fault, models, tmp_path)
    return api.check([folder], settings)[1]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ("seeds: 3", "EX003"),
        ("evaluate: {samples: 10}", "EX115"),
        ("factors: {train.method: [lora, full], train.quantization: [none, nf4]}", "BK001"),
    ],
)
def test_a_hint_that_is_typed_helps(lines: str, code: str, models: Path, tmp_path: Path) -> None:
    (found,) = [each for each in said(Fault(code, lines), models, tmp_path / "a") if each.code == code]
    assert found.hint is not None
    typed = found.hint.split(", or ")[0].split("; or ")[0]
    key = typed.partition(":")[0]
    kept = "" if lines.startswith(key) else lines
    again = said(Fault(code, f"{kept}\n{typed}"), models, tmp_path / "b")
    assert code not in {each.code for each in again}


def test_only_the_refused_run_of_a_crossing_fails(models: Path, tmp_path: Path) -> None:
    fault = FAULTS["a crossing that the trainer refuses"]
    folder, settings = make(fault, models, tmp_path)
    report, _ = api.check([folder], settings)
    assert [config.passed for config in report.configs] == [True, True, True, False]
