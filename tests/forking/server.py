"""A process that has torch and the programs that train and evaluate loaded, and forks for each start of one.

A training of eight steps takes 0.4 processor seconds, and a start of its own 9. A forked program has an environment, a
folder, descriptors and a process group of its own; `tests.forking.sitecustomize` stands in its place. What a start
itself does is tested by programs that start by themselves: `started_alone`.

    python server.py SOCKET
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from tests.forking.sitecustomize import BYTES, NO, SERVER, SIGNALS

LIBRARIES = (
    *("torch", "transformers.models.llama.modeling_llama", "peft", "peft.utils.transformers_weight_conversion"),
    *("inspect_ai._cli.main", "inspect_ai.agent._acp.server", "IPython"),
)
LATER = (
    *("altair", "vl_convert", "transformers.trainer", "trl.trainer.sft_trainer", "torch.profiler._cupti_monitor"),
    "ruamel.yaml",
)
"""What may load bitsandbytes, unlike peft before it."""
FIXED = ("HF_", "HUGGINGFACE", "TRANSFORMERS_", "INSPECT_", "TORCH", "CUDA_", "PYTHON")
"""Beginnings of variables that are read once, when the interpreter starts or a library is imported."""
FREE = ("PYTHONUNBUFFERED", "PYTHONWARNINGS")
HIGH = 512
"""Descriptors from here on are no program's."""
ROOT = Path(__file__).resolve().parents[2]


def begin() -> Callable[[], object]:
    """Start a server, and have programs find it. It loads when the first one starts. Return what ends it."""
    place = Path(tempfile.mkdtemp(prefix="touchline-forks-"))
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {SERVER: str(place / "socket"), "PYTHONPATH": os.pathsep.join(paths)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(place / "socket"))
        listener.listen(64)
        started = subprocess.Popen(
            [sys.executable, "-m", "tests.forking.server", str(listener.fileno()), str(place)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    # It reads this pipe to its end.
    return started.communicate


def _load() -> None:
    """Import what the programs import, as they do."""
    from touchline.data.worker import bitsandbytes_left_out, prepare_worker

    prepare_worker()
    os.environ.setdefault("INSPECT_DISPLAY", "none")
    with bitsandbytes_left_out():
        importlib.import_module("peft.import_utils").is_bnb_available()
        for name in LIBRARIES:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        for room in ("backends", "train", "evaluate"):
            package = importlib.import_module(f"touchline.{room}")
            for module in pkgutil.iter_modules(package.__path__, f"touchline.{room}."):
                if not module.name.endswith("__main__"):
                    with contextlib.suppress(ImportError):
                        importlib.import_module(module.name)
    for name in LATER:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _fixed(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(FIXED) and name not in FREE}


class Server:
    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._loaded: dict[str, str] | None = None
        self._waiting = selectors.DefaultSelector()
        self._children: dict[int, tuple[int, socket.socket]] = {}
        """Descriptor of a child, to its number and the connection of the process in its place."""

    def serve(self) -> None:
        """Fork until the process that started this one ends."""
        self._waiting.register(0, selectors.EVENT_READ, lambda: True)
        self._waiting.register(self._listener, selectors.EVENT_READ, self._accept)
        while not any([key.data() for key, _ in self._waiting.select()]):
            pass
        for child, _ in self._children.values():
            os.kill(child, signal.SIGKILL)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        data, descriptors, _, _ = socket.recv_fds(connection, BYTES, 250)
        if not data:
            connection.close()
            return
        if self._loaded is None:
            _load()
            gc.freeze()
            self._loaded = _fixed(os.environ)
        request = json.loads(data)
        if self._loaded | _fixed(request["environment"]) == self._loaded:
            self._fork(connection, request, descriptors)
        else:
            with contextlib.suppress(OSError):
                connection.send(NO.encode())
            connection.close()
        for descriptor in descriptors:
            os.close(descriptor)

    def _fork(self, connection: socket.socket, request: dict[str, Any], descriptors: list[int]) -> None:
        child = os.fork()
        if child == 0:
            _become(request, descriptors)
        # Where the starter was killed meanwhile, the end of its connection kills the child.
        with contextlib.suppress(OSError):
            connection.send(str(child).encode())
        ended = os.pidfd_open(child)
        self._children[ended] = child, connection
        self._waiting.register(ended, selectors.EVENT_READ, lambda: self._tell(ended))
        self._waiting.register(connection, selectors.EVENT_READ, lambda: self._kill(ended))

    def _tell(self, ended: int) -> None:
        """Tell the process in the child's place how it ended."""
        child, connection = self._children.pop(ended)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(OSError):
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())
        with contextlib.suppress(KeyError):
            self._waiting.unregister(connection)
        self._waiting.unregister(ended)
        connection.close()
        os.close(ended)

    def _kill(self, ended: int) -> None:
        """Kill a child whose place is empty."""
        if ended in self._children:
            child, connection = self._children[ended]
            self._waiting.unregister(connection)
            os.kill(child, signal.SIGKILL)


def _become(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Be the program, to its end."""
    code: object = 1
    try:
        os.setsid()
        _take(request, descriptors)
        words = request["words"]
        if words[0] == "-P":
            del words[0], sys.path[0]
        else:
            sys.path[0] = request["folder"]
        if words[0] == "-m":
            sys.argv = [words[1], *words[2:]]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(str(Path(words[0]).absolute()), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
            code = 1
    except BaseException:  # noqa: BLE001 (the end of a program)
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(int(code or 0))  # type: ignore[call-overload]


def _take(request: dict[str, Any], descriptors: list[int]) -> None:
    """Take the surroundings of the process in whose place it runs."""
    import fcntl

    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, HIGH) for descriptor in descriptors]
    os.closerange(0, HIGH)
    for number, descriptor in zip(request["descriptors"], high, strict=True):
        os.dup2(descriptor, number, inheritable=True)
    os.closerange(HIGH, HIGH + 512)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.sched_setaffinity(0, request["cores"])
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else signal.SIG_DFL)
    if signal.SIGINT not in request["ignored"]:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(int(request["environment"].get("OMP_NUM_THREADS") or len(request["cores"])))


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as opened:
        Server(opened).serve()
    shutil.rmtree(sys.argv[2], ignore_errors=True)
