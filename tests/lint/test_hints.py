"""A hint that is typed as printed removes its finding and makes no error; the others are listed with the reason."""

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML, YAMLError
from tests.faults.examples_d import VIEWS, findings_of
from tests.faults.harness import check_files, errors, example_files
from tests.faults.page_examples import RuleExample, bad_examples
from tests.faults.test_faults import CASES

from touchline.core.finding import Finding
from touchline.lint.rule import SUBJECTS, all_pages

pytestmark = [pytest.mark.planning, pytest.mark.slow]

IN_WORDS = {
    "a row, a template or a model's file is to be written again": "TK203 TK204 TK208 TK212 TK213 "
    "DA103 DA301 DA303 DA304 DA310 DA312 DA313 DA323 DA330 DA350 DA360 DA371 DA373",
    "a key is written twice, and only the user knows which counts": "BK015",
    "the user decides": "BK024 EX100 EX101 EX102 EX103 EX109 EX113 EX140 EX150 EX151 EX152 ME020 ME021 TR011",
    "dots for what only the user knows": "BK013 BK018 CK015 EX124",
    "made in memory, without a file to type into": "EV201 TK201 TK202 TK205 TK206 TK207 TK215 TK216 TK221",
    "lines of a script": "SL003 SL007 SL008 SL016 SL030 SL034 SL046 SL047 SL052",
}
"""Codes whose hint cannot be typed as a setting, by the reason."""
UNCOVERED = {"TR010": "TR012", "EX002": "EX001", "EX015": "EV304"}
"""Steps that are now made may be fewer than those of the warm-up; the example of a wrong key has the right one too; one
of two tasks is for answers that are labels."""
JOURNEY = {
    "seeds: 3": "EX003",
    "controls: base": "EX003",
    "task: sentiment": "EX015",
    "models: [tinny]": "CK100",
    "factors: {train.lora.rank: [4, 8], train.epochs: [1, 2]}\nrun_names: '{model_size}_r{lora_rank}'": "EX009",
    "factors: {train.method: [lora, full], train.quantization: [none, nf4]}": "BK001",
}
"""Mistakes of a new user, and what reports them."""


def typed(hint: str, finding: Finding, text: str) -> Iterator[str]:
    """Yield the text with each alternative of a hint that can be typed."""
    last = finding.subject.rpartition(".")[2]
    line = 0 if finding.where is None else finding.where.line or 0
    if near := re.search(r"did you mean '?(.+?)'?\?", hint):
        wrong = re.search(r"^'(.+)': did", hint) or re.search(r"'([^']+)'", finding.message)
        yield _on_line(text, line, wrong[1].rpartition(".")[2] if wrong else last, near[1])
        return
    moved = re.search(r", in place of (\S+) under factors$", hint)
    for part in re.split(r",? or |, in place|, else ", hint):
        words = re.sub(r"^set (?=[\w.]+: )|[ ,]+(?:for|if|in|\() ?\w.*$", "", part.strip())
        words = re.sub(r"^set (\S+) to (\S+)$", r"\1: \2", words)
        words = re.sub(r"^use (?:at most (\d+).*|.*such as (\S+)|some of (.*))$", _at(last), words)
        words = f"{last}: {words}" if re.fullmatch(r"\w+", words) else words
        gone = re.match(r"(?:delete|remove) ([\w.]+)", words)
        settings = {gone[1]: None} if gone else _settings(words)
        if moved and settings:
            settings |= {moved[1]: None}
        if settings and (changed := _changed(text, finding, settings, line)) is not None:
            yield changed


def _at(key: str) -> Any:
    return lambda found: f"{key}: " + (found[1] or found[2] or f"[{found[3]}]")


def _on_line(text: str, line: int, old: str, new: str) -> str:
    lines = text.splitlines(keepends=True)
    at = line - 1 if 0 < line <= len(lines) and old in lines[line - 1] else text[: text.index(old)].count("\n")
    lines[at] = lines[at].replace(old, new)
    return "".join(lines)


