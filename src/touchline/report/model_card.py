"""Model card of a published checkpoint: README.md with YAML front matter, from the plan, the results and the metrics.

The front matter has the keys of the Hugging Face Hub. A value that was not measured is `n/a (reason)`, never 0. Paths
are cut to their last part, so that the card says nothing about the machine.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from touchline.core.levels import SEEDS
from touchline.core.markup import code, escape, fence, measured, table
from touchline.core.quantity import Missing
from touchline.core.units import plural
from touchline.data.metrics import ExportMarker, Metrics
from touchline.data.scores import EvaluationRecord
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import ControlKind, Phase
from touchline.experiment.write import to_yaml
from touchline.plan.settings_table import nested_settings
from touchline.report.findings.scores import sentence
from touchline.report.formatting import Scale, factor_words, join_names, p_text, scale_of
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Analysis, Conclusion, RunScore, ScoreDifference

CARD = "README.md"
_ABSOLUTE = re.compile(r"(?<![\w.:/])(?:~|[A-Za-z]:)?[/\\][^\s,\[\]{}'\"=]*?([^\s,\[\]{}'\"=/\\]+)(?=$|[\s,\[\]{}'\"])")
"""Absolute path in a text; the group is its last part."""
_SLUG = re.compile(r"[^a-z0-9]+")
_HUB_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?(?:/[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class CardInputs:
    """All that a model card is written from."""

    plan: Plan
    """The plan."""
    run: PlannedRun
    """The run."""
    result: RunResult
    """Its results."""
    marker: ExportMarker
    """Its published checkpoint."""
    name: str
    """Name of that checkpoint, `epoch_2`."""
    metrics: Metrics
    """Its metrics.jsonl."""
    scores: tuple[tuple[EvaluationRecord, RunScore], ...]
    """Evaluations of the checkpoint with their scores."""
    analyses: tuple[Analysis, ...]
    """Tests of the report."""
    base: str
    """Id of the base model on the Hub if it is known, else its name."""
    license: str | None
    """License of the published weights; None if none was stated."""
    is_chosen: bool = False
    """Whether explore chose the run by its validation loss."""


def without_folders(text: str) -> str:
    """Return a text in which every absolute path is cut to its last part."""
    return _ABSOLUTE.sub(r"\1", text)


def model_card(card: CardInputs) -> str:
    """Return the text of the card."""
    parts = (
        f"---\n{to_yaml(_front_matter(card))}---\n",
        f"# {escape(card.plan.experiment)}: {escape(card.run.name)}\n",
        _introduction(card),
        "## Scores\n",
        _scores(card),
        "## What these numbers show\n",
        _lines(_shown(card)),
        "## What they do not show\n",
        _lines(_not_shown(card)),
        "## Use\n",
        _use(card),
        "## Provenance\n",
        table(("", ""), [(name, value) for name, value in _provenance(card)]),
        "## Settings\n",
        fence([to_yaml(_settings(card.run)).rstrip("\n")], "yaml"),
    )
    return "\n".join(parts)


# ---- front matter ----------------------------------------------------------------------------------------------------


def _front_matter(card: CardInputs) -> dict[str, object]:
    train = card.run.train
    adapter = card.marker.kind == "adapter"
    tags = ["touchline", *(["lora"] if train is not None and not train.trains_all else [])]
    found: dict[str, object] = {}
    if _HUB_NAME.fullmatch(card.base):
        found |= {"base_model": card.base, "base_model_relation": "adapter" if adapter else "finetune"}
    if card.license is not None:
        found["license"] = card.license
    found["library_name"] = "peft" if adapter else "transformers"
    found["pipeline_tag"] = "image-text-to-text" if card.plan.models[card.run.model].vision else "text-generation"
    found["tags"] = tags
    if card.scores:
        name = f"{card.plan.experiment} {card.run.name}"
        found["model-index"] = [{"name": name, "results": [_indexed(card, *each) for each in card.scores]}]
    return found


def _indexed(card: CardInputs, record: EvaluationRecord, score: RunScore) -> dict[str, object]:
    # Further tasks ask the test set named first; without test files the dataset has the items.
    sets = card.run.data.test_sets
    data = _last_part(sets.get(record.test_set or "") or next(iter(sets.values()), card.run.dataset))
    interval = f"{100 * score.coverage:g}% CI {score.low:.4g} to {score.high:.4g}" if score.coverage else "no interval"
    return {
        "task": {"type": "text-generation", "name": record.label},
        "dataset": {"type": slug(data), "name": data, "split": "test"},
        "metrics": [
            {
                "type": slug(record.score, "_"),
                "value": round(score.value, 6),
                "name": f"{record.score} ({interval}, {plural(score.items, 'item')})",
            }
        ],
    }


def slug(text: str, joint: str = "-") -> str:
    """Return a text in the letters of ids on the Hub."""
    return _SLUG.sub(joint, text.lower()).strip(joint) or "unnamed"


# ---- sections --------------------------------------------------------------------------------------------------------


def _introduction(card: CardInputs) -> str:
    train = card.run.train
    if train is None or train.trains_all:
        what = "All weights, fine-tuned from"
    elif card.marker.kind == "adapter":
        what = f"LoRA adapter of rank {train.lora.rank} (alpha {train.lora.resolved_alpha:g}) for"
    else:
        what = f"LoRA adapter of rank {train.lora.rank} merged into"
    lines = [f"{what} {code(card.base)}."]
    if card.plan.question:
        lines.append(f"Question of the experiment: {escape(card.plan.question)}")
    if card.license is None:
        lines.append("No license was stated for these weights; those of the base model and of the data apply to them.")
    return "\n\n".join(lines) + "\n"


def _scores(card: CardInputs) -> str:
    rows = [
        (
            escape(record.label),
            escape(record.score),
            f"{score.value:.4g}",
            f"{score.low:.4g} to {score.high:.4g}" if score.coverage else f"n/a ({escape(score.method)})",
            f"{score.items:,}",
        )
        for record, score in card.scores
    ] or [(escape(card.plan.task), "-", "n/a (not evaluated)", "n/a (not evaluated)", "n/a (not evaluated)")]
    loss, items = card.marker.validation_loss, "n/a (not recorded)"
    for row in card.metrics.validations:
        items = f"{row.examples:,}" if row.step == card.marker.step else items
    validation = ("n/a (no validation)", "-") if loss is None else (f"{loss:.4g}", items)
    rows.append(("validation split", "loss (nats per label token)", validation[0], "-", validation[1]))
    final = measured(card.result.final_train_loss) if _is_last(card) else "n/a (of the last checkpoint)"
    rows.append(("training split", "loss over the last steps", final, "-", "-"))
    return table(("task", "metric", "value", "95% interval", "items"), rows, right=(2, 3, 4))


def _shown(card: CardInputs) -> Iterator[str]:
    for record, score in card.scores:
        right = "" if score.proportion is None else f" ({score.proportion.k:,} of {score.proportion.n:,})"
        yield (
            f"This checkpoint's {record.score} on {plural(score.items, 'test item')} of {record.label} is "
            f"{score.value:.4g}{right}; interval by {score.method}, over items."
        )
    compared = False
    for analysis in card.analyses:
        for each in analysis.comparisons:
            if each.run == card.run.name and analysis.checkpoints.get(each.run) == card.name:
                compared = True
                yield _compared(analysis, each.shown, scale_of(analysis), each.difference)
    if not compared:
        yield "It is compared with no untrained model: no such comparison was evaluated on the same items."


def _compared(analysis: Analysis, shown: Conclusion, scale: Scale, difference: ScoreDifference) -> str:
    numbers = (
        f"{scale.difference(difference.value)} ({scale.ends(difference.low, difference.high)}), "
        f"{p_text(difference.p_adjusted)} after Holm over {plural(analysis.family, 'comparison')}"
    )
    if shown in (Conclusion.HIGHER, Conclusion.LOWER):
        return f"On {analysis.task} it scores {shown.value} than the control {difference.control}: {numbers}."
    return f"On {analysis.task} a difference from the control {difference.control} is not established: {numbers}."


def _not_shown(card: CardInputs) -> Iterator[str]:
    trained = card.plan.fine_tuned
    seeds = {run.seed for run in trained}
    if card.run.phase is Phase.EXPLORE:
        why = (
            "it was chosen among several by its validation loss, which is therefore lower than that of another "
            "training is expected to be"
            if card.is_chosen
            else "it was compared by its validation loss only"
        )
        yield f"That its settings score higher than others: it is a run of explore, with one seed; {why}."
    varied = [level.factor for level in card.run.levels if len(card.plan.factors.get(level.factor, ())) > 1]
    if factors := [factor_words(factor) for factor in varied if factor != SEEDS]:
        yield (
            f"The effect of {join_names(factors)}: that is tested over the seeds of the whole experiment, at the "
            "looks of its strategy, not by this run."
            if card.run.phase is not None
            else f"The effect of {join_names(factors)}: that is tested over the seeds of the whole experiment "
            f"({plural(len(seeds), 'seed')}, {plural(len(trained), 'run')}), not by this run."
        )
    evaluated = {record.checkpoint for record in card.result.evaluations}
    if len(evaluated) > 1:
        yield (
            f"An unbiased score, if the checkpoint was picked by it: {len(evaluated)} checkpoints of this run were "
            "evaluated on the same items."
        )
    errors = sum(sample.error is not None for record, _ in card.scores for sample in record.samples)
    if errors:
        yield f"{plural(errors, 'answer')} could not be generated or scored, and count as wrong."
    if card.run.control is ControlKind.SHUFFLED:
        yield "A useful model: the answers of its training rows were shuffled, as a control."
    if card.run.evaluate.quantization != "none":
        yield f"Scores on the whole base: it was evaluated on a base in {card.run.evaluate.quantization}."
    elif card.run.train is not None and card.run.train.quantization != "none":
        yield (
            f"Scores on a quantized base: it was trained on a base in {card.run.train.quantization}, and evaluated on "
            "the whole one."
        )
    yield "Anything that is not in the table: other tasks, other languages, safety and bias were not measured."


def _use(card: CardInputs) -> str:
    vision = card.plan.models[card.run.model].vision
    loader = "AutoModelForImageTextToText" if vision else "AutoModelForCausalLM"
    if card.marker.kind == "adapter":
        lines = [
            "from peft import PeftModel",
            f"from transformers import {loader}",
            "",
            f"base = {loader}.from_pretrained({card.base!r})",
            "model = PeftModel.from_pretrained(base, FOLDER_OR_HUB_ID)",
        ]
    else:
        lines = [f"from transformers import {loader}", "", f"model = {loader}.from_pretrained(FOLDER_OR_HUB_ID)"]
    return fence(lines, "python") + "\nThe chat template and the tokenizer beside the weights are those of training.\n"


def _provenance(card: CardInputs) -> Iterator[tuple[str, str]]:
    plan, run = card.plan, card.run
    model, data = plan.models[run.model], plan.datasets[run.dataset]
    overrides = "".join(f" {shlex.quote(without_folders(each))}" for each in plan.overrides)
    yield "command", code(f"touchline run experiment.yaml{overrides} --run {run.name}")
    yield "experiment.yaml, with overrides", _sha(plan.experiment_sha256)
    yield "run digest", code(run.digest)
    yield "planned", escape(plan.date)
    yield "seed", str(run.seed)
    yield "checkpoint", f"{code(card.name)}, step {card.marker.step:,}"
    yield "trained weights", _sha(card.marker.adapter_sha256)
    yield "base model", code(card.base)
    yield "its weights (shard names, sizes, headers)", _sha(model.weights_sha256)
    yield "its config.json", _sha(model.config_sha256)
    yield "its tokenizer and chat template", _sha(model.tokenizer_sha256)
    for file in data.all_files:
        name = "dataset" if not data.files else f"dataset, {file.key}"
        yield name, f"{code(_last_part(file.path))}, {_sha(file.sha256)}"
    for split in data.named_splits:
        yield f"split {escape(split.name)}", f"{plural(split.num_examples, 'example')}, {_sha(split.sha256)}"
    yield "origin of the splits", escape(without_folders(data.split_origin))
    attempt = card.metrics.attempts[-1] if card.metrics.attempts else None
    if attempt is None:
        yield "environment of the training", str(Missing(missing="metrics.jsonl has no attempt"))
    else:
        versions = ", ".join(f"{name} {version}" for name, version in attempt.versions.items())
        yield "versions", escape(versions) or str(Missing(missing="not recorded"))
        yield "device", escape(f"{attempt.device}, {plural(attempt.threads, 'CPU thread')}")
        yield (
            "computation",
            escape(f"base in {attempt.base_dtype}, adapter in {attempt.adapter_dtype}, attention {attempt.attention}"),
        )
    for record, _ in card.scores:
        yield f"decoding of {escape(record.label)}", escape(record.decoding)


def _settings(run: PlannedRun) -> dict[str, object]:
    return {key: _portable(value) for key, value in nested_settings(run).items()}


def _portable(value: object) -> object:
    if isinstance(value, dict):
        return {key: _portable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_portable(each) for each in value]
    return without_folders(value) if isinstance(value, str) else value


def _is_last(card: CardInputs) -> bool:
    """Return True if the checkpoint is that of the last step."""
    return card.result.steps_planned == card.marker.step


def _last_part(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _sha(digest: str | Missing) -> str:
    return escape(str(digest)) if isinstance(digest, Missing) else f"sha256 {code(digest)}"


def _lines(sentences: Iterator[str] | Sequence[str]) -> str:
    return "\n".join(f"- {escape(sentence(text))}" for text in sentences) + "\n"
