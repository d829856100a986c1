"""Skills: every command of each runs on a real experiment, and `--json` is one JSON document."""

import json
import re
from pathlib import Path

import pytest
from tests.api.folders import touchline
from tests.cases import some
from tests.house.test_docs_commands import commands_of, wrong_words

from touchline.cli.agents import SKILL_FILE, Skill, install_skills, skills
from touchline.core.errors import PolicyError

SEED_NAMES = {
    *("plan-experiment", "plan-runs", "check-config", "setup-experiment", "launch-and-monitor", "evaluate"),
    *("summarize-experiments", "diagnose-failure"),
}
BEFORE_THE_LAUNCH = {"plan-experiment", "plan-runs", "setup-experiment"}
SHELL = re.compile(r"`(touchline [^`]+)`")


@pytest.mark.planning
def test_each_skill_of_the_seeds_is_there_and_short() -> None:
    assert {skill.name for skill in skills()} == SEED_NAMES
    for skill in skills():
        assert len(skill.text.splitlines()) <= 60, skill.name
        assert 40 <= len(skill.description) <= 300, skill.name


@pytest.mark.planning
@pytest.mark.parametrize("skill", skills(), ids=lambda skill: skill.name)
def test_every_command_named_in_a_skill_exists(skill: Skill) -> None:
    """Commands in sentences and tables as well as those in blocks."""
    named = _commands(skill.text) + SHELL.findall(" ".join(skill.text.split()))
    assert named
    assert [wrong_words(command) for command in named] == [[]] * len(named)


@pytest.mark.planning
def test_installing_twice_changes_nothing_and_edits_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "a b" / "skills"
    assert all(install_skills(folder).values())
    assert not any(install_skills(folder).values())
    edited = folder / "evaluate" / SKILL_FILE
    edited.write_text("ours")
    with pytest.raises(PolicyError, match="evaluate") as error:
        install_skills(folder)
    assert "--force" in str(error.value.hint)
    assert edited.read_text() == "ours"
    assert sum(install_skills(folder, force=True).values()) == 1


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("skill", skills(), ids=lambda skill: skill.name)
def test_the_commands_of_a_skill_work(skill: Skill, home: tuple[Path, dict[str, str]]) -> None:
    """One after the other, as an agent runs them. Those that need SLURM are only parsed."""
    root, environment = home
    words = {
        "EXPERIMENT": "new" if skill.name in BEFORE_THE_LAUNCH else "experiment",
        "OTHER": "other",
        "DATA": "experiment/words.json",
        "NEW": f"started-{skill.name}",
        "MODEL": "Tiny-1M-Instruct",
        "PATH": "experiment",
        "RUN": "1M_rank2",
        "CODE": "EX110",
    }
    text = re.sub(r"<!-- needs SLURM -->\s*```console.*?```", "", skill.text, flags=re.DOTALL)
    for command in some(_commands(text)):
        _, *line = (words.get(word, word) for word in command.split())
        done = touchline(*line, env=environment, cwd=root)
        # `doctor` finds what is wrong with this machine.
        assert done.returncode == 0 or line[0] == "doctor", (command, done.stderr[-2000:])
        if "--json" in line:
            json.loads(done.stdout)


def _commands(text: str) -> list[str]:
    """Return the commands in the blocks of a skill, those in lists included."""
    flush = re.sub(r"^ +", "", text, flags=re.MULTILINE)
    return [command.text for command in commands_of(Path(SKILL_FILE), flush)]
