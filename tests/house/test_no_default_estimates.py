"""No minute and no gigabyte is made up: an estimate comes from measured runs, from a source, or it is missing.

The checker looks for numbers bound to names that speak of time or memory, for quantities written with a literal, and
for SLURM limits written into texts. Measured and published coefficients stand in modules of their own, where each
constant's docstring names its source.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cases import some

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "touchline"
PACKAGES = ("core", "experiment", "plan", "estimate", "backends", "lint", "run/scripts")
NO_ESTIMATES = ("backends/logtext", "plan/local", "lint/local", "core/files.py", "core/units.py")
"""Grammar of other programs' logs, time limits of programs that are started, and units."""

ALLOWED = {
    ("core", "EXIT_OUT_OF_MEMORY"): "an exit code",
    ("core", "HEARTBEAT_STALE_SECONDS"): "when a heartbeat is no sign of life, a choice",
    ("experiment", "signal_seconds"): "when a job is told to save, a choice",
    ("experiment", "poll_seconds"): "how often somebody looks, a choice",
    ("experiment", "resume_minutes"): "when the state is saved, a choice, not how long anything takes",
}
"""(package, name) -> why its number is no estimate."""

HONEST_CONSTANTS = frozenset({"NO_EVIDENCE", "_UNTOLD"})
"""Constants that hold no number."""
WORDS = frozenset(
    {
        *("s", "sec", "secs", "second", "seconds", "minute", "minutes", "hour", "hours", "day", "days"),
        *("time", "walltime", "duration", "eta"),
        *("gb", "gib", "mb", "mib", "vram", "memory", "mem", "disk"),
    }
)
ESTIMATED = re.compile(r"time_limit|wall_time|_seconds\b|_minutes\b|_hours\b|_gi?b\b|_mi?b\b", re.IGNORECASE)
UNITS = frozenset({"s", "min", "h", "GiB", "GB", "MiB", "MB", "B", "tokens/s"})
DURATION = re.compile(r"\d+(?::\d\d){1,2}|\d+(\.\d+)?\s*(s|min|minutes?|h|hours?|[GM]i?B?)", re.IGNORECASE)
SBATCH_LITERAL = re.compile(r"(?:--time|--mem|--mem-per-cpu|--mem-per-gpu)[= ]\s*\d")


def speaks_of_cost(name: str) -> bool:
    """Whether a name is one of a time, a memory size or a disk size."""
    return bool(ESTIMATED.search(name)) or name.lower().split("_")[-1] in WORDS


def _is_literal(node: ast.expr | None) -> bool:
    """A number other than zero, or a text that reads as a duration or size; also in arithmetic and `field(...)`.

    A constant's name counts as the number behind it.
    """
    match node:
        case ast.Constant(value=bool() | None):
            return False
        case ast.Constant(value=int() | float() as number):
            return number != 0
        case ast.Constant(value=str() as text):
            return bool(DURATION.fullmatch(text.strip()))
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.isupper() and name not in HONEST_CONSTANTS
        case ast.UnaryOp(operand=operand):
            return _is_literal(operand)
        case ast.BinOp(left=left, right=right):
            return _is_literal(left) or _is_literal(right)
        case ast.IfExp(body=body, orelse=orelse):
            return _is_literal(body) or _is_literal(orelse)
        case ast.BoolOp(values=values):
            return any(_is_literal(value) for value in values)
        case ast.Call(func=ast.Name(id="field"), keywords=keywords):
            return any(_is_literal(keyword.value) for keyword in keywords)
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return any(_is_literal(element) for element in elements)
    return False


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Constant(value=str() as name):
            return name
    return ""


