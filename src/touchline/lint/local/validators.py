"""Backend's own validator, run if it is installed, and verification of the checkpoints that a config names.

`tune validate` imports every component that a config names. It only runs on configs whose components are of packages
that come with torchtune, so a check never imports untrusted modules.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from touchline.backends.torchtune.config import COMPONENT
from touchline.backends.torchtune.interpolation import is_known, resolve
from touchline.backends.torchtune.reading import Config
from touchline.core.finding import Finding, Severity, Where
from touchline.core.quantity import Missing
from touchline.data.shards import ShardHeaderError, read_shard
from touchline.spec.foreign import ForeignDocument

TORCHTUNE_PYTHON = "TOUCHLINE_TORCHTUNE_PYTHON"
"""Variable with the interpreter of an environment that has torchtune."""
TIMEOUT = 120.0
"""Timeout of `tune validate` in seconds; it imports torch."""
_TRUSTED = ("torchtune.", "torch.", "torchao.", "bitsandbytes.")
_FINE = "Config is well-formed!"
_LONGEST = 400
_MOST_FILES = 1000
_CHECKPOINTERS = (
    "checkpointer",
    "teacher_checkpointer",
    "ref_checkpointer",
    "value_checkpointer",
    "reward_checkpointer",
)
_SAFE_SUFFIX = ".safetensors"


def tune_program() -> Path | None:
    """Return torchtune's command: beside the interpreter that TOUCHLINE_TORCHTUNE_PYTHON names, or on the path."""
    named = os.environ.get(TORCHTUNE_PYTHON)
    if named:
        beside = Path(named).expanduser().parent / "tune"
        return beside if os.access(beside, os.X_OK) else None
    found = shutil.which("tune")
    return None if found is None else Path(found)


def validate_torchtune(document: ForeignDocument, *, timeout: float = TIMEOUT) -> tuple[Finding, ...] | Missing:
    """Run `tune validate` on a config and report its errors as BK030; Missing if it cannot run.

    Args:
        document: the config; `document.path` is its file.
        timeout: seconds after which it is given up.
    """
    own = sorted({name for name in _components(document.data) if not name.startswith(_TRUSTED)})
    if own:
        return Missing(missing=f"tune validate would import {own[0]}")
    program = tune_program()
    if program is None:
        return Missing(missing=f"torchtune's command `tune` is not here; {TORCHTUNE_PYTHON} names another environment")
    path = Path(document.path).resolve()
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    try:
        # An empty folder keeps files beside the config from being imported as packages.
        with tempfile.TemporaryDirectory() as nowhere:
            done = subprocess.run(  # noqa: S603 (an argument list; the program is the user's own)
                [str(program), "validate", str(path)],
                check=False,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                cwd=nowhere,
                env=environment,
            )
    except subprocess.TimeoutExpired:
        return Missing(missing=f"tune validate took longer than {timeout:.0f} s")
    except OSError as error:
        return Missing(missing=f"tune validate could not be started: {error.strerror}")
    return _verdict(done.returncode, done.stdout, done.stderr, document.path)


def _verdict(status: int, out: str, err: str, path: str) -> tuple[Finding, ...] | Missing:
    """Return its output as findings. Missing if it has no verdict."""
    if status == 0 and _FINE in out:
        return ()
    said = [line.strip() for line in err.strip().splitlines() if line.strip()]
    if "tune validate: error:" in err:
        complaint = err.partition("tune validate: error:")[2]
    else:
        last = next((line for line in reversed(said) if re.match(r"[\w.]+(Error|Exception)\b", line)), None)
        if last is None or not _of_config(err):
            reason = said[-1][:_LONGEST] if said else "no word"
            return Missing(missing=f"tune validate ended with status {status}: {reason}")
        complaint = last
    message = " ".join(complaint.split())[:_LONGEST]
    return (
        Finding(
            code="BK030",
            severity=Severity.ERROR,
            subject=path,
            message=f"tune validate: {message}",
            where=Where(path=path),
        ),
    )


def _of_config(text: str) -> bool:
    """Return True if a traceback ends in reading the config, and not in an import of torchtune itself."""
    return any(
        mark in text for mark in ("torchtune/config/", "omegaconf/", "yaml/constructor.py", "InstantiationError")
    )


def _components(node: object) -> Iterator[str]:
    if isinstance(node, Mapping):
        if COMPONENT in node:
            yield str(node[COMPONENT])
        for value in node.values():
            yield from _components(value)
    elif isinstance(node, list):
        for value in node:
            yield from _components(value)


def checkpoint_findings(document: ForeignDocument) -> tuple[Finding, ...]:
    """Return files under `checkpoint_files` of a torchtune config that are missing or corrupt, as BK031.

    A folder that is not on this machine is not checked. The header of a safetensors file is compared with the file's
    size. A pickle is never opened; only an empty one is reported.
    """
    config = Config(document, resolve(document).data)
    base = Path(document.path).parent
    findings: list[Finding] = []
    for section in _CHECKPOINTERS:
        folder = config.get(section, "checkpoint_dir")
        if not isinstance(folder, str):
            continue
        root = base / Path(folder).expanduser()
        if not _is_folder(root):
            continue
        where = config.where(section, "checkpoint_files")
        for name in checkpoint_names(config.get(section, "checkpoint_files")):
            fault = _fault(root / name)
            if fault is not None:
                findings.append(
                    Finding(
                        code="BK031",
                        severity=Severity.ERROR,
                        subject=f"{section}.checkpoint_files",
                        message=f"{fault} in {folder}",
                        where=where,
                        hint="download it again, or name the files that are there",
                    )
                )
    return tuple(findings)


def _is_folder(path: Path) -> bool:
    """Return True if a path is a folder. Invalid paths are not."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def checkpoint_names(given: object) -> Iterator[str]:
    """Yield the file names of a checkpoint: a list, or a pattern with the last file's number."""
    if isinstance(given, list):
        yield from (name for name in given if isinstance(name, str) and is_known(name) and _is_plain(name))
    elif isinstance(given, Mapping):
        pattern, last = given.get("filename_format"), given.get("max_filename")
        if not (isinstance(pattern, str) and isinstance(last, str) and last.isdigit() and pattern.count("{}") == 2):
            return
        for number in range(1, min(int(last), _MOST_FILES) + 1):
            name = pattern.replace("{}", str(number).zfill(len(last)), 1).replace("{}", last, 1)
            if _is_plain(name):
                yield name


def _is_plain(name: str) -> bool:
    """Return True if a name stays inside its folder."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _fault(path: Path) -> str | None:
    """Check one checkpoint file. None if it is valid."""
    try:
        if path.suffix != _SAFE_SUFFIX:
            return f"{path.name} is empty" if path.stat().st_size == 0 else None
        shard = read_shard(path)
    except FileNotFoundError:
        return f"{path.name} is missing"
    except ShardHeaderError as broken:
        return str(broken)
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    if shard.size_bytes < shard.expected_bytes:
        return f"{path.name} is cut off: {shard.size_bytes:,} bytes, {shard.expected_bytes:,} expected,"
    return None
