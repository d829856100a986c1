"""One command reads each file of an experiment once."""

import collections
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.api.folders import make_experiment, touchline

COUNT_PARSES = """
import collections, json, os, sys
from touchline.core.files import FileCache
root = os.path.realpath(sys.argv[1])
parsed = collections.Counter()
call = FileCache.__call__
def counted(self, path):
    if not hasattr(self, "counted"):
        parse, self.counted = self._parse, True
        # The ends of files are read again while they grow: `touchline.run.tails`.
        whole = getattr(parse, "func", parse).__module__ != "touchline.run.tails"
        def counting(path):
            if whole and os.path.exists(path):
                parsed[os.path.relpath(os.path.realpath(path), root)] += 1
            return parse(path)
        self._parse = counting
    return call(self, path)
FileCache.__call__ = counted
"""
COUNT_OPENS = """
import collections, json, os, sys
root = os.path.realpath(sys.argv[1])
opened = collections.Counter()
def note(event, arguments):
    reads = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
    if reads and isinstance(arguments[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith(root + os.sep) and os.path.isfile(path):
            opened[os.path.relpath(path, root)] += 1
sys.addaudithook(note)
"""
COMMAND = """
from touchline.cli.main import main
folder, sys.argv = sys.argv[1], ["touchline", sys.argv[2], sys.argv[1]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert "torch" not in sys.modules
print("COUNTS", json.dumps(dict({counter})))
"""


def _counts(program: str, counter: str, verb: str, folder: Path, env: dict[str, str]) -> collections.Counter[str]:
    """Run a command in a process that counts, and return how often each file was read."""
    code = program + COMMAND.format(counter=counter)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), verb], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("COUNTS ")]
    return collections.Counter(json.loads(line.removeprefix("COUNTS ")))


@pytest.mark.slow
def test_each_file_is_read_once(env: dict[str, str], tmp_path: Path) -> None:
    """`run` on a planned experiment parses plan.json and each metrics.jsonl once; `report` opens each file once."""
    folder = make_experiment(tmp_path / "exp", n_train=16, n_test=8)
    assert touchline("plan", str(folder), env=env).returncode == 0

    parsed = _counts(COUNT_PARSES, "parsed", "run", folder, env)
    assert parsed["plan.json"] == 1
    metrics = {path: count for path, count in parsed.items() if path.endswith("metrics.jsonl")}
    assert len(metrics) == 2
    assert set(metrics.values()) == {1}

    (folder / "RESULTS.md").unlink()
    opened = _counts(COUNT_OPENS, "opened", "report", folder, env)
    read = {
        path: count for path, count in opened.items() if not path.startswith(("RESULTS.md", "report.html", "figures"))
    }
    assert {"plan.json", "experiment.yaml"} < read.keys()
    assert sum(path.endswith("metrics.jsonl") for path in read) == 2
    assert {path: count for path, count in read.items() if count > 1} == {}
