"""One thread of torch: sums are then in the same order in every process of a training."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tiny_model import write_tiny_words


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The tests of this room train with one thread, here and in the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch = sys.modules.get("torch")
        threads = torch.get_num_threads() if torch else 0
        if torch:
            torch.set_num_threads(1)
        yield
        if torch:
            torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_words(tmp_path_factory.mktemp("data") / "words.json", 20, 6, 6)
