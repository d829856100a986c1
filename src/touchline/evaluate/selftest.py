"""Command `python -P -m touchline.evaluate.selftest FILE.py[@task | :function]`: test a scorer.

The file is foreign code: it is imported only here, with its folder last on the path, so that a file named `inspect.py`
shadows nothing. An Inspect task is built, and its real scorer runs in a real evaluation with made-up answers. The
result, one JSON object, is the last line of standard output; the exit code is 0 unless the command line is invalid.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from touchline.core.errors import install_hint
from touchline.data.worker import prepare_worker
from touchline.evaluate.task_file import TARGETS, ScorerAnswer, SelfTestResult, TaskFailedError, load_file
from touchline.lint.scoring import PROBED_ITEMS, tried


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m touchline.evaluate.selftest", description="Try a scorer.")
    parser.add_argument("target", help="FILE.py, FILE.py@task or FILE.py:function")
    options = parser.parse_args(arguments)
    # Foreign code prints; only the answer may reach standard output.
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    prepare_worker()
    os.environ.setdefault("INSPECT_DISPLAY", "none")
    answer = self_test(options.target)
    with os.fdopen(answer_fd, "w", encoding="utf-8") as stream:
        stream.write("\n" + json.dumps(asdict(answer), default=str) + "\n")
    return 0


def self_test(target: str) -> SelfTestResult:
    """Test the scorer of a task, or a function of (output, target).

    Args:
        target: file, and the task or function in it.
    """
    path, task, function = parse_target(target)
    answer = SelfTestResult(kind="inspect" if function is None else "function")
    try:
        module = load_file(path)
        if function is not None:
            answer.scorers.append(_function(module, function, path))
        else:
            from touchline.evaluate.own_task import try_tasks

            answer.scorers += try_tasks(module, task, path)
    except TaskFailedError as fault:
        answer.failed, answer.line = (fault.kind, fault.message), fault.line
    except ImportError as error:
        if error.name is None or not error.name.startswith("inspect_ai"):
            raise
        missing = f"inspect-ai is not installed here: {install_hint('eval')}"
        answer.scorers.append(ScorerAnswer(task=path.stem, scorer=path.stem, items=0, missing=missing))
    return answer


def parse_target(target: str) -> tuple[Path, str | None, str | None]:
    """Split `FILE.py@task` or `FILE.py:function` into file, task and function."""
    head, found, name = target.rpartition(".py@")
    if found:
        return Path(f"{head}.py"), name, None
    head, found, name = target.rpartition(".py:")
    if found:
        return Path(f"{head}.py"), None, name
    return Path(target), None, None


def _function(module: ModuleType, name: str, path: Path) -> ScorerAnswer:
    score: Callable[[str, str], Any] | None = getattr(module, name, None)
    if not callable(score):
        raise TaskFailedError("no task", f"{path.name} has no function {name!r}")
    try:
        inspect.signature(score).bind("output", "target")
    except TypeError as error:
        raise TaskFailedError("no task", f"{name} takes other arguments than (output, target): {error}") from error

    def number(output: str, target: str) -> float:
        value = score(output, target)
        # Some give (right, why) or {"score": ...}.
        value = value[0] if isinstance(value, tuple) and value else value
        return float(value["score"] if isinstance(value, dict) and "score" in value else value)

    probes = list(tried(number, TARGETS))
    return ScorerAnswer(task=path.stem, scorer=name, items=PROBED_ITEMS, probes=probes)


if __name__ == "__main__":
    sys.exit(main())
