"""Training steps of SFTTrainer for the self-test, with its fused kernels where they are installed."""

from __future__ import annotations

import pkgutil

from touchline.backends.step_probe import StepProbe

_SCRIPT = pkgutil.get_data(__package__, "probe.py.txt")
assert _SCRIPT is not None, "a part of this package"
PROBE = StepProbe(packages=("trl", "datasets"), script=_SCRIPT.decode())
