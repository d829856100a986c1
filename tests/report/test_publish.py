"""`touchline publish`: a folder for the Hub that says where its weights come from and nothing about this machine."""

import functools
import getpass
import json
import shlex
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.api.folders import environment, touchline

from touchline import api
from touchline.core.errors import InputError, PolicyError
from touchline.core.files import sha256_file
from touchline.data.checkpoints import read_export_marker
from touchline.data.metrics_file import read_metrics
from touchline.data.user_config import UserConfig
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import ExploreConfig, PlannedStrategy
from touchline.report.local import publishing
from touchline.report.local.publishing import Published
from touchline.report.model_card import CardInputs, model_card, without_folders
from touchline.results.collect import collect_results
from touchline.results.scored import analyses, checkpoint_scores
from touchline.run.folders import ExperimentFolder
from touchline.run.ledger import STRATEGY, Ledger
from touchline.run.loaded_plan import one_run
from touchline.strategy.decisions import Choice, Cut, DecisionKind, RunLoss, StrategyDecision

ROOT = Path(__file__).resolve().parents[2]
FINISHED = ROOT / "tests" / "fixtures" / "written-by-0.1.0" / "finished"
"""A finished experiment of another user, whose home and models are not on this machine."""
RUN = "1M_rank4"


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FINISHED, tmp_path / "experiment"))


