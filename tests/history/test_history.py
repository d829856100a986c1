"""The history: a folder that any number of writers share, that is merged by copying, and that nothing broken stops."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cases import parametrize, refusal
from tests.history.made import make_reading, make_record, make_source, number, write_log

from touchline.core.errors import HostError, InputError
from touchline.history import adding, index
from touchline.history.adding import add_groups
from touchline.history.files import LoggedRun, SkippedFile
from touchline.history.grouping import FileGroup
from touchline.history.index import find_record, load_index
from touchline.history.record import RunRecord
from touchline.history.records import (
    Broken,
    contents,
    read_record,
    record_id,
    record_of,
    record_path,
    store_record,
    to_json,
)

pytestmark = pytest.mark.planning


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in (folder / "records").rglob("*.json")}


def names(folder: Path) -> list[str]:
    return [row.name for row in load_index(folder).rows()]


def read_lines(group: FileGroup) -> list[LoggedRun | SkippedFile]:
    """A reader for tests: a log that says `run` is one, with as many steps as it has lines; `---` parts several."""
    text = group.files[0].read_text()
    if "run" not in text:
        return [SkippedFile(path=group.files[0], reason="no lines of a training run")]
    return [
        LoggedRun(
            reading=make_reading(
                group.key,
                steps_done=number(part.count("\n"), "steps", f"{group.files[0].name}:1"),
                seconds_per_step=number(0.5, "s", f"{group.files[0].name}:2"),
            ),
            sources=group.files,
        )
        for part in text.split("---")
    ]


def groups_of(*files: Path) -> list[FileGroup]:
    return [FileGroup(key=file.stem, files=(file,)) for file in files]


OPENED: list[str] = []
_watching: list[bool] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event == "open":
        OPENED.append(str(arguments[0]))


sys.addaudithook(_hear)


@contextmanager
def opened() -> Iterator[list[str]]:
    """The files that are opened meanwhile, by whatever function of Python's."""
    OPENED.clear()
    _watching.append(True)
    try:
        yield OPENED
    finally:
        _watching.pop()


def test_a_record_lies_under_the_hash_of_its_content_and_is_written_once(tmp_path: Path) -> None:
    record = make_record()
    path = store_record(tmp_path / "new" / "history", record)
    before = path.stat()
    assert path == record_path(tmp_path / "new" / "history", record_id(record))
    assert path.parent.name == path.name[:2]
    assert path.read_bytes() == to_json(record)
    assert store_record(tmp_path / "new" / "history", record) == path
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert read_record(path) == record
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


WRITER = """\
import sys
from pathlib import Path
from touchline.history.records import store_record
from touchline.history.index import load_index
from touchline.history.records import from_json
history, *sources = map(Path, sys.argv[1:])
for source in sources:
    store_record(history, from_json(source.read_bytes()))
    load_index(history)
"""


def test_two_writers_at_once_both_survive(tmp_path: Path) -> None:
    for number_ in range(30):
        write_log(tmp_path / "in", f"{number_}.json", to_json(make_record(f"run_{number_}")))
    files = sorted((tmp_path / "in").iterdir())
    both = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "history"), *map(str, part)])
        for part in (files[:20], files[10:])
    ]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(tree(tmp_path / "history").values()) == sorted(file.read_bytes() for file in files)
    assert len(names(tmp_path / "history")) == 30
    assert not list((tmp_path / "history").rglob("*.tmp"))


def test_two_histories_merge_by_copying(tmp_path: Path) -> None:
    for name in ("a", "b"):
        store_record(tmp_path / "one", make_record(name))
    for name in ("b", "c"):
        store_record(tmp_path / "two", make_record(name))
    assert names(tmp_path / "one") == ["a", "b"]
    assert names(tmp_path / "two") == ["b", "c"]
    shutil.copytree(tmp_path / "one", tmp_path / "two", dirs_exist_ok=True)
    assert names(tmp_path / "two") == ["a", "b", "c"]
    assert len(tree(tmp_path / "two")) == 3


def test_the_history_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("mine")
    for call in (lambda: store_record(tmp_path / "history", make_record()), lambda: load_index(tmp_path / "history")):
        with pytest.raises(InputError, match="history"):
            call()
    assert (tmp_path / "history").read_text() == "mine"


def test_a_history_that_may_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: str | bytes) -> None:
        raise HostError(f"no permission to write file {str(path)!r}")

    store_record(tmp_path, make_record("a"))
    for module in (index, adding):
        monkeypatch.setattr(module, "write_atomic", refuse)
    assert names(tmp_path) == ["a"]
    assert names(tmp_path) == ["a"]
    known = adding.ReadCache(tmp_path, 1)
    known.put((tmp_path / "a.log",), adding.CachedGroup(state="", records=(), refused=0))
    known.save()
    assert not (tmp_path / "index.jsonl").exists()


