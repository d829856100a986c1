"""Hold what our readers say of logs against what is really true of them.

python tools/score_logs.py INDEX FOLDER      INDEX: one JSON object a line, of one of the two forms below

An index of samples has `case` (a file of FOLDER), `trainer`, `kind` and `truth` with keys of its own; the tables of
this file map those keys to the fields of a reading, and say why where they do not. A list of truths has `case` or
`files`, `origin`, and `truth` with our own field names: a number or word; null for what the file does not show; or
{"any_of": [..]}, {"value": x, "tolerance": share}, {"refused_or": x}.

A number is right within 1 %. A field that the file does not show, and that comes with a value, is invented: that counts
three misses.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from touchline.core.quantity import Missing, Quantity
from touchline.history.facts import RUN_FACTS, read_facts
from touchline.history.files import LoggedRun, find_runs
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord

TOLERANCE = 0.01
INVENTED_WEIGHT = 3
"""How many misses an invented number counts: the rule by which the samples are scored."""

Value = float | str | None
Verdict = Literal["right", "wrong", "missing", "invented", "absent"]
VERDICTS: tuple[Verdict, ...] = ("right", "wrong", "missing", "invented", "absent")
"""`absent`: rightly missing. It is counted, and is no part of the share of right ones."""

FLAT = (*RUN_FACTS, "segments")

# ---- the index of samples: its keys, and what they are of us ---------------------------------------------------------

INDEX_KEYS: Mapping[str, str] = {
    "model": "model",
    "micro_batch": "micro_batch_size",
    "bs": "micro_batch_size",
    "effective_batch": "global_batch_size",
    "total_bs": "global_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "ga": "gradient_accumulation_steps",
    "examples": "total_examples",
    "samples": "total_examples",
    "num_examples": "total_examples",
    "epochs": "epochs",
    "gpus": "gpus",
    "steps": "steps_total",
    "total_steps": "steps_total",
    "steps_total": "steps_total",
    "steps_done": "steps_done",
    "train_loss": "mean_train_loss",
    "eval_loss": "eval_loss",
    "final_step_loss": "last_loss",
    "last_logged_loss": "last_loss",
    "last_loss": "last_loss",
    "final_loss": "last_loss",
    "train_runtime_s": "train_seconds",
    "seconds": "train_seconds",
    "samples_per_s": "examples_per_second",
    "train_samples_per_second": "examples_per_second",
    "s_per_it": "seconds_per_step",
    "s_per_it_incl_eval": "seconds_per_step",
    "trainable": "trainable_parameters",
    "r": "lora_rank",
    "peak_reserved_gb": "peak_memory",
    "mem_training_gb": "peak_memory",
    "mem_after_load_gb": "memory_after_init",
    "gpu_gb": "gpu_memory_total",
    "gpu": "gpu",
    "optim": "optimizer",
    "max_seq": "max_seq_len",
    "packing": "packed",
    "outcome": "outcome",
}
"""Keys whose value is the field's own, as it stands."""

