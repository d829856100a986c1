"""Settings of the user, the word list, and the datasets that are made from it."""

import hashlib
import json
from importlib import resources
from pathlib import Path

import pytest
from tests.cases import parametrize, refusal, write

from touchline.core.errors import HostError, InputError, PolicyError
from touchline.data.create import AMERICAN_ENGLISH, AMERICAN_ENGLISH_HUGE, create_capitalization, load_words
from touchline.data.datasets import load_dataset
from touchline.data.user_config import config_path, load_settings
from touchline.experiment.data_config import DataConfig
from touchline.experiment.value_types import SlurmSite

pytestmark = pytest.mark.planning

USUAL_SHA256 = "6347fa953384d7846a2dd6529dbb730f002ec853e42300949e09b1e6d5b8d669"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MODELS_DIR", "CACHE_DIR", "HISTORY_DIR"):
        monkeypatch.delenv(f"TOUCHLINE_{name}", raising=False)
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write_config(content: str) -> Path:
    return write(config_path(), content)


def make(out: Path, **changes: object) -> Path:
    settings = {"word_length": 5, "num_words": 40, "train_fraction": 0.5, "seed": 1} | changes
    return create_capitalization(out, **settings)


def test_without_settings_the_folders_are_the_platforms(home: Path) -> None:
    settings = load_settings()
    assert settings.models_dir.is_relative_to(home)
    assert settings.cache_dir.is_relative_to(home)
    assert settings.history_dir.is_relative_to(home)
    assert len({settings.models_dir, settings.cache_dir, settings.history_dir}) == 3


def test_the_environment_goes_before_the_file_and_that_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key by key, and an empty variable is none."""
    path = write_config("models_dir: ~/models\ncache_dir: here\nhistory_dir: ~/group/history\n")
    assert load_settings().history_dir == home / "group" / "history"
    assert load_settings().models_dir == home / "models"
    assert load_settings().cache_dir == path.parent / "here"
    monkeypatch.setenv("TOUCHLINE_MODELS_DIR", "elsewhere")
    monkeypatch.setenv("TOUCHLINE_CACHE_DIR", "")
    monkeypatch.setenv("TOUCHLINE_HISTORY_DIR", "past")
    monkeypatch.chdir(home)
    assert load_settings().models_dir == home / "elsewhere"
    assert load_settings().history_dir == home / "past"
    assert load_settings().cache_dir == path.parent / "here"


def test_all_faults_of_the_config_file_come_at_once_with_their_places(home: Path) -> None:
    write_config("model_dir: x\ncache_dir: 5\nbanana: 1\n")
    found = [(f.where.line, f.hint) for f in refusal(load_settings).findings if f.where]
    assert found == [(1, "did you mean 'models_dir'?"), (2, None), (3, None)]


@parametrize(
    "content",
    "- a\n",
    "models_dir: [\n",
    "models_dir: ''\n",
    "models_dir: null\n",
    "models_dir: ~no-such-user-here/x\n",
)
def test_a_broken_config_file_is_an_input_fault(home: Path, content: str) -> None:
    """Named, never ignored: a typo must not send the models elsewhere."""
    write_config(content)
    refusal(load_settings)


def test_what_the_cluster_wants_to_hear_is_read_from_the_config_file(home: Path) -> None:
    """Every key of the example; without the key, SLURM's own defaults."""
    assert load_settings().slurm == SlurmSite()
    write_config(
        "models_dir: ~/models\n"
        "slurm:\n"
        "  account: msalganik\n"
        "  partition: gpu\n"
        "  constraint: a100&80gb\n"
        "  gpu_type: a100\n"
        "  cpus_per_run: 8\n"
        "  memory_gb: 64\n"
        "  modules: [anaconda3/2024.6]\n"
        "  setup: ['source /opt/env.sh']\n"
        "  options: [--mail-type=FAIL, '--exclude=node7']\n"
        "  signal_seconds: 300\n"
        "  max_restarts: 0\n"
        "  max_submitted: 50\n"
        "  poll_seconds: 60\n"
    )
    site = load_settings().slurm
    assert (site.account, site.gpu_type, site.memory_gb, site.max_restarts) == ("msalganik", "a100", 64.0, 0)
    assert site.options == ("--mail-type=FAIL", "--exclude=node7")
    assert site.modules == ("anaconda3/2024.6",)


