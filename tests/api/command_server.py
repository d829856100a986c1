"""A process that has touchline loaded and forks for each command: a third of a short command's time is its imports.

Each command still has a process, an environment, a working directory and descriptors of its own. Tests of what a
command imports, and those that send signals, start a new interpreter instead.

    python command_server.py SOCKET_FD
"""

import array
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

DESCRIPTORS = 2
"""The command's stdout and stderr."""
BYTES = 1 << 20
"""More than a request with its environment takes."""


class CommandServer:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BYTES)
        self._socket = ours
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def run(self, arguments: list[str], env: Mapping[str, str], cwd: Path | None) -> tuple[int, str, str]:
        """Run `touchline ARGUMENTS` to its end. Return its exit code and what it wrote to stdout and stderr."""
        request = {"arguments": arguments, "env": dict(env), "cwd": str(cwd or Path.cwd())}
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            socket.send_fds(self._socket, [json.dumps(request).encode()], [stdout.fileno(), stderr.fileno()])
            answer = self._socket.recv(BYTES)
            assert answer, "the command server ended"
            texts = []
            for file in (stdout, stderr):
                file.seek(0)
                texts.append(file.read())
        return int(answer), texts[0], texts[1]


@functools.cache
def command_server() -> CommandServer:
    """The server of this process; it ends when the tests' end of the socket is closed."""
    return CommandServer()


def _load() -> None:
    """Import all of touchline but the programs that train and evaluate, as far as their libraries are installed."""
    import touchline

    for module in pkgutil.walk_packages(touchline.__path__, "touchline."):
        if not module.name.startswith(("touchline.train", "touchline.evaluate")):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)


def _serve(requests: socket.socket) -> None:
    _load()
    gc.freeze()
    while True:
        data, ancillary, _, _ = requests.recvmsg(BYTES, socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize))
        if not data:
            return
        descriptors = array.array("i")
        for _, _, value in ancillary:
            descriptors.frombytes(value)
        child = os.fork()
        if child == 0:
            requests.close()
            _become(json.loads(data), list(descriptors))
        for descriptor in descriptors:
            os.close(descriptor)
        _, status = os.waitpid(child, 0)
        requests.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Be the command, to the end of the interpreter."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    for number, descriptor in enumerate(descriptors, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if hide := getattr(sys.modules.get("sitecustomize"), "hide_figures", None):
        hide()
    sys.argv = ["touchline", *request["arguments"]]
    from touchline.cli.main import main

    main()
    raise AssertionError("main ends by sys.exit")


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
