"""Types of values in files that users write, checked when a file is read; and the cluster settings of their config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Lt, MinLen

Quantization = Literal["none", "nf4", "int8"]
"""Stored form: its own dtype, 4-bit NormalFloat, or 8-bit integers (LLM.int8)."""


def bitsandbytes_settings(quantization: Quantization, compute_dtype: str) -> dict[str, object] | None:
    """Return the arguments of transformers' BitsAndBytesConfig; None if the base keeps its dtype.

    Args:
        quantization: stored form.
        compute_dtype: dtype in which 4-bit matrices are multiplied.
    """
    if quantization == "none":
        return None
    if quantization == "int8":
        return {"load_in_8bit": True}
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": compute_dtype,
    }


PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
Fraction = Annotated[float, Gt(0), Lt(1)]
Text = Annotated[str, MinLen(1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmSite:
    """Key `slurm` of the user's config file. An experiment's `compute` takes precedence."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    account: Text | None = None
    """`--account`."""
    partition: Text | None = None
    """`--partition`."""
    qos: Text | None = None
    """`--qos`."""
    constraint: Text | None = None
    """`--constraint`, which nodes: `a100&80gb`."""
    gpu_type: Text | None = None
    """GPU type: `a100` requests `--gpus=a100:1` (default: the planned one, where sinfo lists it)."""
    cpus_per_run: PositiveInt | None = None
    """`--cpus-per-task` (default: from processes and data workers)."""
    memory_gb: PositiveFloat | None = None
    """`--mem` of the host, in GiB (default: from the estimate, on GPUs from the weights that each process reads)."""
    modules: tuple[Text, ...] = ()
    """Environment modules to load, `module load` each."""
    setup: tuple[Text, ...] = ()
    """Shell lines before the work, `source /opt/env.sh`, copied into the scripts."""
    python: Text | None = None
    """Python interpreter on the compute nodes, if it is not the one that runs touchline."""
    options: tuple[Text, ...] = ()
    """Further options, as written after `#SBATCH `: `--mail-type=FAIL`."""
    signal_seconds: PositiveInt = 120
    """Time before the time limit at which a job saves its state and requeues."""
    max_restarts: Annotated[int, Ge(0)] = 20
    """Maximum number of requeues of a job at its time limit, as long as it makes progress."""
    max_submitted: PositiveInt | None = None
    """Maximum number of your jobs in the queue at once. The others are submitted as those end."""
    poll_seconds: PositiveFloat = 30.0
    """Interval between two queries of the queue."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Machine facts that the scripts need."""

    python: str
    """The interpreter that has touchline, absolute."""
    slurm: SlurmSite = SlurmSite()
    cache_dir: str | None = None
    """The folder of caches that runs share; none: as the user's environment says."""
    models_dir: str | None = None
