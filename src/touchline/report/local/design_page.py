"""The figure of a design as a file: a picture, or a page that needs no network."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from touchline.core.errors import HostError, InputError
from touchline.core.files import write_atomic
from touchline.core.html import notebook_html
from touchline.plan.design.answer import DesignAnswer
from touchline.report.design_figure import DESIGN_COLORS, design_figure
from touchline.report.figures import off_because
from touchline.report.local.draw_process import draw, write_picture
from touchline.report.page.embedding import colours, embedded_spec, inlined

_PAGE = Markup(
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
    '<meta name="viewport" content="width=device-width">\n<style>{style}</style>\n'
    '</head><body>\n<div class="wide"><div id="figure"></div></div>\n{body}\n<script>{script}</script>\n'
    '<script>vegaEmbed("#figure", {spec}, {{actions: false, renderer: "svg"}});</script>\n</body></html>\n'
)
_STYLE = (
    "html{background:var(--paper);color:var(--ink)}"
    "body{font-family:system-ui,sans-serif;margin:24px auto;max-width:960px;padding:0 16px}"
    ".wide{overflow-x:auto}table{border-collapse:collapse}td,th{padding:2px 10px 2px 0;text-align:left}"
)


def write_design(answer: DesignAnswer, path: Path) -> None:
    """Write the figure of a design: .png, or .html with the tables.

    Raises:
        InputError: the file has another suffix.
        HostError: there is nothing to draw, it cannot be drawn, or the file cannot be written.
    """
    figure = design_figure(answer)
    if path.suffix == ".png":
        write_picture(figure, path)
        return
    if path.suffix != ".html":
        raise InputError(f"--out {path}: unknown kind of file", expected="design.html or design.png")
    if figure.spec is None:
        raise HostError(figure.note)
    drawn = draw({}, script=True)
    if drawn.script is None:
        raise HostError(off_because(drawn.fault))
    script, _ = inlined(drawn.script, "script")
    # The figure shows what blocks of text draw.
    sections = [section for section in answer.sections() if not section.blocks]
    body = notebook_html(f"Design of {answer.experiment}", sections)
    style, _ = inlined(colours(DESIGN_COLORS) + _STYLE, "style")
    page = _PAGE.format(
        title=f"Design of {answer.experiment}",
        body=Markup(body),  # noqa: S704 (escaped where it is made)
        style=style,
        script=script,
        spec=embedded_spec(figure.spec, DESIGN_COLORS),
    )
    write_atomic(path, str(page))
