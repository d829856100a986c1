"""The rules on folders: each page's examples, a study's own configs in miniature, and trees that are no project."""

import hashlib
import json
import posixpath
from collections.abc import Mapping
from pathlib import PurePosixPath

import pytest
from tests.faults.page_examples import parts_of
from tests.lint.designs import merged

from touchline.backends.registry import config_formats
from touchline.core.finding import Finding, Location, Severity
from touchline.experiment.foreign import parse_foreign
from touchline.experiment.partial import StatedTraining
from touchline.lint.projects import DataFile, FolderView, Sibling, TextFile, work_of
from touchline.lint.rule import check_view

pytestmark = pytest.mark.planning


def severities(files: Mapping[str, str]) -> dict[str, Severity]:
    return {finding.code: finding.severity for finding in findings_of(files)}


def stage(name: str, output: str, *, data: str = "data/{}", more: str = "") -> str:
    """A stage config with its own name, output and data."""
    path = data.format(output)
    return merged(
        f"experiment_name: {name}\noutput_dir: models/{output}\n"
        f"data: {{train_jsonl: {path}/train.jsonl, val_jsonl: {path}/validation.jsonl}}\n{more}",
        "qlora_stage",
    )


def test_a_whole_study_has_its_faults_and_no_others() -> None:
    """Separate models for each stage, a curriculum that goes on, and one copied config with the wrong data."""
    files = {
        "exp1_random.yaml": stage("Exp1 random", "exp1_random"),
        "exp3_stage1.yaml": stage("Exp3 Sequential Stage 1", "exp3_sequential/stage1"),
        "exp3_stage2.yaml": stage("Exp3 Sequential Stage 2", "exp3_sequential/stage2"),
        "exp3_stage3.yaml": stage(
            "Exp3 Sequential Stage 3", "exp3_sequential/stage3", data="data/exp4_curriculum/stage3"
        ),
        "exp4_stage1.yaml": stage("Exp4 Curriculum Stage 1", "exp4_curriculum/stage1"),
        "exp4_stage2.yaml": stage(
            "Exp4 Curriculum Stage 2",
            "exp4_curriculum/stage2",
            more="prev_checkpoint: models/exp4_curriculum/stage1/checkpoint-420",
        ),
    }
    found = {(finding.code, finding.where.path if finding.where else "") for finding in findings_of(files)}
    told = {pair for pair in found if severities(files)[pair[0]] is not Severity.INFO}
    assert told == {("EX150", "exp3_stage3.yaml")}


def test_a_curriculum_stage_without_its_parent_is_an_error() -> None:
    """The same study with the parent taken out; alone in a folder it is a warning, and a first stage is fine."""
    second = stage("Exp4 Curriculum Stage 2", "exp4_curriculum/stage2")
    first = stage("Exp4 Curriculum Stage 1", "exp4_curriculum/stage1")
    assert severities({"exp4_stage1.yaml": first, "exp4_stage2.yaml": second})["EX144"] is Severity.ERROR
    assert severities({"exp4_stage2.yaml": second})["EX144"] is Severity.WARNING
    assert severities({"exp4_stage1.yaml": first}) == {}


def test_configs_that_are_no_project_make_no_errors() -> None:
    """Public examples write to the same folder and are alike; in a mere collection that is noted and no more."""
    text = merged("output_dir: ./outputs/out", "axolotl")
    others = {f"c{number}.yml": merged(f"learning_rate: 0.000{number}", "axolotl") for number in range(3, 8)}
    assert {finding.severity for finding in findings_of({"a.yml": text, "b.yml": text, **others})} <= {Severity.INFO}


def test_a_script_that_starts_both_makes_them_a_project() -> None:
    """With evidence that both are trained, the same two configs overwrite each other."""
    files = {
        "a.yml": merged("output_dir: ./outputs/out", "axolotl"),
        "b.yml": merged("output_dir: ./outputs/out\nlearning_rate: 0.0009", "axolotl"),
    }
    both = {"all.sh": "axolotl train a.yml\naxolotl train b.yml\n"}
    assert "EX143" not in severities(files)
    assert severities({**files, **both})["EX143"] is Severity.ERROR


