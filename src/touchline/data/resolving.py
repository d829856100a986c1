"""Parts of a dataset that a plan settles: columns that were not given, labels, the content of images."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from touchline.core.catalog import Example, ImageHashes, ModelInfo, changed_images
from touchline.core.errors import HostError, InputError, PlanDriftError
from touchline.core.files import read_text_bounded, sha256_file
from touchline.core.finding import Finding, Location, Severity
from touchline.core.json_text import parse_json
from touchline.data.chats import Prompt
from touchline.data.columns import column_counts, resolve_columns
from touchline.data.data_files import Columns, keep_columns, known_columns
from touchline.data.datasets import load_dataset, load_examples, load_rows, split_names
from touchline.data.models import load_renderer
from touchline.data.readers import read_rows
from touchline.data.rendering.chat import images_of
from touchline.experiment.anchors import from_run_folder
from touchline.experiment.data_config import DataConfig, is_test
from touchline.experiment.evaluation import EvaluationConfig, LabelSet
from touchline.experiment.plan import ShownExample
from touchline.experiment.tasks.classification import indistinct, label_key, merge_spellings

_SHOWN_CHARACTERS = 3000
_KEPT_AT_THE_END = 600


def with_columns(data: DataConfig, given: Collection[str], base: Path, cache_dir: Path | None) -> DataConfig:
    """Return the data settings with the columns that were not given found in the file.

    A file that cannot be read leaves them as they are: its loader says what is wrong with it.
    """
    try:
        columns = _columns((base / Path(data.file).expanduser()).resolve(strict=True), cache_dir)
    except (InputError, HostError, OSError, RuntimeError, ValueError):
        return data
    counts = {name: sum(kinds.values()) for name, kinds in columns.items()}
    return resolve_columns(data, given, counts, {name: Counter(kinds) for name, kinds in columns.items()})


def _columns(path: Path, cache_dir: Path | None) -> Columns:
    if not path.is_file():
        raise InputError(f"{str(path)!r} is not a file")
    key = hashlib.sha256(f"{sha256_file(path)} {path.suffix.lower()}".encode()).hexdigest()
    kept = None if cache_dir is None else known_columns(cache_dir, key)
    if kept is not None:
        return kept
    _, kinds = column_counts(row.values for rows in read_rows(path).splits.values() for row in rows)
    found = {name: dict(each) for name, each in kinds.items()}
    if cache_dir is not None:
        keep_columns(cache_dir, key, found)
    return found


def shown_example(model: ModelInfo, data: DataConfig, base: Path, date: str, cluster: str | None) -> ShownExample:
    """Return the first training row as it is trained: prompt, label span and the columns used.

    Raises:
        InputError: dataset, tokenizer or chat template cannot be used.
    """
    example, *_ = load_examples(data, "train", base)
    renderer = load_renderer(model, date)
    rendered = renderer.example(example)
    used, unused = _used(data, base, cluster)
    return ShownExample(
        dataset=data.file,
        model=model.name,
        row=example.id,
        columns_used=used,
        columns_not_used=unused,
        prompt=_bounded(renderer.decode(rendered.prompt_ids, keep_special=True)),
        label=_bounded(renderer.decode(rendered.answer_ids, keep_special=True)),
        prompt_tokens=len(rendered.prompt_ids),
        label_tokens=len(rendered.answer_ids),
    )


def first_row(data: DataConfig, base: Path) -> tuple[Example, tuple[str, ...], tuple[str, ...]] | None:
    """Return the first training row as a chat, the columns used, and those not used. None without rows."""
    examples = load_examples(data, "train", base)
    return (examples[0], *_used(data, base, None)) if examples else None


def _used(data: DataConfig, base: Path, cluster: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    columns = dict.fromkeys(name for row in load_rows(data, "train", base) for name in row)
    roles = {data.output: "answer"} if data.messages is None else {data.messages: "chat"}
    if data.messages is None:
        shown = Prompt("{input}" if data.prompt is None else data.prompt, data.input).columns
        roles |= {name: "prompt" for name in columns if name in shown}
    if cluster is not None:
        roles.setdefault(cluster, "cluster")
    used = tuple(f"{name} ({roles[name]})" for name in columns if name in roles)
    return used, tuple(name for name in columns if name not in roles)


def _bounded(text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    left_out = len(text) - _SHOWN_CHARACTERS
    begin = text[: _SHOWN_CHARACTERS - _KEPT_AT_THE_END]
    return f"{begin}\n[... {left_out:,} characters not shown ...]\n{text[-_KEPT_AT_THE_END:]}"


CODE = "EV304"
LABELS_LIMIT = 500
"""Limit on the number of labels."""
_SHARE = 0.5
"""Limit on the ratio of labels to rows, if there are more than a few."""
_FEW = 20
_SHOWN = 5


def label_set(
    data: DataConfig, base: Path, given: Sequence[str | int] = ()
) -> tuple[LabelSet | None, tuple[Finding, ...]]:
    """Count the labels of a dataset. Return them, or None, and their problems.

    Answers that differ in case and spaces alone are one label, written as most of them are.

    Args:
        given: the labels that experiment.yaml names; all that the answers have when empty.

    Raises:
        InputError: the dataset is missing or invalid; with findings.
        HostError: it may not be read, or needs a package that is not installed.
    """
    # Answers do not depend on the prompt, which is made from the labels.
    bare = replace(data, prompt=None)
    path = load_dataset(bare, base).path
    answers = {
        name: [example.answer.strip() for example in load_examples(bare, name, base)] for name in split_names(data)
    }
    written = Counter(answer for split in answers.values() for answer in split)
    labels = tuple(str(label).strip() for label in given) or tuple(sorted(merge_spellings(written)))
    where = Location(path=path)
    findings = list(_faults(labels, written, answers, is_given=bool(given), where=where))
    if any(finding.severity is Severity.ERROR for finding in findings):
        return None, tuple(findings)
    places = {label_key(label): place for place, label in enumerate(labels)}
    counts: dict[str, tuple[int, ...]] = {}
    for name, split in answers.items():
        found = Counter(places[label_key(answer)] for answer in split)
        counts[name] = tuple(found[place] for place in range(len(labels)))
    column = data.messages if data.messages is not None else data.output
    return LabelSet(dataset=path, column=column, labels=labels, counts=counts), tuple(findings)


def _faults(
    labels: Sequence[str],
    written: Counter[str],
    answers: dict[str, list[str]],
    *,
    is_given: bool,
    where: Location,
) -> Iterator[Finding]:
    def fault(message: str, hint: str | None = None, severity: Severity = Severity.ERROR) -> Finding:
        return Finding(
            code=CODE, severity=severity, subject="task: classification", message=message, where=where, hint=hint
        )

    known, rows = {label_key(label) for label in labels}, sum(written.values())
    if is_given:
        others = [answer for answer in written if label_key(answer) not in known]
        if others:
            yield fault(
                f"{len(others)} answers are not in evaluate.labels: {_shown(others)}",
                f"evaluate.labels: [{', '.join([*labels, *others[:_SHOWN]])}]",
            )
    elif len(labels) > LABELS_LIMIT or (len(labels) > _FEW and len(labels) > _SHARE * rows):
        yield fault(
            f"the {rows:,} answers have {len(labels):,} distinct texts ({_shown(labels)}), too many for labels",
            "task: exact_match",
        )
        return
    if len(labels) < 2:
        yield fault(f"there is only one label ({_shown(labels)})")
    if pair := indistinct(labels):
        yield fault(f"the labels {pair[0]!r} and {pair[1]!r} differ only in punctuation, which answer parsing ignores")
    spelled = Counter(label_key(answer) for answer in written)
    if several := [key for key, number in spelled.items() if number > 1]:
        same = [answer for answer in written if label_key(answer) == several[0]]
        yield fault(
            f"labels with several spellings count as one, for example {_shown(same)}",
            severity=Severity.WARNING,
        )
    trained = {label_key(answer) for answer in answers["train"]}
    asked = {label_key(answer) for name, split in answers.items() if is_test(name) for answer in split}
    if unseen := [label for label in labels if label_key(label) in asked - trained]:
        yield fault(f"labels in the test split without a training row: {_shown(unseen)}", severity=Severity.WARNING)


def _shown(labels: Sequence[str]) -> str:
    more = ", ..." if len(labels) > _SHOWN else ""
    return ", ".join(repr(label[:40]) for label in labels[:_SHOWN]) + more


_LIMIT_BYTES = 256 << 20


def image_hashes(data: DataConfig, base: Path, cache_dir: Path | None = None) -> ImageHashes:
    """Return the hashes of all images of a dataset. Empty if it has none, or cannot be used.

    Raises:
        InputError: the dataset is missing or cannot be read at all; with findings.
        HostError: it may not be read, or needs a package that is not installed.
    """
    info = load_dataset(data, base, cache_dir)
    if not info.images:
        return ImageHashes()
    try:
        images = {split: _images(data, split, base) for split in split_names(data)}
    except InputError:
        # The dataset's findings tell it.
        return ImageHashes()
    found = {path: _hash(path) for path in dict.fromkeys(path for each in images.values() for path in each)}
    folder = PurePath(info.path).parent
    return ImageHashes(
        splits={split: _joined(found[path] for path in paths) for split, paths in images.items() if paths},
        files={_written(path, folder): sha256 for path, sha256 in found.items()},
    )


def refuse_changed_images(data: DataConfig, planned: Mapping[str, str], base: Path, run_folder: Path) -> None:
    """Require the planned content of images.

    Args:
        run_folder: the run's folder. The plan next to it gives the names of changed images.

    Raises:
        PlanDriftError: an image changed; with its name.
        InputError: the dataset or an image cannot be read.
        HostError: it may not be read, or needs a package that is not installed.
    """
    for split, sha256 in planned.items():
        images = _images(data, split, base)
        found = {path: _hash(path) for path in dict.fromkeys(images)}
        if _joined(found[path] for path in images) == sha256:
            continue
        dataset = (base / Path(data.file).expanduser()).resolve()
        known = _planned_files(run_folder, dataset)
        names = {_written(path, dataset.parent): now for path, now in found.items()}
        raise PlanDriftError(
            f"{changed_images(known, names) or 'an image'} of the {split} split changed since planning",
            expected="the images that the plan was made from",
            hint="touchline plan",
        )


def require_test_images(config: EvaluationConfig, run_folder: Path) -> None:
    """Require the planned content of the images that an evaluation shows.

    Raises:
        PlanDriftError: an image changed; with its name.
        InputError: the dataset or an image cannot be read.
    """
    if config.images_sha256 is not None:
        refuse_changed_images(config.data, {"test": config.images_sha256}, Path(), run_folder)


def _images(data: DataConfig, split: str, base: Path) -> list[str]:
    return [image for example in load_examples(data, split, base) for image in images_of(example.prompt)]


def _hash(path: str) -> str:
    """Return the hash of a file, read again after any write to it."""
    try:
        status = Path(path).stat()
        return _sha256(path, f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}")
    except (OSError, ValueError) as error:
        raise InputError(f"image {path!r} cannot be read: {error}", expected="a PNG or JPEG file") from None


@functools.lru_cache(maxsize=1 << 16)
def _sha256(path: str, state: str) -> str:
    del state
    return sha256_file(Path(path))


def _joined(hashes: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _written(path: str, folder: PurePath) -> str:
    found = PurePath(path)
    return found.relative_to(folder).as_posix() if found.is_relative_to(folder) else path


def _planned_files(run_folder: Path, dataset: Path) -> dict[str, str]:
    """Return the hash of every image of a dataset in the plan next to a run's folder. Empty if it is not there."""
    try:
        data = parse_json(read_text_bounded(run_folder.absolute().parent / "plan.json", _LIMIT_BYTES))
    except (InputError, HostError, OSError, ValueError, RecursionError):
        return {}
    datasets = data.get("datasets") if isinstance(data, dict) else None
    for path, info in datasets.items() if isinstance(datasets, dict) else ():
        files = info.get("image_sha256") if isinstance(info, dict) else None
        if isinstance(files, dict) and (run_folder / from_run_folder(path)).resolve() == dataset:
            return files
    return {}
