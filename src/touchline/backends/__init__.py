"""Trainer backends, with one folder per backend. No other module names them (`tests/house/test_trainer_names.py`).

A folder's `backend.py` holds `BACKEND`, which plans and trains; its `format.py` holds `FORMATS`, which read and check
its configs; its `logs.py` holds what reads its logs: `READERS` of lines, `FORMS` of rows that share a loop's events,
`DOCUMENTS`, and its names in `TRAINERS`. `memory.py`, `batching.py` and `rendering.py` hold what it computes.
`traits.py` holds `TRAITS`, the behaviour that rules depend on; `launch.py` holds `COMMANDS`, the programs that start
it; `validator.py` holds `VALIDATOR`, its own check of configs. A folder may have one of them; `registry.py` finds them.
"""
