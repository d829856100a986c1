"""What `touchline pack` was asked for, and what it says where something is missing."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from touchline.core.errors import InputError
from touchline.data.user_config import load_settings
from touchline.plan.local.packing import PackRequest, load_lengths


def test_the_command_that_is_offered_names_the_dataset_and_the_length(tmp_path: Path) -> None:
    """Also where its name has spaces."""
    for path in (Path("data.csv"), tmp_path / "my data.csv"):
        with pytest.raises(InputError) as caught:
            load_lengths(PackRequest(dataset=path, max_seq_len=77), load_settings(), None)
        assert f"touchline pack {shlex.quote(str(path))} --tokenizer" in (caught.value.hint or "")
        assert "--max-seq-len 77" in (caught.value.hint or "")
