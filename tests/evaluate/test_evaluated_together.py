"""Jobs with few items, evaluated at once: each run has its own log and scores, as if evaluated by itself."""

import shutil
from pathlib import Path

import pytest
from inspect_ai.log import read_eval_log
from tests.cases import some
from tests.evaluate.tiny_evaluation import ALL_JOBS, make_experiment, write_marker, write_request

from touchline.core.errors import RunsFailedError
from touchline.data.evaluations import read_asked, read_evaluation_config, read_evaluations
from touchline.data.scores import EvaluationRecord
from touchline.evaluate.process import evaluate
from touchline.evaluate.wanted import read_request
from touchline.experiment.experiment import EvaluateConfig

# Inspect leaves its event loop's streams to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.slow,
]

ITEMS = 7


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = EvaluateConfig(batch_size="auto", max_new_tokens=6, temperature=0.7, repeats=2)
    return make_experiment(tmp_path_factory.mktemp("few"), items=ITEMS, evaluate=settings)


def copied(experiment: Path, folder: Path) -> Path:
    return Path(shutil.copytree(experiment, folder))


def records(experiment: Path) -> dict[str, EvaluationRecord]:
    return {run: record for run, _ in ALL_JOBS for record in read_evaluations(experiment / run)}


def test_each_run_has_what_it_has_when_evaluated_by_itself(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers, scores and the log's head; the batch is larger, and the seconds are shared out."""
    # However slow the machine is, a batch waits for all requests that are expected.
    monkeypatch.setattr("touchline.evaluate.engine.LINGER_SECONDS", 60.0)
    together, alone = copied(experiment, tmp_path / "together"), copied(experiment, tmp_path / "alone")
    evaluate(together, read_request(write_request(together, *ALL_JOBS)))
    lines = capsys.readouterr().err.splitlines()
    for job in ALL_JOBS:
        evaluate(alone, read_request(write_request(alone, job)))
    expected = records(alone)
    for name, record in some(records(together).items()):
        other = expected[name]
        assert record.samples == other.samples
        assert (record.score, record.settings_sha256) == (other.score, other.settings_sha256)
        assert read_asked(together / record.run, record) == read_asked(alone / record.run, other)
        assert (record.adapter_sha256, record.log) == (other.adapter_sha256, other.log)
        assert "batch auto (at most 42)" in record.decoding
        assert "batch auto (at most 14)" in other.decoding
        heads = [
            read_eval_log(str(root / record.run / "eval" / record.log), header_only=True).eval
            for root in (together, alone)
        ]
        assert heads[0].metadata == heads[1].metadata
        assert sorted(heads[0].tags or []) == sorted(heads[1].tags or [])
        assert heads[0].config.fail_on_error == heads[1].config.fail_on_error
        assert f"{record.run} {record.checkpoint}: 14/14" in lines
    assert len({tuple(sample.output for sample in record.samples) for record in expected.values()}) == 3
    (seconds,) = {record.seconds for record in records(together).values()}
    assert seconds > 0


def test_an_adapter_that_cannot_be_loaded_fails_alone(experiment: Path, tmp_path: Path) -> None:
    """The other runs of its batch are evaluated, and the fault is told with the run's name."""
    broken = copied(experiment, tmp_path / "broken")
    folder = broken / "tiny_rank4"
    weights = folder / "epoch_0" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    write_marker(Path(read_evaluation_config(folder / "eval.yaml").model.path), folder / "epoch_0")
    with pytest.raises(RunsFailedError, match="tiny_rank4 epoch_0"):
        evaluate(broken, read_request(write_request(broken, *ALL_JOBS)))
    assert not read_evaluations(folder)
    assert sorted(record.run for record in records(broken).values()) == ["tiny_base", "tiny_rank8"]
