"""Simulation of a training step in a separate process, because it loads torch and may crash."""

from __future__ import annotations

import os
import subprocess
import sys

from pydantic import TypeAdapter, ValidationError

from touchline.backends.memory import MemoryCoefficients
from touchline.core.estimate import MicroBatch, TrainingSetup
from touchline.core.json_text import parse_json
from touchline.core.quantity import Missing
from touchline.estimate.parts import tokens_with_logits
from touchline.estimate.simulation import SimulatedLoop, SimulationRequest, SimulationResult

TIMEOUT = 120.0
"""Seconds after which a simulation is stopped. A 3B model takes about ten on a busy CPU."""
_REQUEST = TypeAdapter(SimulationRequest)
_RESULT = TypeAdapter(SimulationResult)
_CHUNKED_BELOW = 10.0
"""Bytes per token and vocabulary entry below which a trainer computes its loss in chunks."""


def request_for(
    setup: TrainingSetup,
    batch: MicroBatch,
    coefficients: MemoryCoefficients,
    config: dict[str, object] | None = None,
) -> SimulationRequest | Missing:
    """Return the simulation request for a trainer with these coefficients, if its code can be simulated."""
    if setup.method == "qlora":
        return Missing(missing="4-bit kernels cannot be simulated")
    if setup.int8_base or setup.variant != "lora":
        return Missing(missing="only LoRA on a base in its own dtype can be simulated")
    if "8bit" in setup.optimizer_family or "adam" not in setup.optimizer_family:
        return Missing(missing="only AdamW's states can be simulated")
    if setup.compiled or coefficients.fused_layers:
        return Missing(missing="the trainer's own kernels cannot be simulated")
    if setup.loss == "fused" or (setup.loss is None and coefficients.vocab_bytes < 1):
        return Missing(missing="a fused loss cannot be simulated")
    chunked = setup.loss == "chunked" or (setup.loss is None and coefficients.vocab_bytes < _CHUNKED_BELOW)
    loop: SimulatedLoop = "chunked" if chunked else "trainer"
    label_chunk = None
    if coefficients.logits_of == "label":
        loop = "labels"
        at_once = tokens_with_logits(setup, batch, coefficients)
        label_chunk = at_once if at_once < batch.label_tokens else None
    return SimulationRequest(
        setup=setup,
        batch=batch,
        loop=loop,
        label_chunk=label_chunk,
        float32_adapters=coefficients.float32_adapters,
        expands_kv=coefficients.expands_kv,
        config=config,
    )


def simulate(request: SimulationRequest, *, timeout: float = TIMEOUT) -> SimulationResult | Missing:
    """Return live bytes of a simulated step; missing if torch is not installed, it fails or times out."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "touchline.train.simulate"],
            input=_REQUEST.dump_json(request),
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"},
        )
    except subprocess.TimeoutExpired:
        return Missing(missing=f"the simulation took longer than {timeout:.0f} s")
    except OSError as error:
        return Missing(missing=f"the simulation could not be started: {error}")
    line = done.stdout.decode(errors="replace").strip().splitlines()[-1:] or [""]
    try:
        answer = parse_json(line[0])
        if isinstance(answer, dict) and "missing" in answer:
            return Missing(missing=f"not simulated: {answer['missing']}")
        return _RESULT.validate_python(answer)
    except (ValueError, ValidationError):
        words = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        return Missing(missing=f"the simulation failed with status {done.returncode}: {words[0][:200]}")
