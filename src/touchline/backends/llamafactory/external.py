"""LLaMA-Factory 0.9.5 as a program: finetune.py of the run's folder, in an environment of its own."""

from __future__ import annotations

from touchline.backends.external import Environment, ExternalTrainer
from touchline.backends.hf_program import HfProgram

TRAINER: ExternalTrainer = HfProgram(
    environment=Environment(
        name="llamafactory",
        python_variable="TOUCHLINE_LLAMAFACTORY_PYTHON",
        program="python",
        packages=("torch==2.13.0", "llamafactory==0.9.5", "bitsandbytes==0.50.2"),
    )
)
