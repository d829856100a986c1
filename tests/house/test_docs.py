"""The reference is made from the code, the schemas are schemas, and every link leads somewhere."""

import ast
import dataclasses
import functools
import json
import math
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, MultipleOf
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML
from tests.cases import some

import touchline
from tools import docs
from touchline.statistics.closed_forms import detectable_errors

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def test_generated_pages_say_what_the_code_says() -> None:
    """A change of a key, a default, a format or an option without `make docs` fails here."""
    assert docs.problems() == []


def test_every_command_has_its_help_page() -> None:
    """No command is left out of the reference, however it was added."""
    page = (docs.REFERENCE / "cli.md").read_text(encoding="utf-8")
    paths = [path for path, _ in docs.commands()]
    assert ("plan",) in paths
    assert ("models", "list") in paths
    for path in some(paths):
        assert f"## {' '.join(('touchline', *path))}\n" in page


def test_every_command_says_what_it_does() -> None:
    """A command without help would leave an empty page."""
    silent = [path for path, command in docs.commands() if not (command.help or "").strip()]
    assert silent == []


def test_every_default_is_a_key_that_exists() -> None:
    """A default for a key that was renamed would be a lie."""
    from touchline.experiment.settings import DEFAULTS

    page = docs.experiment_page()
    assert len(DEFAULTS) == len({row.key for row in DEFAULTS})
    assert [row.key for row in DEFAULTS if f"### `{row.key}`" not in page] == []
    assert [row.key for row in DEFAULTS if not row.reason.strip()] == []


def _versioned() -> set[str]:
    """`module:Class` of every class in the source with a field `schema_version`."""
    found: set[str] = set()
    for path in sorted((ROOT / "src" / "touchline").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT / "src" / "touchline").with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = [field.target.id for field in node.body if isinstance(field, ast.AnnAssign)]  # type: ignore[union-attr]
                found |= {f"{module}:{node.name}"} if "schema_version" in names else set()
    return found


def test_every_versioned_format_has_a_schema() -> None:
    """Whoever gives a file a version gives it a schema; a new format cannot be forgotten."""
    versioned = _versioned()
    assert "experiment.plan:Plan" in versioned
    assert versioned - {format_.type for format_ in docs.FORMATS} == set()


def test_every_json_answer_has_a_schema() -> None:
    """The keys that commands answer under, read from their source, are those of the schemas."""
    answered: set[str] = set()
    for path in sorted((ROOT / "src" / "touchline" / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="print_json"), args=[_, _, ast.Constant(value=str() as key)]):
                    answered.add(key)
                case ast.Call(func=ast.Name(id="print_json")):
                    raise AssertionError(f"{path.name}:{node.lineno}: write the key as a text, so that it can be found")
    assert answered == {format_.answer for format_ in docs.FORMATS if format_.answer is not None}


def test_every_schema_is_a_valid_schema_with_its_keys_described(subtests: pytest.Subtests) -> None:
    """A reader or an editor can use it: it is well-formed, and each key says what it means."""
    for format_ in some(docs.FORMATS):
        with subtests.test(format_.schema):
            schema = json.loads(docs.schema_text(format_))
            Draft202012Validator.check_schema(schema)
            objects = [node for node in [schema, *schema.get("$defs", {}).values()] if "properties" in node]
            assert objects
            for node in objects:
                assert [name for name, entry in node["properties"].items() if not entry.get("description")] == []


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("experiment.yaml")), ids=lambda p: p.parent.name)
def test_the_examples_satisfy_the_schema(path: Path) -> None:
    """What we hand out as an example is what the schema calls right."""
    schema = json.loads(docs.schema_text(next(f for f in docs.FORMATS if f.schema == "experiment")))
    example = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    assert [error.message for error in Draft202012Validator(schema).iter_errors(example)] == []