def test_whatever_lies_in_the_folder_the_records_are_read(tmp_path: Path) -> None:
    good = store_record(tmp_path, make_record("good"))
    half = store_record(tmp_path, make_record("half"))
    half.write_bytes(half.read_bytes()[:-20])
    edited = store_record(tmp_path, make_record("edited"))
    edited.write_bytes(edited.read_bytes().replace(b"edited", b"forged"))
    later = json.dumps({"schema_version": 99}).encode()
    future = record_path(tmp_path, hashlib.sha256(later).hexdigest())
    write_log(future.parent, future.name, later)
    empty = write_log(tmp_path / "records" / "ee", "e" * 64 + ".json", b"")
    folder = tmp_path / "records" / "dd" / ("d" * 64 + ".json")
    folder.mkdir(parents=True)
    misplaced = Path(shutil.copy(good, tmp_path / "records" / "dd"))
    stray = write_log(tmp_path / "records" / "dd", "notes.txt", b"hello")
    write_log(tmp_path / "records" / "dd", ".half.json.1234.tmp", b"{")
    write_log(tmp_path / "records", "README", b"not a shelf")
    there = contents(tmp_path)
    found = [*there.strays, *(read_record(path) for path in there.records.values())]
    assert [item.name for item in found if isinstance(item, RunRecord)] == ["good"]
    assert {i.path for i in found if isinstance(i, Broken)} == {half, edited, future, empty, folder, misplaced, stray}
    assert names(tmp_path) == ["good"]
    reasons = {item.path: item.reason for item in load_index(tmp_path).broken}
    assert "incomplete copy" in reasons[half]
    assert "or edited" in reasons[edited]
    assert "version 99" in reasons[future]
    assert load_index(tmp_path, rebuild=True).broken == load_index(tmp_path).broken
    assert store_record(tmp_path, make_record("half")) == half, "only what was copied by half is written over"
    assert isinstance(read_record(half), RunRecord)


@parametrize(
    "content",
    b"",
    b"\xff\xfe\x00",
    b"{}\n",
    b'{"index_version": 99}\n',
    b'{"index_version": 1}\n<<<<<<< ours\n{"row": {}}\n=======\n>>>>>>> theirs\n',
    b"[" * 100_000,
    None,
)
def test_without_its_index_a_history_is_slower_and_nothing_else(tmp_path: Path, content: bytes | None) -> None:
    for name in ("a", "b", "c"):
        store_record(tmp_path, make_record(name, f"{name}\n".encode()))
    store_record(tmp_path, make_record("c", b"c\nand more\n"))
    before = load_index(tmp_path)
    text = (tmp_path / "index.jsonl").read_bytes()
    if content is None:
        (tmp_path / "index.jsonl").unlink()
    else:
        (tmp_path / "index.jsonl").write_bytes(content)
    again = load_index(tmp_path)
    assert (again.rows(every=True), again.broken) == (before.rows(every=True), before.broken)
    assert (tmp_path / "index.jsonl").read_bytes() == text


def test_an_index_follows_records_that_come_and_go(tmp_path: Path) -> None:
    first, second = (store_record(tmp_path, make_record(name)) for name in ("a", "b"))
    assert names(tmp_path) == ["a", "b"]
    before = (tmp_path / "index.jsonl").stat().st_ino
    with opened() as files:
        assert names(tmp_path) == ["a", "b"]
    assert [file for file in files if str(tmp_path) in file] == [str(tmp_path / "index.jsonl")]
    assert (tmp_path / "index.jsonl").stat().st_ino == before
    first.unlink()
    assert names(tmp_path) == ["b"]
    second.unlink()
    assert names(tmp_path) == []
    assert names(tmp_path / "nowhere") == []
    assert not (tmp_path / "nowhere").exists()


def test_a_log_that_has_grown_takes_the_place_of_what_it_was(tmp_path: Path) -> None:
    texts = [b"begin\nstep 1\n", b"begin\nstep 1\nstep 2\nste", b"begin\nstep 1\nstep 2\nstep 3\n"]
    records = [make_record("a", text, steps_done=number(n)) for n, text in enumerate(texts, 1)]
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        folder = tmp_path / "".join(map(str, order))
        for number_ in order:
            store_record(folder, records[number_])
        assert [row.id for row in load_index(folder).rows()] == [record_id(records[2])]
        assert len(load_index(folder).rows(every=True)) == 3
        assert set(load_index(folder).newer.values()) == {record_id(records[2])}


