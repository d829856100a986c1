"""Start-up hook of interpreters that tests start: a program that loads torch is forked by a server instead of started.

`tests.forking.server` has the libraries loaded, which takes most of the time of a short training. This process stays as
the program's place: it passes signals on, ends as the program ends, and takes the program with it when it is killed.
A program that needs another start than a fork can give runs here as ever; see `_forkable`.
"""

import itertools
import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path

SERVER = "TOUCHLINE_TEST_FORKS"
"""Variable that names the server's socket; empty or not set: every program starts by itself."""
NO_FIGURES = "TOUCHLINE_TEST_NO_FIGURES"
"""Variable that hides the library that draws, as where the extra `report` is not installed."""
MODULES = ("touchline.train", "touchline.evaluate", "inspect_ai", "touchline.report.local.draw_process")
SCRIPT = "finetune.py"
"""TRL's program in a run folder."""
INSPECT = str(Path(sys.executable).with_name("inspect"))
"""Inspect's own command."""
BYTES = 1 << 20
"""More than a request with its environment takes."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
NO = "no"
"""Answer of a server that cannot take the program's place."""


def _forkable(words: list[str]) -> bool:
    """Return whether these words start a program that the server has loaded.

    bitsandbytes changes how peft is imported, so programs of quantized models start by themselves, as do those whose
    memory is limited: the server has loaded more.
    """
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return False
    words = words[1:] if words[:1] == ["-P"] else words
    if words[:1] == ["-m"] and words[1] in MODULES:
        named = dict(itertools.pairwise(words))
        folder = Path(named.get("--folder", "."))
        files = [folder / named.get("--config", "finetune.yaml")]
        if words[1] == "inspect_ai":
            files = [Path("eval.yaml")]
        elif words[1] == "touchline.evaluate":
            files = [*Path(named.get("--experiment", ".")).glob("*/eval.yaml")]
    elif len(words) == 1 and Path(words[0]).name == SCRIPT:
        files = [Path("finetune.yaml"), Path(SCRIPT)]
    elif words[:1] == [INSPECT]:
        files = [Path("eval.yaml")]
    else:
        return False
    return not any(word in file.read_bytes() for file in files if file.is_file() for word in (b"nf4", b"int8"))


def _fork(words: list[str]) -> None:
    """Have the server run the program, and end as it does. Return where it cannot."""
    descriptors = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BYTES)
        try:
            server.connect(os.environ[SERVER])
        except OSError:
            return
        descriptors = [number for number in descriptors if number != server.fileno() and _is_open(number)]
        request = {
            "words": words,
            "environment": dict(os.environ),
            "folder": str(Path.cwd()),
            "descriptors": descriptors,
            "ignored": [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN],
            "cores": sorted(os.sched_getaffinity(0)),
        }
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        socket.send_fds(server, [json.dumps(request).encode()], descriptors)
        answer = server.recv(BYTES).decode()
        if answer.isdigit():
            child = int(answer)
            for number in SIGNALS:
                if number not in request["ignored"]:
                    signal.signal(number, lambda number, _: os.kill(child, number))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            code = int(server.recv(BYTES) or b"99")
            if code < 0:
                signal.signal(-code, signal.SIG_DFL)
                os.kill(os.getpid(), -code)
            os._exit(code)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def hide_figures() -> None:
    """Hide the library that draws, or show it, as the variable says."""
    hidden = "vl_convert" in sys.modules and sys.modules["vl_convert"] is None
    if os.environ.get(NO_FIGURES) and "vl_convert" not in sys.modules:
        sys.modules["vl_convert"] = None  # type: ignore[assignment]
    elif not os.environ.get(NO_FIGURES) and hidden:
        del sys.modules["vl_convert"]


if __name__ == "sitecustomize":
    hide_figures()
if os.environ.get(SERVER) and __name__ == "sitecustomize" and _forkable(sys.orig_argv[1:]):
    _fork(sys.orig_argv[1:])
