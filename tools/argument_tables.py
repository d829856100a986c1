"""Write the tables of settings that the readers of other trainers' configs know, from those trainers' own sources.

    python tools/argument_tables.py SOURCES

`SOURCES` holds unpacked releases, one folder each, named `transformers-5.23.0`, `trl-1.16.0`, `llamafactory-0.9.5`,
`axolotl-0.19.0`; several releases of one package make one table: the newest decides kinds and choices, the older ones
add the names that they alone know. Nothing of them is imported: dataclasses and pydantic models are read as text.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

BACKENDS = Path(__file__).parents[1] / "src" / "touchline" / "backends"
TRANSFORMERS = ("transformers/training_args.py", "transformers/training_args_seq2seq.py")
TRL = ("trl/trainer/*config.py", "trl/trainer/utils.py", "trl/scripts/utils.py", "trl/commands/cli_utils.py")
LLAMAFACTORY = ("llamafactory/hparams/*.py", "llmtuner/hparams/*.py")
AXOLOTL = (
    "axolotl/utils/schemas/*.py",
    "axolotl/utils/config/models/input/**/*.py",
    "axolotl/integrations/*/args.py",
    "axolotl/cli/args.py",
)
AXOLOTL_INNER = re.compile(
    r"Dataset|Prompter|SpecialTokens|LoftQ|PeftConfig|Capabilities|FSDPConfig|VllmConfig|TRLConfig|QATConfig|PTQConfig"
    r"|LrGroup|SelectiveCheckpointing|EBFTConfig|FP8Config|DynamicCheckpointConfig|CliArgs|ExpertParallelConfig"
)
"""Models of what stands below a key, not of the file's own keys."""
ENUMS = {
    "SchedulerType": "transformers/trainer_utils.py",
    "IntervalStrategy": "transformers/trainer_utils.py",
    "SaveStrategy": "transformers/trainer_utils.py",
    "HubStrategy": "transformers/trainer_utils.py",
    "OptimizerNames": "transformers/training_args.py",
}
CHOSEN_BY = {
    "lr_scheduler_type": "SchedulerType",
    "eval_strategy": "IntervalStrategy",
    "evaluation_strategy": "IntervalStrategy",
    "logging_strategy": "IntervalStrategy",
    "save_strategy": "SaveStrategy",
    "hub_strategy": "HubStrategy",
    "optim": "OptimizerNames",
}
Row = tuple[str, tuple[str, ...]]


def fields(path: Path) -> Iterator[tuple[str, str, Row, object]]:
    """Class, name, kinds with choices, and default of each annotated field."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ClassDef):
            continue
        for line in node.body:
            if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
                continue
            names = [line.target.id, *aliases(line.value)]
            for name in names:
                if not name.startswith("_") and name != "model_config":
                    yield node.name, name, kinds(ast.unparse(line.annotation)), default(line.value)


def aliases(value: ast.expr | None) -> list[str]:
    """Other names of a pydantic field."""
    if not isinstance(value, ast.Call):
        return []
    return [
        word.value.value
        for word in value.keywords
        if word.arg in ("alias", "validation_alias") and isinstance(word.value, ast.Constant)
    ]


def default(value: ast.expr | None) -> object:
    """A default that is a plain value."""
    if isinstance(value, ast.Call):
        value = next((word.value for word in value.keywords if word.arg == "default"), None)
    try:
        return None if value is None else ast.literal_eval(value)
    except ValueError:
        return None


def kinds(annotation: str) -> Row:
    """What an annotation allows: names of kinds joined by a bar, and the choices of literals."""
    text = annotation.strip("\"'")
    choices = tuple(re.findall(r"'([^']*)'", " ".join(re.findall(r"Literal\[([^\]]*)\]", text))))
    bare = re.sub(r"Literal\[[^\]]*\]", "str", text)
    bare = re.sub(r"Annotated\[", "", re.sub(r"\b(Optional)\[", "None | ", bare))
    found = []
    for kind, pattern in (
        ("list", r"\b([Ll]ist|tuple|Tuple|Sequence)\b"),
        ("dict", r"\b([Dd]ict)\b"),
        ("none", r"\bNone\b"),
    ):
        if re.search(pattern, bare):
            found.append(kind)
    outer = re.sub(r"\b([Ll]ist|[Dd]ict|tuple|Tuple)\[[^\[\]]*(\[[^\[\]]*\][^\[\]]*)*\]", "", bare)
    for kind, pattern in (("bool", r"\bbool\b"), ("int", r"\bint\b"), ("float", r"\bfloat\b"), ("str", r"\bstr\b")):
        if re.search(pattern, outer):
            found.append(kind)
    known = re.sub(r"\b(List|list|Dict|dict|None|bool|int|float|str|Union|Any|tuple|Tuple|Sequence)\b", "", outer)
    if re.search(r"[A-Za-z_]{2,}", known) or not set(found) - {"none"}:
        found = ["any"]
    return "|".join(found), choices if set(found) <= {"str", "none"} else ()


def enum_values(root: Path) -> dict[str, tuple[str, ...]]:
    """Allowed words of transformers' enumerations."""
    values: dict[str, tuple[str, ...]] = {}
    for name, path in ENUMS.items():
        if not (root / path).is_file():
            continue
        for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name == name:
                values[name] = tuple(
                    line.value.value
                    for line in node.body
                    if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant)
                )
    return values