def test_all_faults_of_the_cluster_settings_come_at_once_with_their_places(home: Path) -> None:
    write_config("cache_dir: 5\nslurm:\n  acount: x\n  memory_gb: -1\n  signal_seconds: two\n  modules: [1]\n")
    caught = refusal(load_settings)
    found = {(f.where.line, f.subject) for f in caught.findings if f.where}
    assert found == {
        (1, "cache_dir"),
        (3, "slurm.acount"),
        (4, "slurm.memory_gb"),
        (5, "slurm.signal_seconds"),
        (6, "slurm.modules.0"),
    }
    assert {f.code for f in caught.findings} == {"US101"}
    assert any(f.hint == "did you mean 'account'?" for f in caught.findings)


@parametrize(
    "lines, words",
    ('account: "a\\nb"', "one line"),
    ('modules: ["a\\tb"]', "one line"),
    ("options: [mail-type=FAIL]", "stray word"),
    ("options: ['--array=0-3']", "set by touchline"),
    ("options: [-J x]", "set by touchline"),
    ("options: ['--excldue=n7']", "no option"),
    ("options: ['--mail-type=SOMETIMES']", "sbatch expects"),
    ("options: ['']", "a text that is not empty"),
    ("options: [' ']", "no option"),
)
def test_a_setting_that_no_script_can_hold_is_refused(home: Path, lines: str, words: str) -> None:
    write_config(f"slurm:\n  {lines}\n")
    (finding,) = refusal(load_settings).findings
    assert words in finding.message
    assert finding.where.line == 2


def test_options_of_a_sites_own_plugins_are_let_through(home: Path) -> None:
    write_config("slurm: {options: [--container-image=x, --our-own=3]}\n")
    assert load_settings().slurm.options == ("--container-image=x", "--our-own=3")


@pytest.mark.parametrize("value", ["null", "5", "[]", "text"])
def test_cluster_settings_are_keys_and_values(home: Path, value: str) -> None:
    write_config(f"slurm: {value}\n")
    assert [f.where.line for f in refusal(load_settings).findings if f.where] == [1]


def test_an_empty_config_file_is_none(home: Path) -> None:
    """Somebody has taken everything out, or has commented it."""
    for content in ("", "\n  \n", "# models_dir: /x\n"):
        write_config(content)
        assert load_settings().models_dir.is_relative_to(home)


def test_the_word_list_is_what_its_record_says() -> None:
    """Sorted lower-case words of 3 to 15 letters, with their licence beside them, in less than a megabyte."""
    words = load_words()
    assert words == sorted(set(words))
    assert all(word.isascii() and word.isalpha() and word.islower() and 3 <= len(word) <= 15 for word in words)
    assert len([word for word in words if len(word) == 8]) >= 10_000
    folder = resources.files("touchline.data") / "wordlists"
    assert len((folder / "american-english.txt").read_bytes()) < 1_000_000
    licence = (folder / "LICENSE-american-english.txt").read_text(encoding="utf-8")
    assert "Kevin Atkinson" in licence
    assert "Permission to use, copy, modify, distribute and sell" in " ".join(licence.split())


def test_every_set_of_ten_thousand_words_that_guides_name_can_be_made(tmp_path: Path) -> None:
    """The larger list is taken only where the smaller one has too few, so that older datasets stay the same."""
    assert set(load_words()) <= set(load_words(AMERICAN_ENGLISH_HUGE))
    for length in (5, 8, 9, 13):
        data = json.loads(make(tmp_path, word_length=length, num_words=10_000, train_fraction=0.8, seed=14).read_text())
        rows = [row for split in ("train", "validation", "test") for row in data[split]]
        assert len({row["input"] for row in rows}) == 10_000
        assert {len(row["input"]) for row in rows} == {length}
        origin = AMERICAN_ENGLISH if length == 8 else AMERICAN_ENGLISH_HUGE
        assert data["about"]["word_list"]["sha256"] == origin["sha256"]
    assert "4,819" in refusal(make, tmp_path, word_length=15, num_words=10_000).message


def test_a_missing_set_is_hinted_at_with_a_command_that_succeeds(tmp_path: Path) -> None:
    """For a set that is too large, the largest that exists."""
    for name, words in (("words_13L_80P_10000.json", "10000"), ("words_15L_80P_9000.json", "4819")):
        hint = refusal(load_dataset, DataConfig(path=name), tmp_path).findings[0].hint
        assert hint is not None
        assert f"--num-words {words} " in hint
        assert ("only 4,819" in hint) == (words == "4819")
    caught = refusal(load_dataset, DataConfig(path="words_40L_80P_10.json"), tmp_path)
    assert "--words FILE" in (caught.findings[0].hint or "")


