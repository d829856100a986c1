"""Use of data files by torchtune's configs: `field`, and the columns that `column_map` names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from touchline.backends.torchtune.config import COMPONENT
from touchline.backends.traits import ColumnsRead, DataUse
from touchline.experiment.foreign import ForeignDocument

_SECTIONS: Final = ("dataset", "dataset_val")


class TorchtuneDataUse(DataUse):
    """Sections `dataset` and `dataset_val`."""

    names_field = True
    needs_field = True

    def loads_by_itself(self, document: ForeignDocument, section: str) -> bool:
        """Return True if a custom component builds a dataset."""
        part = document.data.get(section)
        named = part.get(COMPONENT) if isinstance(part, dict) else None
        return isinstance(named, str) and not named.startswith("torchtune.")

    def columns(self, document: ForeignDocument) -> Iterator[ColumnsRead]:
        """Yield the columns of `column_map`, one by one."""
        for name in _SECTIONS:
            section = document.data.get(name)
            mapped = section.get("column_map") if isinstance(section, dict) else None
            if not isinstance(section, dict) or not isinstance(mapped, dict):
                continue
            file = section.get("data_files")
            for role, column in mapped.items():
                if isinstance(file, str) and isinstance(column, str):
                    yield ColumnsRead(
                        place=(name, "column_map", str(role)), file=file, field=section.get("field"), columns=(column,)
                    )
