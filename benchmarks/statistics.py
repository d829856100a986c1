"""Coverage, false claims and power of the report's statistics, by simulation: `simulations.py` has all of it.

    python benchmarks/statistics.py [--quick] [--seed 1] [--only "null sweeps"] [--json]

A module of the standard library has the same name, and Python looks into a script's own folder first: the standard one
is loaded here by its path, for this script and for every other benchmark that asks for `statistics`.
"""

import importlib.util
import sys
import sysconfig
from pathlib import Path

_spec = importlib.util.spec_from_file_location("statistics", Path(sysconfig.get_path("stdlib"), "statistics.py"))
assert _spec is not None
assert _spec.loader is not None
sys.modules["statistics"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules["statistics"])

if __name__ == "__main__":
    from simulations import main

    sys.exit(main())
