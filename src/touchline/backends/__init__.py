"""Trainer backends, with one folder per backend. No other module names them (`tests/house/test_trainer_names.py`).

A folder's `__init__.py` holds facts: `TRAITS`, the behaviour that rules depend on, `COMMANDS`, the programs that start
it, and `MEMORY`. Its `backend.py` holds `BACKEND`, which plans and trains, and `TRAINER` if it is a program of an
environment of its own; its `format.py` holds the table of its keys, `FORMATS`, which read and check its configs, and
`IMPORTS`; its `logs.py` holds what reads its logs: `READERS` of lines, `FORMS` of rows that share a loop's events,
`DOCUMENTS`, and its names in `TRAINERS`. `data.py` holds `training_row` and `BATCHING`, `checks.py` its
own check of configs, `VALIDATOR`. A folder may have one of them; `registry.py` finds them.
"""
