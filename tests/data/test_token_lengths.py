"""Token lengths are the renderer's own, and are computed once for as long as nothing they depend on changes."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.cases import parametrize, refusal
from tests.tiers import examples

from touchline.core.errors import InputError
from touchline.data import datasets
from touchline.data import lengths as lengths_module
from touchline.data.datasets import load_examples
from touchline.data.lengths import TokenLengths, read_lengths, token_lengths
from touchline.data.models import load_renderer, read_model
from touchline.data.rendering.chat import ChatRenderer, common_prefix
from touchline.experiment.data_config import DataConfig

pytestmark = pytest.mark.planning

DAY, LATER = "2026-01-01", "2026-12-31"


class Place:
    """A model, a dataset and a cache, and how many examples were tokenised."""

    def __init__(self, root: Path, model: Path) -> None:
        self.model = Path(shutil.copytree(model, root / "Tiny"))
        self.cache = root / "cache"
        self.root = root
        self.counted = 0
        self.write([f"word number {n}" for n in range(12)])

    def write(self, words: list[str], name: str = "d.json") -> None:
        rows = [{"input": word, "output": word.title()} for word in words]
        (self.root / name).write_text(json.dumps({"train": rows[:-2], "test": rows[-2:]}))

    def lengths(self, split: str = "train", date: str = DAY, **settings: str) -> TokenLengths:
        data = DataConfig(**({"path": "d.json"} | settings))
        return token_lengths(read_model(self.model), data, split, self.root, date, self.cache)


@pytest.fixture
def place(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path, tiny_model)
    real = ChatRenderer._answer

    def counting(self: ChatRenderer, *texts: object) -> object:
        made.counted += 1
        return real(self, *texts)

    monkeypatch.setattr(ChatRenderer, "_answer", counting)
    return made


def test_lengths_are_those_of_the_rendered_examples(place: Place) -> None:
    """In the dataset's order, prompt and answer apart, the stop token counted."""
    found = place.lengths(prompt="Say {input}")
    renderer = load_renderer(read_model(place.model), DAY)
    rendered = [
        renderer.example(e) for e in load_examples(DataConfig(path="d.json", prompt="Say {input}"), "train", place.root)
    ]
    assert found.prompt.tolist() == [len(item.prompt_ids) for item in rendered]
    assert found.answer.tolist() == [len(item.answer_ids) for item in rendered]
    assert found.prompt.dtype == found.answer.dtype == np.uint32


