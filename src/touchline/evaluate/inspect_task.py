"""Inspect task of a run's evaluation: test items, answers, scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    Content,
    ContentImage,
    ContentText,
    GenerateConfig,
    GenerateConfigArgs,
    get_model,
)
from inspect_ai.scorer import (
    CORRECT,
    INCORRECT,
    Metric,
    SampleScore,
    Score,
    Scorer,
    Target,
    accuracy,
    metric,
    scorer,
    stderr,
)
from inspect_ai.solver import TaskState, generate

from touchline.core.catalog import IMAGE_PLACE, Example, Message
from touchline.core.errors import InputError, PlanDriftError
from touchline.core.files import disk_errors, inside, write_if_changed
from touchline.data.datasets import load_dataset, load_examples, words_of_test
from touchline.data.evaluations import (
    EVALUATION_FILE,
    EVALUATIONS_FOLDER,
    read_evaluation_config,
    settings_sha256,
)
from touchline.data.resolving import require_test_images
from touchline.evaluate.own_scores import CLUSTER_KEY
from touchline.evaluate.own_task import note_item, own_task
from touchline.evaluate.provider import BATCH_SIZE_KEY, DATE_KEY, GPUS_KEY, QUANTIZATION_KEY, connections_of
from touchline.experiment.evaluation import NO_OP_CHECKPOINT, EvaluationConfig, EvaluationTask, asked_items
from touchline.experiment.tasks.classification import canonical_label
from touchline.experiment.tasks.protocol import Scores
from touchline.experiment.tasks.ready_made import get_task
from touchline.statistics.labels import LabelReport, label_report

PARSED_KEY = "parsed"
"""Metadata key of a score: whether an answer could be parsed from the output."""
LABEL_KEY, TARGET_KEY, LABELS_KEY = "label", "target", "labels"
"""Metadata keys of a classification score: parsed label, correct label, all labels."""
ITEMS_FILE = "items.jsonl"
"""File of test items passed to custom tasks as `data`, in the run's evaluations folder."""
NO_MODEL = "none/none"
"""Inspect's model name if none is given."""


def run_task(folder: Path, task: str | None = None) -> Task:
    """Return the task of the run in `folder` by its eval.yaml, or one of its further tasks by name.

    Raises:
        InputError: eval.yaml is missing or invalid, has no such task, or the data cannot be read.
        PlanDriftError: the test items or the further task's file differ from the plan.
    """
    config = read_evaluation_config(folder / EVALUATION_FILE)
    _require_model(config, folder)
    further = None if task is None else config.task_named(task)
    if task is not None and further is None:
        raise InputError(f"{str(folder / EVALUATION_FILE)!r} names no task {task!r}", hint="touchline prepare")
    require_test_images(config.on(further), folder)
    asked = config.resolved(further)
    if asked.is_file:
        return own_task(asked, config, generate_config(config), data=lambda: write_items(config, folder, further)).task
    return evaluation_task(config, further)


def write_items(config: EvaluationConfig, folder: Path, task: EvaluationTask | None = None) -> Path:
    """Write the test items as prompted in training, for a task's argument `data`. Return the file's path.

    Each line has `id`, `input` (the turns), `target` and `metadata`, as `json_dataset` expects.

    Raises:
        InputError: the data cannot be read.
        PlanDriftError: the test items differ from the plan.
    """
    further = None if task is None else task.test_set
    place = inside(folder, EVALUATIONS_FOLDER) / (ITEMS_FILE if further is None else f"items-{further}.jsonl")
    rows = [
        {
            "id": example.id,
            "input": [{"role": message.role, "content": _content(message)} for message in example.prompt],
            "target": example.answer,
            "metadata": {} if example.cluster is None else {CLUSTER_KEY: example.cluster},
        }
        for example in planned_items(config.on(task))
    ]
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    with disk_errors("folder", place.parent):
        place.parent.mkdir(exist_ok=True)
        write_if_changed(place, text)
    return place


