"""Models and datasets on disk: what is there is told exactly, what is wrong is told all at once, in words."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.tiny_model import write_tiny_model
from touchline.core.errors import InputError, PlanDriftError, PolicyError
from touchline.core.finding import Severity
from touchline.data import lengths as lengths_module
from touchline.data.create import create_capitalization
from touchline.data.datasets import cluster_faults, load_clusters, load_dataset, load_examples
from touchline.data.lengths import token_lengths
from touchline.data.models import find_models, load_model
from touchline.data.shards import ShardHeaderError, read_shard
from touchline.data.user_config import load_settings
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


@pytest.mark.parametrize("cut", [0, 4, 100, 5_000])
def test_a_truncated_shard_is_an_error_with_both_sizes(model: Path, cut: int) -> None:
    """Wherever it was cut off: before, inside or after its header."""
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-cut] if cut == 5_000 else path.read_bytes()[:cut])
    findings = load_model(str(model), model.parent).findings
    assert [finding.code for finding in findings] == ["CK104"]
    assert "bytes" in findings[0].message


def test_a_header_that_asks_for_gigabytes_is_not_read(tmp_path: Path) -> None:
    """A length in a file is not believed."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(ShardHeaderError):
        read_shard(path)


@given(st.binary(max_size=64))
def test_no_header_makes_it_fail_in_another_way(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Any bytes are a shard or a broken shard."""
    path = tmp_path_factory.mktemp("shard") / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(data)) + data)
    size, broken = len(data) + 8, "told"
    try:
        size = read_shard(path).size_bytes
    except ShardHeaderError as fault:
        broken = str(fault)
    assert size == len(data) + 8
    assert broken


def test_a_shard_that_the_index_names_and_that_is_missing_is_an_error(model: Path) -> None:
    """The index is held against the files."""
    shard = (model / "model.safetensors").rename(model / "model-00001.safetensors")
    index = {"weight_map": {"model.norm.weight": shard.name, "b": "model-00002.safetensors"}}
    write(model / "model.safetensors.index.json", index)
    assert [finding.code for finding in load_model(str(model), model).findings] == ["CK104"]


def test_pickled_weights_and_code_of_its_own_are_findings(model: Path) -> None:
    """.bin files are never opened; auto_map is named and never run."""
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    config = json.loads((model / "config.json").read_text())
    write(model / "config.json", {**config, "auto_map": {"AutoModel": "evil.Model"}})
    assert {finding.code for finding in load_model(str(model), model).findings} == {"CK103", "CK105"}


def test_a_missing_model_names_the_near_ones_and_how_to_get_it(model: Path) -> None:
    """A typo is recognised; a known model has its own command."""
    with pytest.raises(InputError, match="Tiny-1M-Instruct") as caught:
        load_model("Tiny-1M-Instrct", model.parent)
    assert "Tiny-1M-Instruct" in str(caught.value.hint)
    with pytest.raises(InputError) as caught:
        load_model("SmolLM2-135M-Instruct", model.parent)
    assert "touchline models get SmolLM2-135M-Instruct" in str(caught.value.hint)


def test_splits_in_the_file_are_kept_and_hashed_in_order(tmp_path: Path) -> None:
    """Order is part of a split; another order is another hash."""
    one = write(tmp_path / "one.json", {"train": ROWS[:30], "val": ROWS[30:33], "test": ROWS[33:]})
    two = write(tmp_path / "two.json", {"train": ROWS[29::-1], "validation": ROWS[30:33], "test": ROWS[33:]})
    first, second = (load_dataset(DataConfig(path=str(path)), tmp_path) for path in (one, two))
    assert [(split.name, split.num_examples) for split in first.splits] == [
        ("train", 30),
        ("validation", 3),
        ("test", 7),
    ]
    assert first.splits[0].sha256 != second.splits[0].sha256
    assert first.splits[1:] == second.splits[1:]
    assert first.findings == ()


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "parquet"])
def test_every_format_gives_the_same_rows_and_the_same_seeded_splits(tmp_path: Path, form: str) -> None:
    """A file without splits gets random ones by its seed; none shares a row with another."""
    path = tmp_path / f"rows.{form}"
    if form == "json":
        write(path, ROWS)
    elif form == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    elif form == "csv":
        path.write_text("input,output\n" + "".join(f"{row['input']},{row['output']}\n" for row in ROWS))
    else:
        table = pytest.importorskip("pyarrow")
        import pyarrow.parquet

        pyarrow.parquet.write_table(table.Table.from_pylist(ROWS), path)
    data = DataConfig(path=path.name, prompt="Say {input}", split_seed=3)
    splits = {name: load_examples(data, name, tmp_path) for name in ("train", "validation", "test")}
    assert [len(rows) for rows in splits.values()] == [32, 2, 6]
    answers = [example.answer for rows in splits.values() for example in rows]
    assert sorted(answers) == sorted(row["output"] for row in ROWS)
    again = load_examples(DataConfig(path=path.name, prompt="Say {input}", split_seed=4), "train", tmp_path)
    assert [example.answer for example in again] != [example.answer for example in splits["train"]]
    assert splits["train"][0].prompt[-1].content.startswith("Say word")


def test_chats_end_in_the_answer(tmp_path: Path) -> None:
    """The last turn is the answer, what comes before is the prompt."""
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    rows = [
        {"chat": [*chat, {"role": "user", "content": f"{i}"}, {"role": "assistant", "content": f"a{i}"}]}
        for i in range(9)
    ]
    path = write(tmp_path / "chats.json", {"train": rows[:6], "test": rows[6:]})
    example = load_examples(DataConfig(path=str(path), messages="chat"), "test", tmp_path)[0]
    assert (example.answer, [message.role for message in example.prompt]) == ("a6", ["user", "assistant", "user"])


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"train": ROWS[:5]}, "DA104"),
        ({"train": [], "test": ROWS[:5]}, "DA104"),
        ({"train": ROWS[:5], "test": ROWS[4:9]}, "DA106"),
        ({"train": [{"inptu": "a", "output": "b"}], "test": ROWS[:2]}, "DA105"),
        ({"train": [{"input": "a", "output": ""}], "test": ROWS[:2]}, "DA105"),
        ({"train": [{"input": "a", "output": True}], "test": ROWS[:2]}, "DA105"),
        ({"train": [1, 2], "test": ROWS[:2]}, "DA103"),
        ({"train": "x", "test": ROWS[:2]}, "DA103"),
        ({"training set": ROWS, "test": ROWS[:2]}, "DA103"),
        (7, "DA102"),
        ([], "DA104"),
    ],
)
def test_each_fault_of_a_dataset_is_a_finding(tmp_path: Path, content: object, code: str) -> None:
    """Empty, overlapping, misnamed or wrongly typed: told before anything is trained."""
    assert code in codes(write(tmp_path / "data.json", content))


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    """A wrong column does not hide an overlap."""
    path = write(tmp_path / "d.json", {"train": [*ROWS[:5], {"x": 1}], "validation": [], "test": ROWS[4:9]})
    assert {"DA104", "DA105", "DA106"} <= set(codes(path))


def test_a_wrong_column_names_those_that_exist(tmp_path: Path) -> None:
    """And the one that was probably meant."""
    path = write(tmp_path / "d.json", {"train": ROWS[:5], "test": ROWS[5:]})
    findings = load_dataset(DataConfig(path=str(path), output="outptu"), tmp_path).findings
    assert "did you mean 'output'" in str(findings[0].hint)


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


def test_broken_lines_are_told_with_their_numbers(tmp_path: Path) -> None:
    """JSONL and CSV have lines, so the findings have them too."""
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join([*(json.dumps(row) for row in ROWS[:20]), "{broken", "[1]"]))
    findings = load_dataset(DataConfig(path=str(path)), tmp_path).findings
    assert [finding.where.line for finding in findings if finding.where] == [21, 22]
    path = tmp_path / "d.csv"
    path.write_text("input,output\n" + "a,A\n" * 9 + "a,b,c\n")
    assert [
        f.where.line for f in load_dataset(DataConfig(path=str(path)), tmp_path).findings if f.where and f.where.line
    ] == [11]


def test_a_prompt_reaches_into_nothing(tmp_path: Path) -> None:
    """Braces name columns; they are no Python."""
    path = write(tmp_path / "d.json", {"train": ROWS[:5], "test": ROWS[5:]})
    data = DataConfig(path=str(path), prompt="{input.__class__}")
    assert [finding.code for finding in load_dataset(data, tmp_path).findings] == ["DA105"]


def test_a_missing_file_that_touchline_can_make_says_how(tmp_path: Path) -> None:
    """The whole command, with the numbers from the name."""
    with pytest.raises(InputError) as caught:
        load_dataset(DataConfig(path="data/words_7L_80P_1000.json"), tmp_path)
    hint = str(caught.value.findings[0].hint)
    assert "touchline data create capitalization --word-length 7 --num-words 1000 --train-fraction 0.8" in hint


@given(st.binary(max_size=200))
def test_no_file_makes_it_fail_in_another_way(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Any bytes under any ending are read or refused in words."""
    folder = tmp_path_factory.mktemp("bytes")
    for ending in ("json", "jsonl", "csv"):
        (folder / f"d.{ending}").write_bytes(data)
        assert codes(folder / f"d.{ending}") is not None


def test_the_same_arguments_make_the_same_words(tmp_path: Path) -> None:
    """Real words, split at random without overlap, with the word list named; never overwritten in silence."""
    options = {"word_length": 8, "num_words": 2000, "train_fraction": 0.8}
    path = create_capitalization(tmp_path / "a", seed=14, **options)  # type: ignore[arg-type]
    assert path.name == "words_8L_80P_2000.json"
    assert create_capitalization(tmp_path / "b", seed=14, **options).read_bytes() == path.read_bytes()  # type: ignore[arg-type]
    content = json.loads(path.read_text())
    words = [row["input"] for name in ("train", "validation", "test") for row in content[name]]
    assert [len(content[name]) for name in ("train", "validation", "test")] == [1600, 100, 300]
    assert len(set(words)) == 2000
    assert all(len(word) == 8 and word.islower() for word in words)
    assert {"name", "version", "licence", "sha256"} <= set(content["about"]["word_list"])
    with pytest.raises(PolicyError):
        create_capitalization(tmp_path / "a", seed=15, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        create_capitalization(tmp_path / "a", word_length=15, num_words=10**6, train_fraction=0.8, seed=1)


def test_lengths_are_exact_and_computed_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second plan opens no tokenizer; a broken cache is computed again."""
    path = write(tmp_path / "d.json", {"train": ROWS[:30], "test": ROWS[30:]})
    info, data = load_model(str(model), model.parent), DataConfig(path=str(path))
    calls: list[str] = []
    real = lengths_module.load_renderer

    def counted(*arguments: object) -> object:
        calls.append("load")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(lengths_module, "load_renderer", counted)
    first = token_lengths(info, data, "train", tmp_path, "2026-01-02", tmp_path / "cache")
    second = token_lengths(info, data, "train", tmp_path, "2026-01-02", tmp_path / "cache")
    assert calls == ["load"]
    assert np.array_equal(first.prompt, second.prompt)
    renderer = real(info, "2026-01-02")
    rendered = [renderer.example(example) for example in load_examples(data, "train", tmp_path)]
    assert first.answer.tolist() == [len(item.answer_ids) for item in rendered]
    for cached in (tmp_path / "cache" / "lengths").iterdir():
        cached.write_bytes(cached.read_bytes()[:50])
    third = token_lengths(info, data, "train", tmp_path, "2026-01-02", tmp_path / "cache")
    assert np.array_equal(first.answer, third.answer)
    assert calls == ["load", "load"]


def test_settings_come_from_the_environment_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And an unknown key in the file is told."""
    config = tmp_path / "config.yaml"
    monkeypatch.setattr("touchline.data.user_config.config_path", lambda: config)
    monkeypatch.setenv("TOUCHLINE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TOUCHLINE_MODELS_DIR", raising=False)
    config.write_text("models_dir: /models\ncache_dir: /elsewhere\n")
    settings = load_settings()
    assert (settings.models_dir, settings.cache_dir) == (Path("/models"), tmp_path / "cache")
    config.write_text("model_dir: /models\n")
    with pytest.raises(InputError) as caught:
        load_settings()
    assert "model_dir" in caught.value.findings[0].message
