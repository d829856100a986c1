"""Screen of `touchline status --watch`. A thread reads, so that keys are answered at any time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import strftime
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from touchline.cli.output import ask, displayed, print_status
from touchline.cli.watch_text import Line, LossCurves, description, lines
from touchline.core.errors import TouchlineError
from touchline.core.files import open_append
from touchline.core.status import RunStatus
from touchline.core.text import one_line
from touchline.results.watching import Snapshot

if TYPE_CHECKING:
    from touchline.results.live_status import LiveRun

REFRESH_SECONDS = 5.0
"""Seconds between two reads."""
_TOUCHLINE = (sys.executable, "-m", "touchline.cli.main")
_STARTED: list[subprocess.Popen[bytes]] = []
"""Commands that were started and outlive the view."""
_KEYS = "↑↓ select  l logs  c cancel  r resume  q quit"
_SHORT_KEYS = "l logs c cancel r resume q quit"
_DONE = frozenset({RunStatus.COMPLETED, RunStatus.COMPLETED_FAILED_EXIT, RunStatus.CUT})


class Found(Message):
    """The experiment was read, or could not be read."""

    def __init__(self, found: Snapshot | str) -> None:
        self.found = found
        super().__init__()


class Question(ModalScreen[bool]):
    """Question that `y` answers with yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape,q", "answer(False)", "no"),
    ]

    def __init__(self, text: str) -> None:
        self._text = text
        super().__init__()

    def compose(self) -> ComposeResult:
        """Show the question."""
        yield Static(f"{self._text}\n\ny yes   n no", markup=False)

    def action_answer(self, answer: bool) -> None:
        """Close with the answer; a second key comes too late."""
        if self.is_current:
            self.dismiss(answer)


