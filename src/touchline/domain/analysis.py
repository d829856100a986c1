"""What the evaluations show and what they do not: comparisons on the same items, effects of factors, and their limits.

Two questions are kept apart. Items answer for checkpoints: "is this checkpoint better than its control?". Training
seeds answer for settings: "does rank 64 do better than rank 4?". With one seed a setting's effect cannot be told from
that of the seed, and the analysis says so instead of answering.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from touchline.domain.quantity import Measured
from touchline.domain.results import Difference, Proportion
from touchline.domain.runs import Level


class Shown(StrEnum):
    """What a test allows to be said."""

    HIGHER = "higher"
    LOWER = "lower"
    NOT_ESTABLISHED = "not established"
    NOT_TESTABLE = "not testable"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredRun:
    """What statistics need of one evaluated checkpoint."""

    name: str
    """The run."""
    model: str
    """Its base model; runs are compared with the control of their own base."""
    dataset: str
    """Its dataset's path or name."""
    is_control: bool
    """Whether it is the base model itself, untrained."""
    in_family: bool
    """Whether its comparison with its control is one of those that the experiment declared: fine-tuned runs are, a
    no-op adapter and shuffled labels are not."""
    levels: tuple[Level, ...]
    """Its level of each factor that varies."""
    seed: int
    """Its training seed."""
    checkpoint: str
    """What was evaluated: `epoch_2`, `base`."""
    comparable: str
    """Hash of the items and of all settings of the evaluation; only equal ones are compared."""
    data: str = ""
    """Hash of the items' texts alone: levels of a factor that changes the evaluation itself are compared on them."""
    items: tuple[str, ...]
    """The items' ids, in order, each once."""
    scores: tuple[float, ...]
    """The score of each item, 0 to 1 where it is right or wrong; a mean over its repeats where there are several."""
    clusters: tuple[str, ...] | None = None
    """What items share (source document, template); none where they stand alone."""
    best_of: int = 1
    """Of how many evaluated checkpoints of the run this one was picked by its score on these same items; 1 when it was
    not picked by them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunScore:
    """One run's own score."""

    run: str
    """The run."""
    value: float
    """Mean over the items."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    items: int
    """How many items."""
    coverage: float = 0.95
    """How often such intervals hold the truth."""
    method: str = "Wilson"
    """How the interval was computed."""
    proportion: Proportion | None = None
    """k of n, where every score is right or wrong."""
    saturated: bool = False
    """Whether it is so near the top that a better run could hardly show it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A run against its control on the same items."""

    run: str
    """The run."""
    difference: Difference
    """What was found; for scores that are not right or wrong `gained` and `lost` count items that rose and fell."""
    shown: Shown
    """What may be said, by the adjusted p value."""
    smallest: Measured
    """The smallest difference that so many items, flipping as often as these did, would have shown at 80 % power."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Two runs that are not compared."""

    run: str
    """The run."""
    other: str
    """Its control."""
    reason: str
    """Why, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedScore:
    """One point of an effect's picture: one run's score at one level."""

    run: str
    """The run."""
    level: str
    """Its level of the factor, as text."""
    group: str
    """Its base model, and what else the picture keeps apart."""
    seed: int
    """Its training seed."""
    score: float
    """Mean over the items."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Two levels of a factor, everything else averaged over."""

    factor: str
    """The dotted key, `train.lora.rank`."""
    level: str
    """The level that is asked about."""
    reference: str
    """The level it is held against: the first one in the design."""
    value: float | None
    """Mean score at `level` minus that at `reference`, over the conditions that have both; none when there are none."""
    low: float | None
    """Lower end of the interval over training seeds; none with fewer than two seeds."""
    high: float | None
    """Upper end."""
    p_value: float | None
    """Two-sided, over training seeds; none with fewer than two."""
    p_adjusted: float | None
    """After Holm over all contrasts of the experiment."""
    seeds: int
    """Training seeds at each of the two levels, the same ones."""
    strata: int
    """Conditions of the other factors that were averaged over."""
    items_low: float | None
    """Lower end of an interval over the items alone: it holds for these checkpoints and not for the setting."""
    items_high: float | None
    """Upper end."""
    crossed_low: float | None = None
    """Lower end of a bootstrap interval over seeds and items together; none with fewer than three seeds."""
    crossed_high: float | None = None
    """Upper end."""
    shown: Shown
    """What may be said of the setting."""
    reason: str
    """Why no more may be said: `one seed: describes these checkpoints, not the setting`; empty when it is shown."""
    smallest: Measured
    """The smallest effect that so many seeds, spread as these are, would have shown at 80 % power."""
    coverage: float = 0.95
    """How often such intervals hold the truth."""
    method: str = "t over seed means"
    """How the interval was computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FactorEffect:
    """A factor: its levels, every seed as a point, and the contrasts with its first level."""

    factor: str
    """The dotted key."""
    levels: tuple[str, ...]
    """In the design's order."""
    points: tuple[SeedScore, ...]
    """Every evaluated run."""
    contrasts: tuple[Contrast, ...]
    """Each later level against the first."""
    confounded_with: tuple[str, ...] = ()
    """Other factors or settings that change together with it, so that the effect is theirs as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """All that is concluded from one score of one task."""

    task: str
    """The task."""
    score: str
    """The score, `exact match`."""
    binary: bool
    """Whether every item is right or wrong."""
    scores: tuple[RunScore, ...]
    """Each evaluated run, controls too."""
    comparisons: tuple[Comparison, ...]
    """Runs against their controls; p values are adjusted over those of the declared family."""
    family: int
    """How many comparisons were declared."""
    refusals: tuple[Refusal, ...]
    """What is not compared, and why."""
    effects: tuple[FactorEffect, ...]
    """Factors with two levels or more among the evaluated runs."""
    notes: tuple[str, ...]
    """What a reader must know: selection on the test items, saturation, clusters, unequal seeds."""
    checkpoints: dict[str, str]
    """Which checkpoint each run was scored at."""
