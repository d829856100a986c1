"""A plan put together by hand: two trainings, a stage that goes on from the first, and a control."""

from dataclasses import replace

from touchline.core.catalog import DatasetInfo, ModelInfo, SplitInfo
from touchline.core.estimate import Estimate, EvidenceLevel, MemoryEstimate, MemoryVerdict
from touchline.core.levels import Level
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.experiment.data_config import DataConfig
from touchline.experiment.experiment import ComputeConfig, EvaluateConfig
from touchline.experiment.plan import BatchSummary, Plan, PlannedRun
from touchline.experiment.runs import ParentLink, RunKind
from touchline.experiment.training import LoraConfig, TrainConfig
from touchline.experiment.value_types import Site, SlurmSite

SITE = Site(python="/opt/env/bin/python", cache_dir="/scratch/cache", models_dir="/scratch/models")
FULL_SITE = replace(
    SITE,
    slurm=SlurmSite(
        account="msalganik",
        partition="gpu",
        qos="short",
        constraint="a100&80gb",
        gpu_type="a100",
        cpus_per_run=8,
        memory_gb=64.0,
        modules=("anaconda3/2024.6", "cudatoolkit/12.4"),
        setup=("source /opt/site.sh", 'export PATH="/opt/bin:$PATH"'),
        options=("--mail-type=FAIL",),
    ),
)
"""A site that says everything."""
LIMIT = Quantity(value=5400.0, unit="s")
NO_RUNS = Missing(missing="no comparable runs")
BATCHES = BatchSummary(
    digest="b" * 64, steps=20, steps_per_epoch=10, micro_batches=20, micro_batch_size=8, gradient_accumulation_steps=1,
    global_batch_size=8, num_examples=80, real_tokens=4000, target_tokens=800, longest_example_tokens=60,
    largest_micro_batch_tokens=480,
)  # fmt: skip
MODEL = ModelInfo(
    name="Tiny-1M-Instruct", path="/scratch/models/Tiny-1M-Instruct", architecture="LlamaForCausalLM",
    model_type="llama", dtype="float32", num_parameters=1_000_000, weight_bytes=4_000_000, context_length=256,
    vocab_size=512, num_layers=2, hidden_size=64, has_chat_template=True, stop_token="<|im_end|>",
    config_sha256="c" * 64, tokenizer_sha256="e" * 64, weights_sha256="f" * 64, size_label="1M", family="Tiny",
)  # fmt: skip
DATA = DatasetInfo(
    path="/scratch/data/words.json", format="json", size_bytes=1000, sha256="a" * 64,
    splits=(SplitInfo(name="test", num_examples=24, sha256="9" * 64),), split_origin="the file's own",
)  # fmt: skip
CPU = TargetMachine(
    kind="cpu", name="AMD EPYC", memory=Quantity(value=64.0, unit="GiB", kind="process"), count=1, threads=2,
    base_dtype="float32", source="this machine",
)  # fmt: skip
GPU = replace(CPU, kind="gpu", name="NVIDIA A100-SXM4-80GB", threads=None, base_dtype="bfloat16")


def made_memory(upper: float) -> MemoryEstimate:
    of_process = Estimate(value=1.5, unit="GiB", low=1.0, high=upper, method="closed form", rung=EvidenceLevel.NOTHING)
    return MemoryEstimate(
        allocated=of_process, reserved=of_process, process=of_process, breakdown={}, capacity_gib=NO_RUNS,
        verdict=MemoryVerdict.UNKNOWN, assumption="none",
    )  # fmt: skip


def made_run(
    name: str = "1M_rank4",
    *,
    limit: Measured = LIMIT,
    link: ParentLink | None = None,
    epochs: int = 2,
    evaluate: EvaluateConfig | None = None,
) -> PlannedRun:
    return PlannedRun(
        name=name,
        kind=RunKind.FINE_TUNED,
        model=MODEL.name,
        dataset=DATA.path,
        data=DataConfig(path=DATA.path, prompt="Capitalize {input}"),
        train=TrainConfig(
            epochs=epochs, micro_batch_size=8, global_batch_size=8, packed=False, base_dtype="float32",
            learning_rate=2e-4, lora=LoraConfig(rank=4, alpha=8.0),
        ),
        evaluate=evaluate or EvaluateConfig(),
        seed=1,
        levels=(Level(factor="train.lora.rank", value="4"),),
        batches=BATCHES,
        packed_reason="short rows",
        train_seconds=Quantity(value=3600.0, unit="s", low=3000.0, high=4600.0),
        evaluate_seconds=Quantity(value=600.0, unit="s", low=500.0, high=800.0),
        peak_memory=Quantity(value=2.1, unit="GiB", low=1.8, high=2.43, kind="process"),
        disk=Quantity(value=1e7, unit="B"),
        time_limit_seconds=limit,
        evaluate_limit_seconds=Quantity(value=1200.0, unit="s"),
        link=link,
        accepted={},
        digest="1" * 64,
    )  # fmt: skip


def made_control(name: str = "1M_base") -> PlannedRun:
    return replace(
        made_run(name), kind=RunKind.CONTROL, train=None, batches=None, levels=(),
        train_seconds=Missing(missing="nothing is trained"), peak_memory=NO_RUNS, time_limit_seconds=NO_RUNS,
    )  # fmt: skip


def made_plan(*runs: PlannedRun, compute: ComputeConfig | None = None, machine: TargetMachine = CPU) -> Plan:
    """A plan of these runs; of a chain, another training and a control where none are given."""
    stage = ParentLink(stage="hard", parent="1M_rank4", continue_="adapter")
    chosen = runs or (made_run(), made_run("1M_rank64"), made_run("1M_rank4_hard", link=stage), made_control())
    compute = compute or ComputeConfig(executor="slurm")
    return Plan(
        touchline_version="0",
        experiment="cap_8L",
        question="Does rank help?",
        task="capitalization",
        date="2026-01-02",
        experiment_sha256="0" * 64,
        overrides=(),
        factors={},
        models={MODEL.name: MODEL},
        datasets={DATA.path: DATA},
        runs=chosen,
        executor=compute.executor,
        gpus_per_run=compute.gpus_per_run,
        deadline=compute.deadline,
        compute=compute,
        machine=machine,
        assumptions=(),
        gpu_hours=NO_RUNS,
        wall_seconds=NO_RUNS,
        disk=NO_RUNS,
        evidence=(),
        revisions=(),
    )