def versions(sources: Path, package: str) -> list[Path]:
    """Unpacked releases, the newest last."""
    found = [path for path in sources.iterdir() if path.name.rpartition("-")[0] == package]
    return sorted(found, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])


def merged(
    releases: list[Path], patterns: tuple[str, ...], keep: re.Pattern[str], drop: re.Pattern[str]
) -> tuple[dict[str, Row], dict[str, str], dict[str, set[str]]]:
    """Rows of the newest release, names that only older ones know with the last that does, choices over all."""
    rows: dict[str, Row] = {}
    last: dict[str, str] = {}
    choices: dict[str, set[str]] = {}
    for release in releases:
        version = release.name.rpartition("-")[2]
        here: dict[str, Row] = {}
        for pattern in patterns:
            for path in sorted(release.glob(pattern)):
                for owner, name, row, _ in fields(path):
                    if not keep.search(owner) or drop.search(owner):
                        continue
                    before = here.get(name)
                    both = "|".join(sorted({*before[0].split("|"), *row[0].split("|")})) if before else row[0]
                    here[name] = ("any" if "any" in both.split("|") else both, row[1] if not before else ())
                    choices.setdefault(name, set()).update(row[1])
        last.update(dict.fromkeys(here, version))
        rows.update(here)
    newest = releases[-1].name.rpartition("-")[2]
    return rows, {name: version for name, version in last.items() if version != newest}, choices


def table(rows: dict[str, Row], older: dict[str, str], choices: dict[str, set[str]], source: str) -> str:
    """The table's text, one setting a line."""
    lines = []
    for name, (kind, own) in sorted(rows.items()):
        allowed = sorted(choices.get(name, set())) if own else []
        said: list[object] = [kind]
        if allowed or name in older:
            said.append(allowed)
        if name in older:
            said.append(older[name])
        lines.append(f"{json.dumps(name)}: {json.dumps(said)}")
    body = ",\n    ".join(lines)
    return f'{{\n  "source": {json.dumps(source)},\n  "arguments": {{\n    {body}\n  }}\n}}\n'


def main() -> None:
    """Write all tables."""
    sources = Path(sys.argv[1])
    every, none = re.compile(""), re.compile(r"^$")
    transformers, trl = versions(sources, "transformers"), versions(sources, "trl")
    arguments = re.compile(r"^(Seq2Seq)?TrainingArguments$|^_BaseConfig$")
    base, base_older, _ = merged(transformers, TRANSFORMERS, arguments, none)
    enums: dict[str, set[str]] = {}
    for release in transformers:
        for name, words in enum_values(release).items():
            enums.setdefault(name, set()).update(words)
    chosen = {key: enums[name] for key, name in CHOSEN_BY.items()}
    for key in chosen:
        if key in base:
            base[key] = ("str|none" if "none" in base[key][0] else "str", tuple(sorted(chosen[key])))
    named = f"{transformers[-1].name.replace('-', ' ')}, {trl[-1].name.replace('-', ' ')}"

    configs = re.compile(r"(Config|Arguments)$")
    inner = re.compile(r"^(Dataset(Mixture)?Config|PeftConfig|VLLM|RichProgress)")
    rows, older, choices = merged(trl, TRL, configs, inner)
    for key in base:
        older.pop(key, None)
    older |= {key: version for key, version in base_older.items() if key not in rows}
    # What TRL's classes say of the Trainer's own arguments is their defaults only.
    own = {key: row for key, row in rows.items() if key not in base}
    (BACKENDS / "trl" / "arguments.json").write_text(
        table(base | own, older, choices | chosen, named), encoding="utf-8"
    )

    factory = versions(sources, "llamafactory")
    rows, older, choices = merged(factory, LLAMAFACTORY, every, re.compile(r"RopeScaling|EngineName"))
    own = {key: row for key, row in rows.items() if key not in base}
    # LLaMA-Factory holds transformers back, so what a release of version 4 still knew is not old for it.
    older |= {key: last for key, last in base_older.items() if key not in rows and int(last.split(".")[1]) < 57}
    older = {key: last for key, last in older.items() if last != "5.0.0"}
    named = f"{factory[-1].name.replace('-', ' ')}, {transformers[-1].name.replace('-', ' ')}"
    (BACKENDS / "llamafactory" / "arguments.json").write_text(
        table(base | own, older, choices | chosen, named), encoding="utf-8"
    )

    axolotl = versions(sources, "axolotl")
    rows, older, choices = merged(axolotl, AXOLOTL, every, AXOLOTL_INNER)
    (BACKENDS / "axolotl" / "arguments.json").write_text(
        table(rows, older, choices, axolotl[-1].name.replace("-", " ")), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
