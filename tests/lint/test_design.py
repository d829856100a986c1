"""The rules on designs: each page's examples, and the borders between what is told and what is not."""

import json
import re
from pathlib import Path

import pytest
from tests.cases import parametrize
from tests.faults.case import base
from tests.faults.harness import check_files, codes
from tests.lint.designs import findings_of, merged, view_of

from touchline.core.finding import Severity
from touchline.lint.design import detectable, row_set_sha256, stated_effect, work_digest
from touchline.lint.rule import load_page

pytestmark = pytest.mark.planning


def codes_of(text: str) -> set[str]:
    return {finding.code for finding in findings_of(text)}


def test_the_base_has_no_fault() -> None:
    """What all examples are merged into is silent itself."""
    assert findings_of(base("experiment")) == []


@parametrize(
    "question, effect",
    ("Does rank 64 improve accuracy by 5 points?", 0.05),
    ("Is the gain of 2.5 % real?", 0.025),
    ("Does it raise accuracy by at least 3 percentage points?", 0.03),
    ("Is it 10pp better?", 0.1),
    ("Does it improve accuracy to 90 %?", None),
    ("Does training on 5 % of the data lower accuracy?", None),
    ("Is accuracy above 95 % with 4-bit weights?", None),
    ("Does a higher LoRA rank improve capitalization of unseen words?", None),
    ("Do 80 % train rows do?", None),
    ("Version 1.5 points out that 2 heads are better", None),
    ("", None),
)
def test_an_effect_is_a_change_and_not_a_level(question: str, effect: float | None) -> None:
    """Numbers that are shares, levels or versions state no effect."""
    assert stated_effect(question) == effect


@parametrize(
    "strategy, hint",
    ("explore: {reference: {train.lora.rank: 4}}", "strategy.confirm, with fresh seeds"),
    ("explore: {reference: {train.lora.rank: 4}}\n  confirm: {seeds: [11, 12]}", None),
)
def test_the_seeds_of_a_strategy_are_those_of_its_looks(strategy: str, hint: str | None) -> None:
    text = merged(f"factors: {{train.lora.rank: [4, 8]}}\nseeds: [1]\nstrategy:\n  {strategy}\n")
    hints = [finding.hint for finding in findings_of(text) if finding.code == "EX108"]
    assert hints == [each for each in [hint] if each is not None]


def test_settings_that_change_only_rows_make_the_same_work() -> None:
    """Packing, micro-batch, checkpoints: one digest; rank, seed, batch: another one."""
    first, *others = view_of(merged("factors: {train.packed: [true, false]}\nseeds: [1]")).trained
    assert {work_digest(run, {}) for run in others} == {work_digest(first, {})}
    two = view_of(merged("factors: {train.lora.rank: [4, 8], train.global_batch_size: [8, 16]}\nseeds: [1, 2]"))
    assert len({work_digest(run, {}) for run in two.trained}) == 8


def test_alpha_that_is_twice_the_rank_is_the_default() -> None:
    """`null` and twice the rank are one training, whatever the spelling."""
    assert "EX100" in {finding.code for finding in findings_of(merged("factors: {train.lora.alpha: [null, 16]}"))}


def test_a_hash_of_rows_does_not_know_their_order() -> None:
    """The same rows in any order; another number of one row is another set."""
    rows = [{"a": 1}, {"a": 2}, {"a": 2}]
    assert row_set_sha256(rows) == row_set_sha256(rows[::-1])
    assert row_set_sha256(rows) != row_set_sha256(rows[:2])


def test_without_data_nothing_is_said_of_it() -> None:
    """Rules that need rows are silent where the file is not here."""
    text = merged("factors: {data.path: [data/words.json, data/words_reordered.json]}\nevaluate: {samples: all}")
    assert {f.code for f in findings_of(text, with_data=False)} == set()


