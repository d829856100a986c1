"""Browser drawing program: Vega, Vega-Lite and vega-embed in one text, without network access."""

from __future__ import annotations

import functools

_SNIPPET = "window.vegaEmbed = vegaEmbed;"


@functools.cache
def figure_script() -> str:
    """Return the script, about 0.9 MB. Building it from vl-convert's bundle takes a few seconds.

    It can be cached, since it depends only on the installed version of vl-convert. Call it only if
    `report.pictures.figures_off()` is empty.
    """
    import vl_convert

    script: str = vl_convert.javascript_bundle(_SNIPPET)
    return script
