"""A terminal without a screen: Debian's tmux, whose screen is captured as text."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tools import debian

REQUIRE = "TOUCHLINE_REQUIRE_TMUX"
"""Set to 1 where a missing tmux is a failure and no reason to skip."""
WAIT_SECONDS = 90


def unavailable() -> str | None:
    """Why there is no tmux here, in one line, after trying to install it; None when there is one."""
    return debian.install(lambda: () if shutil.which("tmux") is not None else ("tmux",))


class Terminal:
    """A server of its own with one window, which stays when its program has ended."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], *, width: int, height: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tmux-")
        self._env = {name: value for name, value in env.items() if name not in ("TMUX", "COLUMNS", "LINES")}
        self._env |= {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
        size = ("-x", str(width), "-y", str(height))
        self._tmux("new-session", "-d", *size, f"{shlex.join(command)}; echo ended with $?; sleep 1000")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._tmux("kill-server")
        self._folder.cleanup()

    def _tmux(self, *words: str) -> str:
        socket = str(Path(self._folder.name) / "socket")
        command = ["tmux", "-u", "-f", "/dev/null", "-S", socket, *words]
        return subprocess.run(command, env=self._env, capture_output=True, text=True, check=True, timeout=60).stdout

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def codes(self) -> str:
        """The screen with the codes of its colors."""
        return self._tmux("capture-pane", "-p", "-e")

    def press(self, *keys: str) -> None:
        """Press keys, by the names that tmux has for them."""
        self._tmux("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def until(self, condition: Callable[[str], object]) -> str:
        """Wait until the screen fulfils a condition; give the screen."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition(screen := self.screen()):
            assert time.monotonic() < deadline, screen
            time.sleep(0.1)
        return screen
