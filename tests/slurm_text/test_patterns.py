"""Folders whose names mean something to SLURM: the option that it reads back as the folder, in Python and in bash."""

import re
import subprocess
from pathlib import Path

import touchline.run.scripts
from touchline.slurm.job_view import output_pattern

TEMPLATE = Path(touchline.run.scripts.__file__).parent / "templates" / "pattern.sh.j2"
PLAIN = ("/a/b", '/it\'s "so"', "/a\nb", "/$HOME/`ls`", "/ü", "/-x", "/a b/[c]*?")
REPLACED = ("/50%", "/%j", "/a%%b", "/%%j/%A/%x", "/%5j", "/%", "/%\n%j")
ESCAPED = ("/a\\b", "/a\\\\b", "/%j\\%%", "/\\", "/a'\\\"%j")


def as_slurm_reads(pattern: str, job: str) -> str:
    r"""The file that slurmstepd opens: nothing is replaced where there is a backslash."""
    if "\\" in pattern:
        return re.sub(r"\\(.)", r"\1", pattern, flags=re.DOTALL)
    return re.sub("%([%jAx])", lambda match: "%" if match[1] == "%" else job, pattern)


def test_a_job_writes_into_its_own_folder_whatever_that_is_called() -> None:
    for folder in (*PLAIN, *REPLACED, *ESCAPED):
        pattern = output_pattern(folder, "slurm-%j.out")
        expected = "slurm-%j.out" if "\\" in folder else "slurm-7.out"
        assert as_slurm_reads(pattern or f"{folder}/slurm-%j.out", "7") == f"{folder}/{expected}", folder
        assert (pattern is None) == (folder in PLAIN)


def test_the_scripts_for_the_shell_say_the_same() -> None:
    text = TEMPLATE.read_text(encoding="utf-8")
    script = text + '\nfor folder; do output_of "$folder" "slurm-%j.out"; printf "\\0"; done'
    folders = (*PLAIN, *REPLACED, *ESCAPED)
    done = subprocess.run(["bash", "-c", script, "bash", *folders], capture_output=True, text=True, check=True)
    said = done.stdout.split("\0")[:-1]
    expected = [output_pattern(folder, "slurm-%j.out") for folder in folders]
    assert said == ["" if pattern is None else f"--output={pattern}" for pattern in expected]
