"""Models and datasets on disk: what is there is told exactly, what is wrong is told all at once, in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tools.tiny_model import write_tiny_model
from touchline.core.errors import InputError, PlanDriftError
from touchline.core.finding import Severity
from touchline.data.datasets import cluster_faults, load_clusters, load_dataset, load_examples
from touchline.data.models import find_models, load_model
from touchline.data.shards import read_shard
from touchline.experiment.experiment import DataConfig

pytestmark = pytest.mark.planning

ROWS = [{"input": f"word{i}", "output": f"Word{i}"} for i in range(40)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of one's own, to be broken."""
    return write_tiny_model(tmp_path / "models" / "Tiny-1M-Instruct")


def codes(path: Path, **columns: object) -> list[str]:
    """Codes of everything that is wrong with a dataset."""
    data = DataConfig(path=str(path), **columns)  # type: ignore[arg-type]
    try:
        return [finding.code for finding in load_dataset(data, path.parent).findings]
    except InputError as fault:
        return [finding.code for finding in fault.findings]


def write(path: Path, content: object) -> Path:
    """A JSON file."""
    path.write_text(json.dumps(content))
    return path


def test_a_whole_model_has_no_findings_and_true_figures(model: Path) -> None:
    """Parameters, sizes and tokens come from the files, not from the name."""
    info = load_model("Tiny-1M-Instruct", model.parent)
    header = read_shard(model / "model.safetensors")
    assert info.findings == ()
    assert info.num_parameters == sum(tensor.elements for tensor in header.tensors.values()) > 50_000
    assert (info.dtype, info.stop_token, info.has_chat_template) == ("float32", "<|im_end|>", True)
    assert (info.size_label, info.family) == ("1M", "Tiny")
    assert find_models(model.parent) == [info]


def test_clusters_come_from_a_column_of_the_test_rows(tmp_path: Path) -> None:
    """A number is a text; an empty cell stands alone; the rows that are trained on need no such column."""
    test = [{**row, "doc": doc} for row, doc in zip(ROWS[5:9], ["d1", 7, None, " "], strict=True)]
    data = DataConfig(path=str(write(tmp_path / "d.json", {"train": ROWS[:5], "test": test})))
    found = load_examples(data, "test", tmp_path, "doc")
    assert [example.cluster for example in found] == ["d1", "7", None, None]
    assert [replace(example, cluster=None) for example in found] == list(load_examples(data, "test", tmp_path))
    assert {example.cluster for example in load_examples(data, "train", tmp_path, "doc")} == {None}
    assert cluster_faults(data, tmp_path, "doc") == ()
    sha256 = next(split.sha256 for split in load_dataset(data, tmp_path).splits if split.name == "test")
    assert load_clusters(data, tmp_path, "doc", sha256)["test-1"] == "7"
    with pytest.raises(PlanDriftError, match="not the one that was planned"):
        load_clusters(data, tmp_path, "doc", "0" * 64)


def test_a_column_of_clusters_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    """As with every other column; a list is no text."""
    rows = [{**row, "docs": ["a"]} for row in ROWS]
    data = DataConfig(path=str(write(tmp_path / "d.json", {"train": rows[:5], "test": rows[5:9]})))
    (fault,) = cluster_faults(data, tmp_path, "doc")
    assert (fault.code, fault.severity) == ("DA105", Severity.ERROR)
    assert "there is no column 'doc', which evaluate.cluster asks for (4 times" in fault.message
    assert fault.hint == "did you mean 'docs'? columns here: input, output, docs"
    (fault,) = cluster_faults(data, tmp_path, "template")
    assert str(fault.hint).endswith("name them in evaluate: {cluster: ...}")
    assert "is not text" in cluster_faults(data, tmp_path, "docs")[0].message
    with pytest.raises(InputError) as caught:
        load_examples(data, "test", tmp_path, "doc")
    assert [finding.code for finding in caught.value.findings] == ["DA105"]
    assert load_examples(data, "test", tmp_path)[0].cluster is None
