"""Comparison of evaluation prompts with training prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inspect_ai.log import EvalSample

from touchline.core.catalog import Message
from touchline.core.text import shorten
from touchline.core.units import plural
from touchline.data.datasets import load_examples
from touchline.experiment.evaluation import EvaluationConfig

_COMPARED = 200
_TELLING = 3
"""Minimum length of a shared affix that counts as intended."""
_ENOUGH = 5
_QUOTED = 60

Turns = Sequence[tuple[str, str]]
"""(role, text) of each turn before the answer."""


def prompt_difference(config: EvaluationConfig, samples: Sequence[EvalSample]) -> str | None:
    """Describe the difference between evaluation and training prompts; None if there is none.

    Items of the experiment's own test split are compared one by one; other items by what all prompts share: system
    turn, number of turns, beginning and end of the last turn.

    Args:
        config: evaluation of the run.
        samples: evaluated samples.
    """
    asked = {str(sample.id): turns for sample in samples if (turns := asked_turns(sample))}
    planned = {item.id: _turns(item.prompt) for item in load_examples(config.data, "test", Path())}
    if asked and all(name in planned for name in asked):
        pairs = [(planned[name], turns) for name, turns in asked.items()]
        different = [found for pair in pairs if (found := turns_difference(*pair)) is not None]
        if not different:
            return None
        some = f"in {len(different):,} of {len(pairs):,} items, " if len(different) < len(pairs) else ""
        return f"{some}{different[0]}"
    trained = [_turns(each.prompt) for each in load_examples(config.data, "train", Path())[:_COMPARED]]
    return shared_difference(trained, list(asked.values())[:_COMPARED], _affixes(config))


def asked_turns(sample: EvalSample) -> Turns:
    """Return the turns of a sample before the model's last answer."""
    turns = [(message.role, message.text) for message in sample.messages]
    while turns and turns[-1][0] == "assistant":
        turns.pop()
    return turns


def turns_difference(trained: Turns, asked: Turns) -> str | None:
    """Describe the first difference of two prompts; None if they are equal."""
    if list(trained) == list(asked):
        return None
    here, there = _system(trained), _system(asked)
    if here != there:
        return f"training's system turn is {_quoted(here)}, the task's is {_quoted(there)}"
    ours, theirs = _dialogue(trained), _dialogue(asked)
    if len(ours) != len(theirs):
        return f"training asks in {_count(len(ours))}, the task in {_count(len(theirs))}, as with worked examples"
    for (_, one), (_, other) in zip(ours, theirs, strict=True):
        if one != other:
            return _text_difference(one, other)
    return "the turns have other roles"


def shared_difference(trained: Sequence[Turns], asked: Sequence[Turns], affixes: tuple[str, str]) -> str | None:
    """Describe the difference in what all prompts share; None if they agree.

    Args:
        trained: training prompts.
        asked: evaluation prompts.
        affixes: text before and after each item in training's template; empty without a template.
    """
    if not trained or not asked:
        return None
    here, there = {_system(turns) for turns in trained}, {_system(turns) for turns in asked}
    if not here & there:
        return f"training's system turn is {_quoted(sorted(here)[0])}, the task's is {_quoted(sorted(there)[0])}"
    ours, theirs = {len(_dialogue(turns)) for turns in trained}, {len(_dialogue(turns)) for turns in asked}
    if not ours & theirs:
        return f"training asks in {_count(min(ours))}, the task in {_count(min(theirs))}, as with worked examples"
    before, behind = affixes
    last = [turns[-1][1] for turns in asked]
    if outside := next((text for text in last if not (text.startswith(before) and text.endswith(behind))), None):
        return f"training asks {_quoted(f'{before}...{behind}')}, the task {_quoted(outside)}"
    if len(set(last)) >= _ENOUGH:
        taught = [turns[-1][1] for turns in trained]
        prefix = _common(last)
        suffix = _common([text[::-1] for text in last])[::-1]
        if len(prefix.strip()) >= _TELLING and not any(text.startswith(prefix) for text in taught):
            return f"the task begins each prompt with {_quoted(prefix)}, training does not"
        if len(suffix.strip()) >= _TELLING and not any(text.endswith(suffix) for text in taught):
            return f"the task ends each prompt with {_quoted(suffix)}, training does not"
    return None


def _affixes(config: EvaluationConfig) -> tuple[str, str]:
    """Return the template text before the first and after the last column."""
    template = config.data.prompt
    if config.data.messages is not None or template is None or "{" not in template:
        return "", ""
    return template[: template.index("{")], template[template.rindex("}") + 1 :]


def _text_difference(one: str, other: str) -> str:
    if one.rstrip() == other.rstrip():
        end, other_end = _quoted(one[-12:]), _quoted(other[-12:])
        return f"the prompts end in other white space: {end} in training, {other_end} in the task"
    place = len(_common([one, other]))
    start = max(0, place - _QUOTED // 2)
    return (
        f"training asks {_quoted(one[start : start + _QUOTED])}, the task {_quoted(other[start : start + _QUOTED])}"
        + (f" (from character {start + 1})" if start else "")
    )


def _common(texts: Sequence[str]) -> str:
    """Return the common prefix of texts."""
    first, last = min(texts), max(texts)
    return first[: next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _turns(prompt: Sequence[Message]) -> Turns:
    return [(message.role, message.content) for message in prompt]


def _system(turns: Turns) -> str:
    return "\n".join(text for role, text in turns if role == "system")


def _dialogue(turns: Turns) -> list[tuple[str, str]]:
    return [turn for turn in turns if turn[0] != "system"]


def _count(turns: int) -> str:
    return plural(turns, "turn")


def _quoted(text: str) -> str:
    return repr(shorten(text, _QUOTED)) if text else "none"
