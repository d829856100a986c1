"""An experiment's folder: the paths in it, and how its files are written without losing the user's edits.

experiment.yaml  plan.json  runs_plan.md  README.md  submit_all.sh  ledger.jsonl  RESULTS.md
<run>/           one folder a run
.touchline/      prepared.json (hashes of what was written into the run folders), run.lock, evaluate/<model>/
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from touchline.core.errors import InputError, PlanDriftError, quoted
from touchline.core.files import (
    FileCache,
    disk_errors,
    inside,
    read_bytes,
    read_text_bounded,
    remove_temporaries,
    write_atomic,
    write_if_changed,
)
from touchline.core.json_text import parse_json
from touchline.core.status import JobState
from touchline.experiment.plan import Plan
from touchline.plan.identity import describe_change, plan_from_json, plan_to_json
from touchline.run.ledger import LEDGER, LedgerEntry, LedgerReader, damaged_lines, open_jobs, read_ledger
from touchline.run.statusfiles import read_exits
from touchline.slurm.job_view import JobKind, JobName
from touchline.strategy import strategy_of
from touchline.strategy.decisions import StrategyDecision, missing_decision
from touchline.strategy.strategy import Strategy, started_plan

_PLAN_LIMIT_BYTES = 256 << 20
_ARTEFACTS = re.compile(
    r"(epoch_\d+|step_\d+|resume|eval|status|(metrics\.jsonl|training\.json|lineage\.json)|slurm-.*\.out)"
)
GENERATED_FROM_PLAN = frozenset({"finetune.yaml", "run.yaml", "eval.yaml"})
"""Files that only touchline writes; the user may change the others."""
WHOLE = "."
"""Key in prepared.json for files of the whole experiment; no run can have this name."""
_SCRIPTS = (".slurm", ".sh")


def _parse_plan(path: Path) -> Plan:
    return plan_from_json(read_text_bounded(path, _PLAN_LIMIT_BYTES), str(path))


_read_plan = FileCache(_parse_plan, _PLAN_LIMIT_BYTES)


def _decisions(entries: Iterable[LedgerEntry]) -> tuple[StrategyDecision, ...]:
    return tuple(entry.decision for entry in entries if entry.decision is not None)


def cut_runs(plan: Plan, root: Path) -> Mapping[str, int]:
    """Return the runs that the strategy of a plan has cut, each with the step of its point."""
    return {} if plan.strategy is None else strategy_of(plan, _decisions(read_ledger(root / LEDGER))).cut


def is_experiment(source: Path) -> bool:
    """Return True for an experiment folder of ours; a folder without experiment.yaml comes from elsewhere."""
    return not source.is_dir() or (source / "experiment.yaml").is_file()


class ExperimentFolder:
    """Paths of one experiment."""

    def __init__(self, source: Path) -> None:
        """Open the folder, or that of its YAML file.

        Raises:
            InputError: there is no such file.
        """
        self.yaml = source / "experiment.yaml" if source.is_dir() else source
        if not self.yaml.is_file():
            raise InputError(
                f"{str(self.yaml)!r} does not exist",
                expected="an experiment.yaml, or a folder with one",
                hint="touchline demo creates a complete example",
            )
        self.root = self.yaml.resolve().parent
        self.plan_json = self.root / "plan.json"
        self.runs_plan = self.root / "runs_plan.md"
        self.ledger = self.root / LEDGER
        self.results = self.root / "RESULTS.md"
        self.internal = self.root / ".touchline"
        self.lock = self.internal / "run.lock"
        self._ledger_reader = LedgerReader(self.ledger)
        self._strategy: Strategy | None = None
        self._started: tuple[Strategy, Plan] | None = None

    def run(self, name: str) -> Path:
        """Return a run's folder.

        Raises:
            InputError: if a link leads out of the experiment's folder.
        """
        return inside(self.root, name)

    def evaluation(self, model: str) -> Path:
        """Return the status folder of the evaluations on one base model."""
        return inside(self.internal / "evaluate", model)

    def read_plan(self) -> Plan | None:
        """Return the plan on disk; None before the first.

        Raises:
            InputError: plan.json is broken.
        """
        if not self.plan_json.exists():
            return None
        return _read_plan(self.plan_json)

    def planned(self) -> Plan:
        """Return the plan on disk, which is required.

        Raises:
            InputError: there is none, or plan.json is broken.
        """
        plan = self.read_plan()
        if plan is None:
            raise InputError(f"{str(self.root)!r} has no plan.json", hint=f"touchline plan {quoted(str(self.yaml))}")
        return plan

    def decisions(self) -> tuple[StrategyDecision, ...]:
        """Return the decisions of the strategy in the ledger, in order; none without a strategy.

        Raises:
            InputError: one that later ones follow from is missing.
        """
        found = _decisions(self._ledger_reader.entries())
        if (missing := missing_decision(found)) is not None:
            lines = ", ".join(map(str, damaged_lines(self.ledger)))
            raise InputError(
                f"{self.ledger}: the decision on {missing} is missing{(f' (damaged: line {lines})' if lines else '')}",
                expected="every decision that later decisions depend on",
                hint="restore the file from a copy, or plan another experiment in a new folder",
            )
        return found

    def strategy(self, plan: Plan | None = None) -> Strategy:
        """Return the strategy after the decisions in the ledger. The same object is returned until either changes.

        Args:
            plan: plan with all its runs (default: the one on disk).

        Raises:
            InputError: there is no plan, plan.json is broken, or a decision is missing.
        """
        plan = self.planned() if plan is None else plan
        decisions = () if plan.strategy is None else self.decisions()
        if self._strategy is None or self._strategy.plan is not plan or len(self._strategy.decisions) != len(decisions):
            self._strategy = strategy_of(plan, decisions)
        return self._strategy

    def refuse_other_design(self, old: Plan | None, new: Plan) -> None:
        """Refuse a plan that changes the design after the strategy's first decision.

        Raises:
            PlanDriftError: the design differs; with what does.
        """
        if decisions := self.decisions():
            from touchline.strategy.design import refuse_other_design

            refuse_other_design(old, new, decisions[0].design, describe_change)

    def started_plan(self) -> Plan:
        """Return the plan with only the runs that its strategy has made active so far, which are the ones to list.

        The same object is returned until plan or decisions change.

        Raises:
            InputError: there is no plan, or plan.json is broken.
        """
        strategy = self.strategy()
        if self._started is None or self._started[0] is not strategy:
            self._started = strategy, started_plan(strategy)
        return self._started[1]

    def write_plan(self, plan: Plan, markdown: str) -> bool:
        """Write runs_plan.md, then plan.json, if they differ. Return True if anything changed."""
        changed = write_if_changed(self.runs_plan, markdown)
        written = write_if_changed(self.plan_json, plan_to_json(plan))
        _read_plan.keep(self.plan_json, plan)
        return written or changed

    def has_started(self, name: str) -> bool:
        """Return True if a run's training left an attempt, a saved state or a checkpoint."""
        folder = self.run(name)
        return (
            (folder / "metrics.jsonl").exists()
            or any((folder / "status").glob("start.*"))
            or any(folder.glob("epoch_*"))
        )

    def queued(self) -> set[str]:
        """Return runs with a possibly active scheduler job, by the ledger and their folders."""
        found: set[str] = set()
        for job, job_id in open_jobs(read_ledger(self.ledger)).items():
            name = JobName.parse(job)
            run = name.subject
            status = self.root / run / ("status" if name.kind is JobKind.TRAINING else "eval/status")
            if (self.root / run).is_dir() and not _has_ended(status, job_id):
                found.add(run)
        return found

    def is_as_written(self, name: str, file: str) -> bool:
        """Return True if a run's file is unchanged since touchline wrote it."""
        path, written = self.run(name) / file, self._prepared().get(name, {}).get(file)
        return written is not None and path.exists() and _sha256(read_bytes(path)) == written

    def gone(self, runs: Iterable[str]) -> list[str]:
        """Return the runs whose folders were prepared and are no longer there."""
        prepared = self._prepared()
        return [name for name in runs if name in prepared and not self.run(name).exists()]

    def is_trained(self, name: str) -> bool:
        """Return True if a run's training wrote its completion marker."""
        return (self.run(name) / "training.json").exists()

    def leftovers(self, names: Collection[str]) -> list[str]:
        """Return the folders of runs that were prepared once and are not among `names`."""
        return [
            name for name in sorted(self._prepared()) if (self.run(name) / "eval.py").exists() and name not in names
        ]

    def has_evaluations(self, name: str) -> bool:
        """Return True if a run or control has an evaluation."""
        return any((self.run(name) / "eval").glob("*.eval"))

    def write_run(self, name: str, files: Mapping[str, str]) -> list[str]:
        """Write a run's files. Return the names of those kept because the user changed them.

        Raises:
            PlanDriftError: a file that only touchline writes was changed by hand.
        """
        remove_temporaries(self.run(name), files)
        return self._write_files(name, {file: self.run(name) / file for file in files}, files, None)

    def write_experiment(self, files: Mapping[str, str]) -> list[str]:
        """Write the files of the experiment (README.md, submit_all.sh). Return those kept as edited.

        A file that the user changed, or that touchline has never written, is left alone.
        """
        return self._write_files(WHOLE, {file: inside(self.root, file) for file in files}, files, "")

    def _write_files(
        self, name: str, paths: Mapping[str, Path], files: Mapping[str, str], unknown: str | None
    ) -> list[str]:
        """Write files, and record their hashes; `unknown` stands for the hash of one never written before."""
        record = self._prepared()
        known = record.setdefault(name, {})
        kept: list[str] = []
        for file, text in files.items():
            path = paths[file]
            if not _is_edited(path, text, known.get(file, unknown)):
                write_if_changed(path, text)
                if path.suffix in _SCRIPTS:
                    path.chmod(0o755)
                known[path.name] = _sha256(text.encode())
            elif name != WHOLE and file in GENERATED_FROM_PLAN:
                raise PlanDriftError(
                    f"{str(path)!r} was changed by hand",
                    expected="changes in setup_finetune.yaml, from which touchline writes this file",
                    hint="move it away, edit setup_finetune.yaml, then: "
                    f"touchline prepare {quoted(str(self.root))} --run {name} --accept",
                )
            else:
                kept.append(file)
        write_if_changed(self.internal / "prepared.json", json.dumps(record, indent=1, sort_keys=True) + "\n")
        return kept

    def supersede(self, name: str) -> Path | None:
        """Move a run's results into `superseded/<n>/`, because its plan changed."""
        folder = self.run(name)
        made = [path for path in sorted(folder.glob("*")) if _ARTEFACTS.fullmatch(path.name)] if folder.is_dir() else []
        if not made:
            return None
        number = 1 + len(list((folder / "superseded").glob("*")))
        target = folder / "superseded" / str(number)
        with disk_errors("folder", target):
            target.mkdir(parents=True)
            for path in made:
                path.rename(target / path.name)
        return target

    def write_request(self, model: str, jobs: list[dict[str, str]]) -> Path:
        """Write the request of one evaluation process."""
        path = self.evaluation(model) / "request.json"
        write_atomic(path, json.dumps({"jobs": jobs}, indent=1) + "\n")
        return path

    def _prepared(self) -> dict[str, dict[str, str]]:
        try:
            record: dict[str, dict[str, str]] = parse_json(read_bytes(self.internal / "prepared.json"))
        except (FileNotFoundError, ValueError):
            return {}
        return record


def _is_edited(path: Path, text: str, written: str | None) -> bool:
    """Return True if a file is neither what was written there nor what is to be written; `written` is None where a file
    of unknown origin is ours to replace.
    """
    if written is None or not path.exists():
        return False
    return _sha256(read_bytes(path)) not in (written, _sha256(text.encode()))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _has_ended(status: Path, job_id: str) -> bool:
    """Return True if an exit record is final: a job asked to stop may be requeued."""
    last = max(read_exits(status, job_id), key=lambda end: end.restart, default=None)
    return last is not None and (last.code == 0 or last.state is JobState.FAILED)
