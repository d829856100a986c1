"""Commands print by the functions of cli/output.py alone, which keep from a terminal what it would obey."""

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "touchline"
WRITER = "cli/output.py"
PROGRAMS = {
    *("train/parallel.py", "train/process.py", "train/leaks.py", "train/export_smollm2.py", "run/attempt.py"),
    *("evaluate/__main__.py", "evaluate/job.py", "data/worker.py", "data/template_worker.py", "agent/work.py"),
    "report/local/draw_process.py",
}
"""Programs of their own, whose output goes to a log or to the process that started them."""
PRINTS = {"print", "input", "echo", "secho", "prompt", "confirm", "Console"}
STREAMS = {"sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer.write", "sys.stderr.buffer.write"}


def printed(path: Path) -> list[int]:
    """The lines of a module that print past the writer."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "touchline.cli.output"
        for name in node.names
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            clean = bool(node.args) and ast.unparse(node.args[0]).startswith("rich_text(")
            drawn = called == "Console" and ast.unparse(node) == "Console(stderr=True)"
            if called in STREAMS or (called.split(".")[-1] in PRINTS - own and not clean and not drawn):
                found.append(node.lineno)
    return found


def test_nothing_prints_past_the_writer() -> None:
    modules = {path.relative_to(SOURCE).as_posix(): path for path in SOURCE.rglob("*.py")}
    assert {name for name, path in modules.items() if printed(path)} == PROGRAMS | {WRITER}


def test_past_the_writer_is_seen(tmp_path: Path) -> None:
    lines = (
        "print(1)",
        "typer.echo(1)",
        "sys.stderr.write('')",
        "live.console.print(Text(name))",
        "Console().print(1)",
    )
    for line in lines:
        (tmp_path / "m.py").write_text(line)
        assert printed(tmp_path / "m.py"), line
    (tmp_path / "m.py").write_text("from touchline.cli.output import confirm\nconfirm('x')\nlive.print(rich_text(x))")
    assert not printed(tmp_path / "m.py")