def test_runs_that_only_begin_alike_stay_two(tmp_path: Path) -> None:
    """A hundred equal lines of settings, the same file name, equal lengths: replicates are evidence of their own."""
    settings = "".join(f"setting {number_}: 1\n" for number_ in range(60))
    for seed in (1, 2):
        store_record(tmp_path, make_record("train", f"{settings}loss {seed}.5\n".encode()))
    assert names(tmp_path) == ["train", "train"]


def test_later_readers_take_the_place_of_earlier_ones(tmp_path: Path) -> None:
    store_record(tmp_path, make_record("a", b"x\n", 0))
    store_record(tmp_path, make_record("a", b"x\n", 1))
    newer = make_record("a", b"x\n", 0, version=2)
    store_record(tmp_path, newer)
    assert [row.id for row in load_index(tmp_path).rows()] == [record_id(newer)]
    longer = make_record("a", b"x\ny\n", 0)
    store_record(tmp_path, longer)
    assert [row.id for row in load_index(tmp_path).rows()] == [record_id(longer)]


def test_our_own_record_counts_before_an_import_of_the_runs_folder(tmp_path: Path) -> None:
    """The import read the job's log too, and knows less; a run is never counted twice."""
    metrics, log = make_source(b"start\nstep\n", "metrics.jsonl"), make_source(b"loss\n" * 9, "job.out")
    imported = record_of(make_reading("r"), {"metrics.jsonl": metrics, "job.out": log}, reader_version=2)
    own = replace(
        record_of(make_reading("r"), {"metrics.jsonl": metrics}, reader_version=1),
        origin="touchline",
        experiment="e",
        run="r",
    )
    for record in (own, imported):
        store_record(tmp_path, record)
    assert [row.origin for row in load_index(tmp_path).rows()] == ["touchline"]


