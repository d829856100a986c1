"""touchline(1): every command is in it, and roff's own checker has nothing to say."""

import re
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.docs import ROOT, commands
from tools.manpage import manual_page

pytestmark = pytest.mark.planning

PAGE = ROOT / "share" / "man" / "man1" / "touchline.1"
needs_groff = pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")


def _shown(text: str) -> str:
    """A page as a terminal of 80 columns shows it; fails where roff warns of anything."""
    words = ["groff", "-man", "-ww", "-Tutf8", "-P-c", "-P-b", "-P-u"]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


@needs_groff
def test_every_command_is_shown_without_a_warning() -> None:
    shown = _shown(PAGE.read_text())
    for path, _ in commands():
        assert " ".join(("touchline", *path)) in shown
    for title in ("NAME", "SYNOPSIS", "OPTIONS", "COMMANDS", "EXIT STATUS", "FILES", "ENVIRONMENT"):
        assert re.search(rf"^{title}$", shown, re.MULTILINE)


@needs_groff
@settings(max_examples=15)
@given(st.text(st.sampled_from(".'\\-\"ab "), min_size=1, max_size=12).map(str.strip).filter(bool))
def test_help_texts_are_never_taken_for_requests(text: str) -> None:
    """Whatever a help text begins with or holds, it is shown as written."""
    (_, root), *_ = commands()
    old = root.help
    try:
        root.help = text
        shown = _shown(manual_page([((), root)], "0"))
    finally:
        root.help = old
    described = shown.partition("DESCRIPTION")[2].partition("OPTIONS")[0]
    assert " ".join(described.split()) == " ".join(text.split())
