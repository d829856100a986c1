"""Entry point of job scripts that version 0.1.0 wrote, `python -m touchline.trainer`: `touchline.train` of today."""

from __future__ import annotations

import sys

from touchline.train.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
