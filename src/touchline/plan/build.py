"""Construction of the plan from runs, models, datasets and token lengths. A pure function: equal inputs give equal
plans."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter

from touchline.backends.protocol import ExampleLengths
from touchline.core.catalog import DatasetInfo, ImageHashes, ModelInfo
from touchline.core.errors import InputError
from touchline.core.finding import Severity
from touchline.core.quantity import NO_EVIDENCE, Measured, Missing
from touchline.core.units import plural
from touchline.estimate.totals import collect_evidence, runs_at_once, sum_quantities, totals, totals_of
from touchline.experiment.anchors import recorded_data
from touchline.experiment.data_config import DataConfig
from touchline.experiment.evaluation import EvaluationTask, LabelSet
from touchline.experiment.experiment import Experiment
from touchline.experiment.plan import Plan, PlannedRun, RecipeFile, ShownExample, data_parallel_size
from touchline.experiment.runs import ControlKind, RunKind, RunSpec
from touchline.experiment.settings import SETTINGS, value_of
from touchline.experiment.strategy import PlannedStrategy
from touchline.experiment.training import TrainConfig
from touchline.plan.at_once import SideBySide, SlotChoice, choose_slots, plan_cohorts
from touchline.plan.context import PlanningContext
from touchline.plan.decisions import RunRequest, RunResolver
from touchline.plan.evaluations import takes_over, with_evaluation_memory, without_shared_validation
from touchline.plan.identity import training_digest
from touchline.plan.notes import assumptions
from touchline.plan.power import evaluated_items
from touchline.plan.run_specs import length_faults, shuffled_lengths
from touchline.plan.times import time_limit
from touchline.statistics.closed_forms import SpreadInput
from touchline.strategy import strategy_of
from touchline.strategy.design import SeedSpread, planned_strategy, refuse_impossible, seed_spread_of
from touchline.strategy.explore import explore_faults
from touchline.strategy.strategy import start_of

_DATA = TypeAdapter(DataConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanInputs:
    """Inputs of the planner."""

    experiment: Experiment
    experiment_sha256: str
    overrides: tuple[str, ...]
    specs: tuple[RunSpec, ...]
    """Runs of the experiment, with `data.prompt` filled in."""
    models: Mapping[str, ModelInfo]
    """Models by the name that the experiment uses."""
    datasets: Mapping[str, DatasetInfo]
    """Datasets by the path that the experiment uses."""
    lengths: Mapping[tuple[str, str], ExampleLengths]
    """Token lengths of the training split by (model, `data_key`)."""
    date: str
    """ISO date of today, or of the plan that is planned again."""
    touchline_version: str
    given: frozenset[str]
    context: PlanningContext
    tasks: tuple[EvaluationTask, ...] = ()
    """Tasks of `evaluate.tasks`, and the experiment's own task if it is a file, resolved."""
    recipes: Mapping[str, RecipeFile] = field(default_factory=dict)
    """Recipes in files, by `train.recipe`."""
    labels: tuple[LabelSet, ...] = ()
    examples: tuple[ShownExample, ...] = ()
    images: Mapping[str, ImageHashes] = field(default_factory=dict)
    """Hashes of the images by `data_key`."""
    accepted: Mapping[str, dict[str, object]] = field(default_factory=dict)
    """Settings accepted for single runs, by run; already applied to `specs`."""
    started: Mapping[str, PlannedRun] = field(default_factory=dict)
    """Started runs of the old plan, by name. Their decisions and predictions are kept, so that the same work keeps
    the same plan and no prediction is made after the fact."""
    fixed_strategy: PlannedStrategy | None = None
    """Strategy of the old plan if its first decision has been taken: what it left open stays as it was decided."""
    seed_spread: SeedSpread | None = None
    """Spread of a contrast's difference between seeds by the past runs, for a strategy that states none."""
    started_slots: SlotChoice | None = None
    """Slots of the old plan if a training has started: all runs of an experiment have the same number of threads."""
    specs_by_name: Mapping[str, RunSpec] = field(init=False)

    @property
    def devices(self) -> int:
        """Data-parallel size of each training."""
        return data_parallel_size(self.experiment.compute, self.context.machine)

    def __post_init__(self) -> None:
        object.__setattr__(self, "specs_by_name", {spec.name: spec for spec in self.specs})