def test_run_folders_may_all_say_output() -> None:
    """A relative output folder is each run's own where every run has a folder."""
    one = merged("output_dir: output", "qlora_stage")
    other = merged("output_dir: output\ntrain: {epochs: 7}", "qlora_stage")
    assert "EX143" not in severities({"run_a/finetune.yaml": one, "run_b/finetune.yaml": other})


def test_both_files_of_a_run_are_one_run() -> None:
    text = merged("output_dir: output", "qlora_stage")
    assert "EX140" not in severities({"run_a/finetune.yaml": text, "run_a/setup_finetune.yaml": text})


def test_a_key_that_no_field_holds_still_tells_trainings_apart() -> None:
    """What only the file has may change the training; two such configs are not called the same."""
    text = merged("", "qlora_stage")
    other = merged("vision_frozen: true\noutput_dir: models/b", "qlora_stage")
    assert "EX140" not in severities({"a.yaml": text, "b.yaml": other})


def test_the_digest_knows_what_changes_weights() -> None:
    """Names, outputs, logging, cadence and workers do not; each setting of the training does."""

    def digest(lines: str) -> str:
        (sibling,) = view_of({"a.yaml": merged(lines, "qlora_stage")}).siblings
        return work_of(sibling)

    same = (
        "experiment_name: x",
        "output_dir: models/other",
        "train: {save_steps: 7, eval_steps: 7, logging_steps: 1, eval_bs: 1}",
        "train: {dataloader_num_workers: 9}",
        "lora: {target_modules: [v_proj, q_proj, o_proj, k_proj]}",
        "data: {train_jsonl: data//stage1/train.jsonl}",
        "data: {val_jsonl: other.jsonl}",
    )
    other = (
        "model_name: meta-llama/Llama-3.2-3B",
        "prev_checkpoint: models/a",
        "lora: {r: 4}",
        "lora: {alpha: 8}",
        "lora: {target_modules: [q_proj]}",
        "train: {train_bs: 2}",
        "train: {lr: 1.0e-4}",
        "train: {epochs: 3}",
        "train: {seed: 1}",
        "train: {max_seq_len: 1024}",
        "data: {train_jsonl: data/other.jsonl}",
        "data: {image_root: elsewhere}",
    )
    base = digest("")
    assert [lines for lines in same if digest(lines) != base] == []
    assert len({digest(lines) for lines in other} | {base}) == len(other) + 1


def files_of(lines: str) -> dict[str, str]:
    """The files that an example of a folder stands for."""
    return {path: own if kind is None else merged(own, kind) for path, kind, own in parts_of(lines)}


def view_of(files: Mapping[str, str]) -> FolderView:
    plans = [name for name in files if PurePosixPath(name).name in ("runs_plan.md", "plan.json")]
    scripts = [name for name in files if name.endswith((".sh", ".slurm"))]
    configs = [name for name in files if name.endswith((".yaml", ".yml"))]
    return FolderView(
        siblings=tuple(each for name in configs for each in _siblings(name, files)),
        plans=tuple(TextFile(path=name, text=files[name]) for name in plans),
        scripts=tuple(TextFile(path=name, text=files[name]) for name in scripts),
    )


def findings_of(files: Mapping[str, str]) -> list[Finding]:
    return list(check_view(view_of(files), Location(path="."), "."))


def _siblings(name: str, files: Mapping[str, str]) -> list[Sibling]:
    document = parse_foreign(files[name], name, "pyyaml")
    format_ = next(each for each in config_formats() if each.claims(document.data, PurePosixPath(name).name))
    document = parse_foreign(files[name], name, format_.dialect)
    reading = format_.read(document)
    return [Sibling(stated=stated, raw=document.data, data=_data(stated, files)) for stated in reading.trainings]


def _data(stated: StatedTraining, files: Mapping[str, str]) -> dict[str, DataFile]:
    found: dict[str, DataFile] = {}
    for source in stated.sources:
        text = files.get(posixpath.normpath(source.name.value))
        if text is not None:
            rows = [json.loads(line) for line in text.splitlines()]
            found[source.name.value] = DataFile(rows=len(rows), sha256=hashlib.sha256(text.encode()).hexdigest())
    return found
