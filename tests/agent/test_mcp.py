"""The MCP server as a client sees it: the real process, a real experiment, and twelve tasks done in two ways."""

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import anyio
import pexpect
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.types import CallToolResult
from tests.agent.tasks import MOST_CALLS, RUN, TASKS, Call, Task, killed
from tests.api.folders import command, touchline
from tests.house.test_docs_commands import commands_of

from touchline.cli.agents import SKILL_FILE, skills
from touchline.run.budget import ApprovalState, approve, read_budget
from touchline.run.folders import ExperimentFolder

Home = tuple[Path, dict[str, str]]
SECONDS = 300.0
LOOKS = {"plan", "check", "explain", "estimate", "status", "logs", "results", "compare", "models", "data"}
WRITES = {"init", "edit", "fix", "report"}
EXECUTES = {"run", "evaluate", "cancel"}
READS: tuple[Call, ...] = (
    ("plan", {"experiment": "experiment"}),
    ("plan", {"experiment": "new", "overrides": ["train.epochs=2"], "section": "assumptions"}),
    ("plan", {"experiment": "experiment", "run": RUN}),
    ("check", {"paths": ["experiment"]}),
    ("explain", {"code": "EX110"}),
    ("explain", {"experiment": "experiment", "run": RUN}),
    ("estimate", {"model": "Tiny-1M-Instruct", "seq_len": 128}),
    ("status", {"experiment": "experiment"}),
    ("logs", {"experiment": "experiment", "run": RUN, "lines": 3}),
    ("results", {"experiment": "experiment"}),
    ("results", {"experiment": "experiment", "section": "analyses"}),
    ("compare", {"experiments": ["experiment", "other"]}),
    ("models", {}),
    ("data", {"path": "experiment/words.json"}),
)
WRONG: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("plan", {}, "experiment"),
    ("plan", {"experiment": "experiment", "epoch": 2}, "epoch"),
    ("plan", {"experiment": 3}, "experiment"),
    ("plan", {"experiment": "nowhere"}, "nowhere"),
    ("plan", {"experiment": "experiment", "overrides": ["train.epoks=2"]}, "train.epoks"),
    ("plan", {"experiment": "experiment", "section": "plans"}, "plans"),
    ("check", {"paths": []}, "paths"),
    ("check", {"paths": ["code.py"]}, "task file"),
    ("explain", {}, "explain"),
    ("explain", {"code": "XX1"}, "XX1"),
    ("estimate", {"model": "experiment/words.json", "method": "magic"}, "method"),
    ("logs", {"experiment": "experiment", "run": "nobody"}, "nobody"),
    ("logs", {"experiment": "experiment", "run": RUN, "lines": 100000}, "lines"),
    ("results", {"experiment": "experiment", "run": "nobody"}, "nobody"),
    ("edit", {"experiment": "experiment", "values": {"train.epoks": 2}}, "epoks"),
    ("evaluate", {"experiment": "experiment", "wait_seconds": -1}, "wait_seconds"),
    ("plum", {}, "plum"),
)
"""Tool, arguments, and what the error names."""


