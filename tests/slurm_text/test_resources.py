"""A job script's directives are read as sbatch reads them, and what is asked for is no proof of what was used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.history.sound import assert_sound

from touchline.core.observation import Observation
from touchline.slurm.resources import read_sbatch, time_limit_seconds

pytestmark = pytest.mark.planning


def said(*lines: str) -> dict[str, float | str]:
    events = read_sbatch("#!/bin/bash\n" + "\n".join(lines))
    assert all(isinstance(event, Observation) for event in events)
    return {event.name: event.value for event in events if isinstance(event, Observation)}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("02:00:00", 7200),
        ("1-12", 129_600),
        ("1-12:30", 131_400),
        ("2-00:00:05", 172_805),
        ("UNLIMITED", None),
        ("0", None),
        ("1:2:3:4", None),
        ("", None),
        ("two hours", None),
    ],
)
def test_a_time_limit_is_read_in_each_of_slurm_s_forms(text: str, seconds: int | None) -> None:
    assert time_limit_seconds(text) == seconds


@given(days=st.integers(0, 30), hours=st.integers(0, 23), minutes=st.integers(0, 59), seconds=st.integers(1, 59))
def test_the_longest_form_is_the_sum_of_its_parts(days: int, hours: int, minutes: int, seconds: int) -> None:
    expected = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert time_limit_seconds(f"{days}-{hours:02d}:{minutes:02d}:{seconds:02d}") == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["#SBATCH --gres=gpu:a100:2"], {"gpus": 2, "gpu": "a100"}),
        (["#SBATCH --gres=gpu:2", "#SBATCH --nodes=3"], {"gpus": 6}),
        (["#SBATCH --gres=gpu"], {"gpus": 1}),
        (["#SBATCH --gres=shard:4"], {}),
        (["#SBATCH --gpus=4"], {"gpus": 4}),
        (["#SBATCH -G h100:4"], {"gpus": 4, "gpu": "h100"}),
        (["#SBATCH --gpus-per-node=a40:4 -N 2"], {"gpus": 8, "gpu": "a40"}),
        (["#SBATCH --gpus-per-node=4", "#SBATCH --nodes=1-2"], {}),
        (["#SBATCH --gpus-per-task=1", "#SBATCH --ntasks=4"], {"gpus": 4}),
        (["#SBATCH --gres=gpu:v100:1,gpu:a100:1"], {"gpus": 2}),
        (["#SBATCH -t 30", "#SBATCH --mem=4G"], {"time_limit_seconds": 1800}),
        (["#SBATCH --time 1-00:00:00  # a day"], {"time_limit_seconds": 86_400}),
        (["#SBATCH --time=10", "#SBATCH --time=20"], {"time_limit_seconds": 1200}),
        (["#SBATCH --partition=gpu", "#SBATCH --job-name=-t"], {}),
    ],
)
def test_directives_say_limit_and_gpus(lines: list[str], expected: dict[str, float | str]) -> None:
    assert said(*lines) == expected


def test_only_directives_before_the_first_command_count() -> None:
    assert said("##SBATCH --gpus=8", "# SBATCH --gpus=8", "", "set -e", "#SBATCH --gpus=8") == {}


def test_gpus_are_asked_for_and_not_certain() -> None:
    events = read_sbatch("#SBATCH --gpus=2\n#SBATCH --time=5\n")
    assert {event.name: event.certain for event in events if isinstance(event, Observation)} == {
        "gpus": False,
        "time_limit_seconds": True,
    }


@given(st.text(max_size=200))
def test_no_script_breaks_it(text: str) -> None:
    for whole in (text, f"#SBATCH {text}"):
        assert_sound(read_sbatch(whole), whole.count("\n") + 1)
