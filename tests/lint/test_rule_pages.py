"""Every rule's page is true: what it shows as found is found, and what it shows as right is left alone.

With TOUCHLINE_WRITE_PAGES in the environment, the messages on the pages are written again.
"""

import ast
import os
import re
from pathlib import Path

import pytest
from tests.faults.examples_d import VIEWS, findings_of
from tests.faults.harness import check_files, codes, errors, example_files
from tests.faults.page_examples import RuleExample, bad_examples, good_examples

from touchline.core.finding import Finding, Severity
from touchline.lint.rule import RETIRED, SUBJECTS, all_pages, all_rules, is_known

pytestmark = pytest.mark.planning

SOURCE = Path(__file__).parents[2] / "src" / "touchline"
PAGES = SOURCE / "lint" / "pages"


def _findings(example: RuleExample, tmp_path: Path) -> list[Finding]:
    """Check an example: renderings, scorers and task files in memory, all others as files."""
    if example.kind in VIEWS:
        return findings_of(example)
    files, options = example_files(example)
    return check_files(files, tmp_path, options)


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_examples_of_a_page_fire_its_rule_and_the_corrected_ones_do_not(subject: str, tmp_path: Path) -> None:
    checked, stops = 0, set[str]()
    texts: set[str] = set()
    messages: dict[str, str] = {}
    for page in all_pages().values():
        bad = bad_examples(page)
        for number, example in enumerate((*bad, *good_examples(page))) if page.code.startswith(subject) else ():
            findings = _findings(example, tmp_path / f"{page.code}-{number}")
            said = [(each.code, str(each.severity), each.message) for each in findings]
            is_bad = number < len(bad)
            assert (page.code in codes(findings)) == is_bad, (page.code, number, said)
            assert is_bad or errors(findings) == [], (page.code, number, said)
            if is_bad:
                assert all(each.where and each.message for each in findings if each.code == page.code), said
            if number == 0 and bad and page.code not in OF_THE_MACHINE:
                messages[page.code] = next(_as_printed(each) for each in findings if each.code == page.code)
            texts |= {f"{each.code}: {each.message} / {each.hint}" for each in findings}
            stops |= {each.code for each in findings if each.message.rstrip().endswith(".")}
            checked += 1
    assert checked > 0 or subject in WITHOUT_EXAMPLES
    assert sorted(text for text in texts if _PRIVATE.search(text)) == []
    assert stops == set()
    if "TOUCHLINE_WRITE_PAGES" in os.environ:
        for code, message in messages.items():
            _write_message(PAGES / f"{code}.md", message)
    assert {code: _message(PAGES / f"{code}.md") for code in messages} == messages


def _as_printed(finding: Finding) -> str:
    """The message, and the hint below it, as a page shows them."""
    return "".join(f"    {line}\n" for line in [finding.message, *([f"hint: {finding.hint}"] if finding.hint else [])])


_HEAD = re.compile(r"^(Severity: \w+\n)(?:\n((?:    .*\n)+))?", re.MULTILINE)


def _message(path: Path) -> str:
    head = _HEAD.search(path.read_text())
    return head[2] or "" if head is not None else ""


def _write_message(path: Path, message: str) -> None:
    path.write_text(_HEAD.sub(lambda head: f"{head[1]}\n{message}", path.read_text(), count=1))


OF_THE_MACHINE = ("BK010", "ME022", "SL052")
"""Codes whose message has a path or words of a program of this machine."""
_PRIVATE = re.compile(
    r"nobody|whoever|somebody|everybody|processor|goes on|going on|held against|anew\b|without a word|in silence"
    r"|may go\b|rests on|warm-up|learnt|misspelt|element type|\btold\b|\d %"
)
"""Words of an earlier dialect, which the glossary replaces."""

WITHOUT_EXAMPLES = ("PL", "RN", "US")
"""Subjects of which readers and running jobs report all codes."""


def test_every_rule_has_a_page_with_its_name_and_both_examples() -> None:
    pages = all_pages()
    assert len(pages) > 100
    for code, rule in all_rules().items():
        page = pages[code]
        assert (rule.name, rule.severity) == (page.name, page.severity), code
        assert bad_examples(page), code
        assert good_examples(page), code
    assert [page.code for page in pages.values() if min(map(len, (page.summary, page.why, page.fix))) < 8] == []
    assert {code[:2] for code in pages} <= set(SUBJECTS)
    assert len({page.name for page in pages.values()}) == len(pages)
    assert [code for code, page in pages.items() if page.code != code] == []


def _said() -> set[str]:
    """Every code that stands in the source as a text of its own."""
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.fullmatch(r"[A-Z]{2}\d{3}", node.value)
            ):
                found.add(node.value)
    return {code for code in found if code[:2] in SUBJECTS}


@pytest.mark.slow
def test_every_code_has_a_page_and_every_page_a_code() -> None:
    assert _said() == set(all_pages())


def test_errors_are_a_severity_that_stops() -> None:
    assert {page.severity for page in all_pages().values()} == set(Severity)


def test_retired_codes_are_known_and_have_no_page() -> None:
    assert len(RETIRED) > 20
    assert not RETIRED & set(all_pages())
    assert all(is_known(code) for code in RETIRED)
    assert is_known("TR0")
    assert not is_known("ZZ1")