@pytest.fixture(name="settings")
def user_config(tmp_path: Path) -> UserConfig:
    return UserConfig(models_dir=tmp_path / "models", cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")


def publish(experiment: Path, settings: UserConfig, **options: object) -> Published:
    return api.publish(experiment, settings, run=RUN, **options)  # type: ignore[arg-type]


@pytest.mark.planning
def test_the_card_is_what_the_hub_reads(experiment: Path, settings: UserConfig) -> None:
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
    from huggingface_hub.utils import validate_repo_id

    found = publish(experiment, settings, license="apache-2.0", base_model="someone/Tiny-1M-Instruct")
    card = ModelCard.load(Path(found.folder) / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "peft")
    validate_repo_id(card.data.base_model)
    assert card.data.base_model == "someone/Tiny-1M-Instruct"
    (result,) = card.data.eval_results
    own = next(each for each in api.results(experiment) if each.name == RUN)
    assert own.exact_match is not None
    assert result.metric_value == pytest.approx(own.exact_match.value)
    assert (result.metric_type, result.dataset_split) == ("exact_match", "test")
    assert f"{own.exact_match.n} items" in result.metric_name
    assert f"{own.exact_match.low:.4g} to {own.exact_match.high:.4g}" in result.metric_name
    # To the form of the Hub and back.
    name = card.data.model_name
    again = model_index_to_eval_results(eval_results_to_model_index(name, card.data.eval_results))
    assert again == (name, card.data.eval_results)


@pytest.mark.planning
def test_the_folder_holds_the_verified_files_and_their_origin(experiment: Path, settings: UserConfig) -> None:
    found = publish(experiment, settings)
    folder, run = Path(found.folder), experiment / RUN
    marker = json.loads((run / "epoch_2" / "touchline.json").read_text())
    assert sha256_file(folder / "adapter_model.safetensors") == marker["adapter_sha256"]
    assert set(found.files) == {*marker["files"], "README.md"}
    config = json.loads((folder / "adapter_config.json").read_text())
    before = json.loads((run / "epoch_2" / "adapter_config.json").read_text())
    assert config == before | {"base_model_name_or_path": "Tiny-1M-Instruct"}
    card = (folder / "README.md").read_text()
    plan = json.loads((experiment / "plan.json").read_text())
    (model,) = plan["models"].values()
    (data,) = plan["datasets"].values()
    for told in (model["weights_sha256"], data["sha256"], marker["adapter_sha256"], marker["run_digest"]):
        assert told in card
    assert f"touchline run experiment.yaml --run {RUN}" in card
    assert "torch 2.13.0+cpu" in card
    assert "license:" not in card


@pytest.mark.planning
def test_nothing_of_the_machine_is_in_it(
    experiment: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of the machine that trained, whose folders the checkpoint names, nor of this one."""
    monkeypatch.setattr(getpass, "getuser", lambda: "grace")
    monkeypatch.setattr(socket, "gethostname", lambda: "node-17")
    monkeypatch.setenv("HF_TOKEN", "not-a-real-token-1234")
    assert "/home/ada" in (experiment / RUN / "epoch_2" / "adapter_config.json").read_text()
    folder = Path(publish(experiment, settings).folder)
    text = b"".join(path.read_bytes() for path in folder.iterdir())
    for private in ("/home/", str(experiment), "grace", "node-17", "not-a-real-token"):
        assert private.encode() not in text


@pytest.mark.planning
@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("Does it work in /home/grace/data?", "a home folder"),
        ("What grace asked", "the name of this user"),
        ("Did not-a-real-token-1234 leak?", "the value of HF_TOKEN"),
        ("hf_" + "a" * 30, "an access token"),
    ],
)
def test_a_question_that_names_it_is_refused(
    experiment: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch, question: str, told: str
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "grace")
    monkeypatch.setenv("HF_TOKEN", "not-a-real-token-1234")
    plan = json.loads((experiment / "plan.json").read_text()) | {"question": question}
    (experiment / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(PolicyError, match=told) as refused:
        publish(experiment, settings)
    assert "not-a-real-token" not in refused.value.message
    assert not (experiment / "published").exists()


@pytest.mark.planning
@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("models=[/home/ada/models/Tiny]", "models=[Tiny]"),
        ("data.path='/a/b c/d.json'", "data.path='b c/d.json'"),
        ("~/x/y.json", "y.json"),
        ("train.learning_rate=1e-3", "train.learning_rate=1e-3"),
        ("someone/Tiny", "someone/Tiny"),
        ("https://huggingface.co/a/b", "https://huggingface.co/a/b"),
    ],
)
def test_folders_are_cut(text: str, left: str) -> None:
    assert without_folders(text) == left


@pytest.mark.planning
def test_what_was_not_measured_is_said(experiment: Path, settings: UserConfig) -> None:
    from huggingface_hub import ModelCard

    shutil.rmtree(experiment / RUN / "eval")
    found = publish(experiment, settings)
    text = (Path(found.folder) / "README.md").read_text()
    assert found.scores == 0
    assert "n/a (not evaluated)" in text
    assert "compared with no untrained model" in text
    assert ModelCard(text).data.eval_results is None
    assert any("not evaluated" in note for note in found.notes)


@pytest.mark.planning
def test_unfinished_and_changed_runs_are_refused(experiment: Path, settings: UserConfig) -> None:
    weights = experiment / RUN / "epoch_2" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(PolicyError, match="different content than was saved"):
        publish(experiment, settings)
    (experiment / RUN / "training.json").unlink()
    with pytest.raises(PolicyError, match="is not finished"):
        publish(experiment, settings)
    with pytest.raises(InputError, match="control"):
        api.publish(experiment, settings, run="1M_base")
    with pytest.raises(InputError, match="no run selected"):
        api.publish(experiment, settings)
    assert not (experiment / "published").exists()


@pytest.mark.planning
def test_a_kill_leaves_no_half_folder(experiment: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(publishing, "write_atomic", dies)
        with pytest.raises(KeyboardInterrupt):
            publish(experiment, settings)
    assert not (experiment / "published" / RUN).exists()
    found = publish(experiment, settings)
    assert [path.name for path in (experiment / "published").iterdir()] == [RUN]
    with pytest.raises(PolicyError, match="exists"):
        publish(experiment, settings)
    assert sha256_file(Path(found.folder) / "README.md")


@pytest.mark.planning
def test_the_printed_upload_is_a_command_of_hf(experiment: Path, tmp_path: Path) -> None:
    """It is parsed by the installed `hf` and not executed."""
    from huggingface_hub.cli.hf import app

    env = environment(tmp_path / "models", tmp_path / "cache")
    done = touchline("publish", str(experiment / RUN), env=env)
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout.splitlines()[-1])
    assert words[:2] == ["hf", "upload"]
    with app.make_context("hf", words[1:], resilient_parsing=False) as group:
        name, command, rest = app.resolve_command(group, group._protected_args + group.args)
        assert name == "upload"
        assert command is not None
        with command.make_context(name, rest, parent=group) as found:
            assert found.params["repo_id"] == "YOUR-NAME/finished-1m-rank4"
            assert Path(found.params["local_path"]) == experiment / "published" / RUN
            assert found.params["path_in_repo"] == "."
            assert found.params["private"] is True


@functools.cache
def card_inputs() -> CardInputs:
    """What the card of the fixture's run is written from."""
    folder, plan, run = one_run(FINISHED, RUN)
    results = collect_results(plan, folder.root)
    result = next(each for each in results if each.name == RUN)
    marker = read_export_marker(folder.run(RUN) / "epoch_2")
    assert marker is not None
    return CardInputs(
        plan=plan, run=run, result=result, marker=marker, name="epoch_2",
        metrics=read_metrics(folder.run(RUN) / "metrics.jsonl"), scores=checkpoint_scores(result, "epoch_2"),
        analyses=analyses(results, plan.factors), base="someone/Tiny", license=None,
    )  # fmt: skip


@pytest.mark.planning
def test_a_whole_model_is_one_of_transformers() -> None:
    from huggingface_hub import ModelCard

    inputs = card_inputs()
    text = model_card(replace(inputs, marker=replace(inputs.marker, kind="merged")))
    card = ModelCard(text)
    assert card.data.library_name == "transformers"
    assert "merged into `someone/Tiny`" in text
    assert "PeftModel" not in text


@pytest.mark.planning
def test_a_score_names_the_file_that_has_its_items() -> None:
    """Where test rows have files of their own, not that of the training rows."""
    from huggingface_hub import ModelCard

    def datasets(test: str | dict[str, str], *names: str | None) -> list[str]:
        inputs = card_inputs()
        ((record, score), *_) = inputs.scores
        data = replace(inputs.run.data.as_file(""), path=None, train="data/train.json", test=test)
        scores = tuple((replace(record, test_set=name), score) for name in names)
        card = ModelCard(model_card(replace(inputs, run=replace(inputs.run, data=data), scores=scores)))
        return [each.dataset_name for each in card.data.eval_results]

    assert datasets("data/test.json", None) == ["test.json"]
    named = {"5L": "data/five.json", "9L": "data/nine.json"}
    assert sorted(datasets(named, "5L", "9L", None)) == ["five.json", "five.json", "nine.json"]


@pytest.mark.planning
@settings(max_examples=30)
@given(st.text())
def test_no_text_of_the_user_is_front_matter_or_markup(text: str) -> None:
    from huggingface_hub import ModelCard

    inputs = card_inputs()
    told = model_card(replace(inputs, plan=replace(inputs.plan, question=text)))
    plain = model_card(inputs)
    assert ModelCard(told).data.to_dict() == ModelCard(plain).data.to_dict()
    assert told.count("\n## ") == plain.count("\n## ")
    assert told.count("<") == told.count("\\<")


def test_peft_loads_it_with_the_same_logits(experiment: Path, settings: UserConfig, tiny_model: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def logits(folder: Path) -> torch.Tensor:
        base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, str(folder)).eval()
        ids = AutoTokenizer.from_pretrained(folder)("Capitalize: word", return_tensors="pt").input_ids
        with torch.no_grad():
            return model(ids).logits

    published = logits(Path(publish(experiment, settings).folder))
    assert torch.equal(published, logits(experiment / RUN / "epoch_2"))
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        ids = AutoTokenizer.from_pretrained(tiny_model)("Capitalize: word", return_tensors="pt").input_ids
        assert not torch.equal(published, base(ids).logits)


@pytest.mark.planning
def test_a_name_in_a_marker_leads_nowhere_else(experiment: Path) -> None:
    marker = read_export_marker(experiment / RUN / "epoch_2")
    assert marker is not None
    (saved,) = list(marker.files.values())[:1]
    hostile = replace(marker, files=marker.files | {"../../training.json": saved})
    assert publishing._names(hostile) == publishing._names(marker)


def with_strategy(experiment: Path, *decisions: StrategyDecision) -> None:
    """Make its runs those of explore, with the beginning and these decisions in the ledger."""
    folder = ExperimentFolder(experiment)
    plan = folder.planned()
    strategy = PlannedStrategy(
        explore=ExploreConfig(at=(0.5,), reference={"train.lora.rank": 4}), reference={"train.lora.rank": "4"}
    )
    runs = tuple(replace(run, phase=None if run.train is None else Phase.EXPLORE) for run in plan.runs)
    folder.write_plan(replace(plan, strategy=strategy, runs=runs), "")
    ledger = Ledger(folder.ledger, "local")
    for decision in (StrategyDecision(kind=DecisionKind.BEGIN, design="d"), *decisions):
        ledger.record("strategy", STRATEGY, decision=decision)


@pytest.mark.planning
def test_a_cut_run_is_not_published(experiment: Path, settings: UserConfig) -> None:
    """Its training was not finished on purpose."""
    losses = (RunLoss(run=RUN, loss=0.5), RunLoss(run="1M_rank64", loss=0.4))
    cut = Cut(step=3, losses=losses, kept=("1M_rank64",), cut=(RUN,))
    with_strategy(experiment, StrategyDecision(kind=DecisionKind.CUT, design="d", cut=cut))
    with pytest.raises(PolicyError, match=f"{RUN} was cut after step 3 by the strategy"):
        publish(experiment, settings)


@pytest.mark.planning
def test_the_card_of_a_chosen_run_says_how_it_was_chosen(experiment: Path, settings: UserConfig) -> None:
    """A loss that was picked among several is too good."""
    choice = Choice(losses=(RunLoss(run=RUN, loss=0.4),), chosen=(RUN,), contrasts=())
    with_strategy(experiment, StrategyDecision(kind=DecisionKind.CHOICE, design="d", choice=choice))
    card = (Path(publish(experiment, settings).folder) / "README.md").read_text()
    assert "it is a run of explore, with one seed; it was chosen among several by its validation loss" in card
