"""torchtune's configs: what `tune run RECIPE --config FILE` takes, read as OmegaConf reads it.

`tune validate` finds components that do not import and arguments that they do not take. The rules here are on what it
does not look at: missing keys, values of another kind, references to nothing. Nothing is imported.
"""

from __future__ import annotations

from collections.abc import Mapping

from touchline.backends.config_reading import ConfigReader
from touchline.backends.formats import ConfigFormat, ConfigReading
from touchline.backends.interpolation import resolve
from touchline.backends.torchtune.config import COMPONENT
from touchline.backends.torchtune.keys import component_findings, is_training, key_findings, value_findings
from touchline.backends.torchtune.reading import Config
from touchline.backends.torchtune.stated import stated_training
from touchline.core.finding import Finding
from touchline.experiment.foreign import Dialect, ForeignDocument

_PARTS = frozenset({"model", "tokenizer", "checkpointer", "optimizer", "dataset", "loss"})
_ENOUGH = 3
"""Minimum number of parts with components in a torchtune config with custom components."""


class TorchtuneFormat:
    """A recipe's config."""

    name = "torchtune"
    title = "torchtune config"
    dialect: Dialect = "omegaconf"

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Return True if a part names a torchtune component, or if several parts name any component."""
        del file_name
        sections = {key: part for key, part in data.items() if isinstance(part, Mapping) and COMPONENT in part}
        if any(str(part[COMPONENT]).startswith("torchtune.") for part in sections.values()):
            return True
        return len(_PARTS & sections.keys()) >= _ENOUGH

    def read(self, document: ForeignDocument) -> ConfigReading:
        """Read the stated training. Configs of generation, evaluation or quantization have none."""
        resolved = resolve(document)
        config = Config(document, resolved.data)
        settings = ConfigReader(document)
        settings.check_doubled("OmegaConf")
        findings = [
            *settings.findings,
            *resolved.findings,
            *key_findings(config),
            *component_findings(config),
            *value_findings(config),
        ]
        trainings = (stated_training(config),) if is_training(config.data) else ()
        return ConfigReading(trainings=trainings, findings=tuple(sorted(findings, key=_place)))


def _place(finding: Finding) -> tuple[int, int, str]:
    where = finding.where
    return (0, 0, finding.code) if where is None else (where.line or 0, where.column or 0, finding.code)


FORMATS: tuple[ConfigFormat, ...] = (TorchtuneFormat(),)
"""Formats of this backend."""