@functools.lru_cache(maxsize=1024)  # asked several times of each run
def data_key(data: DataConfig) -> str:
    """Return a key that is equal for runs with the same rendered training data."""
    return _DATA.dump_json(data).decode()


def build_plan(inputs: PlanInputs) -> Plan:
    """Return the plan of runs that have no fault.

    Raises InputError: the strategy cannot be carried out with these runs.
    """
    experiment = inputs.experiment
    decisions = RunResolver(inputs.context, inputs.devices)
    runs = _planned_runs(inputs, decisions)
    strategy = planned_strategy(experiment, inputs.fixed_strategy, inputs.seed_spread)
    if faults := explore_faults(strategy, runs, inputs.datasets.values()):
        raise InputError(f"{experiment.name} cannot be planned: {plural(len(faults), 'error')}", findings=faults)
    machine = inputs.context.machine
    slots = choose_slots(
        runs,
        machine,
        experiment.compute,
        decided=inputs.started_slots,
        predict=lambda run, count: decisions.gain_of_slots(_resolved_question(run, inputs), count),
    )
    if slots.count > 1:
        # Times, and the share of the memory, are those of a slot.
        inputs = replace(inputs, context=replace(inputs.context, machine=replace(machine, slots=slots.count)))
        decisions = RunResolver(inputs.context, inputs.devices)
        runs = _planned_runs(inputs, decisions)
    runs = _with_evaluations(runs, inputs)
    taking = takes_over(runs, runs_at_once(inputs.context.machine, experiment.compute.gpus))
    runs = [without_shared_validation(run) if run.name in taking and not _is_kept(run, inputs) else run for run in runs]

    def predict(group: Sequence[PlannedRun]) -> SideBySide:
        return decisions.side_by_side([_resolved_question(run, inputs) for run in group])

    cohorts, alone = plan_cohorts(
        runs,
        inputs.devices,
        experiment.compute.cohorts,
        predict,
        slots=inputs.context.machine.slots,
        starts_with=lambda run: start_of(strategy, run),
    )
    cluster = inputs.context.cluster
    cohorts = tuple(
        replace(cohort, time_limit_seconds=time_limit(cohort.train_seconds, cluster, saves=True)) for cohort in cohorts
    )
    plan = Plan(
        touchline_version=inputs.touchline_version,
        experiment=experiment.name,
        question=experiment.question,
        task=experiment.task,
        date=inputs.date,
        experiment_sha256=inputs.experiment_sha256,
        overrides=inputs.overrides,
        factors=_factors(inputs.specs),
        models={inputs.models[name].name: inputs.models[name] for name in dict.fromkeys(s.model for s in inputs.specs)},
        datasets={info.path: _with_images(info, inputs) for info in inputs.datasets.values()},
        runs=tuple(runs),
        executor=experiment.compute.executor,
        gpus_per_run=experiment.compute.gpus,
        deadline=experiment.compute.deadline,
        compute=experiment.compute,
        tasks=inputs.tasks,
        examples=inputs.examples,
        labels=inputs.labels,
        machine=inputs.context.machine,
        assumptions=assumptions(
            inputs.given - _left_open(experiment),
            runs,
            splits_made=any(not info.has_own_splits for info in inputs.datasets.values()),
        ),
        **totals(
            runs,
            inputs.context.machine,
            experiment.compute,
            shared=experiment.compute.executor == "local",
            cohorts=cohorts,
        ),
        evidence=collect_evidence(
            value for run in runs for value in (run.train_seconds, run.evaluate_seconds, run.peak_memory)
        ),
        past_runs=decisions.past_runs_used(runs),
        revisions=(),
        cohorts=cohorts,
        alone=alone,
        strategy=strategy,
        slots_reason=slots.reason,
        slots_gain=slots.gain,
    )
    likely = strategy_of(plan).likely_runs
    return plan if len(likely) == len(runs) else replace(plan, **totals_of(plan, likely))


