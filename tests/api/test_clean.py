"""Cleaning removes what may go without loss: never the only good copy, nothing outside, nothing that is in use."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.results.conftest import Trained
from tests.results.corruptions import ADAPTERS, RESAVED
from tests.results.made_checkpoints import ADAPTER, MARKER, remark
from typer.testing import CliRunner

from touchline import api
from touchline.cli.experiment import clean as clean_command
from touchline.core.errors import HostError, PolicyError
from touchline.core.files import try_lock
from touchline.core.status import AttemptStart
from touchline.results import verification as cleaning
from touchline.results.verification import clean, verify_planned
from touchline.run.folders import ExperimentFolder
from touchline.run.statusfiles import identify, write_start

pytestmark = pytest.mark.planning


def tree(root: Path) -> dict[str, str]:
    """Every file under a folder with its content's hash, links as what they lead to."""
    found: dict[str, str] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.name == "run.lock":
                continue
            content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
            found[str(path.relative_to(root))] = hashlib.sha256(content).hexdigest()
    return found


def leave_behind(trained: Trained) -> list[str]:
    """What kills and finished trainings leave, and what is broken with a sound one after it; gives the paths."""
    run = trained.root / "1M_rank4"
    state = run / "resume" / "step_00000040"
    state.mkdir(parents=True)
    (state / "optimizer.safetensors").write_bytes(b"\1" * 5000)
    half = run / ".saving-epoch_1-0a1b2c3d"
    half.mkdir()
    (half / ADAPTER).write_bytes(b"\2" * 700)
    shutil.copytree(run / "epoch_0", run / ".replaced-epoch_0-ffffffff")
    data = (run / "epoch_0" / ADAPTER).read_bytes()
    (trained.root / "1M_rank2" / "epoch_0" / ADAPTER).write_bytes(data[:900])
    (run / ".metrics.jsonl.01234567.tmp").write_text("{")
    return [
        "1M_rank2/epoch_0",
        "1M_rank4/.metrics.jsonl.01234567.tmp",
        "1M_rank4/.replaced-epoch_0-ffffffff",
        "1M_rank4/.saving-epoch_1-0a1b2c3d",
        "1M_rank4/resume",
    ]


def test_there_is_nothing_to_clean_where_all_is_well(trained: Trained) -> None:
    before = tree(trained.root)
    found = clean(trained.root, perform=True, deep=True)
    assert (found.items, found.kept, found.size_bytes, found.depth) == ((), (), 0, "values")
    assert tree(trained.root) == before


def test_it_is_shown_first_and_removed_when_asked_to(trained: Trained) -> None:
    expected = leave_behind(trained)
    before = tree(trained.root)
    shown = clean(trained.root)
    assert sorted(item.path for item in shown.items) == expected
    assert not shown.performed
    assert tree(trained.root) == before

    done = clean(trained.root, perform=True)
    assert done.performed
    assert done.items == shown.items
    assert done.size_bytes == shown.size_bytes == sum(item.size_bytes for item in shown.items)
    after = tree(trained.root)
    gone = set(before) - set(after)
    assert gone
    assert all(any(name == path or name.startswith(f"{path}/") for path in expected) for name in gone)
    assert {name: before[name] for name in after} == after
    assert clean(trained.root).items == ()
    sound = {(item.run, item.name) for item in verify_planned(trained.plan, trained.root).checkpoints if item.sound}
    assert sound == {("1M_rank2", "epoch_1"), ("1M_rank4", "epoch_0"), ("1M_rank4", "epoch_1")}


# ---- never the only good copy ----------------------------------------------------------------------------------------


def empty_the_last(run: Path) -> None:
    (run / "epoch_1" / ADAPTER).write_bytes(b"")


def give_the_last_an_earlier_marker(run: Path) -> None:
    """By its marker's step the last checkpoint is none; by its name it is, and it is not valid."""
    ADAPTERS["a marker of another epoch"][1](run / "epoch_1")


def lose_a_tokenizer(run: Path) -> None:
    """It can be copied again; the weights cannot."""
    shutil.rmtree(run / "resume")
    (run / "epoch_0" / "tokenizer.json").unlink()


def leave_unfinished(run: Path) -> None:
    (run / "training.json").unlink()


