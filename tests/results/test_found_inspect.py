"""A genuine .eval log, as the installed Inspect writes it, is read without Inspect: today compressed with zstd."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from touchline.results.imported.evaluations import EvalLogError, read_eval_log

SCRIPT = """
import sys
from inspect_ai import Task, eval as inspect_eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import match
from inspect_ai.solver import generate

items = [Sample(id=k, input=f"word {k}", target="Same" if k < 8 else "Other") for k in range(12)]
answer = ModelOutput.from_content("mockllm/model", "Same")
# Without a usage the provider would count tokens with a tokenizer from the network.
answer.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
model = get_model("mockllm/model", custom_outputs=[answer] * len(items))
task = Task(dataset=MemoryDataset(items, name="words"), solver=generate(), scorer=match(), name="capitals")
(made,) = inspect_eval(task, model=model, log_dir=sys.argv[1], display="none", log_model_api=False)
assert made.status == "success", made.error
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    subprocess.run(command, check=True, timeout=300, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"})
    (path,) = folder.glob("*.eval")
    return path


def test_a_genuine_log_gives_its_scores(log: Path) -> None:
    found = read_eval_log(log)
    assert (found.record.task, found.record.score) == ("capitals", "match")
    assert [sample.exact for sample in found.record.samples] == [True] * 8 + [False] * 4
    assert found.record.samples[0].target == "Same"
    assert found.record.repeats == 1


def test_a_genuine_log_cut_anywhere_says_so(log: Path, tmp_path: Path) -> None:
    data = log.read_bytes()
    cut = tmp_path / "cut.eval"
    for share in range(0, 100, 9):
        cut.write_bytes(data[: len(data) * share // 100])
        with pytest.raises(EvalLogError):
            read_eval_log(cut)
