"""Trainer backends, with one folder per backend. No other module names them.

A folder's `backend.py` holds `BACKEND`, which plans and trains; its `format.py` holds `FORMATS`, which read and check
its configs; its `logs.py` holds what reads its logs: `READERS` of lines, `FORMS` of rows that share a loop's events,
`DOCUMENTS`, and its names in `TRAINERS`. A folder may have one of them.
"""