def test_the_second_time_the_tokenizer_is_not_made(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large vocabularies take longer to read than a plan may."""
    place.lengths()
    monkeypatch.setattr("touchline.data.lengths.load_renderer", None)
    assert len(place.lengths().prompt) == 10


def test_another_place_of_the_same_rows_changes_nothing(place: Place) -> None:
    """Neither the file's name nor its spacing is in the key."""
    place.lengths()
    (place.root / "other.json").write_text(json.dumps(json.loads((place.root / "d.json").read_text()), indent=4))
    place.lengths(path="other.json")
    assert place.counted == 10


@pytest.mark.parametrize("settings", [{"prompt": "Say {input}"}, {"system": "Be brief."}])
def test_whatever_changes_the_rendering_is_computed_anew(place: Place, settings: dict[str, str]) -> None:
    place.lengths()
    place.lengths(**settings)
    assert place.counted == 20


def test_the_date_counts_only_where_the_template_prints_it(place: Place) -> None:
    """Else the cache would be of no use on the next day."""
    place.lengths(date=DAY)
    place.lengths(date=LATER)
    assert place.counted == 10
    template = place.model / "chat_template.jinja"
    template.write_text("{{ strftime_now('%A') }} " + template.read_text())
    place.lengths(date=DAY)
    place.lengths(date=DAY)
    place.lengths(date=LATER)
    assert place.counted == 30


def test_a_split_that_is_not_there_has_no_lengths(place: Place) -> None:
    assert place.lengths("validation").prompt.shape == (0,)
    assert not (place.cache / "lengths").exists()
    assert place.lengths("test").prompt.shape == (2,)


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_cache_is_computed_again(place: Place, data: st.DataObject) -> None:
    """Cut off, flipped, overwritten: the lengths are right all the same, and are kept anew."""
    expected = place.lengths()
    (file,) = (place.cache / "lengths").iterdir()
    content = bytearray(file.read_bytes())
    match data.draw(st.sampled_from(["cut", "flip", "replace"])):
        case "cut":
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        case "flip":
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        case _:
            content = bytearray(data.draw(st.binary(max_size=100)))
    file.write_bytes(content)
    found = place.lengths()
    assert np.array_equal(found.prompt, expected.prompt)
    assert np.array_equal(found.answer, expected.answer)


def test_a_cache_of_another_shape_is_computed_again(place: Place) -> None:
    """A file that can be read and is none of ours."""
    expected = place.lengths()
    (file,) = (place.cache / "lengths").iterdir()
    for wrong in (
        {"prompt": expected.prompt[:3], "answer": expected.answer[:3]},
        {"prompt": expected.prompt.astype(float), "answer": expected.answer},
        {"prompt": expected.prompt},
    ):
        np.savez(file, **wrong)
        assert np.array_equal(place.lengths().prompt, expected.prompt)
    assert place.counted == 40


def test_a_cache_that_cannot_be_written_costs_time_only(place: Place) -> None:
    place.cache.write_text("in the way")
    assert len(place.lengths().prompt) == 10


def test_a_dataset_with_faults_has_no_lengths(place: Place) -> None:
    (place.root / "d.json").write_text(
        json.dumps({"train": [{"input": "a", "output": ""}], "test": [{"input": "b", "output": "c"}]})
    )
    refusal(place.lengths)
    assert not (place.cache / "lengths").exists()


def test_the_second_time_no_row_is_parsed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million rows are planned again without being read as rows: their file's hash tells that they are the same."""
    first = place.lengths()
    datasets._info.cache_clear()
    datasets._load.cache_clear()

    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} was parsed again")

    monkeypatch.setattr(datasets, "read_rows", refuse)
    assert place.lengths().prompt.tolist() == first.prompt.tolist()


def test_other_bytes_are_parsed_even_with_old_times(place: Place) -> None:
    place.lengths()
    path = place.root / "d.json"
    stat = path.stat()
    place.write(["another word altogether"] * 12)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(InputError, match="cannot be used"):
        place.lengths()


def test_short_lengths_take_two_bytes_and_long_ones_four(place: Place) -> None:
    place.lengths()
    (kept,) = (place.cache / "lengths").iterdir()
    with np.load(kept) as file:
        assert file["prompt"].dtype == np.uint16
    place.write(["a " * 70_000] + [f"word {n}" for n in range(11)])
    long = place.lengths()
    assert int(long.prompt.max()) > 65_535
    place.counted = 0
    assert place.lengths().prompt.tolist() == long.prompt.tolist()
    assert place.counted == 0


def test_progress_is_told(place: Place) -> None:
    heard: list[tuple[int, int]] = []
    data = DataConfig(path="d.json")
    token_lengths(
        read_model(place.model), data, "train", place.root, DAY, place.cache, lambda done, of: heard.append((done, of))
    )
    assert heard == [(0, 10)]


def test_what_all_prompts_begin_with_is_counted_and_kept(place: Place) -> None:
    """Of all prompts, not of the first two; and the shortest prompt keeps its last token."""
    first = place.lengths(prompt="Say it loud: {input}")
    renderer = load_renderer(read_model(place.model), DAY)
    examples = load_examples(DataConfig(path="d.json", prompt="Say it loud: {input}"), "train", place.root)
    assert first.prefix == common_prefix([renderer.example(example).prompt_ids for example in examples]) > 0
    assert place.lengths(prompt="Say it loud: {input}").prefix == first.prefix


