"""The verbs of packing: how a dataset lies in rows, the same written for a trainer, and whether a model keeps it apart.

What they need loads when one of them is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from touchline.core.callbacks import ProgressCallback
from touchline.data.user_config import UserConfig

if TYPE_CHECKING:
    from touchline.core.packing import PackingSummary
    from touchline.data.packing.handoff import Handoff
    from touchline.data.packing.isolation import IsolationCheck
    from touchline.plan.local.packing import PackRequest


def pack(
    request: PackRequest,
    settings: UserConfig,
    *,
    plot: Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> PackingSummary:
    """How a dataset lies in rows, packed and not, by a trainer's own batching; `plot` is a picture of the lengths.

    Raises:
        InputError: nothing tells the lengths, or they cannot be used.
        HostError: a picture was asked for, and what draws it is not installed.
    """
    from touchline.plan.local.packing import compare, load_lengths
    from touchline.report.lengths import length_figure
    from touchline.report.local.drawing import write_picture

    lengths = load_lengths(request, settings, on_progress)
    summary = compare(request, lengths)
    if plot is not None:
        figure = length_figure(lengths.total, summary)
        write_picture(figure, plot)
    return summary


def pack_write(
    request: PackRequest, to: Path, settings: UserConfig, *, on_progress: ProgressCallback | None = None
) -> Handoff:
    """Write a dataset's training rows pack by pack, for trainers that pack by next-fit.

    Raises:
        InputError: the lengths cannot be used, or an example is longer than a row.
    """
    from touchline.plan.local.packing import load_lengths, write_in_packs

    return write_in_packs(request, to, load_lengths(request, settings, on_progress))


def pack_check(model: str, settings: UserConfig) -> IsolationCheck:
    """Whether documents that share a row see each other in a model's architecture.

    Raises:
        InputError: there is no such model, or no small model of its architecture can be made.
        HostError: the packages that train are not installed.
    """
    from touchline.data.shapes import load_config
    from touchline.plan.local.isolation import check_isolation

    return check_isolation(load_config(model, settings.models_dir))