def evaluation_task(
    config: EvaluationConfig, task: EvaluationTask | None = None, *, max_connections: int | None = None
) -> Task:
    """Return the Inspect task of an evaluation.

    Args:
        task: ready-made further task with its own prompt on the same items, or the run's own on a further test set;
            None for the run's own.
        max_connections: maximum number of waiting items; four batches if None.
    """
    name = config.task if task is None else task.name
    ready = get_task(name, config.labels)
    asked = config.on(task)
    if not config.asks_as_trained(task) and config.data.messages is None:
        asked = replace(asked, data=replace(asked.data, prompt=ready.prompt))
    return Task(
        name=name,
        dataset=MemoryDataset(
            [_sample(example) for example in planned_items(asked)],
            name=config.set_of(task) or Path(config.data.file).stem,
        ),
        setup=note_item(),
        solver=generate(),
        scorer=[exact(name), match(name)]
        if ready.with_labels is None
        else [label(name, list(config.labels)), exact(name, list(config.labels))],
        config=generate_config(config, max_connections),
        epochs=config.evaluate.repeats,
        metadata=evaluation_metadata(config, task),
    )


def generate_config(config: EvaluationConfig, max_connections: int | None = None) -> GenerateConfig:
    """Return the decoding settings in Inspect's form."""
    evaluate = config.evaluate
    drawn = {"temperature": evaluate.temperature, "top_p": evaluate.top_p, "seed": evaluate.seed}
    return GenerateConfig(
        max_tokens=evaluate.max_new_tokens,
        max_connections=max_connections or connections_of(evaluate.batch_size),
        extra_body={DATE_KEY: config.date, BATCH_SIZE_KEY: evaluate.batch_size} | _form(config),
        **GenerateConfigArgs(**drawn if evaluate.temperature else {}),  # type: ignore[typeddict-item]
    )


def _form(config: EvaluationConfig) -> dict[str, object]:
    """Return the form of the base as `extra_body` states it; empty for a base in its own dtype on one device."""
    asked: dict[str, object] = {}
    if config.evaluate.quantization != "none":
        asked[QUANTIZATION_KEY] = config.evaluate.quantization
    if config.gpus > 1:
        asked[GPUS_KEY] = config.gpus
    return asked


def _require_model(config: EvaluationConfig, folder: Path) -> None:
    """Require a model before Inspect fails on the first item without one."""
    try:
        model = get_model()
    except ValueError:
        # Nothing is evaluated: Inspect only looks at the tasks.
        return
    if str(model) != NO_MODEL:
        return
    epochs = sorted(path.name for path in folder.glob("epoch_*") if path.is_dir())
    trained = epochs[-1] if epochs else "epoch_0"
    name = NO_OP_CHECKPOINT if config.no_op is not None else config.model.path if config.control else trained
    hint = f"inspect eval eval.py --model touchline/{name}"
    raise InputError(f"no model is given, try: {hint}", expected="--model touchline/<checkpoint folder>", hint=hint)


def planned_items(config: EvaluationConfig) -> tuple[Example, ...]:
    """Return the items to evaluate, equal for every run: the first `samples` of the test split, or all if it has fewer.

    Raises:
        InputError: the split is empty.
        PlanDriftError: its hash differs from the plan.
    """
    here = Path()
    split = next((split for split in load_dataset(config.data, here).splits if split.name == "test"), None)
    examples = load_examples(config.data, "test", here, config.evaluate.cluster)
    if split is None or not examples:
        raise InputError(f"{config.data.file!r} has no test items", expected="a test split")
    if split.sha256 != config.data_sha256:
        raise PlanDriftError(
            f"{words_of_test(config.data)} differs from the planned one",
            expected=f"hash {config.data_sha256[:12]}, found {split.sha256[:12]}",
            hint="touchline plan",
        )
    return examples[: asked_items(config.evaluate, len(examples))]