UNMAPPED: Mapping[str, str] = {
    "task": "prose",
    "note": "prose",
    "note2": "prose",
    "stream": "which half of a pair the file is; pairs are read as pairs",
    "pair": "which file it belongs to; pairs are read as pairs",
    "first_eta": "a forecast by the trainer, not a measurement",
    "actual": "train_runtime_s again, in words",
    "elapsed": "how far the bar's clock came in a run that never ended; not the training's duration",
    "last_epoch": "epochs done; `epochs` are the planned ones",
    "resumed_at_step": "no flat field; it stands in the list of segments",
    "printed_train_loss": "what the trainer prints after a resume, which is wrong; true_mean_loss is scored",
    "printed_samples_per_s": "what the trainer prints after a resume, which is wrong; true_samples_per_s is scored",
    "tqdm_trap": "what must not be read; seconds_per_step is scored",
    "preflight": "prose",
    "peak_for_training_gb": "difference of two reserved figures, no peak",
    "peak_train_gb": "difference of two reserved figures, no peak",
    "start_reserved_gb": "reserved before training; no flat field",
    "pct_of_gpu": "a ratio of two figures that are scored",
    "notebook": "the file's name",
    "consistent": "of the index itself",
    "four_bit": "in the notebook's code, not in its output",
    "gc": "in the notebook's code, not in its output",
    "valid": "of a configuration",
    "val_size": "of a configuration",
    "eval_steps": "of a configuration",
    "save_steps": "of a configuration",
    "smell": "of a configuration",
    "rows": "of a table",
    "expect": "one message a line, no run: the tests of the readers hold it",
}
"""Keys that are no field of a reading, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What is true of one field."""

    field: str
    """Its name in a reading."""
    accept: tuple[Value, ...]
    """Any of these is right; None among them: so is to say nothing."""
    tolerance: float = TOLERANCE
    """Largest relative difference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Translation:
    """An entry of the index whose words or number need translating, and why."""

    expected: tuple[Expected, ...]
    """What it says in our fields."""
    why: str
    """The reason."""


def _say(field: str, *accept: Value, tolerance: float = TOLERANCE) -> tuple[Expected, ...]:
    return (Expected(field=field, accept=accept, tolerance=tolerance),)


BY_KEY: Mapping[str, tuple[str, float, str]] = {
    "true_mean_loss": (
        "mean_train_loss",
        0.02,
        "`about`: half the run is behind the cut, so to say nothing is right too",
    ),
    "true_samples_per_s": ("examples_per_second", 0.02, "`about`"),
}
"""Keys whose value begins with `about`: field, tolerance, reason."""

BY_CASE: Mapping[tuple[str, str], Translation] = {
    ("trl_resumed_half_run.log", "outcome"): Translation(
        expected=_say("outcome", "completed"), why="`completed after resume`: the resume is one of its segments"
    ),
    ("trl_resumed_half_run.log", "true_it_per_s"): Translation(
        expected=_say("seconds_per_step", 1 / 0.217), why="iterations a second are the reciprocal of seconds a step"
    ),
    ("sge_disk_quota_midrun.err", "outcome"): Translation(
        expected=_say("outcome", "disk_quota"), why="`crash while saving checkpoint: Disk quota exceeded`"
    ),
    ("lf_qlora_medical_all_results.json", "train_steps_per_second"): Translation(
        expected=_say("seconds_per_step", 1 / 0.276, (24486.754 - 13 * 219.94) / 6750),
        why="the reciprocal, of a runtime that holds 13 evaluations of 219.94 s; ours may leave them out",
    ),
    ("lf_slurm_21.out", "s_per_it_incl_eval"): Translation(
        expected=_say("seconds_per_step", 6.81, (3001.406 - 4 * 32.5) / 441),
        why="it holds 4 evaluations of 32.5 s, as its name says; ours may leave them out",
    ),
    ("sge_disk_quota_midrun.err", "s_per_it"): Translation(
        expected=_say("seconds_per_step", 2.84, 2.68),
        why="2.84 is what the last bar printed, smoothed over a slow save; its clock gives 2.70, its bars print 2.66",
    ),
    ("lf_qlora_medical_trainer_log.jsonl", "model"): Translation(
        expected=_say("model", "Qwen2.5-7B-Instruct"), why="`4-bit` is how it is loaded, and no part of its name"
    ),
    ("nb_axolotl_colab.txt", "sample_packing_eff_est"): Translation(
        expected=_say("packing_efficiency", 99.87832601968344),
        why="ours is per cent of the tokens, theirs a share of one",
    ),
    ("sge_disk_quota_midrun.err", "packing"): Translation(
        expected=_say("packed", "true", None), why="seen in the script, which is not among the samples; not in the log"
    ),
}
"""Entries of one case that must be put into our words."""

NOT_SHOWN: Mapping[tuple[str, str], str] = {
    ("nb_unsloth_0.txt", "model"): "the notebook's code names it, its output does not",
    ("nb_unsloth_0.txt", "max_seq"): "the notebook's code says it, its output does not",
    ("nb_unsloth_0.txt", "r"): "the notebook's code says it, its output does not",
    ("nb_unsloth_0.txt", "optim"): "the notebook's code says it, its output does not",
    ("trl_resumed_half_run.log", "total_steps"): "stands in the progress bars, which the collector cut out",
}
"""Entries of the index that its file, as it lies there, does not show: found by reading the file."""

PAIRS: tuple[tuple[str, ...], ...] = (
    ("lf_slurm_21.out", "lf_slurm_21.err"),
    ("sge_disk_quota_midrun.log", "sge_disk_quota_midrun.err"),
    ("lf_qlora_medical_trainer_log.jsonl", "lf_qlora_medical_all_results.json", "lf_qlora_medical.yaml"),
)
"""Files of the samples that are of one run, and are read together."""

SCORED_KINDS = frozenset({"log", "metrics"})
"""Kinds of samples that tell of runs; a configuration or a table alone tells of none."""

# ---- cases -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Files of one run, and what is true of it."""

    files: tuple[str, ...]
    """Their names in the folder."""
    expected: tuple[Expected, ...]
    """What is true, a field at most once."""
    unmapped: tuple[str, ...] = ()
    """Keys that were not scored, each with the reason."""


