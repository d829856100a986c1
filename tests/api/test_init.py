"""`touchline init`: the user's own file becomes an experiment that can be planned as it is."""

import json
from pathlib import Path

import pytest
from tests.cases import refusal, write

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.core.errors import InputError, PolicyError
from touchline.data.models import load_model
from touchline.data.user_config import UserConfig
from touchline.experiment.read import read_experiment

pytestmark = pytest.mark.planning

REVIEWS = [{"id": n, "text": f"Film {n} was fine", "label": ("good", "bad", "not: sure")[n % 3]} for n in range(120)]
FEW_ANSWERS = [
    {"instruction": f"Task {n}", "input": "", "output": ("4", "banana", "positive")[n % 3]} for n in range(90)
]
ALPACA = [
    {"instruction": f"Add {n}", "input": "" if n % 2 else "shortly", "output": f"the sum is {n}"} for n in range(120)
]
CHATS = [
    {"conversations": [{"from": "human", "value": f"Hi {n}"}, {"from": "gpt", "value": f"Hello {n}"}]}
    for n in range(120)
]
ODD = [{"the question: #1": f"what is {n}?", "no": f"it is {n * n}"} for n in range(120)]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UserConfig:
    monkeypatch.chdir(tmp_path)
    write_tiny_model(tmp_path / "models" / "Tiny-1M-Instruct")
    return UserConfig(models_dir=tmp_path / "models", cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")


def _write(path: Path, rows: list[dict[str, object]]) -> Path:
    return write(path, "\n".join(json.dumps(row) for row in rows) + "\n")


@pytest.mark.parametrize(
    ("rows", "options", "task", "columns"),
    [
        (REVIEWS, {}, "classification", ("text", "label", None)),
        (ALPACA, {}, "exact_match", (("instruction", "input"), "output", None)),
        (FEW_ANSWERS, {}, "exact_match", (("instruction", "input"), "output", None)),
        (CHATS, {}, "exact_match", ("input", "output", "conversations")),
        (ODD, {"input_columns": ["the question: #1"], "output_column": "no"}, "exact_match", None),
    ],
)
def test_what_it_writes_can_be_planned(
    rows: list[dict[str, object]],
    options: dict[str, object],
    task: str,
    columns: tuple[object, str, str | None] | None,
    settings: UserConfig,
    tmp_path: Path,
) -> None:
    """Columns, task, batch and length follow from the data, wherever it lies; the plan has no error."""
    data = _write(tmp_path / "else where" / "my file.jsonl", rows)
    made = api.init(None, settings, data=data, **options)  # type: ignore[arg-type]
    assert made.path == Path("my_file/experiment.yaml")
    written = read_experiment(made.path.read_text(), "experiment.yaml").experiment
    assert (written.task, written.models) == (task, ("Tiny-1M-Instruct",))
    assert written.data.path == "../else where/my file.jsonl"
    if columns is not None:
        assert (written.data.input, written.data.output, written.data.messages) == columns
    plan = api.plan(made.path, settings).plan
    assert len(plan.runs) == 7
    assert all(run.batches is None or run.batches.longest_example_tokens <= run.train.max_seq_len for run in plan.runs)


def test_a_row_beyond_the_models_context_is_a_warning(settings: UserConfig, tmp_path: Path) -> None:
    """No length is written that the model does not have."""
    rows = [{"question": f"{n} " * (2_000 if n % 3 else 2), "answer": f"yes {n}"} for n in range(60)]
    made = api.init(None, settings, data=_write(tmp_path / "long.jsonl", rows))  # type: ignore[arg-type]
    written = read_experiment(made.path.read_text(), "experiment.yaml").experiment
    context = load_model("Tiny-1M-Instruct", settings.models_dir).context_length
    assert written.train.max_seq_len == context
    assert any(note.startswith("warning: the longest row") for note in made.notes)


def test_nothing_is_replaced_and_nothing_is_left_after_a_fault(settings: UserConfig, tmp_path: Path) -> None:
    """An experiment that is there, data that is not, a column or a model that does not exist, several models."""
    data = _write(tmp_path / "reviews.jsonl", REVIEWS)
    api.init(tmp_path / "first", settings, data=data)
    before = (tmp_path / "first" / "experiment.yaml").read_bytes()
    with pytest.raises(PolicyError):
        api.init(tmp_path / "first", settings, data=data)
    assert (tmp_path / "first" / "experiment.yaml").read_bytes() == before
    write_tiny_model(tmp_path / "models" / "Tiny-2M-Instruct", seed=1)
    for changed in (
        {"data": tmp_path / "absent.csv", "model": "Tiny-1M-Instruct"},
        {"data": data, "model": "Tiny-1M-Instruct", "input_columns": ["txt"]},
        {"data": data, "model": "absent"},
    ):
        with pytest.raises(InputError):
            api.init(tmp_path / "second", settings, **changed)  # type: ignore[arg-type]
        assert not (tmp_path / "second").exists()


def test_columns_are_asked_for_only_where_they_are_not_found(settings: UserConfig, tmp_path: Path) -> None:
    """A row that cannot be read, or a value that does not fit, is not fixed by naming the columns."""
    for name, content, asked in (
        ("semicolons.csv", "text;label\n" + "".join(f"a{number};b\n" for number in range(9)), False),
        ("empty.csv", "", False),
        ("one.jsonl", '{"input": "a", "output": "b"}\n', False),
        ("columns.csv", "a,b\n", False),
        ("test.json", '{"test": [{"input": "a", "output": "b"}]}', False),
        ("broken.jsonl", '{"text": "a", "label"\n', False),
        ("kinds.jsonl", "".join(f'{{"text": "a{number}", "label": true}}\n' for number in range(9)), False),
        ("headers.csv", "Review Text,Its Mark\n" + "".join(f"a{number},b\n" for number in range(9)), True),
    ):
        (tmp_path / name).write_text(content)
        caught = refusal(api.init, None, settings, data=tmp_path / name)
        assert name in ("one.jsonl", "columns.csv", "test.json") or (caught.hint is not None) is asked, name
        assert caught.findings