def plan_with_spread(
    inputs: PlanInputs, spread: tuple[SpreadInput, ...] | None, past: Callable[[Plan], tuple[SpreadInput, ...]]
) -> Plan:
    """Return the plan, with the spread between seeds that was decided or that of the past runs.

    Args:
        spread: spread that was decided; None to ask the past runs.
        past: returns the spread of the past runs for a plan.

    Raises InputError: the strategy cannot be carried out with these runs.
    """
    plan = build_plan(inputs)
    spread = past(plan) if spread is None else spread
    if inputs.fixed_strategy is None:
        if (between := seed_spread_of(plan, spread, evaluated_items(plan))) is not None:
            plan = build_plan(replace(inputs, seed_spread=between))
        refuse_impossible(plan, evaluated_items(plan))
    return replace(plan, spread=spread)


def _planned_runs(inputs: PlanInputs, decisions: RunResolver) -> list[PlannedRun]:
    known: dict[str, PlannedRun] = {}
    for spec in inputs.specs:
        known[spec.name] = _planned(spec, inputs, decisions, None if spec.link is None else known.get(spec.link.parent))
    return list(known.values())


def plan_runs(inputs: PlanInputs) -> list[PlannedRun]:
    """Plan runs without the plan that they belong to, where other runs of it have errors."""
    return _with_evaluations(_planned_runs(inputs, RunResolver(inputs.context, inputs.devices)), inputs)


def _with_evaluations(runs: Sequence[PlannedRun], inputs: PlanInputs) -> list[PlannedRun]:
    datasets = {info.path: info for info in inputs.datasets.values()}
    found = {spec.name: inputs.lengths.get((spec.model, data_key(spec.data))) for spec in inputs.specs}
    known = {name: lengths for name, lengths in found.items() if lengths is not None}
    return with_evaluation_memory(runs, datasets, known, inputs.context, inputs.experiment.compute)


def _with_images(info: DatasetInfo, inputs: PlanInputs) -> DatasetInfo:
    specs = [spec for spec in inputs.specs if inputs.datasets[spec.data.file].path == info.path]
    found = [inputs.images[key] for spec in specs if (key := data_key(spec.data)) in inputs.images]
    return replace(info, image_sha256={name: sha256 for each in found for name, sha256 in each.files.items()})


def _images_of(spec: RunSpec, inputs: PlanInputs) -> dict[str, str]:
    """Return the hash of the images of each split. A run that started without them keeps its digest."""
    started = inputs.started.get(spec.name)
    found = inputs.images.get(data_key(spec.data))
    return {} if found is None or (started is not None and not started.images_sha256) else found.splits


def _left_open(experiment: Experiment) -> set[str]:
    """Return the keys whose value is `auto`, written or by default."""
    keys = {setting.key for setting in SETTINGS if setting.decided_in is not None}
    return {key for key in keys - experiment.factors.keys() if value_of(experiment, key) == "auto"}