def test_the_schema_refuses_what_is_wrong() -> None:
    """A schema that takes anything would pass the tests above."""
    schema = json.loads(docs.schema_text(next(f for f in docs.FORMATS if f.schema == "experiment")))
    validator = Draft202012Validator(schema)
    good = {"name": "a", "data": {"path": "a.json"}, "models": ["m"]}
    assert validator.is_valid(good)
    for bad in (
        {**good, "modles": ["m"]},
        {**good, "train": {"lora": {"rank": 0}}},
        {**good, "train": {"epochs": -1}},
        {**good, "train": {"epochs": "1"}},
        {**good, "compute": {"executor": "cloud"}},
        {"name": "a"},
    ):
        assert not validator.is_valid(bad), bad


@functools.cache
def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, made as Markdown hosts make them."""
    headings = re.findall(r"^#{1,6} +(.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere(subtests: pytest.Subtests) -> None:
    """Files and headings that a page points at exist; addresses of other machines are not tried."""
    for page in some(PAGES):
        with subtests.test(str(page.relative_to(ROOT))):
            broken = []
            for match in LINK.finditer(page.read_text(encoding="utf-8")):
                target = match.group(1) or match.group(2)
                if re.match(r"[a-z]+:", target):
                    continue
                name, _, anchor = target.partition("#")
                file = page if not name else (page.parent / name).resolve()
                if not file.exists() or (anchor and file.suffix == ".md" and anchor not in _anchors(file)):
                    broken.append(target)
            assert broken == []


def test_first_pages_are_short() -> None:
    """README is read to its end; a release has highlights and what its users must do."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 500
    releases = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")[1:]
    assert releases[0].startswith(f"{touchline.__version__}\n")
    assert [release[:10] for release in releases if len(release.split()) > 1500] == []


def test_docs_stay_short() -> None:
    """Pages that a user reads: all but generated ones, decisions and the architecture."""
    folders = (ROOT / "docs", ROOT / "docs" / "guides", ROOT / "docs" / "concepts")
    pages = [page for folder in folders for page in folder.glob("*.md") if page.name != "architecture.md"]
    assert sum(len(page.read_text(encoding="utf-8").split()) for page in some(pages)) <= 15_000


@pytest.mark.parametrize(
    ("page", "seeds"),
    [
        ("docs/concepts/what-results-show.md", (2, 3, 5)),
        ("docs/measurements.md", (2, 3, 5)),
        ("docs/tutorial.md", (3, 5)),
    ],
)
def test_pages_agree_on_what_seeds_detect(page: str, seeds: tuple[int, ...]) -> None:
    """The differences are those of the paired test that the report makes, in standard deviations between seeds."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for count in seeds:
        errors = detectable_errors(count - 1, power=0.8, coverage=0.95)
        assert errors is not None
        assert f"{errors * math.sqrt(2 / count):.1f}" in text, count


def test_pages_name_the_python_that_was_tried() -> None:
    """README, the front page and the page on installing do not promise other versions than the metadata."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["classifiers"]
    tried = {line.rpartition(" ")[2] for line in known if line.startswith("Programming Language :: Python :: 3.")}
    for page in ("README.md", "docs/index.md", "docs/install.md", "docs/tutorial.md"):
        assert set(re.findall(r"\b3\.1\d\b", (ROOT / page).read_text(encoding="utf-8"))) == tried, page


def test_types_become_words() -> None:
    """Bounds, choices and lists are told; a type without words is an error and not an empty cell."""
    assert docs.describe(Annotated[int, Ge(2)]) == "integer, at least 2"
    assert docs.describe(int | None) == "integer"
    assert docs.describe(bool | Literal["auto"]) == "`true` or `false` or `auto`"
    assert docs.describe(tuple[str, ...]) == "list of: text, may be empty"
    with pytest.raises(ValueError, match="no words"):
        docs.describe(bytes)
    with pytest.raises(ValueError, match="no words"):
        docs.describe(Annotated[int, MultipleOf(3)])


@dataclasses.dataclass
class _Silent:
    """A dataclass whose second field says nothing."""

    told: int
    """What it is."""
    silent: int


def test_a_field_without_a_docstring_is_an_error() -> None:
    """The reference page would have a hole."""
    with pytest.raises(ValueError, match="silent"):
        docs.field_docs(_Silent)
