"""Conclusions from evaluations: comparisons on the same items, factor effects, their limits, and sentences about them.

Two questions are kept apart. Items answer for checkpoints: "is this checkpoint better than its control?". Training
seeds answer for settings: "does rank 64 do better than rank 4?". With one seed a setting's effect cannot be separated
from that of the seed, and the analysis says so instead of answering.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from touchline.core.finding import Note
from touchline.core.levels import Level
from touchline.core.quantity import Measured


class Conclusion(StrEnum):
    """Conclusion of a test."""

    HIGHER = "higher"
    LOWER = "lower"
    NOT_ESTABLISHED = "not established"
    NOT_TESTABLE = "not testable"

    @property
    def words(self) -> str:
        """Conclusion shown to the reader; an untestable difference is not established."""
        return Conclusion.NOT_ESTABLISHED.value if self is Conclusion.NOT_TESTABLE else self.value


class Verdict(StrEnum):
    """State of a contrast after a look."""

    ESTABLISHED = "established"
    """The level scores higher."""
    OUT_OF_REACH = "out of reach"
    """Given up before the last look: t is too low for the promised difference; this is not "no difference"."""
    UNDECIDED = "undecided"
    """Tested again at the next look."""
    NOT_ESTABLISHED = "not established"
    """The last look was taken, and nothing was shown; this is not "no difference"."""


class SeedTestKind(StrEnum):
    """The test over training seeds; the design fixes which one."""

    PAIRED = "paired t-test"
    """The same seeds trained both levels: `scipy.stats.ttest_rel`."""
    WELCH = "Welch's t-test"
    """The levels have no seed in common: `scipy.stats.ttest_ind(equal_var=False)`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredRun:
    """Scores and settings of one evaluated checkpoint."""

    name: str
    model: str
    dataset: str
    is_control: bool
    """Whether it is the base model itself, untrained."""
    in_family: bool
    """Whether its comparison with its control is one of those that the experiment declared: fine-tuned runs are, a
    no-op adapter and shuffled labels are not."""
    levels: tuple[Level, ...]
    seed: int
    checkpoint: str
    comparable: str
    """Hash of the items and of all settings of the evaluation; only equal ones are compared."""
    data: str = ""
    """Hash of the items' texts alone: levels of a factor that changes the evaluation itself are compared on them."""
    items: tuple[str, ...]
    scores: tuple[float, ...]
    """The score of each item, 0 to 1 where it is right or wrong; a mean over its repeats where there are several."""
    clusters: tuple[str, ...] | None = None
    """What items share (source document, template); None if they stand alone."""
    best_of: int = 1
    """Of how many evaluated checkpoints of the run this one was picked by its score on these same items; 1 when it was
    not picked by them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunScore:
    """Score of one run."""

    run: str
    """The run."""
    value: float
    """Mean over the items."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    items: int
    """Number of items."""
    coverage: float = 0.95
    """Nominal coverage of the interval."""
    method: str = "Wilson"
    """Method of the interval."""
    proportion: Proportion | None = None
    """k of n, where every score is right or wrong."""
    saturated: bool = False
    """Whether it is so near the top that a better run could hardly show it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A run against its control on the same items."""

    run: str
    """The run."""
    difference: ScoreDifference
    """Difference; for scores that are not binary, `gained` and `lost` count items that rose and fell."""
    shown: Conclusion
    """Conclusion by the adjusted p value."""
    smallest: Measured
    """The smallest difference that so many items, flipping as often as these did, would have shown at 80% power."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Two runs that are not compared."""

    run: str
    """The run."""
    other: str
    """Its control."""
    reason: str
    """Reason, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedScore:
    """Point of an effect's figure: one run's score at one level."""

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
class SeedTest:
    """A t-test over the seeds' means of two levels: the means, and what scipy gives for them."""

    kind: SeedTestKind
    """Test."""
    seeds: tuple[int, ...]
    """Training seeds at the level; for the paired test those of both."""
    reference_seeds: tuple[int, ...]
    """Training seeds at the reference."""
    means: tuple[float, ...]
    """Mean score of each seed at the level, over items and conditions."""
    reference_means: tuple[float, ...]
    """The same at the reference."""
    statistic: float | None
    """Student's t; None if the seeds do not differ, for which the test is not defined."""
    freedom: float | None
    """Degrees of freedom; None if the test is not defined."""
    error: float
    """Standard error of the difference of the means; 0 where the seeds do not differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WithItems:
    """The same test with the variation between items in its standard error, which can only widen it."""

    error: float
    """Standard error: the larger of the seeds' and that of discordant items, plus what other items would change."""
    freedom: float
    """Degrees of freedom: those over seeds, or `units` less 1 if that is smaller."""
    units: int
    """Independent items or clusters; fewer than six establish nothing."""
    p_value: float
    """Two-sided."""
    p_adjusted: float
    """After Holm over the same family."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Two levels of a factor, everything else averaged over."""

    factor: str
    """The dotted key, `train.lora.rank`."""
    level: str
    """Level that is compared."""
    reference: str
    """The level it is compared with: the first one in the design."""
    value: float | None
    """Mean score at `level` minus that at `reference`, over the conditions that have both; none when there are none."""
    low: float | None
    """Lower end of the interval of `test`; none with fewer than two seeds, or where the test is not defined."""
    high: float | None
    """Upper end."""
    p_value: float | None
    """Two-sided p value of `test`; None without an interval."""
    p_adjusted: float | None
    """p value after Holm over the family; None without a p value."""
    test: SeedTest | None = None
    """The test over training seeds; none with fewer than two."""
    with_items: WithItems | None = None
    """The test with the variation between items; a claim needs both. None with fewer than two seeds."""
    seeds: int
    """Training seeds at each of the two levels; where they differ, the fewer."""
    strata: int
    """Conditions of the other factors that were averaged over."""
    items_low: float | None
    """Lower end of an interval over the items alone: it holds for these checkpoints and not for the setting."""
    items_high: float | None
    """Upper end."""
    shown: Conclusion
    """Conclusion on the setting."""
    reason: str
    """Why no more may be said: `one seed: describes these checkpoints, not the setting`; empty when it is shown."""
    smallest: Measured
    """Minimum detectable difference: what so many seeds, spread as these are, would have shown at 80% power."""
    coverage: float = 0.95
    """Nominal coverage of the interval."""

    @property
    def is_shown(self) -> bool:
        """Return True if a difference is established."""
        return self.shown in (Conclusion.HIGHER, Conclusion.LOWER)


