"""From a config, a model folder and a data file to what training and evaluation show: read once, and never raised."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cases import write_files
from tests.faults.models_d import CHATML, jsonl, model_files

from touchline.core.finding import Location, Severity
from touchline.data import readers
from touchline.experiment.experiment import DataConfig
from touchline.experiment.partial import Stated, StatedSource, StatedTraining
from touchline.lint.local import parity as steps
from touchline.lint.local.parity import Parity, settings_of

pytestmark = pytest.mark.planning

ROWS = [{"question": f"What is {n} and {n}? " + "Say. " * n, "answer": str(2 * n)} for n in range(1, 30)]


def stated(folder: Path, backend: str = "llamafactory", **changes: Any) -> StatedTraining:
    """A training of the model and the data in `folder`."""
    where = Location(path=str(folder / "config.yaml"), line=1)
    training = StatedTraining(
        backend=backend,
        where=where,
        subject="run",
        model=Stated("models/tiny", "model", where),
        sources=(StatedSource(name=Stated("rows.jsonl", "data", where), kind="file"),),
        template=Stated("qwen3_nothink", "template", where) if backend == "llamafactory" else None,
    )
    return replace(training, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path, {"rows.jsonl": jsonl(ROWS)} | model_files("models/tiny"))


def codes(folder: Path, training: StatedTraining, data: DataConfig | None = None) -> set[str]:
    return {finding.code for finding in Parity(folder / "models").findings(training, folder, data)}


def test_the_shortest_a_middle_and_the_longest_row_are_rendered(folder: Path) -> None:
    """By their length, each with a name, by the template of the folder; of two rows the other is the longest."""
    view = Parity(folder / "models").view(stated(folder), folder)
    assert view is not None
    assert [row.which for row in view.rows] == ["shortest", "middle", "longest"]
    lengths = [len(row.prompt_ids) for row in view.rows]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) == 3
    assert view.embedding_rows is not None
    assert view.text.template == CHATML
    write_files(folder, {"rows.jsonl": jsonl(ROWS[:2])})
    two = Parity(folder / "models").view(stated(folder), folder)
    assert two is not None
    assert [row.which for row in two.rows] == ["shortest", "longest"]


def test_a_model_that_is_not_here_is_said_by_others(folder: Path) -> None:
    """Nothing is told twice, and nothing is guessed."""
    where = Location(path="config.yaml")
    assert codes(folder, stated(folder, model=Stated("Qwen/Qwen2.5-7B", "model", where))) == set()
    assert codes(folder, stated(folder, model=None)) == set()


def test_the_folder_of_a_model_counts_before_its_name(folder: Path) -> None:
    """torchtune names a builder, and the folder apart from it."""
    where = Location(path="config.yaml")
    training = stated(
        folder, "torchtune", model=Stated("lora_qwen2_5_1_5b", "model", where),
        model_path=Stated("models/tiny", "checkpoint_dir", where),
        max_seq_len=Stated(4096, "tokenizer.max_seq_len", where),
    )  # fmt: skip
    assert "TK206" in codes(folder, training)
    packs = replace(training, max_seq_len=Stated(4096, "dataset.max_seq_len", where))
    assert "TK206" not in codes(folder, packs)


@pytest.mark.parametrize("rows", [None, "not json at all\n", jsonl([{"text": "only text"}]), ""])
def test_data_that_cannot_be_rendered_are_information(folder: Path, rows: str | None) -> None:
    (folder / "rows.jsonl").unlink()
    if rows is not None:
        write_files(folder, {"rows.jsonl": rows})
    found = list(Parity(folder / "models").findings(stated(folder), folder))
    assert [(finding.code, finding.severity) for finding in found] == [("TK220", Severity.INFO)]


def test_a_broken_tokenizer_is_told_of_each_training(folder: Path) -> None:
    """With one text and place: who collects findings tells it once, with the runs."""
    write_files(folder, {"models/tiny/tokenizer.json": "{}"})
    parity = Parity(folder / "models")
    found = [finding for _ in range(3) for finding in parity.findings(stated(folder), folder)]
    assert [finding.code for finding in found] == ["TK101"] * 3
    assert len({(finding.message, finding.where) for finding in found}) == 1


def test_a_registered_dataset_is_found_by_its_registry(folder: Path) -> None:
    """LLaMA-Factory's dataset_info.json."""
    write_files(folder, {"data/dataset_info.json": json.dumps({"mine": {"file_name": "mine.jsonl"}}),
                   "data/mine.jsonl": jsonl(ROWS)})  # fmt: skip
    source = StatedSource(name=Stated("mine", "dataset", Location(path="config.yaml")), kind="registered")
    assert codes(folder, stated(folder, sources=(source,))) == {"TK219"}
    write_files(folder, {"data/dataset_info.json": "[]"})
    assert codes(folder, stated(folder, sources=(source,))) == {"TK220"}


def test_an_experiments_rows_become_chats_by_its_own_data_section(folder: Path) -> None:
    """Columns and prompt are the experiment's."""
    rows = {
        name: [{"word": f"{name}{n}", "answer": f"{name}{n}".upper()} for n in range(5)] for name in ("train", "test")
    }
    write_files(folder, {"words.json": json.dumps(rows)})
    data = DataConfig(path="words.json", input="word", output="answer", prompt="Shout: {input}", system="Be loud.")
    view = Parity(folder / "models").view(stated(folder, "peft"), folder, data)
    assert view is not None
    assert "Be loud." in view.rows[0].prompt_text
    assert "Shout: train" in view.rows[0].prompt_text
    assert view.rows[0].label_text == "TRAIN0<|im_end|>"


def test_many_trainings_read_each_file_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of two hundred run folders takes seconds."""
    reads: list[Path] = []

    def counted(path: Path) -> readers.RawDataset:
        reads.append(path)
        return readers.read_rows(path)

    monkeypatch.setattr(steps, "rows_of", counted)
    parity = Parity(folder / "models")
    assert all(parity.view(stated(folder), folder) is not None for _ in range(50))
    assert len(reads) == 1


def test_what_trl_calls_answers_only_is_no_loss_on_the_prompt(folder: Path) -> None:
    """`assistant_only_loss: false` does not put the loss on the prompt of prompt and completion."""
    where = Location(path="config.yaml")
    for key, value, expected in (
        ("assistant_only_loss", False, (None, True)),
        ("assistant_only_loss", True, (None, False)),
        ("completion_only_loss", False, (False, False)),
        ("completion_only_loss", True, (True, False)),
    ):
        settings = settings_of(stated(folder, "trl", trains_on_prompt=Stated(value, key, where)))
        assert (settings.trains_on_prompt, settings.answers_only) == expected
