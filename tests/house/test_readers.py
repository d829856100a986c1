"""What others wrote is opened in one place and read as JSON in one place; commands print by cli/output.py alone.

`touchline.core.files` opens regular files only, so that no command waits for a pipe; `touchline.core.json_text` refuses
nesting without end; `cli/output.py` keeps from a terminal what it would obey. The checkers walk the syntax trees for
every other way.
"""

import ast
import re
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "touchline"

OPENERS = frozenset({"open", "read_text", "read_bytes", "fdopen", "fromfile", "memmap", "safe_open", "from_file"})
PARSERS = frozenset({"loads", "load"})

KERNEL = "the kernel's own files, which are regular and short"
PACKAGE = "files of the package"
ARCHIVE = "an entry of an archive that is open"
NEW = "a file that is made anew"

ALLOWED: dict[tuple[str, str], str] = {
    ("core/files.py", "open"): "the one place",
    ("core/files.py", "fdopen"): "the one place",
    ("core/json_text.py", "loads"): "the one place",
    ("data/create.py", "read_bytes"): PACKAGE,
    ("data/public.py", "read_text"): PACKAGE,
    ("api/running.py", "read_text"): PACKAGE,
    ("cli/agents.py", "read_text"): PACKAGE,
    ("data/machine.py", "open"): KERNEL,
    ("data/images.py", "open"): "Pillow's, on a stream of the one place",
    ("train/probe_steps.py", "read_text"): KERNEL,
    ("run/sampling.py", "read_text"): KERNEL,
    ("tools/probing.py", "read_text"): KERNEL,
    ("run/statusfiles.py", "read_text"): KERNEL,
    ("results/imported/evaluations.py", "open"): ARCHIVE,
    ("data/lengths.py", "load"): "reads bytes in memory",
    ("report/local/reporting.py", "open"): NEW,
    ("run/claim_file.py", "open"): NEW,
    ("run/claim_file.py", "fdopen"): NEW,
    ("evaluate/selftest.py", "fdopen"): "a copy of stdout",
    ("run/executors.py", "fdopen"): "a descriptor that touchline.core.files opened",
    ("run/statusfiles.py", "open"): "a lock that is held: the kernel's lock is on this very file",
    ("train/folders.py", "open"): "a folder, whose entries are put on the disk",
    ("train/external.py", "open"): NEW,
    ("cli/main.py", "open"): "/dev/null",
    ("cli/watch_app.py", "fdopen"): "a descriptor that touchline.core.files opened",
    ("agent/server.py", "fdopen"): "a descriptor that touchline.core.files opened",
}
"""(module, name of what is called) -> why it is no file of somebody else."""


def _calls(tree: ast.AST) -> set[str]:
    """Names of the calls that open a file or read JSON."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        owner = (
            function.value.id if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else ""
        )
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name in OPENERS and not (isinstance(function, ast.Name) and name != "open"):
            found.add(name)
        if name in PARSERS and owner in {"json", "np", "pickle", "marshal"} and not _is_own_dump(node):
            found.add(name)
    return found


def _is_own_dump(call: ast.Call) -> bool:
    """Whether a call reads what was written to JSON in the same expression."""
    (argument,) = call.args
    return isinstance(argument, ast.Call) and getattr(argument.func, "attr", "") == "dump_json"


def test_every_file_of_a_user_is_opened_by_the_one_reader() -> None:
    """A way to open or to parse that is not in the list above is a command that may wait, or end in a traceback."""
    found = {
        (path.relative_to(SOURCE).as_posix(), name)
        for path in sorted(SOURCE.rglob("*.py"))
        for name in _calls(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found - ALLOWED.keys() == set()
    assert ALLOWED.keys() - found == set()


def test_the_checker_sees_every_way_to_open() -> None:
    """It would pass on everything if it saw nothing."""
    source = "open('a'); p.open(); p.read_text(); os.fdopen(3); json.loads(t); json.load(f); np.fromfile('a'); x.read()"
    assert _calls(ast.parse(source)) == {"open", "read_text", "fdopen", "loads", "load", "fromfile"}
    assert _calls(ast.parse("json.loads(kind.dump_json(a)); read_bytes(path); open_regular(path)")) == set()


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
