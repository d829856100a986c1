"""Use of data files by LLaMA-Factory's configs: names that `dataset_info.json` beside the data registers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from touchline.backends.traits import DataUse
from touchline.core.finding import Finding, Severity
from touchline.experiment.foreign import ForeignDocument

_STAGES = ("sft", "pt", "rm", "dpo", "kto", "ppo")


class FactoryDataUse(DataUse):
    """Keys `dataset` and `eval_dataset`."""

    registry = "dataset_info.json"

    def registry_folder(self, document: ForeignDocument) -> str | None:
        """Return the folder with the registry, as the config names it."""
        place = document.data.get("dataset_dir", "data")
        return place if isinstance(place, str) else None

    def registry_findings(
        self,
        document: ForeignDocument,
        registry: Mapping[str, object],
        *,
        is_file: Callable[[str], bool],
        is_beside: Callable[[str], bool],
    ) -> Iterator[Finding]:
        """Yield names that the registry lacks, or registers wrongly, as BK026.

        Args:
            document: the config.
            registry: the content of the registry.
            is_file: whether a name is a file instead of a registered name.
            is_beside: whether a file of this name is beside the registry.
        """
        place = self.registry_folder(document)
        for key in ("dataset", "eval_dataset"):
            stated = document.data.get(key)
            names = stated.split(",") if isinstance(stated, str) else stated if isinstance(stated, list) else []
            for name in (str(each).strip() for each in names):
                entry = registry.get(name)
                file = entry.get("file_name") if isinstance(entry, dict) else None
                if not name or is_file(name):
                    continue
                if name not in registry:
                    message = f"{name} is not in {place}/{self.registry}, which has {', '.join(list(registry)[:6])}"
                elif isinstance(file, str) and not is_beside(file):
                    message = f"{name} is {file} by {place}/{self.registry}, and there is no such file"
                else:
                    message = _of_another_stage(name, entry, document.data.get("stage")) if key == "dataset" else ""
                if message:
                    yield Finding(
                        code="BK026",
                        severity=Severity.ERROR,
                        subject=key,
                        message=message,
                        where=document.where(key),
                        hint=f"an entry for it in {self.registry}",
                    )


def _of_another_stage(name: str, entry: object, stage: object) -> str:
    """Return the problem of a dataset of another stage: only `dpo` and `rm` take pairs of answers (its loader)."""
    if not isinstance(entry, dict) or stage not in _STAGES or "file_name" not in entry:
        return ""
    pairs, ranked = stage in ("rm", "dpo"), entry.get("ranking", False) is True
    if pairs == ranked:
        return ""
    return f"{name} is {'' if ranked else 'not '}registered as pairs of answers (ranking), and stage {stage} " + (
        "trains nothing else" if pairs else "takes none"
    )