def in_session(home: Home, body: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
    root, environment = home

    async def main() -> None:
        program, *arguments = command("mcp")
        server = StdioServerParameters(command=program, args=arguments, env=environment, cwd=root)
        async with Client(server, read_timeout_seconds=SECONDS) as client:
            await body(client)

    asyncio.run(main())


async def answers(client: Client, calls: Sequence[Call]) -> list[Any]:
    """The structured content of calls that succeed."""
    found = []
    for name, arguments in calls:
        done = await client.call_tool(name, arguments)
        assert not done.is_error, (name, arguments, done.structured_content)
        found.append(done.structured_content)
    return found


def fault(done: CallToolResult) -> dict[str, Any]:
    """The error of a call, as data."""
    assert done.is_error, done.structured_content
    error: dict[str, Any] = done.structured_content["error"]
    return error


def hashes(folder: Path) -> dict[str, str]:
    """Every file of a folder but the cache that `status` keeps there."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "evaluation_settings.json"]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_looking_is_open_short_structured_and_changes_nothing(home: Home) -> None:
    root, _ = home

    async def body(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == LOOKS | WRITES | EXECUTES
        for name, tool in tools.items():
            assert tool.description
            assert tool.annotations is not None
            assert tool.annotations.read_only_hint is (name in LOOKS)
            assert tool.input_schema["additionalProperties"] is False
        before = hashes(root / "experiment")
        for (name, arguments), found in zip(READS, await answers(client, READS), strict=True):
            # One run in full is the longest; the memory of its evaluation made it 9,600.
            assert len(json.dumps(found)) < 10_000, name
            assert "Traceback" not in json.dumps(found), arguments
        assert hashes(root / "experiment") == before

    in_session(home, body)


@pytest.mark.slow
def test_a_summary_has_the_keys_of_json_and_names_what_it_leaves_out(home: Home) -> None:
    root, environment = home
    done = touchline("plan", "experiment", "--dry-run", "--json", env=environment, cwd=root)
    full = json.loads(done.stdout)["plan"]

    async def body(client: Client) -> None:
        (short,) = await answers(client, [("plan", {"experiment": "experiment"})])
        plan = short["plan"]
        assert set(plan) - {"sections", "left_out"} <= set(full)
        assert set(plan["sections"]) == set(full) - set(plan)
        assert [run["name"] for run in plan["runs"]] == [run["name"] for run in full["runs"]]
        assert len(json.dumps(plan)) < len(json.dumps(full)) / 5
        for name in ("assumptions", "datasets"):
            (one,) = await answers(client, [("plan", {"experiment": "experiment", "section": name})])
            assert one["plan"][name] == full[name]
        (one,) = await answers(client, [("plan", {"experiment": "experiment", "run": RUN})])
        assert one["plan"]["runs"] == [run for run in full["runs"] if run["name"] == RUN]

    in_session(home, body)


@pytest.mark.slow
def test_wrong_arguments_are_errors_of_the_tool_that_name_them(home: Home) -> None:
    root, _ = home
    (root / "code.py").write_text("raise SystemExit\n")

    async def body(client: Client) -> None:
        for name, arguments, named in WRONG:
            error = fault(await client.call_tool(name, arguments))
            said = json.dumps(error)
            assert named in said, (name, arguments)
            assert "Traceback" not in said
            assert error["kind"] in ("InputError", "PolicyError"), error

    in_session(home, body)


def call(number: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    parameters = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": parameters}


@pytest.mark.slow
def test_nothing_but_the_protocol_is_on_stdout(home: Home) -> None:
    """What is no message is answered or ignored, and never ends the server."""
    root, environment = home
    start = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
    messages = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": start},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        "no message at all",
        call(2, "plan", {"experiment": "new"}),
        call(3, "fix", {"paths": ["experiment"]}),
    ]
    server = subprocess.Popen(
        command("mcp"), cwd=root, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    lines: list[dict[str, Any]] = []
    for message in messages:
        server.stdin.write((message if isinstance(message, str) else json.dumps(message)) + "\n")
        server.stdin.flush()
    while not {1, 2, 3} <= {line.get("id") for line in lines}:
        lines.append(json.loads(server.stdout.readline()))
    rest, _ = server.communicate(timeout=SECONDS)
    lines += [json.loads(line) for line in rest.splitlines()]
    assert server.returncode == 0
    assert all(line["jsonrpc"] == "2.0" for line in lines)


@pytest.mark.slow
def test_a_call_that_is_cancelled_makes_room_and_bad_text_harms_no_answer(home: Home) -> None:
    """The tool `models` of this server never ends by itself."""
    root, environment = home
    half = [{"input": f"{n}", "output": "b\udfff"} for n in range(9)]
    (root / "half.json").write_text(json.dumps({"train": half, "validation": half, "test": half}))
    (root / "odd").mkdir()
    (root / "odd" / os.fsdecode(b"caf\xe9.yaml")).write_text("a: [1")
    code = (
        "from touchline.agent import server\ndef models() -> dict:\n    while True: pass\nserver.CALL_SECONDS = 1e6\n"
    )
    code += "server._TOOLS['models'] = models\nserver.serve()"

    async def main() -> None:
        server = StdioServerParameters(command=sys.executable, args=["-c", code], env=environment, cwd=root)
        async with Client(server, read_timeout_seconds=SECONDS) as client:
            with anyio.move_on_after(1):
                await client.call_tool("models", {})
            audit, check = await answers(client, [("data", {"path": "half.json"}), ("check", {"paths": ["odd"]})])
            assert "DA364" in {each["code"] for each in audit["findings"]}
            assert check["errors"] == 1

    asyncio.run(main())


@pytest.mark.slow
def test_nothing_is_executed_without_an_approval_or_beyond_it(home: Home) -> None:
    """Not without one, not with too few hours, not twice at once, and not for a plan that was changed since."""
    root, _ = home
    killed(root)
    folder = ExperimentFolder(root / "killed")
    trains = {"experiment": "killed", "wait_seconds": 600}

    async def refused(client: Client) -> None:
        for name in sorted(EXECUTES):
            error = fault(await client.call_tool(name, {"experiment": "killed"}))
            assert error["kind"] == "PolicyError"
            assert "touchline mcp approve" in error["hint"]

    async def beyond(client: Client) -> None:
        done = await client.call_tool("run", trains)
        assert fault(done)["kind"] == "RunsFailedError"
        assert "device-hours" in " ".join(done.structured_content["messages"])
        assert done.structured_content["approval"]["used_hours"] == 0

    async def together(client: Client) -> None:
        both = await asyncio.gather(client.call_tool("run", trains), client.call_tool("run", trains))
        assert sorted(done.is_error for done in both) == [False, True]
        assert "another touchline command" in json.dumps([done.structured_content for done in both])

    async def changed(client: Client) -> None:
        await answers(client, [("edit", {"experiment": "killed", "values": {"evaluate.max_new_tokens": 12}})])
        (plan,) = await answers(client, [("plan", {"experiment": "killed"})])
        assert plan["approval"]["state"] == ApprovalState.OTHER_PLAN

    in_session(home, refused)
    assert not (folder.run(RUN) / "training.json").exists()
    approve(folder, 0.001)
    in_session(home, beyond)
    assert not (folder.run(RUN) / "training.json").exists()
    approve(folder, 5)
    in_session(home, together)
    assert (folder.run(RUN) / "training.json").exists()
    budget = read_budget(folder)
    assert 0 < budget.used_hours < 0.2
    assert budget.reserved_hours == 0
    in_session(home, changed)


@pytest.mark.slow
def test_an_approval_is_typed_at_a_terminal(home: Home) -> None:
    root, environment = home
    folder = ExperimentFolder(root / "experiment")
    words = ("mcp", "approve", "experiment", "--gpu-hours", "2")
    done = touchline(*words, env=environment, cwd=root)
    assert done.returncode == 3
    assert "terminal" in done.stderr
    assert read_budget(folder).state is ApprovalState.NONE
    for answer, state in (("n", ApprovalState.NONE), ("y", ApprovalState.VALID)):
        program, *arguments = command(*words)
        terminal = pexpect.spawn(program, arguments, env=environment, cwd=str(root), encoding="utf-8", timeout=SECONDS)
        terminal.expect(r"at most 2 device-hours\?")
        terminal.sendline(answer)
        terminal.expect(pexpect.EOF)
        assert read_budget(folder).state is state
    assert read_budget(folder).left_hours == 2
    (folder.internal / "approval.json").unlink()


def words_of(line: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """The words before a command's arguments, and its options."""
    _, *words = line.split()
    path = [word for word in words[:2] if re.fullmatch(r"[a-z]+", word)]
    group = words[0] in ("models", "data", "history", "skill")
    return tuple(path[: 2 if group else 1]), frozenset(word for word in words if word.startswith("-"))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_task_uses_only_commands_of_skills_and_few_calls(task: Task) -> None:
    texts = [re.sub(r"^ +", "", skill.text, flags=re.MULTILINE) for skill in skills()]
    named = [words_of(each.text) for text in texts for each in commands_of(Path(SKILL_FILE), text)]
    for line in task.commands:
        path, options = words_of(line)
        assert any(path == own and options <= has for own, has in named), line
    assert 1 <= len(task.commands) <= MOST_CALLS
    assert 1 <= len(task.calls) <= MOST_CALLS


def test_there_are_twelve_tasks() -> None:
    assert len({task.name for task in TASKS}) == 12


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_task_is_done_by_commands_of_skills_alone(task: Task, home: Home) -> None:
    root, environment = home
    task.before(root)
    found: list[Any] = []
    for line in task.commands:
        done = touchline(*line.split()[1:], env=environment, cwd=root)
        assert done.returncode == 0 or line.split()[1] == "check", (line, done.stderr[-2000:])
        found.append(json.loads(done.stdout) if "--json" in line else done.stdout)
    assert task.found(found) == task.fact
    assert task.after(root)


@pytest.mark.slow
def test_each_task_is_done_by_tools_alone(home: Home, subtests: pytest.Subtests) -> None:
    """In one session; where something is executed, the user has approved it."""
    root, _ = home

    async def body(client: Client) -> None:
        for task in TASKS:
            with subtests.test(task=task.name):
                task.before(root)
                if task.executes:
                    approve(ExperimentFolder(root / task.executes), 5)
                found = await answers(client, task.calls)
                assert (task.by_calls or task.found)(found) == task.fact
                assert task.after(root)

    in_session(home, body)
