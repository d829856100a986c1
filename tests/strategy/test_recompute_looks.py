"""The reviewer's script docs/scripts/recompute_looks.py, on looks of the program's own functions."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from numpy.random import PCG64, Generator
from pydantic import TypeAdapter
from tests.cases import parametrize

from touchline.experiment.strategy import PlannedStrategy, StatedContrast
from touchline.run.ledger import Ledger
from touchline.statistics.conclusions import Verdict
from touchline.strategy.decisions import DecisionKind, Look, SeedPair, StrategyDecision
from touchline.strategy.evidence import Evidence, take_look

pytestmark = pytest.mark.planning

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "scripts" / "recompute_looks.py"
LOOKS = (3, 4, 6)
TRUE = {"large": 0.06, "middle": 0.03, "none": 0.0}


@pytest.fixture(scope="module")
def main() -> Callable[[str, str], int]:
    """The script's function; bounds are computed once for all tests."""
    imports = [line for line in SCRIPT.read_text().splitlines() if "import" in line]
    assert "touchline" not in " ".join(imports)
    found = runpy.run_path(str(SCRIPT))["main"]
    assert callable(found)
    return found


def write(
    folder: Path, seed: int, *, spread: float | None = 0.015, wide: float | None = None, units: int | None = None
) -> tuple[str, str]:
    """Take looks at made scores until everything is decided; write ledger.jsonl and plan.json."""
    strategy = PlannedStrategy(
        explore=None,
        contrasts=tuple(StatedContrast(name=name, level={}, against={}) for name in TRUE),
        seeds=(11, 12, 13, 14, 15, 16),
        looks=LOOKS,
        detect=0.03,
        seed_spread=spread,
    )
    rng = Generator(PCG64(seed))
    scores = {name: (0.7 + e + rng.normal(0, 0.01, 6), 0.7 + rng.normal(0, 0.01, 6)) for name, e in TRUE.items()}
    ledger, decided = Ledger(folder / "ledger.jsonl", "local"), dict[str, Verdict]()
    for number, seeds in enumerate(LOOKS):
        names = [name for name in TRUE if name not in decided]
        evidence = [
            Evidence(
                contrast=name,
                pairs=tuple(
                    SeedPair(seed=each, level=float(level), against=float(against))
                    for each, level, against in zip(strategy.seeds[:seeds], *scores[name], strict=False)
                ),
                wide_error=wide,
                units=units,
            )
            for name in names
        ]
        effect = None if spread is None else strategy.detect / spread
        results = take_look(
            evidence, LOOKS, number, decided, None if spread is None else strategy.detect, effect=effect
        )
        if not results:
            break
        decided |= {each.contrast: each.verdict for each in results if each.verdict is not Verdict.UNDECIDED}
        decision = StrategyDecision(
            kind=DecisionKind.LOOK, number=number, design="made", look=Look(seeds=seeds, contrasts=results)
        )
        ledger.record("strategy", "strategy", decision=decision)
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"strategy": json.loads(TypeAdapter(PlannedStrategy).dump_json(strategy))}))
    return str(folder / "ledger.jsonl"), str(plan)


@pytest.mark.slow
@parametrize(
    "seed, spread, wide, units",
    *((1, 0.015, None, None), (2, 0.015, None, 5), (3, None, None, None), (4, 0.015, 0.004, 3), (5, 0.015, 0.03, 99)),
)
def test_every_bound_p_value_and_verdict_is_found_again(
    tmp_path: Path,
    main: Callable[[str, str], int],
    capsys: pytest.CaptureFixture[str],
    seed: int,
    spread: float | None,
    wide: float | None,
    units: int | None,
) -> None:
    code = main(*write(tmp_path, seed, spread=spread, wide=wide, units=units))
    out = capsys.readouterr().out
    assert code == 0, out
    assert "DIFFERS" not in out


def test_made_looks_have_every_verdict(tmp_path: Path) -> None:
    verdicts = set()
    for seed in range(1, 6):
        folder = tmp_path / str(seed)
        folder.mkdir()
        ledger, _ = write(folder, seed)
        for line in Path(ledger).read_text().splitlines():
            verdicts |= {each["verdict"] for each in json.loads(line)["decision"]["look"]["contrasts"]}
    assert verdicts >= {"established", "undecided", "out of reach"}


@pytest.mark.slow
@parametrize(
    "key, change",
    ("bound", lambda value: value * 1.05),
    ("t", lambda value: value + 0.01),
    ("p_value", lambda value: value * 0.99),
    ("futility", lambda value: value + 0.5),
    ("high", lambda value: value + 0.001),
    ("corrected", lambda _: 0.9),
    ("verdict", lambda _: "established"),
    ("level", lambda value: value * 2),
)
def test_a_number_that_was_changed_is_named(
    tmp_path: Path,
    main: Callable[[str, str], int],
    capsys: pytest.CaptureFixture[str],
    key: str,
    change: Callable[[float], float | str],
) -> None:
    ledger, plan = write(tmp_path, 1)
    first, *rest = Path(ledger).read_text().splitlines()
    entry = json.loads(first)
    contrast = entry["decision"]["look"]["contrasts"][0 if key == "corrected" else -1]
    contrast[key] = change(contrast[key])
    Path(ledger).write_text("\n".join([json.dumps(entry), *rest]) + "\n")
    assert main(ledger, plan) == 1
    name = "large" if key == "corrected" else "none"
    assert f"DIFFERS look 0, {name}, {key.removesuffix('_value')}" in capsys.readouterr().out