def evaluation_metadata(config: EvaluationConfig, task: EvaluationTask | None = None) -> dict[str, str]:
    """Return the metadata of every log."""
    asked = config.resolved(task)
    own = {} if asked.code_sha256 is None else {"task_sha256": asked.code_sha256}
    if config.evaluate.quantization != "none":
        own["quantization"] = config.evaluate.quantization
    test_set = config.set_of(task)
    return {
        "experiment": config.experiment,
        "run": config.run,
        "run_digest": config.run_digest,
        "base_sha256": config.model.weights_sha256,
        "data_sha256": config.on(task).data_sha256,
        **({} if test_set is None else {"test_set": test_set}),
        "settings_sha256": settings_sha256(config, task),
        **own,
    }


@scorer(metrics=[accuracy(), stderr()])
def exact(task: str, labels: list[str] | None = None) -> Scorer:
    """Score equality character by character, ignoring surrounding white space."""
    score_text = get_task(task, labels or ()).score

    async def score(state: TaskState, target: Target) -> Score:
        scores = score_text(state.output.completion, target.text)
        return _as_score(scores, scores.exact, state.output.completion)

    return score


@scorer(metrics=[accuracy(), stderr()])
def match(task: str) -> Scorer:
    """Score equality ignoring punctuation and white space; case counts."""
    score_text = get_task(task).score

    async def score(state: TaskState, target: Target) -> Score:
        scores = score_text(state.output.completion, target.text)
        return _as_score(scores, scores.match, state.output.completion)

    return score


@metric
def macro_f1() -> Metric:
    """Return the mean F1 over labels with items."""

    def compute(scores: list[SampleScore]) -> float:
        return _report(scores).macro_f1 or 0.0

    return compute


@metric
def balanced_accuracy() -> Metric:
    """Return the mean recall over labels with items."""

    def compute(scores: list[SampleScore]) -> float:
        return _report(scores).balanced_accuracy or 0.0

    return compute


def _report(scores: list[SampleScore]) -> LabelReport:
    metadata = [score.score.metadata or {} for score in scores]
    known = list(dict.fromkeys(str(label) for each in metadata for label in each.get(LABELS_KEY, ())))
    return label_report(known, [(str(each.get(TARGET_KEY, "")), each.get(LABEL_KEY)) for each in metadata])


@scorer(metrics=[accuracy(), stderr(), macro_f1(), balanced_accuracy()])
def label(task: str, labels: list[str]) -> Scorer:
    """Score whether the parsed label is the target."""
    score_text = get_task(task, labels).score

    async def score(state: TaskState, target: Target) -> Score:
        scores = score_text(state.output.completion, target.text)
        metadata = {
            PARSED_KEY: scores.parsed,
            LABEL_KEY: scores.label,
            TARGET_KEY: canonical_label(target.text, labels),
            LABELS_KEY: labels,
        }
        value = CORRECT if scores.match else INCORRECT
        return Score(value=value, answer=scores.label, explanation=state.output.completion, metadata=metadata)

    return score


def _as_score(scores: Scores, right: bool, output: str) -> Score:
    parsed = {} if scores.parsed is None else {PARSED_KEY: scores.parsed}
    return Score(value=CORRECT if right else INCORRECT, answer=output, metadata=parsed or None)


def _sample(example: Example) -> Sample:
    return Sample(
        id=example.id,
        input=[_message(message) for message in example.prompt],
        target=example.answer,
        metadata=None if example.cluster is None else {CLUSTER_KEY: example.cluster},
    )


def _message(message: Message) -> ChatMessage:
    if message.role == "system":
        return ChatMessageSystem(content=message.content)
    if message.role == "assistant":
        return ChatMessageAssistant(content=message.content)
    return ChatMessageUser(content=_parts(message) if message.images else message.content)


def _content(message: Message) -> str | list[dict[str, object]]:
    """Return a turn's content as JSON."""
    if not message.images:
        return message.content
    return [part.model_dump(include={"type", "text", "image"}) for part in _parts(message)]


def _parts(message: Message) -> list[Content]:
    """Return the text and the image files of a turn, in order."""
    first, *rest = message.content.split(IMAGE_PLACE)
    parts: list[Content] = [ContentText(text=first)] if first else []
    for path, text in zip(message.images, rest, strict=True):
        parts += [ContentImage(image=path), *([ContentText(text=text)] if text else [])]
    return parts
