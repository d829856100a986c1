"""What each trainer's readers say of its fixtures and of single lines: `log_events.yaml`, event by event."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from touchline.backends.logtext.dicts import read_row
from touchline.core.observation import Event, Observation, ProgressBarEvent, Sign
from touchline.experiment.document import parse

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs"
CASES: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("log_events.yaml").read_text(encoding="utf-8"))
"""A case names the reader and its `file`, `text` or `data` (a document), and what it `says`."""
LOGS = [case for case in CASES if "file" in case and not case["file"].endswith((".json", ".yaml", ".yml"))]
_WORD = re.compile(r"[a-z_\x80-\U0010ffff]+")
_ESCAPE = re.compile(r"\x1b\[[\d;]*m")


def name_of(case: dict[str, Any]) -> str:
    return f"{case['reader']}: {case.get('file') or case.get('text') or case.get('data')}"[:60]


def said(event: Event) -> str:
    """Line, name and value; then its attributes, and a tilde after a guess."""
    if isinstance(event, ProgressBarEvent):
        return f"{event.line} bar {event.done}/{event.total}"
    more = [
        f"{field.name}={getattr(event, field.name)}"
        for field in fields(event)
        if field.name not in ("name", "kind" if isinstance(event, Sign) else "", "value", "line", "text", "certain")
        and getattr(event, field.name) not in (field.default, None, ())
    ]
    if isinstance(event, Sign):
        return " ".join([f"{event.line} {event.kind.name}", *more])
    assert isinstance(event, Observation)
    return " ".join([f"{event.line} {event.name}: {event.value}", *more, *([] if event.certain else ["~"])])


def read(reader: str, text: str, *, offered: bool = True) -> list[str]:
    """What the readers of a trainer say of a text. With `offered`, they get the lines that the scan gives them."""
    events: list[Event] = []
    readers = [made() for made in importlib.import_module(f"touchline.backends.{reader}.logs").READERS]
    for number, line in enumerate(text.split("\n"), 1):
        for part in line.split("\r"):
            clean = _ESCAPE.sub("", part)
            row, words = read_row(clean), set(_WORD.findall(clean.lower()))
            for each in readers:
                if not offered or words & each.words or getattr(each, "inside", False):
                    events += each.line(clean, number)
                    events += each.row(row, clean, number) if row is not None else ()
    return [said(event) for event in events]


def read_document(reader: str, name: str, data: dict[str, object]) -> list[str] | None:
    """What the first reader of a trainer that knows a document says; None if none does."""
    documents = importlib.import_module(f"touchline.backends.{reader}.logs").DOCUMENTS
    found = next((events for each in documents if (events := each(name, data)) is not None), None)
    return None if found is None else [said(event) for event in found]


def text_of(case: dict[str, Any]) -> str:
    return (FIXTURES / case["reader"] / case["file"]).read_bytes().decode()


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_readers_say_what_the_table_says(case: dict[str, Any]) -> None:
    found: list[str] | None
    if case in LOGS or "text" in case:
        found = read(case["reader"], case["text"] if "text" in case else text_of(case))
    else:
        name = case.get("file", "some.json")
        data = case.get("data")
        if data is None:
            data = json.loads(text_of(case)) if name.endswith(".json") else parse(text_of(case), name).data
        found = read_document(case["reader"], name, data)
    assert found == case["says"]


@pytest.mark.parametrize("case", LOGS, ids=name_of)
def test_the_words_offer_every_line_that_says_something(case: dict[str, Any]) -> None:
    assert read(case["reader"], text_of(case), offered=False) == case["says"]
