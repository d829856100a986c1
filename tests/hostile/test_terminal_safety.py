"""Names, logs and texts that a terminal would obey never reach it, whatever the command."""

import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
import typer.main
from tests.api.folders import command, make_experiment
from tests.api.made_runs import finish
from tests.hostile.harness import call

from touchline.cli.main import app
from touchline.core.text import has_control, without_controls
from touchline.data.user_config import UserConfig

pytestmark = pytest.mark.slow

NAMES = ("\x1b[31mred\x1b]0;t\x07\x9b2J", "abc\u202egpj\u2066\u200f\u061c")
OBEYED = re.compile("\x1b\\[31m|\x1b\\]|[\x07\x9b\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What is in the names; rich draws its bars with sequences of its own."""
RUN = "1M_rank2"


def commands(group: Any, name: str = "") -> Iterator[tuple[str, list[str]]]:
    """Every command of the registry, with its arguments and the options that it needs."""
    if hasattr(group, "commands"):
        for word, each in group.commands.items():
            yield from commands(each, f"{name} {word}".strip())
    else:
        needed = [each for each in group.params if each.required or each.param_type_name == "argument"]
        options = [str(each.name) if each.param_type_name == "argument" else each.opts[0] for each in needed]
        yield name, options + ["--json"] * any("--json" in each.opts for each in group.params)


COMMANDS = {name: needed for name, needed in commands(typer.main.get_command(app)) if name != "selftest"}
"""All but one that trains and takes no name."""
TRAIN = {"demo", "run", "probe", "reproduce"}
"""Commands that are given a file in the folder, which is not an experiment."""
MORE = {"logs": ["--run", RUN], "publish": ["--run", RUN], "cancel": ["--all"], "status": ["--no-queue"]}
VALUES = {"--gpus": "1", "--to": "tensorboard", "--max-seq-len": "64", "--gpu-hours": "1", "overrides": "name=tiny"}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Path]:
    """Two finished experiments with hostile names, question and log, in a folder of models that has one too."""
    root = tmp_path_factory.mktemp("terminal")
    models = root / NAMES[0]
    models.mkdir()
    (models / "Tiny-1M-Instruct").symlink_to(tiny_model)
    settings = UserConfig(models_dir=models, cache_dir=root / "cache", history_dir=root / "history")
    for name in NAMES:
        folder = make_experiment(root / "experiments" / name, ranks="[2]", n_train=16, n_test=4)
        yaml = folder / "experiment.yaml"
        yaml.write_text(yaml.read_text().replace("Does it survive?", json.dumps(NAMES[0] + NAMES[1])))
        finish(folder, settings)
        (folder / RUN / "slurm-1.out").write_text("\n".join(NAMES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOUCHLINE_MODELS_DIR", str(models))
        for kind in ("cache", "history", "config"):
            patch.setenv(f"TOUCHLINE_{kind.upper()}_DIR", str(root / kind))
        patch.setenv("XDG_CONFIG_HOME", str(root / "config"))
        patch.chdir(root / "experiments")
        yield root / "experiments"


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_prints_what_a_terminal_obeys(name: str) -> None:
    for folder, terminal in itertools.product(NAMES, (True, False)):
        data = f"{folder}/data/words.json"
        words = name.split()
        for needed in COMMANDS[name]:
            value = VALUES.get(needed, data if needed in ("path", "dataset", "--out") or name in TRAIN else folder)
            words += [] if needed == "--json" and terminal else [needed] * needed.startswith("--")
            words += [value] * (needed != "--json")
        _, out, err = call(*words, *MORE.get(name, []), terminal=terminal)
        assert not OBEYED.search(out + err), words
        if "--json" in words and out.strip():
            json.loads(out)


def test_a_real_terminal_shows_the_name_without_what_it_would_obey(places: Path) -> None:
    for name in NAMES:
        program, *arguments = command("prepare", name)
        terminal = pexpect.spawn(program, arguments, env={**os.environ}, cwd=str(places), encoding="utf-8", timeout=120)
        terminal.expect(pexpect.EOF)
        assert f"{without_controls(name)}/{RUN}" in str(terminal.before)
        assert not OBEYED.search(str(terminal.before))


def test_what_is_removed_is_whole_and_nothing_else() -> None:
    assert without_controls("a\x1b[31mb\x1b]0;t\x07c\x9b2Jd\x1b\\e\u202ef\tg\nh") == "abcdef\tg\nh"
    assert all(has_control(mark) for mark in "\x1b\x9b\u061c\u200e\u200f\u202a\u202e\u2066\u2069\u2028\t\n")
