"""Weight files of a model, and whether they are complete."""

from __future__ import annotations

import re
from pathlib import Path

from touchline.core.errors import HostError, InputError
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding, Location, Severity
from touchline.core.json_text import parse_json
from touchline.data.shards import Shard, ShardHeaderError, read_shard

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_INDEX_LIMIT_BYTES = 64 << 20
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_AGAIN = "download it again"


def read_shards(folder: Path, findings: list[Finding]) -> list[Shard]:
    """Return the headers of a model's shards by name. Missing or truncated ones are findings."""
    names, promised = _names(folder, findings)
    found: list[Shard] = []
    for name in names:
        path = folder / name
        try:
            shard = read_shard(path)
        except FileNotFoundError:
            findings.append(model_fault("CK104", folder, f"shard {name} is missing", path, _AGAIN))
            continue
        except ShardHeaderError as error:
            findings.append(model_fault("CK104", folder, f"shard {error}", path, _AGAIN))
            continue
        except OSError as error:
            findings.append(model_fault("CK104", folder, f"shard {name} cannot be read: {error.strerror}", path))
            continue
        if shard.size_fault is not None:
            findings.append(model_fault("CK104", folder, f"shard {name} {shard.size_fault}", path, _AGAIN))
        if absent := sorted(promised.get(name, set()) - set(shard.tensors)):
            message = f"shard {name} lacks {len(absent)} tensors of the index, the first is {absent[0]}"
            findings.append(model_fault("CK104", folder, message, path, "download shards and index of the same model"))
        found.append(shard)
    return found


def _names(folder: Path, findings: list[Finding]) -> tuple[list[str], dict[str, set[str]]]:
    """Return the shards in order, and the tensors that the index lists in each.

    The single file goes before the index, as transformers looks for them.
    """
    if (folder / SINGLE).exists():
        return [SINGLE], {}
    if (folder / INDEX).exists():
        promised = _promised(folder, findings)
        return sorted(promised), promised
    present = sorted(path.name for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_"))
    if not present:
        pickled = "it has only .bin weights, which are pickles and are not opened"
        message = pickled if has_pickles(folder) else "it has no weights"
        findings.append(model_fault("CK103", folder, message, folder, "download the .safetensors files of this model"))
    numbered = [match for name in present if (match := _NUMBERED.fullmatch(name))]
    if numbered and len(numbered) == len(present):
        message = f"its {len(present)} shards have no {INDEX}"
        findings.append(model_fault("CK102", folder, message, folder / INDEX, "download that file too"))
        stem, _, count = numbered[0].groups()
        # The bound keeps a hostile name from asking for 99,999 findings.
        wanted = (f"{stem}-{number:05d}-of-{count}.safetensors" for number in range(1, min(int(count), 1000) + 1))
        return sorted({*present, *wanted}), {}
    return present, {}


def has_pickles(folder: Path) -> bool:
    """Return whether a folder has weights that are pickles."""
    return any(any(folder.glob(each)) for each in ("*.bin", "*.pt", "*.pth"))


def _promised(folder: Path, findings: list[Finding]) -> dict[str, set[str]]:
    path = folder / INDEX
    try:
        weight_map = parse_json(read_text_bounded(path, _INDEX_LIMIT_BYTES))["weight_map"].items()
        promised: dict[str, set[str]] = {}
        for tensor, name in weight_map:
            # The bare name: an index has no business outside its folder.
            promised.setdefault(Path(name).name, set()).add(tensor)
    except (InputError, HostError) as fault:
        findings.append(model_fault("CK102", folder, fault.message, path, _AGAIN))
        return {}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        findings.append(model_fault("CK102", folder, f"the index of the shards is invalid: {error!r}", path, _AGAIN))
        return {}
    if not promised:
        findings.append(model_fault("CK102", folder, "the index names no shards", path, _AGAIN))
    return promised


def model_fault(code: str, folder: Path, message: str, path: Path, hint: str | None = None) -> Finding:
    """Return an error in a model folder."""
    return Finding(
        code=code,
        severity=Severity.ERROR,
        subject=folder.name,
        message=f"model {folder.name}: {message}",
        where=Location(path=str(path)),
        hint=hint,
    )