def _planned(spec: RunSpec, inputs: PlanInputs, decisions: RunResolver, parent: PlannedRun | None) -> PlannedRun:
    """Plan one run. `parent` is its planned parent, or None if the parent has errors."""
    model, dataset = inputs.models[spec.model], inputs.datasets[spec.data.file]
    run = PlannedRun(
        name=spec.name,
        kind=spec.kind,
        model=model.name,
        dataset=dataset.path,
        data=recorded_data(spec.data, dataset),
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
        link=spec.link,
        control=spec.control,
        learning_rate_reason=spec.learning_rate_reason if spec.kind is RunKind.FINE_TUNED else None,
        no_op=replace(spec.train.lora, dtype=spec.train.lora.resolved_dtype)
        if spec.control is ControlKind.NO_OP
        else None,
        images_sha256=_images_of(spec, inputs),
        recipe=inputs.recipes.get(spec.train.recipe or ""),
        accepted=inputs.accepted.get(spec.name, {}),
        phase=spec.phase,
        digest="",
    )
    if spec.kind is RunKind.CONTROL:
        return replace(_evaluated(run, spec, inputs, decisions), digest=training_digest(run, model, dataset, None))
    spec = replace(spec, train=with_decided_dtype(spec.train, inputs.started))
    lengths = _lengths(spec, inputs)
    question = _question(spec, inputs, lengths)
    saved_rank = _saved_rank(spec, inputs.specs_by_name)
    if not spec.train.trains_all and saved_rank != spec.train.lora.rank:
        question = replace(question, saved_rank=saved_rank)
    started = inputs.started.get(spec.name)
    if started is not None:
        # What was decided for it stays decided, as long as it is still the same run.
        same = _trained(
            run, replace(question, train=_as_decided(spec.train, started)), decisions, parent, inputs.context
        )
        if same.digest == started.digest:
            kept = replace(started, evaluate=spec.evaluate, levels=spec.levels, link=spec.link, accepted=run.accepted)
            # The same data may lie elsewhere now: the digest holds its hash and not its path.
            now = replace(kept, dataset=run.dataset, data=run.data, model=run.model, recipe=run.recipe)
            reason = started.learning_rate_reason or run.learning_rate_reason
            return replace(now, control=run.control, phase=run.phase, learning_rate_reason=reason)
    return _trained(run, question, decisions, parent, inputs.context)


def _is_kept(run: PlannedRun, inputs: PlanInputs) -> bool:
    started = inputs.started.get(run.name)
    return started is not None and started.digest == run.digest


def _lengths(spec: RunSpec, inputs: PlanInputs) -> ExampleLengths:
    lengths = inputs.lengths[spec.model, data_key(spec.data)]
    lengths = shuffled_lengths(spec, lengths) if spec.control is ControlKind.SHUFFLED else lengths
    return lengths.within(spec.train.max_seq_len)


def _question(spec: RunSpec, inputs: PlanInputs, lengths: ExampleLengths) -> RunRequest:
    shuffled = f" shuffled {spec.seed}" if spec.control is ControlKind.SHUFFLED else ""
    return RunRequest(
        train=spec.train,
        evaluate=spec.evaluate,
        model=inputs.models[spec.model],
        dataset=inputs.datasets[spec.data.file],
        data=data_key(spec.data) + shuffled,
        lengths=lengths,
    )


def _resolved_question(run: PlannedRun, inputs: PlanInputs) -> RunRequest:
    spec = inputs.specs_by_name[run.name]
    assert run.train is not None
    return replace(_question(spec, inputs, _lengths(spec, inputs)), train=run.train)


def _evaluated(run: PlannedRun, spec: RunSpec, inputs: PlanInputs, decisions: RunResolver) -> PlannedRun:
    lengths = inputs.lengths.get((spec.model, data_key(spec.data)))
    if lengths is None or any(each.severity is Severity.ERROR for each in length_faults(spec, lengths)):
        return run
    lengths = lengths.within(spec.train.max_seq_len)
    question = _question(spec, inputs, lengths)
    started = inputs.started.get(spec.name)
    if started is not None:
        return replace(
            run,
            evaluate_seconds=started.evaluate_seconds,
            evaluate_startup_seconds=started.evaluate_startup_seconds,
            evaluate_limit_seconds=started.evaluate_limit_seconds,
        )
    times = decisions.decide(question, run.seed).times
    return replace(
        run,
        evaluate_seconds=times.base_evaluation,
        evaluate_startup_seconds=times.evaluation_startup,
        evaluate_limit_seconds=_evaluation_limit(times.base_evaluation, times.evaluation_startup, inputs.context),
    )


