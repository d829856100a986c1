"""Rows as a pandas DataFrame, where pandas is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from touchline.core.errors import HostError, install_hint

if TYPE_CHECKING:
    import pandas


def data_frame(
    rows: Sequence[Mapping[str, object]], *, index: str, columns: Sequence[str] | None = None
) -> pandas.DataFrame:
    """Return rows as a DataFrame.

    Args:
        rows: values by column.
        columns: names of all columns (default: those of the rows).

    Raises:
        HostError: pandas is not installed.
    """
    try:
        from pandas import DataFrame
    except ImportError:
        raise HostError("pandas is not installed", hint=install_hint("pandas")) from None
    return DataFrame(rows, columns=columns).set_index(index)
