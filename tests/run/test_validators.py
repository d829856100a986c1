"""A backend's own validator as a process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.faults.case import base, changed

from touchline.backends.torchtune.validator import VALIDATOR
from touchline.core.finding import Finding
from touchline.core.quantity import Missing
from touchline.experiment.foreign import ForeignDocument, parse_foreign
from touchline.lint.local.validators import program_of, validate

pytestmark = pytest.mark.planning

BASE = base("torchtune")


def config(folder: Path, text: str = BASE) -> ForeignDocument:
    """A config written into a folder."""
    path = folder / "finetune.yaml"
    path.write_text(text, encoding="utf-8")
    return parse_foreign(text, str(path), "omegaconf")


@pytest.fixture
def tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `tune` beside an interpreter; a test writes what it says into `answer.py`."""
    folder = tmp_path / "env" / "bin"
    folder.mkdir(parents=True)
    program = folder / "tune"
    program.write_text(f"#!{sys.executable}\nimport runpy\nrunpy.run_path({str(folder / 'answer.py')!r})\n")
    program.chmod(0o755)
    monkeypatch.setenv(VALIDATOR.python_variable, str(folder / "python"))
    assert program_of(VALIDATOR) == program
    return folder / "answer.py"


def asked(document: ForeignDocument, timeout: float = 30) -> tuple[Finding, ...]:
    """Its findings, where it could be asked."""
    found = validate(VALIDATOR, document, timeout=timeout)
    assert not isinstance(found, Missing), found
    return found


def test_a_config_that_it_likes_has_no_findings(tmp_path: Path, tune: Path) -> None:
    tune.write_text("import sys\nassert sys.argv[1] == 'validate', sys.argv\nprint('Config is well-formed!')\n")
    assert asked(config(tmp_path)) == ()


def test_its_complaint_is_a_finding(tmp_path: Path, tune: Path) -> None:
    """What argparse prints before it is left out."""
    complaint = "Config is not well-formed, found the following errors: TypeError: unexpected 'lora_rnk'"
    lines = f"usage: tune validate <config>\\ntune validate: error: {complaint}"
    tune.write_text(f'import sys\nsys.stderr.write("{lines}\\n")\nsys.exit(2)\n')
    (found,) = asked(config(tmp_path))
    assert (found.code, found.severity.value) == ("BK030", "error")
    assert found.message == f"tune validate: {complaint}"
    assert found.where.path.endswith("finetune.yaml")


def test_an_exception_of_the_config_is_a_finding(tmp_path: Path, tune: Path) -> None:
    lines = (
        'Traceback (most recent call last):\\n  File "/x/omegaconf/base.py", line 1, in f\\n'
        "omegaconf.errors.InterpolationKeyError: Interpolation key 'outdir' not found"
    )
    tune.write_text(f"import sys\nsys.stderr.write({lines!r}.replace('\\\\n', chr(10)))\nsys.exit(1)\n")
    (found,) = asked(config(tmp_path))
    assert "Interpolation key 'outdir' not found" in found.message


@pytest.mark.parametrize(
    "answer",
    ["raise ImportError('torchao not installed')\n", "print('this is another tune')\n", "import sys\nsys.exit(3)\n"],
)
def test_what_is_no_answer_is_missing(tmp_path: Path, tune: Path, answer: str) -> None:
    """A broken install of torchtune, or another program of that name, says nothing of the config."""
    tune.write_text(answer)
    assert isinstance(validate(VALIDATOR, config(tmp_path)), Missing)


def test_it_is_given_up_after_a_time(tmp_path: Path, tune: Path) -> None:
    tune.write_text("import time\ntime.sleep(30)\n")
    found = validate(VALIDATOR, config(tmp_path), timeout=0.5)
    assert "longer than" in found.missing


def test_components_of_a_stranger_are_never_imported(tmp_path: Path, tune: Path) -> None:
    tune.write_text("raise SystemExit('was started')\n")
    found = validate(VALIDATOR, config(tmp_path, changed(BASE, "torch.optim.AdamW", "shutil.rmtree")))
    assert "would import shutil.rmtree" in found.missing


def test_it_is_missing_where_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VALIDATOR.python_variable, str(tmp_path / "bin" / "python"))
    assert isinstance(validate(VALIDATOR, config(tmp_path)), Missing)
    monkeypatch.delenv(VALIDATOR.python_variable)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program_of(VALIDATOR) is None
