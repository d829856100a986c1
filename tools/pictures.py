"""Pictures of the docs, taken of a finished demo's report in a headless Chromium: `make pictures`.

python tools/pictures.py touchline-demo    write docs/images again
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tools.chromium import Tab, browser

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
WIDTH = 920
MARGIN = 12


def edge(tab: Tab, element: str, side: str) -> float:
    """Return where an element of the page begins or ends, from the top of the page, in CSS pixels."""
    return float(tab.evaluate(f"document.getElementById('{element}').getBoundingClientRect().{side} + scrollY"))


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
        findings = edge(tab, "findings", "bottom") + MARGIN
        tab.screenshot(IMAGES / "report.png", height=findings)
        top = edge(tab, "findings", "top")
        tab.screenshot(IMAGES / "report-findings.png", top=top, height=findings - top)
    return 0


if __name__ == "__main__":
    sys.exit(main())