class WatchApp(App[None]):
    """Runs of an experiment, the selected one described below them."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { background: ansi_default; color: ansi_default; }
    #columns { height: 1; }
    OptionList { height: 1fr; border: none; padding: 0; background: ansi_default; scrollbar-size-vertical: 1; }
    OptionList:focus { border: none; background: ansi_default; background-tint: ansi_default 0%; }
    OptionList > .option-list--option { padding: 0; }
    OptionList > .option-list--option-disabled { color: ansi_default; }
    OptionList > .option-list--option-highlighted, OptionList:focus > .option-list--option-highlighted {
        color: ansi_default; background: ansi_default; text-style: reverse;
    }
    #about { height: auto; max-height: 40%; border-top: ascii ansi_default; }
    #said { display: none; height: auto; max-height: 3; text-style: bold; }
    .keys { height: 1; text-style: reverse; }
    Question { align: center middle; background: ansi_default; }
    Question > Static {
        width: auto; max-width: 100%; height: auto; max-height: 100%; border: ascii ansi_default; padding: 0 1;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", "quit", priority=False),
        Binding("l", "logs", "logs"),
        Binding("c", "cancel", "cancel"),
        Binding("r", "resume", "resume"),
    ]

    def __init__(self, read: Callable[[], Snapshot], source: Path, seconds: float = REFRESH_SECONDS) -> None:
        """Take the experiment.

        Args:
            read: returns the present state.
            source: experiment.yaml or its folder, for commands.
            seconds: pause between two reads.
        """
        # The terminal's own colors: it may be light or dark. Said here too, because NO_COLOR is obeyed from here on.
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"
        self.snapshot = Snapshot(experiment="reading ...", runs=(), note="", active=True)
        self.selected: str | None = None
        self._error, self._curves = "", LossCurves()
        self._source, self._seconds = source, seconds
        self._reads = read
        self._due, self._ended = threading.Event(), threading.Event()
        self._columns = Static(id="columns", markup=False)
        self._runs = OptionList(id="runs", markup=False)
        self._about = Static(id="about", markup=False)
        self._said = Static(id="said", markup=False)
        self._keys = Static(id="keys", classes="keys", markup=False)
        self._width = self.size.width
        self._shown: list[Line] = []

    def compose(self) -> ComposeResult:
        """Show column names, runs, the selected run, what was said last, and the keys."""
        yield from (self._columns, self._runs, self._about, self._said, self._keys)

    def on_mount(self) -> None:
        """Start to read."""
        self._show()
        # A thread of its own, not a worker: quitting does not wait for a queue that does not answer.
        threading.Thread(target=self._read, daemon=True).start()

    def on_unmount(self) -> None:
        """Stop reading."""
        self._ended.set()
        self._due.set()

    def on_resize(self, event: Resize) -> None:
        """Choose the columns again."""
        self._width = event.size.width
        self._show()

    def _read(self) -> None:
        while not self._ended.is_set():
            self._due.clear()
            found: Snapshot | str
            try:
                found = self._reads()
            except TouchlineError as error:
                found = error.message
            except Exception as error:  # noqa: BLE001 (a failed reading must not end the view)
                found = f"{type(error).__name__}: {error}"
            if self._ended.is_set():
                return
            self.post_message(Found(found))
            self._due.wait(self._seconds)

    def on_found(self, message: Found) -> None:
        """Show what was read; after an error the last state stays."""
        if isinstance(message.found, str):
            self._error = message.found
        else:
            self.snapshot, self._error = message.found, ""
            self._curves.add(message.found.steps)
        self._show()

    def _say(self, text: str) -> None:
        self._said.update(one_line(text))
        self._said.display = True

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def _show(self) -> None:
        """Draw what has changed; the selection stays at its run."""
        self._select()
        runs = [run.name for run in self.snapshot.runs]
        if self.selected not in runs:
            self.selected = runs[0] if runs else None
        # One column is the scroll bar's.
        head, below = lines(self.snapshot, self._error, self._curves, self._width - 1, self.selected)
        keys = _KEYS if self._width > len(_KEYS) else _SHORT_KEYS
        clock = f" {strftime('%H:%M:%S')}, every {self._seconds:g} s"
        room = self._width - len(keys)
        self._keys.update(keys + (clock.rjust(room) if len(clock) <= room else ""))
        self._columns.update(_text(head))
        self._show_lines(below)
        chosen = self._run()
        self._about.display = chosen is not None
        if chosen is not None:
            self._about.update("\n".join(description(chosen, self.snapshot.experiment)))

    def _show_lines(self, below: list[Line]) -> None:
        listed = self._runs
        if [line.run for line in below] == [line.run for line in self._shown]:
            for place, (old, new) in enumerate(zip(self._shown, below, strict=True)):
                if old != new:
                    listed.replace_option_prompt_at_index(place, _text(new))
        else:
            where = listed.scroll_offset
            listed.clear_options()
            listed.add_options([Option(_text(line), disabled=line.run is None) for line in below])
            listed.highlighted = next((n for n, line in enumerate(below) if line.run == self.selected), None)
            listed.scroll_to(where.x, where.y, animate=False)
        self._shown = below

    def on_option_list_option_highlighted(self) -> None:
        """Mark and describe the run."""
        self._show()

    def _select(self) -> None:
        """Take the run that the list has highlighted; a key may come before the list's message does."""
        at = self._runs.highlighted
        run = self._shown[at].run if at is not None and at < len(self._shown) else None
        self.selected = run or self.selected

    def _run(self) -> LiveRun | None:
        self._select()
        return next((run for run in self.snapshot.runs if run.name == self.selected), None)

    # ---- keys --------------------------------------------------------------------------------------------------------

    def on_option_list_option_selected(self) -> None:
        """Show the logs; Enter was pressed."""
        self.action_logs()

    def action_logs(self) -> None:
        """Show the logs of the selected run."""
        if (run := self._run()) is not None:
            at_evaluation = run.evaluation is not None and run.evaluation.active
            evaluation = at_evaluation and not (run.job is not None and run.job.active)
            self._show_log(run.name, *(["--eval"] if evaluation else []))

    def _show_log(self, run: str, *options: str) -> None:
        """Leave the terminal to `touchline logs -f` until it ends, or until Ctrl-C, which reaches that command too."""
        words = [*_TOUCHLINE, "logs", str(self._source), "--run", run, "--follow", *options]
        with self.suspend():
            kept = signal.signal(signal.SIGINT, lambda *_: None)
            try:
                print_status(f"log of {run}, Ctrl-C goes back")
                subprocess.run(words, check=False)  # noqa: S603 (our own words)
                ask("Enter goes back ")
            except EOFError:
                pass
            finally:
                signal.signal(signal.SIGINT, kept)

    def action_cancel(self) -> None:
        """Ask, then cancel the selected run."""
        if (run := self._run()) is None:
            return
        if run.status in _DONE:
            self._say(f"{run.name} is {run.status.value}: nothing to cancel")
            return
        self._ask("Cancel", run.name, "A running job saves its state first.", "cancel")

    def action_resume(self) -> None:
        """Ask, then resume the selected run."""
        if (run := self._run()) is None:
            return
        at_work = any(job is not None and job.active for job in (run.job, run.evaluation))
        if run.status in _DONE or at_work:
            self._say(f"{run.name} is {'active' if at_work else run.status.value}: nothing to resume")
            return
        self._ask("Resume", run.name, f"It is {run.status.value}.", "resume")

    def _ask(self, what: str, run: str, remark: str, command: str) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self._say(start_command(self._source, command, run))
                self._due.set()

        self.push_screen(Question(one_line(f"{what} {run} of {self.snapshot.experiment}? {remark}")), answered)


def start_command(source: Path, command: str, run: str) -> str:
    """Start a command for a run that outlives the view; return what was started and where its output is."""
    from touchline.run.folders import ExperimentFolder

    folder = ExperimentFolder(source)
    try:
        on_cluster = command == "resume" and folder.planned().executor != "local"
        # The queue of a cluster outlives the view by itself; nothing waits for its jobs.
        words = ["submit" if on_cluster else command, str(folder.yaml), "--run", run]
        folder.internal.mkdir(parents=True, exist_ok=True)
        output = folder.internal / f"{command}-{run}.log"
        with os.fdopen(open_append(output), "ab") as stream:
            process = subprocess.Popen(  # noqa: S603 (our own words)
                [*_TOUCHLINE, *words],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except TouchlineError as error:
        return f"error: {error.message}" + (f" (hint: {error.hint})" if error.hint else "")
    except OSError as error:
        return f"error: {error}"
    _STARTED.append(process)
    return f"touchline {words[0]} {run}; its output: {output}"


def _text(line: Line) -> Text:
    shown = Text(no_wrap=line.run is not None, overflow="ellipsis" if line.run is not None else "fold")
    for part, style in line.parts:
        shown.append(displayed(part), style)
    return shown
