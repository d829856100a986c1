"""Rows of trainers that are not installed here, against what their own code gave where they were."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from touchline.backends.registry import training_row
from touchline.backends.rendering import RowSettings, TrainedRow
from touchline.core.quantity import Missing
from touchline.data.rendering.chat import SpecialTokens
from touchline.data.rendering.rows import shown_row
from touchline.data.rendering.text import ModelText

pytestmark = pytest.mark.planning

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "fixtures" / "rendering" / "recorded.json").read_text(encoding="utf-8")
)


def text_of(backend: str) -> ModelText:
    """The tokenizer that it was recorded with."""
    tokens = SpecialTokens(**RECORDED["models"][backend])
    return ModelText(RECORDED["template"], json.dumps(RECORDED["tokenizer"]), tokens, "2026-01-02")


@pytest.mark.parametrize("backend", ["torchtune", "llamafactory", "axolotl"])
def test_rows_and_labels_are_those_of_the_trainer(backend: str) -> None:
    """Token for token and label for label, for every template, limit and setting that was recorded."""
    text, render = text_of(backend), training_row(backend)
    assert not isinstance(render, Missing)
    seen = Counter[str]()
    for case in RECORDED["cases"]:
        if case["backend"] != backend:
            continue
        row = shown_row(RECORDED["rows"][case["row"]], "row")
        assert row is not None
        ours = render(text, row, RowSettings(**case["settings"]))
        assert isinstance(ours, TrainedRow), case["settings"]
        assert list(ours.ids) == case["ids"], case["settings"]
        assert "".join(str(int(label)) for label in ours.labels) == case["labels"], case["settings"]
        seen[case["settings"].get("template") or case["settings"]["model"]] += 1
    assert len(seen) >= {"torchtune": 3, "llamafactory": 11, "axolotl": 6}[backend]


@pytest.mark.parametrize("backend", ["swift", "no_such_backend", "../peft", ""])
def test_a_backend_that_nobody_has_read_is_missing(backend: str) -> None:
    """With the reason, never with a guess."""
    assert isinstance(training_row(backend), Missing)
