"""The README of examples/mega_job with what its commands print; `python -m tests.examples.mega_readme` writes it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "src" / "touchline" / "examples" / "mega_job"
README = FOLDER / "README.md"
_BLOCK = re.compile(r"(<!-- slow -->\n)?```console\n(.*?)```\n", re.DOTALL)


def filled(text: str) -> str:
    """The text with every block's commands run, in the example's folder, and their output behind each."""
    return _BLOCK.sub(lambda found: found[0] if found[1] else f"```console\n{_run(found[2])}```\n", text)


def _run(block: str) -> str:
    told = []
    for line in block.splitlines():
        if line.startswith("$ touchline "):
            words = [sys.executable, "-m", "touchline.cli.main", *line.split()[2:]]
            done = subprocess.run(
                words, cwd=FOLDER, env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True, check=False
            )
            if done.returncode not in (0, 1):
                raise RuntimeError(f"{line}: {done.stderr}")
            told += [line, done.stdout.rstrip("\n")]
    return "\n".join(told) + "\n"


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