@dataclass(frozen=True, kw_only=True, slots=True)
class Interaction:
    """The effect of one factor at two levels of another: whether it differs between them."""

    factor: str
    """The factor whose effect it is."""
    other_factor: str
    """The factor at whose levels the effect is compared."""
    other_level: str
    """One level of the other factor."""
    other_reference: str
    """The other factor's first level."""
    effect: float
    """Effect at `other_level`: mean score at the contrast's level minus that at its reference."""
    other_effect: float
    """The same at `other_reference`."""
    difference: Contrast
    """Difference of the two effects, tested over the seeds' effects."""


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
    tied: tuple[str, ...] = ()
    """Other factors whose levels change with it one for one by design, as `pairs` writes it: the effect is that of the
    pair, the levels above are those of `factor`, and the others have no effect of their own."""
    tied_levels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Levels of each tied factor, in the order of `levels`."""
    confounded_with: tuple[str, ...] = ()
    """Other factors or settings that change together with it, so that the effect is theirs as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """All that is concluded from one score of one task."""

    task: str
    """The task."""
    score: str
    """The score, `exact match`."""
    test_set: str | None = None
    """Name of the test set, where the experiment names several. Claims are made on the first; the p values of all
    others are one family."""
    family_sets: tuple[str, ...] = ()
    """Further test sets whose p values are adjusted together, this one included; empty for every other analysis."""
    binary: bool
    """Whether every item is right or wrong."""
    scores: tuple[RunScore, ...]
    """Each evaluated run, controls too."""
    comparisons: tuple[Comparison, ...]
    """Runs against their controls; p values are adjusted over those of the declared family."""
    family: int
    """Number of declared comparisons, of all further test sets together."""
    refusals: tuple[Refusal, ...]
    """Pairs that are not compared, with reasons."""
    effects: tuple[FactorEffect, ...]
    """Factors with two levels or more among the evaluated runs; their contrasts are one family."""
    effects_family: int = 0
    """Number of tested contrasts: the family of Holm's adjustment."""
    interactions: tuple[Interaction, ...] = ()
    """Effects that were compared between the levels of another factor; a family of their own."""
    interactions_family: int = 0
    """Number of tested ones."""
    notes: tuple[Note, ...]
    """Selection on the test items, saturation, clusters, unequal seeds; strings in JSON."""
    checkpoints: dict[str, str]
    """Scored checkpoint of each run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proportion:
    """k of n, with an interval."""

    k: int
    """Number."""
    n: int
    """Out of how many."""
    low: float
    """Lower end of the interval, 0 to 1."""
    high: float
    """Upper end of the interval, 0 to 1."""
    coverage: float = 0.95
    """Nominal coverage of the interval."""
    method: str = "Wilson"
    """Method of the interval."""

    @property
    def value(self) -> float:
        """The share itself, 0 to 1."""
        return self.k / self.n


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreDifference:
    """A run against its control on the same items."""

    value: float
    """Difference of the shares, -1 to 1."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    gained: int
    """Items right in the run and wrong in the control."""
    lost: int
    """Items wrong in the run and right in the control."""
    p_value: float
    """Exact McNemar test, two-sided."""
    p_adjusted: float
    """The same after Holm over the family of all runs against their controls."""
    control: str
    """The control's name."""
    coverage: float = 0.95
    """Nominal coverage of the interval."""
    method: str = "Newcombe, paired"
    """Method of the interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """Computed sentence, with its numbers and their source files."""

    topic: str
    """Heading of the sentence: `Against the control`, `train.lora.rank`, `Training efficiency`."""
    text: str
    """Sentence with its numbers and intervals; `not established` if that is the result."""
    shown: Conclusion | None = None
    """Conclusion of the test; None without a test."""
    where: tuple[str, ...] = ()
    """Source files of the numbers, relative to the experiment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NextStep:
    """Recommended action, computed."""

    title: str
    """Short title: `Try rank 16`."""
    why: str
    """Numbers that justify it."""
    command: str | None = None
    """Command that does it, if there is one."""
