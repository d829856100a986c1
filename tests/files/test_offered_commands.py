"""Commands that hints offer can be pasted, whatever the folder is called."""

import re
import shlex
from pathlib import Path

import touchline
from touchline.core.errors import quoted


def test_a_path_in_an_offered_command_is_one_word_that_nothing_expands() -> None:
    """Also where Python would write it in double quotes; one that begins with a dash is no option."""
    for path in ("plain", "a b", "it's $(touch x) `y`", "$HOME's", "back\\slash", "tab\tx", '"q"', "ä 👍", "%j"):
        assert shlex.split(f"touchline plan {quoted(path)}") == ["touchline", "plan", path]
        assert quoted(path).startswith("'"), path
    assert shlex.split(quoted("-dash/experiment.yaml")) == ["./-dash/experiment.yaml"]


def test_no_hint_writes_a_path_as_python_does() -> None:
    """`repr` takes double quotes where a name holds a single one, and a shell expands what stands in them."""
    command = re.compile(r"(?:touchline [a-z]+|ls -ld?|file) \{str\([^{}]*\)!r\}")
    root = Path(touchline.__file__).parent
    found = [str(path) for path in root.rglob("*.py") if command.search(path.read_text(encoding="utf-8"))]
    assert found == []
