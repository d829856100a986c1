"""Scorers, words and data for the tests that try scorers."""

import json
from pathlib import Path

from tests.cases import write

from touchline.core.finding import Finding, Severity
from touchline.experiment.data_config import DataConfig

WORDS = [f"{a}{b}{c}ord" for a in "bdf" for b in "aeiou" for c in "mn"]
SMART = """
import difflib

def smart_match(prediction, answer):
    a, b = prediction.strip().lower(), answer.strip().lower()
    return a == b or a in b or b in a or difflib.SequenceMatcher(None, a, b).ratio() >= 0.7

def exact(output, target):
    return output.strip() == target.strip()

def three(a, b, c):
    return 1
"""


def serious(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.code: finding for finding in findings if finding.severity is not Severity.INFO}


def data(folder: Path, test: list[str], train: list[str]) -> DataConfig:
    rows = {n: [{"input": wo, "output": wo.capitalize()} for wo in w] for n, w in (("train", train), ("test", test))}
    return DataConfig(path=str(write(folder / "words.json", json.dumps(rows))), prompt="Capitalize: {input}")
