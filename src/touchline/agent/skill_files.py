"""Skills for coding agents: Markdown files with the commands of a task, installed into an agent's folder."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from touchline.core.errors import PolicyError, quoted
from touchline.core.files import disk_errors, read_text_bounded, write_if_changed

SKILL_FILE = "SKILL.md"
DEFAULT_FOLDER = Path(".agents/skills")
"""Folder that most coding agents read, from a project's root."""
_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Skill:
    """Skill of a coding agent."""

    name: str
    """Name, which is that of its folder."""
    description: str
    """When an agent uses it."""
    text: str
    """SKILL.md."""


def skills() -> tuple[Skill, ...]:
    """Return all skills, in alphabetical order."""
    folder = resources.files("touchline.agent") / "skills"
    names = sorted(each.name for each in folder.iterdir() if (each / SKILL_FILE).is_file())
    return tuple(_parse((folder / name / SKILL_FILE).read_text(encoding="utf-8")) for name in names)


def _parse(text: str) -> Skill:
    head = text.split("---\n", 2)[1]
    fields = dict(line.split(": ", 1) for line in head.splitlines())
    return Skill(name=fields["name"], description=fields["description"], text=text)


def install_skills(folder: Path, *, force: bool = False) -> dict[Path, bool]:
    """Write every skill into a folder of its own. Return the files, and whether each was written.

    Args:
        folder: folder that a coding agent reads its skills from.
        force: whether to replace files with other content.

    Raises:
        PolicyError: a file has other content and `force` is not set; nothing is written.
    """
    files = {folder / skill.name / SKILL_FILE: skill.text for skill in skills()}
    other = [path for path, text in files.items() if path.exists() and read_text_bounded(path, _LIMIT_BYTES) != text]
    if other and not force:
        raise PolicyError(
            f"{', '.join(map(str, other))}: other content than this version writes",
            expected="no such file, or one of this version",
            hint=f"touchline skill install --dir {quoted(str(folder))} --force",
        )
    with disk_errors("folder", folder):
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
        return {path: write_if_changed(path, text) for path, text in files.items()}
