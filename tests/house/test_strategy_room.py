"""The strategy stays in its room: few other modules know that there are decisions at all."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.planning
SOURCE = Path(__file__).resolve().parents[2] / "src" / "touchline"
MOST = 9


def test_few_files_outside_the_room_import_it() -> None:
    """Its settings are declared in experiment/, as all keys are."""
    outside = [path for path in SOURCE.rglob("*.py") if SOURCE / "strategy" not in path.parents]
    found = [path.relative_to(SOURCE).as_posix() for path in outside if "touchline.strategy" in path.read_text()]
    assert len(found) <= MOST, found