def _bindings(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    """Every name that a node binds to a value: assignments, fields, parameters, keywords, dictionary entries."""
    match node:
        case ast.Assign(targets=targets, value=value):
            yield from ((_name(target), value) for target in targets)
        case ast.AnnAssign(target=target, value=value) | ast.NamedExpr(target=target, value=value):
            yield _name(target), value
        case ast.arguments(
            posonlyargs=first, args=args, defaults=defaults, kwonlyargs=keywords, kw_defaults=kw_defaults
        ):
            positional = [*first, *args]
            yield from zip((arg.arg for arg in positional[len(positional) - len(defaults) :]), defaults, strict=True)
            yield from zip((arg.arg for arg in keywords), kw_defaults, strict=True)
        case ast.Call(keywords=keywords):
            yield from ((keyword.arg or "", keyword.value) for keyword in keywords)
        case ast.Dict(keys=keys, values=values):
            yield from ((_name(key), value) for key, value in zip(keys, values, strict=True) if key is not None)


def made_up(source: str) -> list[tuple[int, str]]:
    """Every made-up time or size in a module's text: line and name."""
    found: set[tuple[int, str]] = set()
    for node in ast.walk(ast.parse(source)):
        for name, value in _bindings(node):
            if value is not None and speaks_of_cost(name) and _is_literal(value):
                found.add((value.lineno, name))
        if isinstance(node, ast.Call) and _name(node.func) == "Quantity":
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            unit = keywords.get("unit")
            if isinstance(unit, ast.Constant) and unit.value in UNITS and _is_literal(keywords.get("value")):
                found.add((node.lineno, "Quantity"))
    return sorted(found)


def _modules() -> list[Path]:
    found = [path for package in PACKAGES for path in sorted((SOURCE / package).rglob("*.py"))]
    return [path for path in found if not path.relative_to(SOURCE).as_posix().startswith(NO_ESTIMATES)]


def _holds_coefficients(path: Path) -> bool:
    """Whether a module is one of those that are there for measured and published coefficients."""
    parts = path.relative_to(SOURCE).parts
    return (parts[0] == "estimate" and parts[-1].startswith("coefficients")) or (
        parts[0] == "backends" and len(parts) > 2 and "\nMEMORY = " in path.read_text(encoding="utf-8")
    )


_OTHERS = ("__all__", "COMMANDS", "TRAITS")


def without_source(source: str) -> list[int]:
    """Lines of a coefficients module that bind a name at the top and are not followed by a docstring."""
    body = ast.parse(source).body
    found = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            docstring = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if not docstring and not (isinstance(node, ast.Assign) and _name(node.targets[0]) in _OTHERS):
                found.append(node.lineno)
    return found


def test_every_coefficient_says_where_it_comes_from() -> None:
    modules = [path for path in _modules() if _holds_coefficients(path)]
    assert {path.relative_to(SOURCE).parts[0] for path in modules} == {"estimate", "backends"}
    assert {
        path.name: without_source(path.read_text(encoding="utf-8"))
        for path in modules
        if without_source(path.read_text(encoding="utf-8"))
    } == {}


def test_a_coefficient_without_source_is_seen() -> None:
    assert without_source('A = 1\nB = 2\n"""Measured: x."""\n') == [1]


def test_there_are_modules_to_look_at() -> None:
    """A wrong folder would make the tests below pass on nothing."""
    assert {path.relative_to(SOURCE).parts[0] for path in _modules()} >= {"core", "experiment", "plan", "backends"}


def test_no_time_or_size_has_a_number_of_its_own(subtests: pytest.Subtests) -> None:
    """What plans or describes a plan holds no made-up minute or gigabyte."""
    for path in some(_modules()):
        with subtests.test(str(path.relative_to(SOURCE))):
            package = path.relative_to(SOURCE).parts[0]
            found = [] if _holds_coefficients(path) else made_up(path.read_text(encoding="utf-8"))
            assert [(line, name) for line, name in found if (package, name) not in ALLOWED] == []


def test_every_exception_is_still_needed() -> None:
    """An exception that covers nothing would cover the next mistake."""
    used = {
        (path.relative_to(SOURCE).parts[0], name)
        for path in _modules()
        for _, name in made_up(path.read_text(encoding="utf-8"))
    }
    assert set(ALLOWED) <= used


def test_no_script_text_asks_slurm_for_a_fixed_time_or_memory() -> None:
    """`#SBATCH --time=01:00:00` in a template would be a default by another door."""
    texts = [path for path in sorted(SOURCE.rglob("*")) if path.suffix in {".py", ".jinja", ".j2", ".sh", ".slurm"}]
    assert texts
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if SBATCH_LITERAL.search(line)
    ]
    assert found == []


def test_the_checker_catches(subtests: pytest.Subtests) -> None:
    """Each way of making up a time or a size is found."""
    for source in [
        *("TIME_LIMIT = 60", "default_minutes: int = 30", "class A:\n    train_seconds: float = 1800.0"),
        *("class A:\n    peak_memory_gib: float = field(default=16.0)", "def f(hours=2): ..."),
        *("def f(*, memory_gb: float = 24.0): ...", "plan(time_limit='01:00:00')", "x = {'time_limit': '2h'}"),
        *("x = {'memory': '80G'}", "run.minutes = 5", "train_seconds = measured or 600", "eval_minutes = 4 * 60"),
        *("disk_gib = 3 if big else rest", "x = Quantity(value=60.0, unit='s')"),
        *("x = Quantity(unit='GiB', value=2 ** 4)", "seconds = -1", "train_seconds = TYPICAL_TRAINING"),
        "memory_gib: float = defaults.TYPICAL_MEMORY",
    ]:
        with subtests.test(source=source):
            assert made_up(source) != []


def test_the_checker_lets_pass(subtests: pytest.Subtests) -> None:
    """Numbers of the recipe, and numbers that come from somewhere, are not found."""
    for source in [
        *("epochs: int = 1", "deadline: str | None = None", "train_seconds: Measured = NO_EVIDENCE"),
        *("seconds = steps * measured.value", "seconds = 0", "x = Quantity(value=measured, unit='s')"),
        *("x = Quantity(value=64, unit='1')", "hours = float(text)", "max_seq_len = 2048", "items = 24"),
        "executor = 'local'",
    ]:
        with subtests.test(source=source):
            assert made_up(source) == []
