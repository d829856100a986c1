"""One folder a backend; nothing else names them.

A folder's `backend.py` holds `BACKEND`, which plans and trains; its `logs.py` holds `READERS` and `DOCUMENTS`, which
read what that trainer prints and writes; its `format.py` holds `FORMATS`, which read and check its configs. A
folder may have one of them.
"""
