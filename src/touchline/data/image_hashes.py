"""Content hashes of a dataset's images, so that an image replaced since planning is noticed.

A process reads the bytes of a file once, and again when its size, times or inode change.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

from touchline.core.catalog import ImageHashes, changed_images
from touchline.core.errors import HostError, InputError, PlanDriftError
from touchline.core.files import read_text_bounded, sha256_file
from touchline.core.json_text import parse_json
from touchline.data.datasets import load_dataset, load_examples, split_names
from touchline.data.rendering.chat import images_of
from touchline.experiment.anchors import from_run_folder
from touchline.experiment.evaluation import EvaluationConfig
from touchline.experiment.experiment import DataConfig

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
