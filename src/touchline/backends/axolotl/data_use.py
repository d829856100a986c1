"""Use of data files by axolotl's configs: `field`, and the columns that the type of a dataset reads."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.backends.traits import ColumnsRead, DataUse
from touchline.experiment.foreign import ForeignDocument


class AxolotlDataUse(DataUse):
    """Rows of `datasets`."""

    names_field = True

    def columns(self, document: ForeignDocument) -> Iterator[ColumnsRead]:
        """Yield the columns that the type of each dataset reads."""
        rows = document.data.get("datasets")
        for index, row in enumerate(rows if isinstance(rows, list) else []):
            if not isinstance(row, dict) or not isinstance(row.get("path"), str):
                continue
            wanted: tuple[str, ...] = ()
            if row.get("type") == "alpaca":
                wanted = ("instruction", "output")
            elif row.get("type") == "chat_template":
                wanted = (str(row.get("field_messages") or "messages"),)
            if wanted:
                yield ColumnsRead(
                    place=("datasets", index, "type"), file=row["path"], field=row.get("field"), columns=wanted
                )
