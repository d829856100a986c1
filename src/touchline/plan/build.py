"""From runs, models, datasets and token lengths to the plan; a pure function, so planning again gives the same plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter

from touchline.backends import get_backend
from touchline.backends.protocol import Lengths
from touchline.domain.catalog import DatasetInfo, ModelInfo
from touchline.domain.experiment import DataConfig, Experiment, TrainConfig
from touchline.domain.finding import Finding, Severity
from touchline.domain.plan import BatchSummary, Plan, PlannedRun
from touchline.domain.quantity import NO_EVIDENCE, Missing
from touchline.domain.runs import RunKind, RunSpec
from touchline.errors import InputFault

_DATA = TypeAdapter(DataConfig)
_TRAIN = TypeAdapter(TrainConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanInputs:
    """What the planner knows."""

    experiment: Experiment
    """The experiment."""
    experiment_sha256: str
    """Hash of its file with the overrides applied."""
    overrides: tuple[str, ...]
    """`key=value` from the command line."""
    specs: tuple[RunSpec, ...]
    """Its runs; `data.prompt` filled in."""
    models: Mapping[str, ModelInfo]
    """Every model by the name that the file uses."""
    datasets: Mapping[str, DatasetInfo]
    """Every dataset by the path that the file uses."""
    lengths: Mapping[tuple[str, str], Lengths]
    """Token lengths of the training split by (model, `data_key`)."""
    date: str
    """ISO date of today, or of the plan that is planned again."""
    touchline_version: str
    """The version that plans."""
    accepted: Mapping[str, dict[str, object]] = field(default_factory=dict)
    """Settings accepted for single runs, by run; already applied to `specs`."""


def data_key(data: DataConfig) -> str:
    """Equal for runs that train on the same rendered rows."""
    return _DATA.dump_json(data).decode()


def build_plan(inputs: PlanInputs) -> Plan:
    """The plan.

    Raises:
        InputFault: with every fault that model, data and training show together.
    """
    findings: list[Finding] = []
    runs: list[PlannedRun] = []
    for spec in inputs.specs:
        run, faults = _planned(spec, inputs)
        findings += [fault for fault in faults if fault not in findings]
        if run is not None:
            runs.append(run)
    if any(finding.severity is Severity.ERROR for finding in findings):
        raise InputFault(f"{inputs.experiment.name} cannot be planned: {len(findings)} findings", findings=findings)
    experiment = inputs.experiment
    return Plan(
        touchline_version=inputs.touchline_version,
        experiment=experiment.name,
        question=experiment.question,
        task=experiment.task,
        date=inputs.date,
        experiment_sha256=inputs.experiment_sha256,
        overrides=inputs.overrides,
        factors=_factors(inputs.specs),
        models={inputs.models[name].name: inputs.models[name] for name in dict.fromkeys(s.model for s in inputs.specs)},
        datasets={info.path: info for info in inputs.datasets.values()},
        runs=tuple(runs),
        executor=experiment.compute.executor,
        gpus_per_run=experiment.compute.gpus_per_run,
        deadline=experiment.compute.deadline,
        revisions=(),
    )


def _planned(spec: RunSpec, inputs: PlanInputs) -> tuple[PlannedRun | None, list[Finding]]:
    model, dataset = inputs.models[spec.model], inputs.datasets[spec.data.path]
    run = PlannedRun(
        name=spec.name,
        kind=spec.kind,
        model=model.name,
        dataset=dataset.path,
        data=spec.data,
        train=None,
        evaluate=spec.evaluate,
        seed=spec.seed,
        levels=spec.levels,
        batches=None,
        packed_reason=None,
        train_seconds=Missing(missing="nothing is trained"),
        evaluate_seconds=NO_EVIDENCE,
        peak_memory=NO_EVIDENCE,
        disk=Missing(missing="nothing is saved"),
        accepted=inputs.accepted.get(spec.name, {}),
        digest="",
    )
    if spec.kind is RunKind.CONTROL:
        return replace(run, digest=_digest(run, model, dataset)), []
    backend = get_backend(spec.train.backend)
    lengths = inputs.lengths[spec.model, data_key(spec.data)]
    findings = [replace(fault, subject=f"{spec.name}: {fault.subject}") for fault in backend.faults(model, spec.train)]
    findings += _length_faults(spec, lengths)
    if findings:
        return None, findings
    resolved = backend.resolve(spec.train, lengths)
    batches = backend.batches(resolved.train, lengths, spec.seed)
    run = replace(
        run,
        train=resolved.train,
        batches=batches if isinstance(batches, BatchSummary) else None,
        packed_reason=resolved.packed_reason,
        train_seconds=NO_EVIDENCE,
        disk=NO_EVIDENCE,
    )
    return replace(run, digest=_digest(run, model, dataset)), []


def _length_faults(spec: RunSpec, lengths: Lengths) -> list[Finding]:
    total = lengths.total
    limit = spec.train.max_seq_len
    too_long = int((total > limit).sum())
    if not too_long:
        return []
    first = int((total > limit).argmax())
    return [
        Finding(
            code="DA201",
            severity=Severity.ERROR,
            subject=f"{spec.name}: train.max_seq_len",
            message=f"{too_long} of {len(total)} training examples are longer than max_seq_len {limit} tokens; "
            f"the first is row {first} with {int(total[first])}, the longest has {int(total.max())}",
            hint=f"max_seq_len: {int(total.max())}, or shorter examples",
        )
    ]


def _digest(run: PlannedRun, model: ModelInfo, dataset: DatasetInfo) -> str:
    """Equal digests mean equal training; how it is evaluated is compared evaluation by evaluation."""
    identity = {
        "kind": run.kind,
        "model": [model.name, model.weights_sha256, model.tokenizer_sha256, model.config_sha256],
        "data": [dataset.sha256, {**json.loads(_DATA.dump_json(run.data)), "path": ""}],
        "train": None if run.train is None else json.loads(_TRAIN.dump_json(run.train)),
        "seed": run.seed if run.kind is RunKind.FINE_TUNED else None,
        "batches": None if run.batches is None else run.batches.digest,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _factors(specs: Sequence[RunSpec]) -> dict[str, tuple[str, ...]]:
    levels: dict[str, dict[str, None]] = {}
    for spec in specs:
        for level in spec.levels:
            levels.setdefault(level.factor, {})[level.value] = None
    return {factor: tuple(values) for factor, values in levels.items()}
