"""Rules on the intervals of saving, validation and logging against the steps of a training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from touchline.checks.arithmetic import HF_LOOP, arithmetic, most
from touchline.checks.rule import Fault, rule
from touchline.checks.views import TrainingView
from touchline.domain.finding import Severity
from touchline.domain.quantity import Missing
from touchline.domain.stated import Stated, StatedTraining

OFTEN: Final = 100
"""Steps from which a validation after every one of them is no mere try-out."""
ROUND: Final = 5
"""Multiples of this are numbers that somebody chose."""
FORWARD_SHARE: Final = 3
"""A training pass costs about three forward passes, a validation one."""


_FAR = 5
"""So many times the training's length an interval was not chosen for it."""
_NEVER: Final = 100_000
_MANY_EPOCHS: Final = 5
"""Epochs from which learning by heart is likely."""
_MANY_WRITTEN: Final = 10
"""The same where each epoch's checkpoint is written, and may be evaluated afterwards."""
_TRY_OUT: Final = 50
"""Steps below which a training is a mere try-out."""


def _written(value: Stated[float] | None) -> bool:
    return value is not None and not value.is_default


@rule("TR015", Severity.INFO)
def saves_at_the_end_only(view: TrainingView) -> Iterator[Fault]:
    """The interval of saving is longer than the training.

    Why: a job that is killed on the way leaves nothing to go on from, and there is one checkpoint to choose from.

    Fix: a shorter interval, or saving at each epoch's end.

    Bad: llamafactory
        save_steps: 500
        max_steps: 100

    Good: llamafactory
        save_steps: 50
        max_steps: 100
    """
    stated, numbers = view.stated, arithmetic(view)
    every, high = numbers.interval(stated.save_steps), most(numbers.steps)
    at_steps = stated.save_cadence is None or stated.save_cadence.value == "steps"
    if every is not None and high and at_steps and every > high:
        meant = _written(stated.save_steps) and _FAR * high < every < _NEVER
        yield Fault(
            message=f"a checkpoint every {every:,} steps, and the training has {numbers.steps}: only its end is saved",
            at=stated.save_steps,
            # A default that is too long is nobody's intention, one beyond all trainings is how people write `never`,
            # and a try-out of some steps needs no checkpoint.
            severity=Severity.WARNING if meant and high >= _TRY_OUT else None,
        )


@rule("TR016", Severity.WARNING)
def validation_beyond_the_end(view: TrainingView) -> Iterator[Fault]:
    """The interval of validation is longer than the training.

    Why: while it trains no validation loss is seen; recent versions of transformers validate once at the end, older
    ones and torchtune never.

    Fix: a shorter interval, or validation at each epoch's end.

    Bad: llamafactory
        val_size: 0.1
        eval_strategy: steps
        eval_steps: 500
        max_steps: 100

    Good: llamafactory
        val_size: 0.1
        eval_strategy: steps
        eval_steps: 50
        max_steps: 100
    """
    stated, numbers = view.stated, arithmetic(view)
    every, high = numbers.interval(stated.eval_steps), most(numbers.steps)
    if every is None or not high or every <= high or not _validates_by_steps(stated):
        return
    if stated.backend == "peft":
        message = f"validation every {every:,} steps, and the training has {numbers.steps}: only epochs' ends are seen"
        yield Fault(message=message, at=stated.eval_steps)
        return
    limited = stated.backend in HF_LOOP
    yield Fault(
        message=(
            f"validation every {every:,} steps, and the training has {numbers.steps}: "
            + ("it runs at the very end, or never" if limited else "it never runs")
        ),
        at=stated.eval_steps,
        hint=f"at most {max(high // 4, 1)}, for four looks",
        severity=Severity.INFO if stated.eval_steps is not None and stated.eval_steps.is_default else None,
    )


@rule("TR017", Severity.WARNING)
def interval_counts_accumulation_twice(view: TrainingView) -> Iterator[Fault]:
    """An interval of saving or validation that looks like one epoch, divided by the accumulation once too often.

    Why: one epoch is rows / (micro-batch × accumulation × devices) steps. Divided once more, "one epoch" is a fraction
    of it, and validations and checkpoints cost that many times as much: one project spent over an hour of a six-hour
    job on them.

    Fix: count an epoch's steps with the batch as it is, or let the trainer do it (`epoch` as the strategy).

    Bad: torchtune
        dataset:
          split: train[:1341]
        batch_size: 4
        gradient_accumulation_steps: 4
        dataset_val:
          _component_: torchtune.datasets.instruct_dataset
          source: json
          data_files: data/validation.json
        run_val_every_n_steps: 21

    Good: torchtune
        dataset:
          split: train[:1341]
        batch_size: 4
        gradient_accumulation_steps: 4
        dataset_val:
          _component_: torchtune.datasets.instruct_dataset
          source: json
          data_files: data/validation.json
        run_val_every_n_steps: 84
    """
    stated, numbers = view.stated, arithmetic(view)
    accumulation = stated.gradient_accumulation_steps
    per_epoch, rows, per_step = numbers.steps_per_epoch, numbers.rows, numbers.rows_per_step
    if accumulation is None or accumulation.value < 2 or isinstance(per_epoch, Missing) or per_epoch.high is None:
        return
    if isinstance(rows, Missing) or isinstance(per_step, Missing) or rows.high is None or stated.backend == "peft":
        return
    if rows.exact is None and stated.max_examples is not None:
        # The most that may be taken says less of how many there are than a slice does.
        return
    twice = rows.high / (per_step.low * accumulation.value)
    for each, name in ((stated.eval_steps, "validation"), (stated.save_steps, "a checkpoint")):
        every = numbers.interval(each)
        if each is None or each.is_default or every is None or every < 2 or not _in_use(stated, each):
            continue
        # A round number was chosen, and only looks as if it had been computed.
        if every % ROUND and abs(every - twice) < 1 and every * 1.5 < per_epoch.high:
            yield Fault(
                message=(
                    f"{name} every {every} steps is {per_epoch.high / every:.1f} times an epoch: an epoch is "
                    f"{per_epoch.high} steps, {rows.high:,} rows / {per_step.low}; {every} would be "
                    f"{rows.high:,} / {per_step.low * accumulation.value}, which counts the accumulation twice"
                ),
                at=each,
                hint=f"{each.key.rpartition('.')[2]}: {per_epoch.high}",
            )