def test_logs_of_one_name_are_compared_with_neighbours_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work grows with their number, not with its square."""
    lines = [
        index.line_of(record_id(record), record)
        for number_ in range(300)
        for record in [make_record("train", f"begin\nseed {number_}\nloss\n".encode())]
    ]
    calls: list[int] = []
    real = index._supersedes
    monkeypatch.setattr(index, "_supersedes", lambda new, old: calls.append(1) or real(new, old))
    assert index.superseded(lines) == {}
    assert len(calls) <= len(lines)


def test_a_record_is_found_by_name_id_and_the_beginning_of_its_id(tmp_path: Path) -> None:
    old, new = make_record("night_shift", b"x\n"), make_record("night_shift", b"x\ny\n")
    for record in (old, new):
        store_record(tmp_path, record)
    found = load_index(tmp_path)
    assert find_record(tmp_path, found, "night_shift") == (record_id(new), new)
    assert find_record(tmp_path, found, record_id(old)[:8]) == (record_id(old), old)
    assert find_record(tmp_path, found, record_id(old))[1] == old


def test_what_is_not_there_is_told_with_what_comes_near(tmp_path: Path) -> None:
    store_record(tmp_path, make_record("night_shift"))
    for content in (b"x\n", b"y\n"):
        store_record(tmp_path, make_record("twin", content))
    found = load_index(tmp_path)
    with pytest.raises(InputError, match="no record 'nightshift'") as caught:
        find_record(tmp_path, found, "nightshift")
    assert caught.value.hint == "did you mean 'night_shift'?"
    with pytest.raises(InputError, match="names 2 records"):
        find_record(tmp_path, found, "twin")
    refusal(find_record, tmp_path, found, "")
    store_record(tmp_path, make_record("night_shift")).write_bytes(b"{")
    with pytest.raises(InputError, match="corrupt"):
        find_record(tmp_path, found, "night_shift")


def test_adding_learns_refuses_and_skips(tmp_path: Path) -> None:
    history = tmp_path / "h"
    a = write_log(tmp_path, "a.log", b"run\n")
    b = write_log(tmp_path, "b.log", b"nothing\n")
    first = add_groups(history, groups_of(a, b), read_lines)
    cache = history / ".cache"
    assert tmp_path.name not in (cache / "seen.json").read_text(), "who reads where is nobody's business"
    assert (cache / ".gitignore").read_text() == "*\n"
    assert [(item.name, item.new) for item in first.learned] == [("a", True)]
    assert [(item.path, item.reason) for item in first.refused] == [(str(b), "no lines of a training run")]
    assert (first.unchanged_files, first.unchanged_runs) == (0, 0)
    second = add_groups(history, groups_of(a, b), read_lines)
    assert (second.learned, second.refused) == ((), ())
    assert (second.unchanged_files, second.unchanged_runs) == (2, 1)
    with a.open("ab") as stream:
        stream.write(b"more\n")
    third = add_groups(history, groups_of(a, b), read_lines)
    assert [item.steps_done.value for item in third.learned] == [2]
    assert third.unchanged_files == 1
    assert names(history) == ["a"]
    assert len(tree(history)) == 2


def test_the_places_that_are_told_lead_to_the_files(tmp_path: Path) -> None:
    log = write_log(tmp_path / "alice", "a.log", b"run\n")
    (item,) = add_groups(tmp_path / "h", groups_of(log), read_lines).learned
    assert item.seconds_per_step.where == f"{log}:2"
    assert item.files == (str(log),)
    assert b"alice" not in b"".join(tree(tmp_path / "h").values())


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    log = write_log(tmp_path, "a.log", b"run\n")
    dry = add_groups(tmp_path / "h", groups_of(log), read_lines, dry_run=True)
    assert not (tmp_path / "h").exists()
    assert [item.id for item in dry.learned] == [
        item.id for item in add_groups(tmp_path / "h", groups_of(log), read_lines).learned
    ]


def test_unchanged_files_are_not_opened(tmp_path: Path) -> None:
    """A second call opens what the history needs for itself: a handful of files, however many were added."""
    (tmp_path / "logs").mkdir()
    logs = [tmp_path / "logs" / f"{number_:05}.log" for number_ in range(1_000)]
    for number_, log in enumerate(logs):
        log.write_text("run\n" if number_ % 50 == 0 else "")
    groups = groups_of(*logs)
    first = add_groups(tmp_path / "h", groups, read_lines)
    assert (len(first.learned), len(first.refused)) == (20, 980)
    with opened() as files:
        second = add_groups(tmp_path / "h", groups, read_lines)
    assert (second.unchanged_files, second.unchanged_runs) == (1_000, 20)
    assert [file for file in files if str(tmp_path) in file] == [str(tmp_path / "h" / ".cache" / "seen.json")]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"form": 99}', b"[" * 100_000, None])
def test_the_list_of_known_files_may_be_lost(tmp_path: Path, content: bytes | None) -> None:
    log = write_log(tmp_path, "a.log", b"run\n")
    add_groups(tmp_path / "h", groups_of(log), read_lines)
    if content is None:
        shutil.rmtree(tmp_path / "h" / ".cache")
    else:
        (tmp_path / "h" / ".cache" / "seen.json").write_bytes(content)
    assert [item.new for item in add_groups(tmp_path / "h", groups_of(log), read_lines).learned] == [False]
    assert len(tree(tmp_path / "h")) == 1


def test_changed_readers_and_lost_records_make_files_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write_log(tmp_path, "a.log", b"run\n")
    (item,) = add_groups(tmp_path / "h", groups_of(log), read_lines).learned
    record_path(tmp_path / "h", item.id).unlink()
    assert [item.new for item in add_groups(tmp_path / "h", groups_of(log), read_lines).learned] == [True]
    monkeypatch.setattr(adding, "READERS_VERSION", 1_000)
    assert add_groups(tmp_path / "h", groups_of(log), read_lines).unchanged_files == 0


@pytest.mark.parametrize("fault", [KeyboardInterrupt, HostError("no space left")])
def test_ctrl_c_or_full_disk_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    logs = [write_log(tmp_path, f"{name}.log", b"run\n" + name.encode()) for name in "abc"]
    real = adding.store_record

    def full(folder: Path, record: RunRecord) -> Path:
        if record.name == "c":
            raise fault
        return real(folder, record)

    with monkeypatch.context() as patch:
        patch.setattr(adding, "store_record", full)
        with pytest.raises((KeyboardInterrupt, HostError)):
            add_groups(tmp_path / "h", groups_of(*logs), read_lines)
    assert names(tmp_path / "h") == ["a", "b"]
    added = add_groups(tmp_path / "h", groups_of(*logs), read_lines)
    assert [item.name for item in added.learned] == ["c"]
    assert added.unchanged_files == 2


def test_a_log_that_grows_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    log = write_log(tmp_path, "a.log", b"run\n")

    def read(group: FileGroup) -> list[LoggedRun | SkippedFile]:
        found = read_lines(group)
        with log.open("ab") as stream:
            stream.write(b"more\n")
        return found

    add_groups(tmp_path / "h", groups_of(log), read)
    assert add_groups(tmp_path / "h", groups_of(log), read_lines).unchanged_files == 0


def test_a_file_that_is_gone_after_it_was_read_is_refused(tmp_path: Path) -> None:
    logs = [write_log(tmp_path, f"{name}.log", b"run\n") for name in "ab"]

    def read(group: FileGroup) -> list[LoggedRun | SkippedFile]:
        found = read_lines(group)
        if group.key == "a":
            group.files[0].unlink()
        return found

    added = add_groups(tmp_path / "h", groups_of(*logs), read)
    assert [item.name for item in added.learned] == ["b"]
    assert "disappeared" in added.refused[0].reason