def cases(index: Path) -> list[Case]:
    """The cases of an index of either form."""
    rows = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines() if line.strip()]
    ours = [row for row in rows if "origin" in row]
    theirs = [row for row in rows if "origin" not in row]
    return [_own_case(row) for row in ours] + list(_index_cases(theirs))


def _own_case(row: Mapping[str, Any]) -> Case:
    files = tuple(row["files"]) if "files" in row else (row["case"],)
    expected = []
    for field, truth in row["truth"].items():
        if field not in FLAT:
            raise SystemExit(f"{files[0]}: {field} is no field of a reading")
        expected.append(_own_expected(field, truth))
    return Case(files=files, expected=tuple(expected))


def _own_expected(field: str, truth: object) -> Expected:
    if not isinstance(truth, dict):
        return Expected(field=field, accept=(_value(truth),))
    tolerance = float(truth.get("tolerance", TOLERANCE))
    if "any_of" in truth:
        return Expected(field=field, accept=tuple(_value(each) for each in truth["any_of"]), tolerance=tolerance)
    if "refused_or" in truth:
        return Expected(field=field, accept=(_value(truth["refused_or"]), None), tolerance=tolerance)
    return Expected(field=field, accept=(_value(truth["value"]),), tolerance=tolerance)


def _value(truth: object) -> Value:
    return truth if truth is None or isinstance(truth, str) else float(truth)  # type: ignore[arg-type]


def _index_cases(rows: Sequence[Mapping[str, Any]]) -> Iterator[Case]:
    """Rows of files that are of one run become one case; the first that says a field is believed."""
    by_name = {row["case"]: row for row in rows}
    done: set[str] = set()
    for name in by_name:
        if name in done:
            continue
        together = tuple(next((pair for pair in PAIRS if name in pair), (name,)))
        files = tuple(each for each in together if each in by_name)
        done.update(files)
        if not any(by_name[each].get("kind", "log") in SCORED_KINDS for each in files):
            continue
        expected: dict[str, Expected] = {}
        unmapped: list[str] = []
        for each in files:
            for truth in _index_expected(by_name[each], unmapped):
                expected.setdefault(truth.field, truth)
        if expected:
            yield Case(files=files, expected=tuple(expected.values()), unmapped=tuple(dict.fromkeys(unmapped)))


