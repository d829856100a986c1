"""Mutated input of each kind, in process and by the commands: accepted, refused in words, internal errors, hangs.

    python benchmarks/fuzz.py [--kinds overrides configs data models logs requests] [--count 1000] [--commands 50]
        [--seed 1] [--keep FOLDER]

Overrides are read; those that pass the reader are planned. Configs are those of every trainer in tests/faults/bases,
tests/fixtures and examples. Requests go to the MCP server's tools: in process as calls, by the command as messages.
A hang takes over 10 s of processor time. `refused` ends with 2 or more and an error in words, or with 1 and findings.
Inputs of failures are kept in FOLDER. It exits with 1 if there is a failure or if too few overrides pass the reader.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.api.folders import command, environment, make_experiment  # noqa: E402 (the path above)
from tests.hostile import harness  # noqa: E402
from tests.hostile.conftest import RUN  # noqa: E402
from tests.hostile.harness import VALUES, mutated, to_json  # noqa: E402
from tests.hostile.test_generated_values import (  # noqa: E402
    FOREIGN,
    STATE,
    VALUES_IN_YAML,
    changed,
    data_commands,
    model_commands,
    write_model,
    write_rows,
)

from tools.tiny_model import write_tiny_model  # noqa: E402
from touchline.agent.server import _TOOLS, Started, called  # noqa: E402
from touchline.core.errors import InputError  # noqa: E402
from touchline.experiment.read import read_experiment  # noqa: E402

CPU_SECONDS = 10
LEAST_READ_PERCENT = 33
SCHEMA = json.loads((ROOT / "docs/reference/schemas/experiment.schema.json").read_text())
LOGS = [path for path in FOREIGN if "logs" in path.parts or path.suffix in {".log", ".out"}]
CONFIGS = [path for path in FOREIGN if path.suffix in {".yaml", ".yml", ".json", ".slurm", ".sh"}]
CONFIGS += sorted((ROOT / "examples").rglob("*.yaml"))
CONFIGS = [path for path in CONFIGS if path not in LOGS]
_INTERNAL = re.compile(r"a fault in touchline itself|internal error|Traceback")
Words = tuple[str | Path, ...]


class HangError(BaseException):
    """More processor time than an input may take. No handler of the program catches it."""


@dataclass
class Ground:
    """A finished experiment, a folder of one's own and a tiny model, in a folder with all that a command may write."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    server: subprocess.Popen[str] | None = None
    asked: int = 0

    @property
    def experiment(self) -> Path:
        return self.root / "deep" / "er" / "experiment"

    @property
    def model(self) -> Path:
        return self.root / "models" / "Tiny-1M-Instruct"

    def make(self) -> None:
        """Write the model, train it and evaluate it once."""
        write_tiny_model(self.model)
        folder = make_experiment(self.experiment, ranks="[2]", n_train=32, n_test=8)
        own = {"HOME": str(self.root / "home"), "XDG_CONFIG_HOME": str(self.root / "config")}
        self.env = environment(self.root / "models", self.root / "cache", self.root / "history") | own
        words = command("run", str(folder), "train.epochs=1", "--no-probe")
        subprocess.run(words, env=self.env, check=True, capture_output=True)
        shutil.copytree(folder, folder.with_name("other"))
        os.environ.update(self.env)
        os.chdir(folder.parent)

    def restore(self) -> None:
        """Give the experiment the files that it had."""
        shutil.rmtree(self.experiment)
        shutil.copytree(self.experiment.with_name("other"), self.experiment)

    def fresh(self) -> Path:
        """Return an empty folder."""
        folder = self.experiment.with_name("input")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder


# ------------------------------------------------------------------------------------------------------------- inputs


