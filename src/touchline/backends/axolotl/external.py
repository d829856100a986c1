"""axolotl 0.19.0 as a program: finetune.py of the run's folder, in an environment of its own."""

from __future__ import annotations

from touchline.backends.external import Environment, ExternalTrainer
from touchline.backends.hf_program import HfProgram

TRAINER: ExternalTrainer = HfProgram(
    environment=Environment(
        name="axolotl",
        python_variable="TOUCHLINE_AXOLOTL_PYTHON",
        program="python",
        packages=("torch==2.13.0", "axolotl==0.19.0"),
    )
)
