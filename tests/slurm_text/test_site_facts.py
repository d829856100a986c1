"""Answers of sinfo, scontrol and sacctmgr as SLURM 22.05 and larger sites give them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.slurm.site_facts import first_number, read_config, read_gpus, read_partitions

pytestmark = pytest.mark.planning

SINFO = """\
gpu*|up|infinite|1:00:00|2|32|64000|gpu:4
pli|up|1-00:00:00|30:00|42|96|1000000|gpu:h100:8(S:0-1)
mixed|up|6-00:00:00|n/a|3|128+|768000+|gpu:a100:4(S:0,1),shard:8
mixed|up|6-00:00:00|n/a|5|64|512000|gpu:v100:2
cpu|down|15:00:00|(null)|10|40|190000|(null)
torn line
"""


def test_partitions_with_their_limits_gpus_and_defaults() -> None:
    gpu, pli, mixed, cpu = read_partitions(SINFO)
    assert (gpu.name, gpu.default, gpu.up, gpu.max_seconds, gpu.default_seconds) == ("gpu", True, True, None, 3600.0)
    assert gpu.gpus == {"": 4}
    assert (pli.max_seconds, pli.default_seconds, pli.gpus) == (86400.0, 1800.0, {"h100": 8})
    assert (mixed.nodes, mixed.cpus_per_node, mixed.memory_mib_per_node) == (8, 128, 768000)
    assert mixed.gpus == {"a100": 4, "v100": 2}
    assert (cpu.up, cpu.default, cpu.gpus, cpu.max_seconds) == (False, False, {}, 54000.0)


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:4", {"": 4}),
        ("gpu", {"": 1}),
        ("gpu:a100:4(S:0-1)", {"a100": 4}),
        ("gpu:a100:4(S:0,1),gpu:v100:2", {"a100": 4, "v100": 2}),
        ("gpu:a100_1g.5gb:7", {"a100_1g.5gb": 7}),
        ("shard:8,craynetwork:4", {}),
        ("(null)", {}),
        ("", {}),
    ],
)
def test_gpus_by_type(gres: str, gpus: dict[str, int]) -> None:
    assert read_gpus(gres) == gpus


def test_the_settings_that_matter_are_kept() -> None:
    text = "Configuration data as of 2026\nMinJobAge               = 300 sec\nAuthType = auth/munge\n"
    assert read_config(text) == {"MinJobAge": "300 sec"}


def test_a_setting_begins_with_its_number() -> None:
    assert [first_number(text) for text in ("30 sec", "100", "UNLIMITED", "", "(null)")] == [30, 100, None, None, None]


@given(st.text(alphabet="|,:=()*gpu 0123456789\nPartionNme"))
def test_no_answer_breaks_the_readers(one: str) -> None:
    assert read_partitions(one) == read_partitions(one)
    for read in (read_gpus, read_config):
        assert read(one) == read(one)  # type: ignore[operator]
