"""Answers of sinfo, scontrol and sacctmgr as SLURM 22.05 and larger sites give them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.slurm.site_facts import (
    first_number,
    read_associations,
    read_config,
    read_gpus,
    read_partitions,
    read_qos,
)

pytestmark = pytest.mark.planning

SINFO = """\
gpu*|up|infinite|1:00:00|2|32|64000|gpu:4|(null)
pli|up|1-00:00:00|30:00|42|96|1000000|gpu:h100:8(S:0-1)|h100,gpu80,intel
mixed|up|6-00:00:00|n/a|3|128+|768000+|gpu:a100:4(S:0,1),shard:8|a100,gpu40
mixed|up|6-00:00:00|n/a|5|64|512000|gpu:v100:2|v100
cpu|down|15:00:00|(null)|10|40|190000|(null)|cascade
torn line
"""
SCONTROL = (
    "PartitionName=gpu AllowAccounts=ALL Default=YES GraceTime=0 DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED\n"
    "PartitionName=pli GraceTime=300 DefMemPerCPU=4096 MaxTime=1-00:00:00\n"
    "PartitionName=unknown DefMemPerNode=1\n"
)


def test_partitions_with_their_limits_gpus_and_defaults() -> None:
    gpu, pli, mixed, cpu = read_partitions(SINFO, SCONTROL)
    assert (gpu.name, gpu.default, gpu.up, gpu.max_seconds, gpu.default_seconds) == ("gpu", True, True, None, 3600.0)
    assert (gpu.gpus, gpu.features, gpu.default_mib_per_node) == ({"": 4}, (), None)
    assert (pli.max_seconds, pli.default_seconds, pli.gpus) == (86400.0, 1800.0, {"h100": 8})
    assert (pli.features, pli.default_mib_per_cpu, pli.grace_seconds) == (("h100", "gpu80", "intel"), 4096, 300)
    assert (mixed.nodes, mixed.cpus_per_node, mixed.memory_mib_per_node) == (8, 128, 768000)
    assert (mixed.gpus, mixed.features) == ({"a100": 4, "v100": 2}, ("a100", "gpu40", "v100"))
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
    text = (
        "Configuration data as of 2026\nKillWait                = 30 sec\nMaxArraySize = 1001\nAuthType = auth/munge\n"
    )
    assert read_config(text) == {"KillWait": "30 sec", "MaxArraySize": "1001"}


def test_accounts_and_qualities_of_service() -> None:
    one, other = read_associations("root||normal,short|||\nchem|pli|vip|10|500|2-00:00:00\n\n")
    assert (one.account, one.partition, one.qos, one.max_jobs, one.max_wall_seconds) == (
        *("root", "", ("normal", "short")),
        *(None, None),
    )
    assert (other.account, other.partition, other.max_jobs, other.max_submitted) == ("chem", "pli", 10, 500)
    assert other.max_wall_seconds == 172800.0
    (normal, short) = read_qos("normal|||\nshort|20|400|01:00:00\n")
    assert (normal.max_jobs, normal.max_submitted, normal.max_wall_seconds) == (None, None, None)
    assert (short.max_jobs, short.max_submitted, short.max_wall_seconds) == (20, 400, 3600.0)


def test_a_setting_begins_with_its_number() -> None:
    assert [first_number(text) for text in ("30 sec", "100", "UNLIMITED", "", "(null)")] == [30, 100, None, None, None]


@given(st.text(alphabet="|,:=()*gpu 0123456789\nPartionNme"), st.text(alphabet="|,:=()*gpu 0123\nPartionNme"))
def test_no_answer_breaks_the_readers(one: str, other: str) -> None:
    """And reading it twice says the same."""
    assert read_partitions(one, other) == read_partitions(one, other)
    for read in (read_gpus, read_config, read_associations, read_qos):
        assert read(one) == read(one)  # type: ignore[operator]