def _index_expected(row: Mapping[str, Any], unmapped: list[str]) -> Iterator[Expected]:
    name, truths = str(row["case"]), row["truth"]
    said = False
    for key, truth in truths.items():
        if (name, key) in BY_CASE:
            found: Iterable[Expected] = BY_CASE[name, key].expected
        elif (name, key) in NOT_SHOWN:
            unmapped.append(f"{key}: {NOT_SHOWN[name, key]}")
            continue
        elif key in BY_KEY:
            field, tolerance, _ = BY_KEY[key]
            about = re.match(r"about ([\d.]+)", str(truth))
            found = _say(field, float(about[1]) if about else None, None, tolerance=tolerance)
        elif key in INDEX_KEYS:
            found = _plain_entry(key, truth, completed=str(truths.get("outcome", "")).startswith("completed"))
        else:
            unmapped.append(f"{key}: {UNMAPPED.get(key, 'NOT KNOWN TO THE TABLE')}")
            continue
        for each in found:
            said = True
            yield each
    if said and row.get("kind") == "log":
        yield Expected(field="trainer", accept=(str(row["trainer"]),))


def _plain_entry(key: str, truth: object, *, completed: bool) -> Iterator[Expected]:
    field = INDEX_KEYS[key]
    value: Value
    if field == "model":
        # "LLaMA-2-7B (6,742,609,920 params incl. LoRA)": the brackets are a remark.
        value = str(truth).partition(" (")[0]
    elif isinstance(truth, bool):
        value = str(truth).lower()
    elif isinstance(truth, str):
        value = float(truth) if re.fullmatch(r"[\d.]+", truth) else truth
    else:
        value = _value(truth)
    yield Expected(field=field, accept=(value,))
    if field == "steps_total" and completed:
        # A run that was completed has done the steps that it had.
        yield Expected(field="steps_done", accept=(value,))


# ---- judging ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One field of one case."""

    case: str
    """The case's first file."""
    field: str
    """Its name in a reading."""
    verdict: Verdict
    """How it was."""
    truth: str
    """What is true."""
    ours: str
    """What we say, or why nothing."""
    where: str
    """Line that it was read from, and how."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How the readers did on an index."""

    judged: tuple[Judged, ...]
    """Every field of every case."""
    runs: Mapping[str, int]
    """How many runs each case's files were found to hold; the last one is judged."""
    unmapped: Mapping[str, tuple[str, ...]]
    """What of the index was not scored, by case."""

    def count(self, verdict: Verdict) -> int:
        """How many fields had that verdict."""
        return sum(each.verdict == verdict for each in self.judged)

    @property
    def share(self) -> float:
        """Share of right ones; an invented one weighs as three that are missed."""
        right = self.count("right")
        misses = self.count("wrong") + self.count("missing") + INVENTED_WEIGHT * self.count("invented")
        return right / (right + misses) if right + misses else 1.0

    @property
    def wrong_outcomes(self) -> tuple[Judged, ...]:
        """Cases whose end was told wrongly, or not at all."""
        return tuple(
            each for each in self.judged if each.field == "outcome" and each.verdict not in ("right", "absent")
        )


def score(index: Path, folder: Path) -> Score:
    """Read each case of the index from the folder, and judge each field."""
    judged: list[Judged] = []
    runs: dict[str, int] = {}
    unmapped: dict[str, tuple[str, ...]] = {}
    for case in cases(index):
        found = list(find_runs([folder / name for name in case.files]))
        readings = [each.reading for each in found if isinstance(each, LoggedRun)]
        name = case.files[0]
        runs[name] = len(readings)
        unmapped[name] = case.unmapped
        refused = "; ".join(each.reason for each in found if not isinstance(each, LoggedRun)) or "no run was found"
        judged.extend(_judge_runs(name, expected, readings, refused) for expected in case.expected)
    return Score(judged=tuple(judged), runs=runs, unmapped=unmapped)


def _judge_runs(case: str, expected: Expected, readings: Sequence[RunRecord], refused: str) -> Judged:
    """The last run is judged; of a file of several runs, a truth that one of the others shows is shown."""
    verdicts = [judge(case, expected, reading, refused) for reading in readings] or [
        judge(case, expected, None, refused)
    ]
    if verdicts[-1].verdict == "missing":
        return next((each for each in verdicts if each.verdict == "right"), verdicts[-1])
    return verdicts[-1]