def kill_between_two_renames(run: Path) -> None:
    """The only good copy has a temporary name."""
    shutil.rmtree(run / "resume")
    (run / "epoch_1").rename(run / ".replaced-epoch_1-0a1b2c3d")


@pytest.mark.parametrize(
    ("harm", "kept"),
    [
        (empty_the_last, [("1M_rank4/epoch_1", ("zero-byte",))]),
        (give_the_last_an_earlier_marker, [("1M_rank4/epoch_1", ("wrong-place",))]),
        (lose_a_tokenizer, [("1M_rank4/epoch_0", None)]),
        (leave_unfinished, []),
        (kill_between_two_renames, []),
    ],
)
def test_what_may_be_the_only_good_copy_stays(
    trained: Trained, harm: Callable[[Path], None], kept: list[tuple[str, tuple[str, ...] | None]]
) -> None:
    """Broken or not; and the state to continue from, which may be the only way to it."""
    run = trained.root / "1M_rank4"
    (run / "resume" / "step_00000040").mkdir(parents=True)
    harm(run)
    before = tree(trained.root), (run / "resume").is_dir()
    found = clean(trained.root, perform=True)
    assert found.items == ()
    assert [each.path for each in found.kept] == [path for path, _ in kept]
    assert all(codes in (None, each.codes) for each, (_, codes) in zip(found.kept, kept, strict=True))
    assert (tree(trained.root), (run / "resume").is_dir()) == before


def test_what_was_moved_aside_stays(trained: Trained) -> None:
    """A plan that was changed keeps what the one before it had made; only its state to go on from is of no use."""
    run = trained.root / "1M_rank4"
    shutil.copytree(run / "epoch_0", run / "superseded" / "1" / "epoch_0")
    (run / "superseded" / "1" / "resume").mkdir()
    (run / "superseded" / "1" / "resume" / "x").write_bytes(b"123")
    found = clean(trained.root, perform=True)
    assert [(item.path, item.size_bytes) for item in found.items] == [("1M_rank4/superseded/1/resume", 3)]
    assert (run / "superseded" / "1" / "epoch_0" / ADAPTER).is_file()