def test_any_file_of_words_may_be_used(tmp_path: Path) -> None:
    """One word per line; what is no lower-case word is left out, and the origin says what it is."""
    words = [f"wört{a}{b}" for a in "abcdefghij" for b in "abcde"]
    (tmp_path / "my words.txt").write_text("\n".join([*words, "Upper1", "two words", "", "wörtaa", "日本語日本語"]))
    data = json.loads(make(tmp_path / "out", word_length=6, num_words=50, words=tmp_path / "my words.txt").read_text())
    assert {row["input"] for split in ("train", "validation", "test") for row in data[split]} == set(words)
    assert all(row["output"] == row["input"].capitalize() for row in data["train"])
    assert data["about"]["word_list"]["name"] == "my words.txt"
    assert refusal(make, tmp_path / "out", word_length=9, words=tmp_path / "my words.txt").hint == "--word-length 6"
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for bad in (tmp_path / "binary", tmp_path / "absent", tmp_path):
        with pytest.raises((InputError, HostError)):
            make(tmp_path / "out", words=bad)


def test_a_changed_word_list_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same arguments would no longer give the same dataset."""
    (tmp_path / "wordlists").mkdir()
    (tmp_path / "wordlists" / "american-english.txt").write_text("abc\n")
    monkeypatch.setattr("touchline.data.create.resources.files", lambda package: tmp_path)
    (tmp_path / "wordlists" / "american-english-huge.txt.gz").write_bytes(b"\x1f\x8bcut")
    for words in (AMERICAN_ENGLISH, AMERICAN_ENGLISH_HUGE):
        with pytest.raises(HostError):
            load_words(words)


def test_the_usual_dataset_is_whole_and_tells_where_it_is_from(tmp_path: Path) -> None:
    """1,600, 100 and 300 real words, and what is needed to make it again."""
    path = create_capitalization(tmp_path, word_length=8, num_words=2000, train_fraction=0.8, seed=14)
    assert path == tmp_path / "words_8L_80P_2000.json"
    info = load_dataset(DataConfig(path=str(path)), Path())
    assert info.findings == ()
    assert [(s.name, s.num_examples) for s in info.splits] == [("train", 1600), ("validation", 100), ("test", 300)]
    about = json.loads(path.read_text())["about"]
    assert (about["seed"], about["word_length"], about["num_words"], about["train_fraction"]) == (14, 8, 2000, 0.8)
    assert about["word_list"]["sha256"] == AMERICAN_ENGLISH["sha256"]
    assert {"name", "version", "licence"} <= set(about["word_list"])


def test_arguments_and_files_of_the_usual_dataset(tmp_path: Path) -> None:
    """Byte for byte, whatever the version of numpy: results of two machines are comparable by it."""
    path = create_capitalization(tmp_path, word_length=8, num_words=2000, train_fraction=0.8, seed=14)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == USUAL_SHA256
    path = make(tmp_path / "new" / "folder")
    before = path.stat()
    assert make(tmp_path / "new" / "folder") == path
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert make(tmp_path / "other").read_bytes() == path.read_bytes()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_other_content_is_refused_unless_forced(tmp_path: Path) -> None:
    """A dataset that somebody trained on is not replaced in passing."""
    path = make(tmp_path)
    with pytest.raises(PolicyError):
        make(tmp_path, seed=2)
    path.write_bytes(b"\xff not even text")
    with pytest.raises(PolicyError):
        make(tmp_path)
    assert path.read_bytes() == b"\xff not even text"
    assert json.loads(make(tmp_path, force=True).read_text())["about"]["seed"] == 1


def test_a_folder_in_the_files_place_is_refused_even_when_forced(tmp_path: Path) -> None:
    (tmp_path / "words_5L_50P_40.json").mkdir()
    with pytest.raises(PolicyError):
        make(tmp_path, force=True)


def test_a_file_in_the_folders_place_is_an_input_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper" / "still"):
        refusal(make, out)


@pytest.mark.parametrize("change", [{"seed": -1}, {"word_length": 40}, {"num_words": 10**9}, {"train_fraction": 1.0}])
def test_arguments_that_cannot_be_met_leave_nothing_behind(tmp_path: Path, change: dict[str, object]) -> None:
    refusal(make, tmp_path / "data", **change)
    assert not (tmp_path / "data").exists()
