"""Commands print by the functions of cli/output.py alone, which keep from a terminal what it would obey."""

import ast
import re
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "touchline"
WRITER = "cli/output.py"
PROGRAMS = {
    *("train/parallel.py", "train/process.py", "train/leaks.py", "train/export_smollm2.py", "run/attempt.py"),
    *("evaluate/__main__.py", "evaluate/answering.py", "data/worker.py", "data/template_worker.py", "agent/work.py"),
    "report/local/draw_process.py",
}
"""Programs of their own, whose output goes to a log or to the process that started them."""
PRINTS = re.compile(r"(print|input|echo|secho|prompt|Console)|.*\.(print|echo|secho|prompt|confirm|Console)")
STREAMS = re.compile(r"sys\.std(out|err)\.(buffer\.)?write")
DRAWN = re.compile(r".*\((rich_text\(.*|stderr=True)\)", re.DOTALL)
"""What rich may draw: cleaned text."""


def prints(text: str) -> bool:
    """Whether a module prints past the writer."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    names = [ast.unparse(call.func) for call in calls if not DRAWN.fullmatch(ast.unparse(call))]
    return any(PRINTS.fullmatch(name) or STREAMS.fullmatch(name) for name in names)


def test_nothing_prints_past_the_writer() -> None:
    modules = {path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    assert {name for name, text in modules.items() if prints(text)} == PROGRAMS | {WRITER}
    past = ("print(1)", "typer.echo(1)", "sys.stderr.write('')", "live.console.print(Text(name))", "Console().print(1)")
    assert all(map(prints, past))
    assert not prints("from touchline.cli.output import confirm\nconfirm('x'), live.print(rich_text(x))")
