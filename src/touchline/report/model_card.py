"""Model card of a published checkpoint: README.md with the Hub's metadata. Paths are cut to their last part."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from touchline.core.quantity import Missing, Quantity
from touchline.core.text import code, escape, fence, table
from touchline.core.units import measured, plural
from touchline.data.metrics import ExportMarker, Metrics
from touchline.data.scores import EvaluationRecord
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import ControlKind, Phase
from touchline.experiment.write import to_yaml
from touchline.plan.settings import nested_settings
from touchline.report.facts import family_words, p_text, scale_of
from touchline.report.remarks import sentence
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Analysis, Comparison, Conclusion, RunScore

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

CARD = "README.md"
_ABSOLUTE = re.compile(r"(?<![\w.:/])(?:~|[A-Za-z]:)?[/\\][^\s,\[\]{}'\"=]*?([^\s,\[\]{}'\"=/\\]+)(?=$|[\s,\[\]{}'\"])")
"""Absolute path in a text; the group is its last part."""
_SLUG = re.compile(r"[^a-z0-9]+")
_HUB_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?(?:/[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class CardInputs:
    """All that a model card is written from."""

    plan: Plan
    run: PlannedRun
    result: RunResult
    marker: ExportMarker
    name: str
    metrics: Metrics
    scores: tuple[tuple[EvaluationRecord, RunScore], ...]
    analyses: tuple[Analysis, ...]
    base: str
    """Id of the base model on the Hub if it is known, else its name."""
    license: str | None
    is_chosen: bool = False


def without_folders(text: str) -> str:
    """Return a text in which every absolute path is cut to its last part."""
    return _ABSOLUTE.sub(r"\1", text)


def slug(text: str, joint: str = "-") -> str:
    """Return a text in the letters of ids on the Hub."""
    return _SLUG.sub(joint, text.lower()).strip(joint) or "unnamed"


def model_card(card: CardInputs) -> str:
    """Return the text of the card."""
    sentences = "\n".join(f"- {escape(sentence(text))}" for text in (*_compared(card), *_limits(card)))
    settings = {key: _portable(value) for key, value in nested_settings(card.run).items()}
    parts = (
        f"---\n{_metadata(card).to_yaml()}\n---\n",
        f"# {escape(card.plan.experiment)}: {escape(card.run.name)}\n",
        *(f"{paragraph}\n" for paragraph in _introduction(card)),
        f"## Scores\n\n{_scores(card)}",
        f"{sentences}\n",
        f"## Use\n\n{fence(_use(card), 'python')}",
        "The chat template and the tokenizer next to the weights are those of training.\n",
        f"## Provenance\n\n{table(('', ''), [*_provenance(card)])}",
        fence([to_yaml(settings).rstrip("\n")], "yaml"),
    )
    return "\n".join(parts)


def _metadata(card: CardInputs) -> ModelCardData:
    from huggingface_hub import ModelCardData

    train, adapter = card.run.train, card.marker.kind == "adapter"
    known = _HUB_NAME.fullmatch(card.base) is not None
    return ModelCardData(
        base_model=card.base if known else None,
        base_model_relation=("adapter" if adapter else "finetune") if known else None,
        license=card.license,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="image-text-to-text" if card.plan.models[card.run.model].vision else "text-generation",
        tags=["touchline", *(["lora"] if train is not None and not train.trains_all else [])],
        model_name=f"{card.plan.experiment} {card.run.name}" if card.scores else None,
        eval_results=[_indexed(card, *each) for each in card.scores] or None,
    )


def _indexed(card: CardInputs, record: EvaluationRecord, score: RunScore) -> EvalResult:
    from huggingface_hub import EvalResult

    # Further tasks ask the test set named first; without test files the dataset has the items.
    sets = card.run.data.test_sets
    data = _last_part(sets.get(record.test_set or "") or next(iter(sets.values()), card.run.dataset))
    return EvalResult(
        task_type="text-generation",
        task_name=record.label,
        dataset_type=slug(data),
        dataset_name=data,
        dataset_split="test",
        metric_type=slug(record.score, "_"),
        metric_value=round(score.value, 6),
        metric_name=f"{record.score} of {record.label} (95% CI {_interval(score)}, {plural(score.items, 'item')})",
    )


def _interval(score: RunScore) -> str:
    return f"{score.low:.4g} to {score.high:.4g}" if score.coverage else f"n/a ({escape(score.method)})"


def _introduction(card: CardInputs) -> Iterator[str]:
    train = card.run.train
    what = "All weights, fine-tuned from"
    if train is not None and not train.trains_all:
        joint = "for" if card.marker.kind == "adapter" else "merged into"
        what = f"LoRA adapter of rank {train.lora.rank} (alpha {train.lora.resolved_alpha:g}) {joint}"
    yield f"{what} {code(card.base)}."
    if card.plan.question:
        yield f"Question of the experiment: {escape(card.plan.question)}"
    if card.license is None:
        yield "No license was stated for these weights; those of the base model and of the data apply to them."


def _scores(card: CardInputs) -> str:
    none = "n/a (not evaluated)"
    rows = [
        (escape(record.label), escape(record.score), f"{score.value:.4g}", _interval(score), f"{score.items:,}")
        for record, score in card.scores
    ] or [(escape(card.plan.task), "-", none, none, none)]
    loss = card.marker.validation_loss
    validation = "n/a (no validation)" if loss is None else f"{loss:.4g}"
    rows.append(("validation split", "loss (nats per label token)", validation, "-", "-"))
    is_last = card.result.steps_planned == card.marker.step
    final = measured(card.result.final_train_loss) if is_last else "n/a (of the last checkpoint)"
    rows.append(("training split", "loss over the last steps", final, "-", "-"))
    return table(("task", "metric", "value", "95% interval", "items"), rows, right=(2, 3, 4))


def _compared(card: CardInputs) -> Iterator[str]:
    found = [
        f"{analysis.task}: {_against_control(analysis, each)}"
        for analysis in card.analyses
        for each in analysis.comparisons
        if each.run == card.run.name and analysis.checkpoints.get(each.run) == card.name
    ]
    yield from found or ["It is compared with no untrained model: no such comparison was evaluated on the same items."]


def _against_control(analysis: Analysis, each: Comparison) -> str:
    scale, found = scale_of(analysis), each.difference
    over = f" after Holm over {family_words(analysis, analysis.family, 'comparison')}" if analysis.family > 1 else ""
    smallest = ""
    if isinstance(each.smallest, Quantity) and each.shown not in (Conclusion.HIGHER, Conclusion.LOWER):
        smallest = f"; these items would have shown {scale.size(each.smallest.value)} at 80% power"
    return (
        f"{each.run} against {found.control} in {analysis.score}: {scale.difference(found.value)} "
        f"({scale.ends(found.low, found.high)}), {p_text(found.p_adjusted)}{over}: {each.shown.words}{smallest}"
    )


def _limits(card: CardInputs) -> Iterator[str]:
    if card.run.phase is Phase.EXPLORE:
        chosen = "it was chosen among several by its validation loss, which is therefore too low"
        why = chosen if card.is_chosen else "it was compared by its validation loss only"
        yield f"Its settings are not shown to score higher than others: it is a run of explore, with one seed; {why}."
    if (evaluated := len({record.checkpoint for record in card.result.evaluations})) > 1:
        yield f"The score is biased if it picked the checkpoint: {evaluated} were evaluated on the same items."
    if card.run.control is ControlKind.SHUFFLED:
        yield "It is not a useful model: the answers of its training rows were shuffled, as a control."
    yield "Other tasks, other languages, safety and bias were not measured."


def _use(card: CardInputs) -> list[str]:
    loader = "AutoModelForImageTextToText" if card.plan.models[card.run.model].vision else "AutoModelForCausalLM"
    if card.marker.kind != "adapter":
        return [f"from transformers import {loader}", "", f"model = {loader}.from_pretrained(FOLDER_OR_HUB_ID)"]
    return [
        "from peft import PeftModel",
        f"from transformers import {loader}",
        "",
        f"base = {loader}.from_pretrained({card.base!r})",
        "model = PeftModel.from_pretrained(base, FOLDER_OR_HUB_ID)",
    ]


def _provenance(card: CardInputs) -> Iterator[tuple[str, str]]:
    plan, run = card.plan, card.run
    overrides = "".join(f" {shlex.quote(without_folders(each))}" for each in plan.overrides)
    yield "command", code(f"touchline run experiment.yaml{overrides} --run {run.name}")
    yield "run digest", code(run.digest)
    yield "planned", escape(plan.date)
    yield "seed", str(run.seed)
    yield "checkpoint", f"{code(card.name)}, step {card.marker.step:,}"
    yield "trained weights", _sha(card.marker.adapter_sha256)
    yield "base model", f"{code(card.base)}, {_sha(plan.models[run.model].weights_sha256)}"
    for file in plan.datasets[run.dataset].all_files:
        yield "dataset", f"{code(_last_part(file.path))}, {_sha(file.sha256)}"
    for attempt in card.metrics.attempts[-1:]:
        versions = ", ".join(f"{name} {version}" for name, version in attempt.versions.items())
        yield "versions", escape(versions) or str(Missing(missing="not recorded"))
        yield "device", escape(f"{attempt.device}, base in {attempt.base_dtype}")
    for record, _ in card.scores:
        yield f"decoding of {escape(record.label)}", escape(record.decoding)


def _portable(value: object) -> object:
    if isinstance(value, dict):
        return {key: _portable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_portable(each) for each in value]
    return without_folders(value) if isinstance(value, str) else value


def _last_part(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _sha(digest: str | Missing) -> str:
    return escape(str(digest)) if isinstance(digest, Missing) else f"sha256 {code(digest)}"
