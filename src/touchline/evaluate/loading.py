"""Import of a user's Python file, only in processes that evaluate or test a task."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from touchline.evaluate.selftest_answer import TaskFailedError, failure, line_of, said


def load_file(path: Path) -> ModuleType:
    """Import a file with its folder last on the path, so that it cannot shadow other modules.

    Raises:
        TaskFailedError: it cannot be imported.
        ImportError: it needs Inspect, which is not installed.
    """
    path = path.resolve()
    os.chdir(path.parent)
    sys.path.append(str(path.parent))
    name = f"touchline_task_{path.parent.name}_{path.stem}".replace("-", "_").replace(".", "_")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TaskFailedError("import", f"{path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] == "inspect_ai" and _absent("inspect_ai"):
            raise
        raise TaskFailedError("import", said(error), line_of(error, path)) from error
    except SystemExit as error:
        raise TaskFailedError("import", f"it ends the process with {error.code!r}; guard it by __name__") from error
    except Exception as error:
        raise failure(error, path, "import") from error
    return module


def _absent(package: str) -> bool:
    return importlib.util.find_spec(package) is None
