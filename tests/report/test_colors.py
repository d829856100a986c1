"""Colours: one for each setting, apart from each other on light and dark paper, seeds alike, controls grey."""

import itertools

import pytest
from tests.report.made_report import Make, fifty, made_report

from touchline.report.colors import CONTROL, SeriesColor, inks, used

pytestmark = pytest.mark.planning


def channels(colour: str) -> tuple[float, float, float]:
    """Linear red, green, blue."""
    values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return red, green, blue


def luminance(colour: str) -> float:
    """As WCAG 2 has it."""
    red, green, blue = channels(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Of two colours, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def settings(make: Make) -> list[SeriesColor]:
    """The colours of a report, without that of controls."""
    found = [ink for ink in used(inks(made_report(make))) if ink is not CONTROL]
    assert len(found) > 1, "the tests of colors would pass without any"
    return found


SMALL = Make(steps=6, items=5)


def test_runs_that_differ_in_their_seed_alone_share_a_colour() -> None:
    given = inks(made_report(SMALL))
    assert given["1B_rank4_s0"] is given["1B_rank4_s1"]
    assert given["1B_rank4_s0"] != given["1B_rank16_s0"]
    assert given["1B_base"] is CONTROL


@pytest.mark.parametrize("make", [SMALL, Make(models=1, steps=6, items=5), fifty(steps=6, items=5)])
def test_settings_have_colours_and_labels_of_their_own(make: Make) -> None:
    found = settings(make)
    for key in ("number", "label", "light", "dark"):
        assert len({getattr(ink, key) for ink in found}) == len(found)


@pytest.mark.parametrize("make", [SMALL, Make(models=1, steps=6, items=5), Make(models=5, steps=6, items=5)])
def test_colours_can_be_seen_on_their_paper(make: Make) -> None:
    for ink in [*settings(make), CONTROL]:
        assert contrast(ink.light, "#f6f8fa") > 1.8
        assert contrast(ink.dark, "#1a2028") > 2.2


def test_models_have_shapes_of_their_own_and_shades_run_one_way() -> None:
    found = settings(SMALL)
    assert len({(ink.model, ink.shape) for ink in found}) == len({ink.model for ink in found}) == 2
    for model in {ink.model for ink in found}:
        light = [luminance(ink.light) for ink in found if ink.model == model]
        dark = [luminance(ink.dark) for ink in found if ink.model == model]
        assert light == sorted(light, reverse=True)
        assert dark == sorted(dark)


def test_colour_blind_people_tell_neighbouring_settings_and_models_apart() -> None:
    """Deuteranopes see red and green as one (Viénot 1999): what is left of two colours must still differ."""

    def seen(colour: str) -> tuple[float, float]:
        red, green, blue = channels(colour)
        return 0.29275 * red + 0.70725 * green, 0.02234 * red - 0.02234 * green + blue

    for one, other in itertools.combinations(settings(SMALL), 2):
        (a, b), (c, d) = seen(one.light), seen(other.light)
        assert abs(a - c) + abs(b - d) > 0.05
