"""Train a run: `touchline.train` under its name in version 0.1.0."""

from __future__ import annotations

import sys

from touchline.train.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