def test_the_oldest_lengths_are_deleted_beyond_the_limit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written last stays, however large it is."""
    kept = place.cache / "lengths"
    for age, prompt in enumerate(["one {input}", "two {input}", "three {input}"]):
        place.lengths(prompt=prompt)
        for file in kept.iterdir():
            os.utime(file, ns=(0, file.stat().st_mtime_ns - 10**9 * (3 - age)))
    monkeypatch.setattr(lengths_module, "_FOLDER_LIMIT_BYTES", 2 * max(file.stat().st_size for file in kept.iterdir()))
    place.lengths(prompt="four {input}")
    assert len(list(kept.iterdir())) == 2
    place.counted = 0
    place.lengths(prompt="four {input}")
    place.lengths(prompt="three {input}")
    assert place.counted == 0
    place.lengths(prompt="one {input}")
    assert place.counted == 10
    monkeypatch.setattr(lengths_module, "_FOLDER_LIMIT_BYTES", 1)
    place.lengths(prompt="five {input}")
    assert len(list(kept.iterdir())) == 1


@parametrize(
    "name, before, after",
    ("d.json", "word", "wore"),
    ("Tiny/chat_template.jinja", r"<|im_end|>\n", r"<|im_end|>\t"),
    ("Tiny/tokenizer.json", '"normalized": false', '"normalized":false'),
)
def test_one_changed_byte_is_computed_anew_as_without_cache(place: Place, name: str, before: str, after: str) -> None:
    """Of a row, of the template, of the tokenizer."""
    place.lengths()
    path = place.root / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    place.counted = 0
    first = place.lengths()
    assert place.counted == 10
    again = place.lengths()
    assert place.counted == 10
    shutil.rmtree(place.cache)
    for found in (again, place.lengths()):
        assert found.prompt.tolist() == first.prompt.tolist()
        assert found.answer.tolist() == first.answer.tolist()
        assert found.prefix == first.prefix


def test_another_version_of_tokenizers_is_computed_anew(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.lengths()
    monkeypatch.setattr("tokenizers.__version__", "0.0.0")
    place.lengths()
    assert place.counted == 20


LENGTHS = st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=50)


@given(LENGTHS, st.sampled_from(["\n", "\r\n", "\n\n"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines_come_back(tmp_path: Path, lengths: list[int], end: str) -> None:
    path = tmp_path / "lengths.txt"
    path.write_bytes(end.join(map(str, lengths)).encode())
    assert read_lengths(path).tolist() == lengths


@given(LENGTHS, st.sampled_from([np.uint32, np.int64, np.uint64]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arrays_come_back(tmp_path: Path, lengths: list[int], dtype: type) -> None:
    path = tmp_path / "lengths.npy"
    np.save(path, np.array(lengths, dtype=dtype))
    assert read_lengths(path).tolist() == lengths


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


@parametrize(
    "content",
    *(b"3\n-4\n5\n", b"3\n4.5\n", b"3\nfour\n", b"0\n", b"1_000\n", b"9" * 30, b"", b"\n\n", b"\x00\xff\n3\n"),
    *map(npy, (np.ones((2, 2), np.int64), np.array([1.5, 2.0]), np.array([3, 0]), np.array([3, -1]))),
    *map(npy, (np.array([], np.int64), np.array([object()], dtype=object))),
    npy(np.arange(1, 100))[:-10],
)
def test_what_is_no_length_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lengths"
    path.write_bytes(content)
    refusal(read_lengths, path)


def test_the_wrong_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text("3\nx\n5\n-1\n")
    assert [finding.subject for finding in refusal(read_lengths, path).findings] == ["line 2", "line 4"]


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.npy", tmp_path):
        with pytest.raises(InputError, match=path.name):
            read_lengths(path)
