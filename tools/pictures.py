"""Pictures of the docs, taken of a finished demo's report in a headless Chromium: `make pictures`.

python tools/pictures.py touchline-demo    write docs/images again
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tools.chromium import browser

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
WIDTH = 1100
TOP_HEIGHT = 860
FINDINGS_HEIGHT = 620


def main() -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("experiment", type=Path, help="folder of the finished demo")
    page = parser.parse_args().experiment / "report.html"
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as started:
        tab = started.tab(width=WIDTH)
        tab.media(scheme="light")
        tab.open(page)
        tab.wait("document.documentElement.dataset.figures === 'drawn'")
        tab.screenshot(IMAGES / "report.png", height=TOP_HEIGHT)
        top = tab.evaluate("document.querySelector('#figure-scores').getBoundingClientRect().top + scrollY") - 20
        tab.screenshot(IMAGES / "report-findings.png", top=top, height=FINDINGS_HEIGHT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
