"""Program that executes approved work, for the MCP server, which it outlives.

python -m touchline.agent.work ANSWER ACTION EXPERIMENT [--run RUN] [--retry] [--epochs EPOCHS]

It prints what is said on the way on stderr, and writes the outcome to the file ANSWER at its end.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from touchline import api
from touchline.agent.answers import error_data
from touchline.core.callbacks import MessageCallback
from touchline.core.errors import TouchlineError
from touchline.core.files import write_atomic
from touchline.data.user_config import load_settings
from touchline.run.folders import ExperimentFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m touchline.agent.work", description="Execute approved work.")
    parser.add_argument("answer", type=Path)
    parser.add_argument("action", choices=("run", "evaluate"))
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--run")
    parser.add_argument("--retry", action="store_true")
    parser.add_argument("--epochs")
    chosen = parser.parse_args(arguments)
    messages: list[str] = []
    outcome: dict[str, object] = {"error": None}
    code = 0

    def on_message(text: str) -> None:
        messages.append(text)
        sys.stderr.write(f"{text}\n")

    try:
        _execute(chosen, on_message)
    except TouchlineError as error:
        outcome, code = error_data(error), error.exit_code
    except KeyboardInterrupt:
        code = 130
    write_atomic(chosen.answer, json.dumps({**outcome, "messages": messages}) + "\n")
    return code


def _execute(chosen: argparse.Namespace, on_message: MessageCallback) -> None:
    settings = load_settings()
    source: Path = chosen.experiment
    if chosen.action == "evaluate":
        api.evaluate(source, settings, only=chosen.run, epochs=chosen.epochs, within_budget=True, on_message=on_message)
    elif ExperimentFolder(source).planned().executor != "local":
        for job in api.submit(
            source, settings, only=chosen.run, retry=chosen.retry, within_budget=True, on_message=on_message
        ):
            on_message(f"{job.job}: {job.word} {job.job_id or job.reason}".rstrip())
    else:
        api.resume(source, settings, only=chosen.run, retry=chosen.retry, within_budget=True, on_message=on_message)


if __name__ == "__main__":
    sys.exit(main())