@rule("TR018", Severity.WARNING)
def validation_costs_more_than_training(view: TrainingView) -> Iterator[Fault]:
    """Validation runs so often that it takes longer than the training itself, or after every step.

    Why: a validation pass costs about a third of a training pass for each row, and it comes at every interval.

    Fix: a longer interval, or fewer rows to validate on.

    Bad: llamafactory
        val_size: 0.1
        eval_strategy: steps
        eval_steps: 1
        max_steps: 1000

    Good: llamafactory
        val_size: 0.1
        eval_strategy: steps
        eval_steps: 100
        max_steps: 1000
    """
    stated, numbers = view.stated, arithmetic(view)
    every = numbers.interval(stated.eval_steps)
    if every is None or not _validates_by_steps(stated) or isinstance(numbers.steps, Missing):
        return
    times = numbers.steps.low // every
    held_out = None if isinstance(view.data, Missing) else view.data.validation_examples
    per_step = None if isinstance(numbers.rows_per_step, Missing) else numbers.rows_per_step.high
    density = numbers.density
    if held_out and per_step and density:
        trained = FORWARD_SHARE * numbers.steps.low * per_step * density
        if times > 1 and times * held_out > trained:
            yield Fault(
                message=(
                    f"{times:,} validations of {held_out:,} rows cost about {times * held_out / trained:.1f} times the "
                    f"training's own computing"
                ),
                at=stated.eval_steps,
            )
    elif every == 1 and times >= OFTEN:
        yield Fault(message=f"a validation after every step, {times:,} in all", at=stated.eval_steps)


@rule("TR024", Severity.INFO)
def nothing_is_logged(view: TrainingView) -> Iterator[Fault]:
    """A loss is logged less often than the training has steps.

    Why: of such a training no loss is ever seen, and a watcher cannot tell whether it learns.

    Fix: a shorter interval; every step to every tenth is usual.

    Bad: llamafactory
        logging_steps: 500
        max_steps: 100

    Good: llamafactory
        logging_steps: 10
        max_steps: 100
    """
    stated, numbers = view.stated, arithmetic(view)
    every, high = numbers.interval(stated.logging_steps), most(numbers.steps)
    if every is not None and high and every > high:
        yield Fault(
            message=f"a loss every {every:,} steps, and the training has {numbers.steps}", at=stated.logging_steps
        )


def _validates_by_steps(stated: StatedTraining) -> bool:
    cadence = stated.eval_cadence
    return cadence is not None and cadence.value == "steps"


def _in_use(stated: StatedTraining, each: Stated[float]) -> bool:
    """Whether an interval has any effect."""
    cadence = stated.eval_cadence if each is stated.eval_steps else stated.save_cadence
    return cadence is None or cadence.value == "steps"


@rule("TR025", Severity.WARNING)
def many_epochs_unseen(view: TrainingView) -> Iterator[Fault]:
    """Many epochs, and no validation data.

    Why: an adapter begins to learn its rows by heart within a few epochs; without rows that are held out nobody sees
    when, and the last checkpoint is taken for the best one.

    Fix: hold rows out (`val_size: 0.05` in LLaMA-Factory, `val_set_size` in axolotl, `eval_strategy` with a split in
    TRL, `dataset_val` in torchtune), or fewer epochs.

    Bad: llamafactory
        num_train_epochs: 7
        val_size: 0
        eval_strategy: "no"

    Good: llamafactory
        num_train_epochs: 7
        val_size: 0.1
    """
    stated = view.stated
    epochs, share = stated.epochs, stated.validation_fraction
    limited = stated.max_steps is not None and stated.max_steps.value > 0
    if epochs is None or limited or stated.backend not in (*HF_LOOP, "torchtune"):
        return
    holds_out = share is not None and share.value > 0
    if epochs.value < (_MANY_WRITTEN if stated.backend == "torchtune" else _MANY_EPOCHS) or holds_out:
        return
    evaluates = stated.eval_cadence is not None and stated.eval_cadence.value != "no"
    if any(source.role == "validation" for source in stated.sources) or (evaluates and stated.backend == "trl"):
        return
    yield Fault(message=f"{epochs.value:g} epochs, and no validation data tells when they begin to harm", at=epochs)
