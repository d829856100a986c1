"""Micro-batches follow from the layout that the trainer computes, and plans with runs that cannot fit are refused."""

import shlex
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from tests.estimate.made_shapes import LLAMA_1B, LLAMA_3B, LLAMA_8B
from tests.run.made_plans import DATA, MODEL, made_plan
from tests.tiers import examples

from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import backend_names, capabilities, refused_settings
from touchline.core.catalog import Dimensions, SplitInfo
from touchline.core.estimate import MemoryEstimate, MemoryVerdict
from touchline.core.finding import Finding, Severity
from touchline.core.quantity import Missing
from touchline.experiment.expand import expand
from touchline.experiment.names import ModelLabel
from touchline.experiment.plan import PlannedRun
from touchline.experiment.read import read_experiment
from touchline.lint.local.planned_experiment import planned_findings
from touchline.plan.batch_sections import packing_section
from touchline.plan.build import PlanInputs, build_plan, data_key
from touchline.plan.context import PlanningContext
from touchline.plan.local.target import gpu_target

pytestmark = pytest.mark.planning

SHAPES = {shape.name: shape for shape in (LLAMA_1B, LLAMA_3B, LLAMA_8B)}
EXAMPLES = 1200
LONGEST = 60
TEXT = f"""\
name: fitting
models: [{LLAMA_1B.name}]
data: {{path: {DATA.path}}}
train: {{}}
compute: {{executor: slurm, gpu: A100-80GB}}
"""


def planned(overrides: Sequence[str]) -> tuple[PlannedRun, list[Finding]] | None:
    """The one run of a plan, and what is found in it. None if its trainer does not support these settings."""
    loaded = read_experiment(TEXT, "experiment.yaml", overrides)
    experiment = loaded.experiment
    (name,) = experiment.models
    shape = SHAPES[name]
    model = replace(
        MODEL,
        name=name,
        num_parameters=shape.num_parameters,
        context_length=shape.context_length,
        hidden_size=shape.hidden_size,
        dimensions=Dimensions(
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            intermediate_size=shape.intermediate_size,
            norm_eps=1e-5,
            rope_base=500_000.0,
        ),
    )
    if any(refused_settings(model, experiment.train, experiment.compute.gpus)):
        return None
    label = ModelLabel(name=name, family="Llama", size=name.rpartition("-")[2])
    specs = expand(experiment, {name: label}, loaded.document)
    generator = np.random.default_rng(8)
    answers = generator.integers(3, 12, EXAMPLES, dtype=np.uint32)
    lengths = ExampleLengths(prompt=np.full(EXAMPLES, LONGEST - 11, np.uint32), answer=answers, prefix=30)
    target = gpu_target(experiment.compute.gpu, experiment.compute.gpus)
    inputs = PlanInputs(
        experiment=experiment,
        experiment_sha256=loaded.sha256,
        overrides=loaded.overrides,
        specs=specs,
        models={name: model},
        datasets={DATA.path: replace(DATA, splits=(SplitInfo(name="train", num_examples=EXAMPLES, sha256="8" * 64),))},
        lengths={(name, data_key(spec.data)): lengths for spec in specs},
        date="2026-11-23",
        touchline_version="0",
        given=loaded.given,
        context=PlanningContext(machine=target.machine, gpu=target.gpu, shapes=SHAPES),
    )
    plan = build_plan(inputs)
    (run,) = plan.runs
    return run, planned_findings(plan.runs, plan.machine, loaded)


@st.composite
def asked(draw: st.DrawFn) -> list[str]:
    """Settings that decide about memory."""
    backend = draw(st.sampled_from(backend_names()))
    devices = draw(st.sampled_from([count for count in (1, 2, 4) if count <= capabilities()[backend].devices]))
    values = {
        "models": f"[{draw(st.sampled_from(sorted(SHAPES)))}]",
        "train.backend": backend,
        "train.packed": draw(st.sampled_from(("true", "false", "auto"))),
        "train.gradient_checkpointing": draw(st.sampled_from(("true", "false"))),
        "train.global_batch_size": devices * draw(st.sampled_from((1, 2, 4, 12))),
        "train.max_seq_len": draw(st.sampled_from((64, 512, 2048))),
        "compute.gpu": draw(st.sampled_from(("T4", "A10", "A100-40GB", "A100-80GB"))),
        "compute.gpus_per_run": devices,
    }
    if draw(st.booleans()):
        values["train.micro_batch_size"] = int(str(values["train.global_batch_size"])) // devices
    return [f"{key}={value}" for key, value in values.items()]


def shown(memory: MemoryEstimate) -> str:
    found = memory.process
    return f"{found.value:.3g} GiB ({found.low:.3g} to {found.high:.3g})"


@settings(max_examples=examples(12), deadline=None, suppress_health_check=list(HealthCheck))
@given(asked())
def test_no_accepted_plan_has_a_run_that_is_out_of_memory(overrides: list[str]) -> None:
    found = planned(overrides)
    if found is None:
        event("not supported")
        return
    run, findings = found
    if isinstance(run.memory, Missing) or run.train is None:
        event("memory unknown")
        return
    memory, errors = run.memory, [each for each in findings if each.severity is Severity.ERROR]
    event(memory.verdict.value)
    assert bool(errors) == (memory.verdict is MemoryVerdict.OOM)
    assert bool(findings) == (memory.verdict is not MemoryVerdict.FITS)
    reason = run.micro_batch_reason or ""
    quoted = f"at most {memory.process.high:.3g} GiB" if memory.verdict is MemoryVerdict.FITS else shown(memory)
    assert quoted in reason
    for each in findings:
        assert shown(memory) in each.message
    if memory.verdict is not MemoryVerdict.FITS and "train.micro_batch_size" not in " ".join(overrides):
        assert run.train.micro_batch_size == 1, "auto chose what does not surely fit"
    if memory.remedies:
        remedy = memory.remedies[len(overrides[0]) % len(memory.remedies)]
        event("a remedy is typed")
        typed = planned([*overrides, *shlex.split(remedy)])
        assert (typed[0].memory.verdict, typed[1]) == (MemoryVerdict.FITS, []), remedy


@pytest.mark.parametrize(
    ("backend", "packed", "micro", "tokens"),
    [
        ("torchtune", "true", 2, 2 * 2048),
        ("torchtune", "false", 16, 16 * LONGEST),
        ("llamafactory", "true", 2, 2 * 2048),
        ("peft", "true", 16, None),
    ],
)
def test_auto_counts_the_tokens_that_the_trainer_computes(
    backend: str, packed: str, micro: int, tokens: int | None
) -> None:
    found = planned([f"train.backend={backend}", f"train.packed={packed}", "train.global_batch_size=16"])
    assert found is not None
    (run, findings) = found
    assert findings == []
    assert run.batches is not None
    assert run.train.micro_batch_size == micro
    assert tokens is None or run.batches.largest_micro_batch_tokens == tokens
    assert (run.packing.packed.micro_batch_size, run.packing.unpacked.micro_batch_size) == (
        micro if packed == "true" else 2,
        16,
    )


def test_fewer_computed_tokens_than_rows_times_length_have_their_reason_next_to_them() -> None:
    found = planned(["train.backend=peft"])
    assert any("computed once per sequence" in line for line in packing_section(made_plan(found[0])).lines)
