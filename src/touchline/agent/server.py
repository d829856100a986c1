"""MCP server over stdio: the tools, their arguments checked, their answers and errors as structured content."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import json
import os
import secrets
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError, validate_call

from touchline import __version__
from touchline.agent import tools
from touchline.agent.answers import Data, error_data
from touchline.agent.tools import Work
from touchline.core.errors import HostError, InputError, StoppedError, TouchlineError, install_hint
from touchline.core.files import disk_errors, open_append, read_record
from touchline.core.json_text import parse_json, plain
from touchline.core.near import did_you_mean, near_names
from touchline.run.budget import require_approval
from touchline.run.folders import ExperimentFolder

if TYPE_CHECKING:
    from mcp import types

INSTRUCTIONS = """\
touchline plans, runs and reports LLM fine-tuning experiments. Looking is free and changes no experiment.
run, evaluate and cancel need an approval, which only the user gives, in a terminal:
`touchline mcp approve EXPERIMENT --gpu-hours HOURS`. Show the user the plan, and ask for it.
Numbers are intervals: report them as such. `missing` means unknown, with the reason. Summaries name their `sections`;
ask for one of them, or for one run, when you need it in full.
"""
POLL_SECONDS = 0.2
CALL_SECONDS = 60.0
"""Longest time that a tool works; waiting for started work does not count."""
_TOOLS: Mapping[str, Callable[..., Any]] = {
    tool.__name__: tool for tool in (*tools.LOOKS, *tools.WRITES, *tools.EXECUTES)
}


def serve() -> None:
    """Serve over stdin and stdout until stdin ends.

    Raises:
        HostError: the package mcp is not installed.
    """
    try:
        import anyio
        from mcp.server.lowlevel import Server
        from mcp.server.stdio import stdio_server
    except ImportError as error:
        raise HostError(f"the package {error.name} is not installed", hint=install_hint("mcp")) from error
    from mcp import types

    # Verbs share caches of files, which are not made for threads: one tool works at a time. Waiting is beside it.
    one_at_a_time = anyio.CapacityLimiter(1)

    async def on_list_tools(context: Any, parameters: Any) -> types.ListToolsResult:
        del context, parameters
        return types.ListToolsResult(tools=[_declared(name, tool) for name, tool in _TOOLS.items()])

    async def on_call_tool(context: Any, parameters: types.CallToolRequestParams) -> types.CallToolResult:
        del context

        async def done(call: Call) -> Data | Started:
            async def stop_if_cancelled() -> None:
                try:
                    await anyio.sleep_forever()
                finally:
                    call.stop()

            async with anyio.create_task_group() as group:
                group.start_soon(stop_if_cancelled)
                found = await anyio.to_thread.run_sync(call, limiter=one_at_a_time)
                group.cancel_scope.cancel()
            return found

        answer = await done(Call(partial(called, parameters.name, parameters.arguments or {})))
        if isinstance(answer, Started):
            with anyio.move_on_after(answer.work.wait_seconds):
                while answer.is_active:
                    await anyio.sleep(POLL_SECONDS)
            answer = await done(Call(answer.answer))
        assert isinstance(answer, dict)
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=json.dumps(answer, ensure_ascii=False))],
            structured_content=answer,
            is_error=answer.get("error") is not None,
        )

    async def main() -> None:
        server = Server(
            "touchline",
            version=__version__,
            instructions=INSTRUCTIONS,
            on_list_tools=on_list_tools,
            on_call_tool=on_call_tool,
        )
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    anyio.run(main)


def _declared(name: str, tool: Callable[..., Any]) -> types.Tool:
    from mcp import types

    reads = tool in tools.LOOKS
    form: Any = tool
    return types.Tool(
        name=name,
        description=inspect.getdoc(tool),
        input_schema=TypeAdapter(form).json_schema(),
        annotations=types.ToolAnnotations(
            read_only_hint=reads, destructive_hint=tool is tools.cancel, idempotent_hint=reads, open_world_hint=False
        ),
    )


class Call:
    """Work of a tool in a thread, which ends after `CALL_SECONDS`, or earlier when another thread stops it.

    The interpreter raises `StoppedError` in the thread before its next step of Python.
    """

    def __init__(self, work: Callable[[], Data | Started]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._is_stopped = False

    def __call__(self) -> Data | Started:
        """Return what the work returns, with a word where it was stopped."""
        found: Data | Started
        timer = threading.Timer(CALL_SECONDS, self.stop)
        timer.daemon = True
        timer.start()
        self._thread = threading.get_ident()
        try:
            try:
                found = self._work()
            finally:
                with self._lock:
                    self._thread = None
        except StoppedError:
            hint = "a smaller part, or the user types the command of this tool, which has no limit"
            found = error_data(HostError(f"the tool was stopped after {CALL_SECONDS:g} s, without a result", hint=hint))
        timer.cancel()
        if self._is_stopped and isinstance(found, dict):
            found["stopped"] = f"after {CALL_SECONDS:g} s: the answer may be incomplete"
        return found

    def stop(self) -> None:
        """Stop the work, unless it has ended."""
        with self._lock:
            if self._thread is not None:
                self._is_stopped = True
                raised = ctypes.py_object(StoppedError)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), raised)


class Started:
    """Work in a process of its own, which outlives this server."""

    def __init__(self, work: Work) -> None:
        """Start it.

        Raises:
            InputError: there is no such experiment.
            PolicyError: its plan is not approved.
        """
        self.work = work
        self._folder = ExperimentFolder(work.experiment)
        require_approval(self._folder)
        log = self._folder.internal / "agent.log"
        with disk_errors("file", log), os.fdopen(open_append(log), "ab") as stream:
            self._answer = self._folder.internal / f"agent-{secrets.token_hex(4)}.json"
            self._process = subprocess.Popen(  # noqa: S603 (our own program; the arguments are a list)
                [sys.executable, "-m", "touchline.agent.work", *_words(work, self._answer)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self._log = log

    @property
    def is_active(self) -> bool:
        """True if the process has not ended."""
        return self._process.poll() is None

    def answer(self) -> Data:
        """Return the outcome, or that it is still active, with the state of the runs and the approved hours."""
        active = self.is_active
        outcome: Data = {"error": None, "messages": []}
        if not active:
            with contextlib.suppress(OSError, ValueError):
                outcome = parse_json(read_record(self._answer))
                self._answer.unlink()
            if self._process.returncode != 0 and outcome["error"] is None:
                outcome["error"] = {"kind": "HostError", "message": f"the work ended with {self._process.returncode}"}
        shown = tools.status(experiment=self.work.experiment)
        whole: Data = plain({**shown, "active": active, "log": str(self._log), **outcome})
        return whole


def _words(work: Work, answer: Path) -> list[str]:
    words = [str(answer), work.action, str(work.experiment)]
    words += [] if work.run is None else [f"--run={work.run}"]
    words += [] if work.epochs is None else [f"--epochs={work.epochs}"]
    return words + (["--retry"] if work.retry else [])


def called(name: str, arguments: Mapping[str, Any]) -> Data | Started:
    """Call a tool. Return its answer, the started work, or the error as data, in valid UTF-8.

    Args:
        arguments: arguments by name.
    """
    found = _called(name, arguments)
    return found if isinstance(found, Started) else plain(found)


def _called(name: str, arguments: Mapping[str, Any]) -> Data | Started:
    try:
        tool = _TOOLS.get(name)
        if tool is None:
            near = near_names(name, list(_TOOLS), most=1)
            raise InputError(
                f"there is no tool {name!r}", expected=f"one of {', '.join(_TOOLS)}", hint=did_you_mean(near)
            )
        for key, value in arguments.items():
            if _is_unusable(value):
                raise InputError(
                    f"wrong arguments of {name}: {key}: it has a null byte, or half a character", expected="text"
                )
        try:
            found: Data | Work = validate_call(tool)(**arguments)
        except ValidationError as error:
            raise _wrong_arguments(name, error) from None
        return Started(found) if isinstance(found, Work) else found
    except TouchlineError as error:
        return error_data(error)
    except OSError as error:
        return error_data(HostError(f"{error.strerror or error}: {error.filename or ''}"))
    except Exception as error:  # noqa: BLE001 (a fault of a tool ends that call, not the server)
        traceback.print_exc(file=sys.stderr)
        return error_data(HostError(f"internal error: {type(error).__name__}: {error}"))


def _is_unusable(value: object) -> bool:
    """Return True if a text in a value can be neither a file's name nor a file's content."""
    if isinstance(value, dict):
        return any(_is_unusable(each) for item in value.items() for each in item)
    if isinstance(value, list):
        return any(map(_is_unusable, value))
    try:
        return isinstance(value, str) and b"\0" in os.fsencode(value)
    except UnicodeEncodeError:
        return True


def _wrong_arguments(name: str, error: ValidationError) -> InputError:
    wrong = [
        f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors(include_url=False)
    ]
    return InputError(f"wrong arguments of {name}: {'; '.join(wrong)}", expected="arguments as `tools/list` shows them")
