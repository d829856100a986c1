"""Supervise one attempt: `touchline.run.attempt` under its name in version 0.1.0."""

from __future__ import annotations

import sys

from touchline.run.attempt import main

if __name__ == "__main__":
    sys.exit(main())