SPOILT = {**ADAPTERS, **RESAVED}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_broken_no_sound_checkpoint_goes(
    trained_once: Trained, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any faults in any checkpoints: all that were sound before are there after, to the byte."""
    root = tmp_path_factory.mktemp("spoilt") / "tiny"
    shutil.copytree(trained_once.root, root)
    for run in ("1M_rank2", "1M_rank4"):
        for epoch in ("epoch_1", "epoch_0"):
            kind = data.draw(st.sampled_from(["", *sorted(SPOILT)]), label=f"{run}/{epoch}")
            folder = root / run / epoch
            needs = folder.parent / "epoch_0" / ADAPTER
            if kind and (kind not in RESAVED or needs.is_file()):
                SPOILT[kind][1](folder)
                if kind in RESAVED:
                    remark(folder)
        if data.draw(st.booleans(), label=f"{run} resumes"):
            (root / run / "resume").mkdir()
    before = verify_planned(trained_once.plan, root, deep=True)
    kept = {f"{c.run}/{c.name}": tree(root / c.run / c.name) for c in before.checkpoints if c.sound}
    found = clean(root, perform=True, deep=True)
    for path, content in kept.items():
        assert tree(root / path) == content
    for item in found.items:
        assert any(path.startswith(f"{item.run}/") for path in kept)
    if "1M_rank4/resume" in {item.path for item in found.items}:
        assert "1M_rank4/epoch_1" in kept


# ---- nothing outside, nothing alive ----------------------------------------------------------------------------------


def outside(tmp_path: Path) -> Path:
    """A folder of somebody else's."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    (place / "precious.safetensors").write_bytes(b"x" * 100)
    return place


def test_links_are_not_followed(trained: Trained, tmp_path: Path) -> None:
    run, place = trained.root / "1M_rank4", outside(tmp_path)
    (run / "resume").symlink_to(place)
    (run / ".saving-epoch_1-0a1b2c3d").symlink_to(place)
    assert clean(trained.root, perform=True).items == ()
    (run / "resume").unlink()
    (run / "resume").mkdir()
    (run / "resume" / "step_00000040").symlink_to(place)
    assert [item.path for item in clean(trained.root, perform=True).items] == ["1M_rank4/resume"]
    assert not (run / "resume").exists()
    assert (place / "precious.safetensors").read_bytes() == b"x" * 100


def test_a_run_that_lies_elsewhere_is_left_alone(trained: Trained, tmp_path: Path) -> None:
    leave_behind(trained)
    shutil.move(trained.root / "1M_rank4", tmp_path / "rank4")
    (trained.root / "1M_rank4").symlink_to(tmp_path / "rank4")
    before = tree(tmp_path / "rank4")
    assert {item.run for item in clean(trained.root, perform=True).items} == {"1M_rank2"}
    assert tree(tmp_path / "rank4") == before


@pytest.mark.parametrize("path", ["../elsewhere", "/etc/hostname", "", "1M_rank4/../../elsewhere", "linked/precious"])
def test_a_path_that_leads_out_is_refused(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Even if the list were wrong; then nothing of it is removed."""
    place = outside(tmp_path)
    (trained.root / "linked").symlink_to(place)
    leave_behind(trained)
    real = cleaning.verify_planned

    def wrong(*arguments: object, **named: object) -> object:
        found = real(*arguments, **named)  # type: ignore[arg-type]
        items = found.storage.deletable
        return replace(found, storage=replace(found.storage, deletable=(*items, replace(items[0], path=path))))

    monkeypatch.setattr(cleaning, "verify_planned", wrong)
    before = tree(trained.root)
    with pytest.raises(PolicyError, match="is not deleted"):
        clean(trained.root, perform=True)
    assert tree(trained.root) == before
    assert (place / "precious.safetensors").is_file()


def test_it_is_refused_while_a_run_or_another_command_is_at_work(trained: Trained) -> None:
    leave_behind(trained)
    before = tree(trained.root)
    descriptor = try_lock(ExperimentFolder(trained.root).lock)
    assert descriptor is not None
    with pytest.raises(PolicyError, match="another touchline command"):
        clean(trained.root, perform=True)
    os.close(descriptor)
    me = identify()
    start = AttemptStart(
        job_id="7", restart=0, token="t", host=me.host, boot_id=me.boot_id, pid=me.pid, pid_started=me.started,
        time_unix=time.time(),
    )  # fmt: skip
    write_start(trained.root / "1M_rank2" / "status", start)
    with pytest.raises(PolicyError, match="1M_rank2") as caught:
        clean(trained.root, perform=True)
    assert "touchline cancel" in str(caught.value.hint)
    assert clean(trained.root).items
    shutil.rmtree(trained.root / "1M_rank2" / "status")
    assert tree(trained.root) == before


def test_what_may_not_be_removed_is_told(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_behind(trained)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(HostError, match="no permission"):
        clean(trained.root, perform=True)


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """`touchline clean ...`; gives exit code, stdout and stderr."""
    monkeypatch.setattr(api, "clean", clean, raising=False)
    app = typer.Typer()
    app.command()(clean_command)

    def run(*arguments: str) -> tuple[int, str, str]:
        found = CliRunner().invoke(app, list(arguments))
        return found.exit_code, found.stdout, found.stderr

    return run


def test_the_command_shows_and_says_what_to_type(trained: Trained, call: Callable[..., tuple[int, str, str]]) -> None:
    expected = leave_behind(trained)
    code, out, _ = call(str(trained.root), "--json", "--deep")
    answer = json.loads(out)
    assert code == 0
    assert sorted(item["path"] for item in answer["items"]) == expected
    assert (answer["schema_version"], answer["performed"], answer["depth"]) == (1, False, "values")
    (trained.root / "1M_rank4" / "epoch_1" / MARKER).write_text("{")
    code, out, err = call(str(trained.root))
    assert code == 0
    assert "1M_rank2/epoch_0" in out
    assert f"touchline clean {trained.root} --delete" in err
    assert "1M_rank4/epoch_1 (broken-marker)" in err
    assert call(str(trained.root), "--delete")[0] == 0
    assert not (trained.root / "1M_rank2" / "epoch_0").exists()