def likely(schema: dict[str, Any], chance: random.Random) -> Any:
    """Return a value that a part of the schema of experiment.yaml allows, mostly a small one."""
    if "$ref" in schema:
        return likely(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], chance)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return likely(chance.choice(schema[key]), chance)
    if "default" in schema and chance.random() < 0.3:
        return schema["default"]
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return chance.choice(schema["enum"])
    kind = schema.get("type")
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        if kind == "integer":
            return low + chance.choice((0, 1, 2, 3, 7, 8, 63))
        return round(low + (min(schema.get("maximum", 1), 1) - low) * chance.uniform(0.01, 0.99), 4)
    if kind == "array":
        most = schema.get("maxItems", 3)
        return [likely(schema.get("items", {}), chance) for _ in range(chance.randint(schema.get("minItems", 0), most))]
    if kind == "object":
        inner = schema.get("properties", {})
        return {key: likely(inner[key], chance) for key in chance.sample(sorted(inner), min(len(inner), 2))}
    return {"boolean": chance.random() < 0.5, "null": None}.get(
        str(kind), chance.choice(("a", "base", "1h", "2", "{model}_{seed}"))
    )


def keys_of(schema: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Return the schema of each dotted key."""
    found: dict[str, dict[str, Any]] = {}
    parts = [schema, *schema.get("anyOf", [])]
    for part in [SCHEMA["$defs"][each["$ref"].rpartition("/")[2]] if "$ref" in each else each for each in parts]:
        for key, inner in part.get("properties", {}).items():
            found[prefix + key] = inner
            found |= keys_of(inner, f"{prefix}{key}.")
    return found


KEYS = keys_of(SCHEMA)


def overrides(chance: random.Random) -> list[str]:
    """Return one to three overrides: two of three are likely to be right, the others are hostile."""
    found = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        key = chance.choice(sorted(KEYS))
        schema = KEYS[key]
        if chance.random() < 0.1:
            key, schema = f"factors.{key}", {"type": "array", "items": schema, "minItems": 1}
        value = json.dumps(likely(schema, chance)) if chance.random() < 0.7 else chance.choice(VALUES_IN_YAML)
        found.append(f"{key}={value}")
    return found


def configs(ground: Ground, chance: random.Random) -> Words:
    source, folder = chance.choice(CONFIGS), ground.fresh()
    (folder / source.name).write_bytes(changed(source, chance))
    target = chance.choice((folder, folder / source.name))
    return chance.choice(
        (
            ("check", target),
            ("check", target),
            ("history", "read", folder),
            ("import", target, "--out", folder / "made"),
        )
    )


def data(ground: Ground, chance: random.Random) -> Words:
    path = ground.experiment / "data" / f"rows.{chance.choice(('json', 'jsonl', 'csv', 'parquet'))}"
    while not write_rows(path, chance):
        pass
    return chance.choice((*data_commands(ground.experiment, path), ("init", ground.fresh() / "new", "--data", path)))


def models(ground: Ground, chance: random.Random) -> Words:
    folder = ground.experiment.with_name("model")
    write_model(folder, ground.model, chance)
    return chance.choice(model_commands(ground.experiment, folder))


def logs(ground: Ground, chance: random.Random) -> Words:
    folder = ground.fresh()
    if chance.random() < 0.1:
        path = folder / "trainer_state.json"
        path.write_bytes(to_json(mutated(STATE, chance)))
    else:
        source = chance.choice(LOGS)
        path = folder / source.name
        path.write_bytes(changed(source, chance))
    return chance.choice((("history", "read", path), ("history", "read", folder), ("check", folder)))


def request(ground: Ground, chance: random.Random) -> tuple[str, dict[str, Any]]:
    """Return a tool and its arguments, of which one or two are changed; the files that it reads may be changed too."""
    ground.restore()
    folder, rows = str(ground.experiment), ground.experiment / "data" / "rows.json"
    while not write_rows(rows, chance):
        pass
    usual: dict[str, dict[str, Any]] = {
        "plan": {"experiment": folder, "overrides": overrides(chance)[:1], "section": "runs", "run": RUN},
        "check": {"paths": [folder, str(rows)], "gpu": "A100-80GB", "section": "findings"},
        "explain": {"code": "TR010", "experiment": folder, "run": RUN},
        "estimate": {"model": str(ground.model), "rank": 8, "gpu": "A100-80GB", "seq_len": 128, "method": "lora"},
        "logs": {"experiment": folder, "run": RUN, "lines": 10, "evaluation": False},
        "compare": {"experiments": [folder, str(ground.experiment.with_name("other"))], "section": "runs"},
        "models": {},
        "data": {"path": str(rows)},
        "init": {"data": str(rows), "target": str(ground.fresh() / "new"), "name": "a", "input_column": "input"},
        "edit": {"experiment": folder, "values": dict(pair.split("=", 1) for pair in overrides(chance))},
        "fix": {"paths": [folder], "write": True},
    }
    name = chance.choice(sorted(_TOOLS))
    arguments = usual.get(name, {"experiment": folder, "run": RUN})
    kept = {key: value for key, value in arguments.items() if chance.random() < 0.95}
    if chance.random() < 0.6:
        files = [path for path in ground.experiment.rglob("*") if path.is_file() and path.stat().st_size < 100_000]
        path = chance.choice(sorted(files))
        path.write_bytes(changed(path, chance))
        return name, kept
    found = mutated(kept, chance) if kept else {"x": chance.choice(VALUES)}
    return name, found if isinstance(found, dict) else {"x": found}


KINDS: dict[str, Callable[[Ground, random.Random], Words]] = {
    "overrides": lambda ground, chance: ("plan", ground.experiment, "--dry-run", *overrides(chance)),
    "configs": configs,
    "data": data,
    "models": models,
    "logs": logs,
    "requests": lambda ground, chance: ("request", *map(json.dumps, request(ground, chance))),
}


# -------------------------------------------------------------------------------------------------------------- trying


def _stop(number: int, frame: object) -> NoReturn:
    raise HangError("".join(traceback.format_stack(frame)[-3:]))  # type: ignore[arg-type]


def in_process(ground: Ground, words: Words, counts: Counter[str]) -> tuple[str, str]:
    """Return what became of an input, and the details of a failure."""
    signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    before = time.process_time()
    try:
        if words[0] == "request":
            return asked(json.loads(str(words[1])), json.loads(str(words[2])))
        if "overrides" in counts:
            try:
                text = (ground.experiment / "experiment.yaml").read_text()
                read_experiment(text, "experiment.yaml", [str(word) for word in words[3:]])
            except InputError as error:
                return ("refused", "") if error.findings else ("internal", f"no finding: {error}")
            counts["read"] += 1
        code, *_ = harness.call(*words)
    except HangError as error:
        return "hang", str(error)
    except harness.MisbehaviorError as error:
        cause = error.__cause__ or error
        where = "".join(traceback.format_exception(cause)[-4:])
        return ("hang" if "it hangs" in str(error) else "internal"), f"{where}\n{str(error)[-600:]}"
    except BaseException:  # noqa: BLE001 (whatever an input can raise is what is counted)
        return "internal", traceback.format_exc(limit=-4)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if time.process_time() - before > CPU_SECONDS:
        return "hang", f"{time.process_time() - before:.1f} s of processor time"
    return ("accepted" if code == 0 else "refused"), ""


def asked(name: str, arguments: dict[str, Any]) -> tuple[str, str]:
    """Call a tool as the server does; its answer must be text that a client can be sent."""
    answer = called(name, arguments)
    if isinstance(answer, Started):
        return "internal", "work was started without an approval"
    json.dumps(answer, ensure_ascii=False).encode()
    return told(answer)


def told(answer: dict[str, Any]) -> tuple[str, str]:
    error = answer.get("error")
    if _INTERNAL.search(str(error)):
        return "internal", json.dumps(error, indent=0)
    return ("accepted" if error is None else "refused"), ""


def by_command(ground: Ground, words: Words) -> tuple[str, str]:
    """The same by a process of its own, which the kernel ends after the processor time of a hang."""
    if words[0] == "request":
        return by_message(ground, json.loads(str(words[1])), json.loads(str(words[2])))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))

    arguments = [str(word) for word in words]
    if any("\0" in word for word in arguments):
        return "refused", ""  # by the system: no process has such an argument
    try:
        done = subprocess.run(
            command(*arguments),
            env=ground.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=20 * CPU_SECONDS,
            preexec_fn=limit,
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        return ("refused" if isinstance(error, OSError) else "hang"), str(error)
    said = done.stderr + done.stdout
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return "hang", said[-600:]
    if done.returncode not in harness.CODES or _INTERNAL.search(said):
        return "internal", f"{done.returncode}: {said[-2000:]}"
    return ("accepted" if done.returncode == 0 else "refused"), ""


def by_message(ground: Ground, name: str, arguments: dict[str, Any]) -> tuple[str, str]:
    """The same by a message to the server, which is started again after its end."""
    if ground.server is None or ground.server.poll() is not None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        ground.server = subprocess.Popen(command("mcp"), env=ground.env, text=True, bufsize=0, **pipes)
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "fuzz", "version": "1"}}
        _answer(ground, "initialize", hello)
        assert ground.server.stdin
        ground.server.stdin.write('{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
    answer = _answer(ground, "tools/call", {"name": name, "arguments": arguments})
    if answer is None:
        server, ground.server = ground.server, None
        dead = server.poll()
        server.kill()
        said = server.communicate()[1]
        return ("no answer" if dead is None else "internal"), f"ended: {dead}\n{said[-1500:]}"
    if "result" not in answer:
        return "refused", ""
    return told(answer["result"].get("structuredContent", {}))


def _answer(ground: Ground, method: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
    """Send a request. Return the answer, or None if the server ends or says nothing."""
    server = ground.server
    assert server
    assert server.stdin
    assert server.stdout
    ground.asked += 1
    request = {"jsonrpc": "2.0", "id": ground.asked, "method": method, "params": parameters}
    with contextlib.suppress(BrokenPipeError):
        server.stdin.write(json.dumps(request) + "\n")
    end = time.monotonic() + 3 * CPU_SECONDS
    while time.monotonic() < end and (select.select([server.stdout], [], [], 1)[0] or server.poll() is None):
        if not select.select([server.stdout], [], [], 1)[0]:
            continue
        line = server.stdout.readline()
        if not line:
            break
        with contextlib.suppress(ValueError):
            found: dict[str, Any] = json.loads(line)
            if found.get("id") == ground.asked:
                return found
    return None


def try_kind(ground: Ground, kind: str, options: argparse.Namespace, failures: list[str]) -> Counter[str]:
    """Try inputs of one kind both ways. Return the counts; print what fails for the first time."""
    counts: Counter[str] = Counter({kind: 0})
    ground.restore()
    for way, count in (("in process", options.count), ("command", options.commands)):
        for number in range(count):
            chance = random.Random(f"{options.seed} {kind} {way} {number}")  # noqa: S311 (made-up input)
            words = KINDS[kind](ground, chance)
            ending, why = in_process(ground, words, counts) if way == "in process" else by_command(ground, words)
            counts[f"{way} {ending}"] += 1
            if ending in ("accepted", "refused"):
                continue
            failures.append(f"{kind} {way} {number}")
            print(f"--- {kind}, {way}, {number}: {ending}\n{[str(word)[:200] for word in words]}\n{why}", flush=True)
            if options.keep:
                kept = options.keep / f"{kind}-{way}-{number}".replace(" ", "-")
                shutil.copytree(ground.experiment.parent, kept, dirs_exist_ok=True, symlinks=True)
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """Try every kind, and print its rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--commands", type=int, default=50)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args(arguments)
    failures: list[str] = []
    endings = ("accepted", "refused", "internal", "hang", "no answer")
    print(f"{'kind':10}{'way':12}" + "".join(f"{each:>10}" for each in endings))
    with tempfile.TemporaryDirectory() as text:
        ground = Ground(Path(text))
        ground.make()
        for kind in options.kinds:
            counts = try_kind(ground, kind, options, failures)
            for way in ("in process", "command"):
                print(f"{kind:10}{way:12}" + "".join(f"{counts[f'{way} {each}']:10}" for each in endings), flush=True)
            if kind == "overrides" and options.count:
                share = 100 * counts["read"] / options.count
                print(f"overrides that pass the reader: {share:.0f}%, at least {LEAST_READ_PERCENT}% wanted")
                failures += ["too few overrides pass the reader"] * (share < LEAST_READ_PERCENT)
        if ground.server is not None:
            ground.server.kill()
        os.chdir(ROOT)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