def _settings(words: str) -> dict[str, Any]:
    if not re.match(r"[\w.]+: \S", words):
        return {}
    try:
        found = YAML(typ="rt", pure=True).load(f"{{{words}}}")
    except YAMLError:
        return {}
    return {} if any("..." in str(value) for value in found.values()) else dict(found)


def _changed(text: str, finding: Finding, settings: Mapping[str, Any], line: int) -> str | None:
    """Set keys where they are, nearest to the finding's line, else next to the key of the finding."""
    yaml = YAML(typ="rt", pure=True)
    data = yaml.load(text)
    for key, value in settings.items():
        node, name = _place(data, finding, key, line)
        if value is None:
            if name not in node:
                return None
            del node[name]
        elif isinstance(value, dict) and isinstance(node.get(name), dict):
            node[name] |= value
        else:
            node[name] = value
    stream = io.StringIO()
    json.dump(data, stream) if text.startswith("{") else yaml.dump(data, stream)
    return stream.getvalue()


def _place(data: Any, finding: Finding, key: str, line: int) -> tuple[Any, str]:
    found = [(abs(at - line), node) for node, at in _mappings(data) if key in node]
    if found:
        return min(found, key=lambda each: each[0])[1], key
    parent = finding.subject.rpartition(".")[0] if finding.subject.endswith(f".{key}") else key.rpartition(".")[0]
    node = data
    for part in parent.split(".") if parent else ():
        node = node.setdefault(part, {})
    return node, key.rpartition(".")[2]


def _mappings(data: Any) -> Iterator[tuple[Any, int]]:
    if isinstance(data, dict):
        yield data, getattr(getattr(data, "lc", None), "line", 0) + 1
    for inner in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _mappings(inner)


def tried(
    files: Mapping[str, str], options: Mapping[str, Any], code: str, folder: Path
) -> tuple[str | None, list[str]]:
    """Return the hint of a code's first finding, and what each alternative that can be typed leaves."""
    before = check_files(files, folder / "before", options)
    finding = next(each for each in before if each.code == code)
    where = "" if finding.where is None else finding.where.path.partition("/checked/")[2]
    name = where if where.endswith(".yaml") or "experiment.yaml" not in files else "experiment.yaml"
    results = []
    for number, text in enumerate(typed(finding.hint or "", finding, files[name]) if name in files else ()):
        after = check_files({**files, name: text}, folder / f"after-{number}", options)
        left = [each.message for each in after if (each.code, each.subject) == (code, finding.subject)]
        new = {each.code for each in errors(after)} - {each.code for each in errors(before)} - {UNCOVERED.get(code)}
        results.append("; ".join([*left, *sorted(new)]))
    return finding.hint, results


@pytest.mark.parametrize("subject", [*SUBJECTS, "journey", "faults"])
def test_a_typed_hint_removes_its_finding(subject: str, tmp_path: Path) -> None:
    cases = [
        (page.code, *example_files(example))
        for page in all_pages().values()
        for example in bad_examples(page)
        if example.kind not in VIEWS and page.code.startswith(subject)
    ]
    own = [(code, *example_files(RuleExample(kind="experiment", lines=text))) for text, code in JOURNEY.items()]
    cases += {"journey": own, "faults": [(each.code, each.files, each.options) for each in CASES]}.get(subject, [])
    spoken = {code for codes in IN_WORDS.values() for code in codes.split()}
    views = {page.code: each for page in all_pages().values() for each in bad_examples(page) if each.kind in VIEWS}
    assert {code for code, each in views.items() if any(f.hint and f.code == code for f in findings_of(each))} <= spoken
    for number, (code, files, options) in enumerate(case for case in cases if case[0] not in spoken):
        hint, left = tried(files, options, code, tmp_path / str(number))
        assert not any(left), (code, hint, left)
        assert left or hint is None, (code, hint)
