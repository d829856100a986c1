"""Drawing program, run in a process of its own. Its library contains a browser engine that aborts if memory is short.

It reads a request from standard input, `{"script": bool, "specs": {name: Vega-Lite spec}}`, and writes JSON lines to
standard output: `{"script": text}`, then `{"name": name, "png": base64}` for each spec. Specs without a line at the end
were not drawn.
"""

from __future__ import annotations

import base64
import json
import sys


def main() -> int:
    """Draw the requested figures. Return 1 if that fails, with the reason on standard error."""
    from touchline.core.json_text import parse_json
    from touchline.report.figures import figure_script, png

    request = parse_json(sys.stdin.read())
    if request["script"]:
        _write({"script": figure_script()})
    for name, spec in request["specs"].items():
        _write({"name": name, "png": base64.b64encode(png(spec)).decode("ascii")})
    return 0


def _write(row: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