def test_learning_rates_by_model_are_noted_and_batches_by_model_are_a_warning() -> None:
    """What is usually tuned for each model is no fault."""
    pairs = "models: []\npairs: [{{models: A-1B, {0}: {1}}}, {{models: B-3B, {0}: {2}}}]"
    tuned = {f.code: f.severity for f in findings_of(merged(pairs.format("train.learning_rate", 0.001, 0.0002)))}
    batch = {f.code: f.severity for f in findings_of(merged(pairs.format("train.global_batch_size", 16, 8)))}
    micro = {f.code: f.severity for f in findings_of(merged(pairs.format("train.micro_batch_size", 8, 4)))}
    assert tuned["EX103"] is Severity.INFO
    assert batch["EX103"] is Severity.WARNING
    assert "EX103" not in micro
    assert "EX101" not in micro


def test_a_stage_may_repeat_the_adapter_in_other_words() -> None:
    """Alpha written out, and the same layers in another order, are the parent's adapter."""
    stages = """
train: {lora: {rank: 8, target_modules: [q_proj, v_proj]}}
stages:
  - {name: a}
  - {name: b, parent: a, continue: adapter, train: {epochs: 3, lora: {alpha: 16, target_modules: [v_proj, q_proj]}}}
"""
    assert codes_of(merged(stages)) == set()


def test_a_stage_that_trains_on_another_stages_test(tmp_path: Path) -> None:
    """Rows of one stage's test split among the training rows of the other: the last evaluation is no test."""
    easy = [{"input": f"easy{n:02d}", "output": f"Easy{n:02d}"} for n in range(40)]
    hard = [{"input": f"hard{n:02d}", "output": f"Hard{n:02d}"} for n in range(40)]

    def split(train: list[dict[str, str]], rest: list[dict[str, str]]) -> str:
        return json.dumps({"train": train, "validation": rest[:4], "test": rest[4:]})

    files = {
        "experiment.yaml": "name: chain\nmodels: [tiny]\ntask: exact_match\ndata: {path: easy.json}\n"
        "stages:\n  - {name: easy, data: {path: easy.json}}\n"
        "  - {name: hard, parent: easy, continue: adapter, data: {path: hard.json}}\ncontrols: [base]\n",
        "easy.json": split(easy[:30], easy[30:]),
        "hard.json": split(hard[:30], hard[30:]),
    }
    assert "EX182" not in codes(check_files(files, tmp_path / "apart"))
    files["hard.json"] = split([*hard[:30], *easy[34:]], hard[30:])
    (leak,) = [each for each in check_files(files, tmp_path / "leak") if each.code == "EX182"]
    assert "hard.json" in leak.message


def test_a_stage_that_trains_on_another_stages_test_file(tmp_path: Path) -> None:
    """So with files of their own, in any test set."""
    easy, hard, more = (
        [{"input": f"{name}{n:02d}", "output": f"{name.title()}{n:02d}"} for n in range(40)]
        for name in ("easy", "hard", "more")
    )
    data = "data: {train: easy.json, test: {easy: easy_test.json, more: more.json}}"
    files = {
        "experiment.yaml": f"name: chain\nmodels: [tiny]\ntask: exact_match\n{data}\nstages:\n  - {{name: easy}}\n"
        "  - {name: hard, parent: easy, continue: adapter, data: {train: hard.json, test: hard_test.json}}\n",
        **{"easy.json": json.dumps(easy[:30]), "easy_test.json": json.dumps(easy[30:])},
        **{"hard.json": json.dumps(hard[:30]), "hard_test.json": json.dumps(hard[30:]), "more.json": json.dumps(more)},
    }
    assert "EX182" not in codes(check_files(files, tmp_path / "apart"))
    files["hard.json"] = json.dumps([*hard[:30], *more[:3]])
    (leak,) = [each for each in check_files(files, tmp_path / "leak") if each.code == "EX182"]
    assert all(part in leak.message for part in ("3 of the 50", "easy_test.json, more.json", "hard.json"))


def test_the_page_of_few_seeds_states_the_numbers_of_its_message() -> None:
    text = " ".join(load_page("EX108").text.split())
    for words, seeds in (("Two seeds detect", 2), ("Three seeds detect", 3), ("five detect", 5)):
        (number,) = re.findall(rf"{words} (?:a difference of )?([\d.]+[0-9])", text)
        assert detectable(seeds) == number