def judge(case: str, expected: Expected, reading: RunRecord | None, refused: str = "") -> Judged:
    """Hold one field of a reading against the truth."""
    said = dict(read_facts(reading))[expected.field] if reading is not None else Missing(missing=refused)
    value, where = _said(said)
    truth = " or ".join("nothing" if each is None else f"{each:.10g}" if isinstance(each, float) else each
                        for each in expected.accept)  # fmt: skip
    ours = said.missing if isinstance(said, Missing) else f"{value:.10g}" if isinstance(value, float) else str(value)
    return Judged(
        case=case, field=expected.field, verdict=_verdict(expected, value), truth=truth, ours=ours, where=where
    )


def _said(said: object) -> tuple[Value, str]:
    if isinstance(said, Quantity):
        return float(said.value), "; ".join(part for part in (said.where, said.method) if part)
    if isinstance(said, SourcedText):
        return said.value, "; ".join(part for part in (said.where, said.method) if part)
    if isinstance(said, Missing) or said is None:
        return None, ""
    return str(said), ""


def _verdict(expected: Expected, value: Value) -> Verdict:
    values = [each for each in expected.accept if each is not None]
    if value is None:
        return "missing" if None not in expected.accept else "absent"
    if any(_same(expected, each, value) for each in values):
        return "right"
    return "wrong" if values else "invented"


def _same(expected: Expected, truth: float | str, value: float | str) -> bool:
    if isinstance(truth, float) and isinstance(value, float):
        if math.isnan(truth) or math.isnan(value):
            return math.isnan(truth) and math.isnan(value)
        # A loss that is printed as 0.0000 is that, and nothing else.
        return math.isclose(truth, value, rel_tol=expected.tolerance, abs_tol=1e-12)
    if isinstance(truth, float) or isinstance(value, float):
        return False
    if expected.field in ("model", "trainer"):
        ours, theirs = _letters(value), _letters(truth)
        return bool(ours and theirs) and (ours in theirs or theirs in ours)
    return truth == value


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


# ---- printing --------------------------------------------------------------------------------------------------------


def table(result: Score) -> str:
    """The result for people: a row a field, then what was wrong in each case."""
    by_field: dict[str, Counter[Verdict]] = {}
    for each in result.judged:
        by_field.setdefault(each.field, Counter())[each.verdict] += 1
    lines = [f"{'field':30}" + "".join(f"{verdict:>10}" for verdict in VERDICTS)]
    for field in sorted(by_field, key=FLAT.index):
        lines.append(f"{field:30}" + "".join(f"{by_field[field][verdict]:>10}" for verdict in VERDICTS))
    lines.append(f"{'all':30}" + "".join(f"{result.count(verdict):>10}" for verdict in VERDICTS))
    for case, runs in result.runs.items():
        bad = [each for each in result.judged if each.case == case and each.verdict not in ("right", "absent")]
        if bad or runs != 1:
            lines.append(f"\n{case}  ({runs} run{'' if runs == 1 else 's'} found)")
        lines += [_line(each) for each in bad]
    notes = [f"  {case}: {note}" for case, found in result.unmapped.items() for note in found]
    if notes:
        lines += ["\nnot scored:", *notes]
    judged = len(result.judged)
    lines.append(
        f"\n{result.share:.1%} right; {judged} fields of {len(result.runs)} cases, "
        f"{result.count('invented')} invented, {len(result.wrong_outcomes)} outcomes not right"
    )
    return "\n".join(lines)


def _line(each: Judged) -> str:
    where = f"  [{each.where}]" if each.where else ""
    return f"  {each.verdict:9}{each.field}: {each.ours}{where}  truth: {each.truth}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Score an index; exit 1 when a number was invented, an outcome is not right, or less than 97 % of fields are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    result = score(options.index, options.folder)
    print(table(result))
    return int(result.share < 0.97 or bool(result.wrong_outcomes) or result.count("invented") > 0)


if __name__ == "__main__":
    sys.exit(main())
