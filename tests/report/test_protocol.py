"""Which trackers there are, and what is said where one is not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from touchline.cli.exporting import Target
from touchline.core.errors import HostError, InputError, install_hint
from touchline.report.trackers.protocol import TRACKERS, open_tracker

pytestmark = pytest.mark.planning


def test_the_command_offers_every_tracker_and_no_other() -> None:
    assert {target.value for target in Target} == set(TRACKERS)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_that_is_not_installed_is_told_with_what_to_type(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HostError) as told:
        open_tracker(tracker, None, tmp_path / "exports")
    assert told.value.hint == install_hint(tracker)
    assert not (tmp_path / "exports").exists()


def test_a_tracker_that_there_is_not_is_told() -> None:
    with pytest.raises(InputError, match="there is no tracker 'aim'"):
        open_tracker("aim", None, Path("nowhere"))
