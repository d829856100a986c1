"""Host memory of a job whose weights end on GPUs: each of its processes reads the whole model first."""

from __future__ import annotations

from touchline.core.estimate import Estimate, EvidenceLevel
from touchline.core.units import GIB
from touchline.estimate.coefficients_memory import HOST_PROCESS_BYTES, HOST_SPREAD, HOST_WORKER_BYTES


def host_memory(weights_bytes: float, *, processes: int = 1, workers: int = 0, saved_bytes: float = 0.0) -> Estimate:
    """Estimate the host memory of a job.

    Args:
        weights_bytes: weights of the model, in the dtype in which they are read.
        processes: processes of the job, each of which reads all weights.
        workers: data workers of each process.
        saved_bytes: what one process gathers to save it, beyond an adapter.
    """
    each = weights_bytes + HOST_PROCESS_BYTES + workers * HOST_WORKER_BYTES
    value = (processes * each + saved_bytes) / GIB
    return Estimate(
        value=value,
        unit="GiB",
        low=value / HOST_SPREAD,
        high=value * HOST_SPREAD,
        method="loading the weights in each process" if processes > 1 else "loading the weights",
        rung=EvidenceLevel.NOTHING,
        aggregation="peak",
    )
