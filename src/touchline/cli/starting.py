"""`touchline init`: the interview that writes a commented experiment.yaml.

The flags are made from the table of questions, so that each question is a flag and each has one text.
"""

from __future__ import annotations

import inspect
import shlex
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from touchline.cli.output import ask, print_json, print_output, print_status, screen_width, show_error
from touchline.core.errors import InputError, TouchlineError
from touchline.core.quantity import Missing
from touchline.tools.interview.answers import Question, unquoted
from touchline.tools.interview.questions import QUESTIONS, open_questions

if TYPE_CHECKING:
    from touchline.data.user_config import UserConfig
    from touchline.tools.interview.answers import Defaulted
    from touchline.tools.interview.first_experiment import Start
    from touchline.tools.interview.interview import Interview

INIT_PANELS = {
    "Data and task": "data input output task",
    "What is compared": "vary model controls seeds",
    "Training": "trainer epochs packing validation executor gpu gpus",
}
"""Headings of the help -> options."""
_INTERRUPTED = 130
_WIDTH = 78


def init(
    target: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="Folder of the new experiment (default: named after the data)."),
    ] = None,
    configs: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="FILE", help="Instead: stage config of a QLoRA project (repeatable)."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; take the defaults of the other questions.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an existing experiment.yaml.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Ask nothing; print the answers and the plan as JSON.")] = False,
    **answers: Any,
) -> None:
    """Ask what to compare and write a commented experiment.yaml.

    Every question has a default and is also an option. Without a terminal the defaults are taken."""
    from touchline import api
    from touchline.data.user_config import load_settings

    settings = load_settings()
    given = {
        name: tuple(answer) if isinstance(answer, list | tuple) else (answer,)
        for name, answer in answers.items()
        if answer not in (None, [], ())
    }
    terminal = _Terminal() if sys.stdin.isatty() and not (yes or json or configs) else None
    made: Start | None = None
    try:
        made = api.init(
            target,
            settings,
            configs=configs or (),
            answers=given,
            ask=None if terminal is None else terminal.ask,
            defaults=yes,
            replace_existing=replace,
        )
        _show(made, settings, json, has_plan=not configs)
    except (KeyboardInterrupt, EOFError):
        written = "no experiment was written" if made is None else f"{made.path} is written"
        print_status(f"\ninterrupted; {written}")
        _print_continuation(terminal)
        raise SystemExit(_INTERRUPTED) from None
    except TouchlineError:
        _print_continuation(terminal)
        raise


def _show(made: Start, settings: UserConfig, json: bool, *, has_plan: bool) -> None:
    """Print the file, and the first screen of its plan."""
    from touchline import api
    from touchline.api.planning import next_command
    from touchline.experiment.plan import Plan
    from touchline.tools.interview.first_experiment import Start

    folder = shlex.quote(str(made.path.parent))
    for note in made.notes:
        print_status(note)
    if not json:
        print_output(str(made.path))
    if not has_plan:
        print_status(f"next: touchline plan {folder}")
        return
    try:
        planned = api.plan(made.path, settings, dry_run=True)
    except TouchlineError as error:
        show_error(error)
        print_status(f"{made.path} is written but cannot be planned yet; edit it, then: touchline check {folder}")
        raise typer.Exit(error.exit_code) from None
    if json:
        print_json(Start, made, "init", plan=(Plan, planned.plan))
        return
    print_output(planned.screen(screen_width()))
    print_status(f"next: {next_command(planned, made.path.parent)}")


def _signature() -> inspect.Signature:
    """Return the signature of the command, with an option for each question."""
    own = [
        each for each in inspect.signature(init, eval_str=True).parameters.values() if each.kind is not each.VAR_KEYWORD
    ]
    options = [
        inspect.Parameter(
            question.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                list[str] | None if question.is_list else str | None,
                typer.Option(question.flag, metavar=question.metavar, help=question.help),
            ],
        )
        for question in QUESTIONS
    ]
    return inspect.Signature([*own, *options])


class _Terminal:
    """Terminal on which the questions are asked; they go to stderr, answers come from stdin."""

    def __init__(self) -> None:
        self.interview: Interview | None = None
        self._number = 0

    def ask(self, interview: Interview, question: Question, default: Defaulted, problem: InputError | None) -> str:
        """Return the typed answer; empty for the default."""
        if self.interview is None:
            print_status("Enter takes the default. Ctrl-C ends; nothing is written before the last answer.")
        self.interview = interview
        if problem is None:
            self._number += 1
            total = self._number + sum(each.is_asked for each in open_questions(interview) if each is not question)
            print_status(f"\n{self._number}/{total}  {question.text}  ({question.flag})")
            for line in question.choices(interview):
                _print_wrapped(f"- {line}", "     ", "       ")
            if isinstance(default, Missing):
                _print_wrapped(f"no default: {default.missing}", "     ", "     ")
            else:
                _print_wrapped(f"default: {default.text} ({default.reason})", "     ", "     ")
        else:
            show_error(problem)
        return unquoted(ask("> "))


def _width() -> int:
    return min(_WIDTH, shutil.get_terminal_size().columns)


def _print_wrapped(text: str, first: str, rest: str) -> None:
    print_status(textwrap.fill(text, _width(), initial_indent=first, subsequent_indent=rest, break_on_hyphens=False))


def _print_continuation(terminal: _Terminal | None) -> None:
    """Print the command with the answers so far, if there are any."""
    if terminal is not None and terminal.interview is not None:
        from touchline.tools.interview.first_experiment import init_command

        print_status(f"to continue with these answers: {init_command(terminal.interview)}")


init.__signature__ = _signature()  # type: ignore[attr-defined]
