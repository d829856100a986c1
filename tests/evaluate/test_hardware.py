"""Which element type is chosen, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from touchline.data.machine import choose_base_dtype, cpu_flags

X86 = "processor\t: 0\nmodel name\t: some\nflags\t\t: fpu sse avx512f avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n"


@pytest.mark.parametrize(("text", "found"), [(X86, "avx512_bf16"), (ARM, "bf16")])
def test_the_kernels_list_of_flags_is_read(tmp_path: Path, text: str, found: str) -> None:
    """x86 calls them flags, Arm features."""
    path = tmp_path / "cpuinfo"
    assert cpu_flags(path) == frozenset()
    path.write_text(text)
    assert found in cpu_flags(path)


@pytest.mark.parametrize(
    ("capability", "flags", "dtype"),
    [
        (None, {"amx_bf16"}, "bfloat16"),
        (None, {"avx2", "fma"}, "float32"),
        (None, set(), "float32"),
        ((7, 5), {"avx512_bf16"}, "float32"),
        ((8, 0), set(), "bfloat16"),
        ((12, 0), set(), "bfloat16"),
    ],
)
def test_auto_follows_what_computes(capability: tuple[int, int] | None, flags: set[str], dtype: str) -> None:
    """The GPU decides where there is one; the processor's flags do not matter then."""
    choice = choose_base_dtype("auto", cuda_capability=capability, flags=frozenset(flags))
    assert choice.dtype == dtype
    assert choice.reason


def test_what_is_asked_for_is_taken() -> None:
    """Whatever the machine is."""
    assert choose_base_dtype("bfloat16", cuda_capability=(7, 0), flags=frozenset()).dtype == "bfloat16"