def with_decided_dtype(train: TrainConfig, started: Mapping[str, PlannedRun]) -> TrainConfig:
    """Return a training with the adapter's dtype of the started runs of its trainer, so that no run differs in it."""
    there = [run.train for run in started.values() if run.train is not None]
    dtypes = {each.lora.dtype for each in there if each.backend == train.backend}
    if train.lora.dtype != "auto" or len(dtypes) != 1:
        return train
    return replace(train, lora=replace(train.lora, dtype=dtypes.pop()))


def _as_decided(train: TrainConfig, started: PlannedRun) -> TrainConfig:
    if started.train is None:
        return train
    micro = started.train.micro_batch_size if train.micro_batch_size == "auto" else train.micro_batch_size
    packed = started.train.packed if train.packed == "auto" else train.packed
    dtype = started.train.lora.dtype if train.lora.dtype == "auto" else train.lora.dtype
    return replace(train, micro_batch_size=micro, packed=packed, lora=replace(train.lora, dtype=dtype))


def _evaluation_limit(seconds: Measured, startup: Measured, context: PlanningContext) -> Measured:
    return time_limit(sum_quantities([seconds, startup], "s"), context.cluster)


def _trained(
    run: PlannedRun, question: RunRequest, decisions: RunResolver, parent: PlannedRun | None, context: PlanningContext
) -> PlannedRun:
    decided = decisions.decide(question, run.seed)
    run = replace(
        run,
        train=decided.train,
        batches=decided.batches,
        packed_reason=decided.packed_reason,
        micro_batch_reason=decided.micro_batch.reason(decided.memory),
        train_seconds=decided.times.training,
        evaluate_seconds=decided.times.evaluation,
        evaluate_startup_seconds=decided.times.evaluation_startup,
        seconds_per_step=decided.times.step,
        time_parts=dict(decided.times.parts),
        compile_gain=decided.compile_gain,
        fast_dtype_seconds=decided.fast_dtype_seconds,
        time_limit_seconds=time_limit(decided.times.training, context.cluster, saves=True),
        evaluate_limit_seconds=_evaluation_limit(decided.times.evaluation, decided.times.evaluation_startup, context),
        memory=decided.memory,
        peak_memory=decided.memory if isinstance(decided.memory, Missing) else decided.memory.process.quantity(),
        disk=decided.disk,
        packing=decided.packing,
    )
    return replace(run, digest=training_digest(run, question.model, question.dataset, parent))


def _saved_rank(spec: RunSpec, specs: Mapping[str, RunSpec]) -> int:
    """Return the rank that a checkpoint holds: of the trained adapter, or of all adapters on the unmerged base
    model."""
    own = spec.train.lora.rank
    merged = _merged_rank(spec, specs)
    return merged + 2 * own if merged else own


def _merged_rank(spec: RunSpec, specs: Mapping[str, RunSpec]) -> int:
    """Return the rank of what was changed in the base model before a run trains on it: merged adapters, and the
    initial ones of PiSSA and OLoRA."""
    own = spec.train.lora.rank if spec.train.lora.init in ("pissa", "olora") else 0
    if spec.link is None:
        return own
    parent = specs[spec.link.parent]
    before = _merged_rank(parent, specs)
    return before + parent.train.lora.rank + own if spec.link.continue_ == "merge" else before


def _factors(specs: Sequence[RunSpec]) -> dict[str, tuple[str, ...]]:
    levels: dict[str, dict[str, None]] = {}
    for spec in specs:
        for level in spec.levels:
            levels.setdefault(level.factor, {})[level.value] = None
    return {factor: tuple(values) for factor, values in levels.items()}
