"""The program that draws figures in a browser: Vega, Vega-Lite and vega-embed in one text, without any network."""

from __future__ import annotations

import functools

_SNIPPET = "window.vegaEmbed = vegaEmbed;"


@functools.cache
def figure_script() -> str:
    """The script, about 0.9 MB; it is put together from what vl-convert holds, which takes a few seconds.

    It may be kept: it depends on nothing but the installed version of vl-convert. To be asked for only where
    `report.pictures.figures_off()` is empty.
    """
    import vl_convert

    script: str = vl_convert.javascript_bundle(_SNIPPET)
    return script
