"""Roles of the columns of a dataset (prompt, answer, others), stated or found by usual names; rows split by them."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from touchline.core.json_text import parse_json
from touchline.data.candidates import COLUMNS as CANDIDATE_COLUMNS
from touchline.data.rendering.text import ROLES
from touchline.experiment.data_config import DataConfig

Values = Mapping[str, object]
Kind = Literal["chat", "columns", "text"]

CHATS = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog")
PROMPTS = (
    *("instruction", "prompt", "question", "query", "problem", "input", "inputs", "premise"),
    *("sentence", "sentence1", "utterance", "review", "tweet", "headline", "article", "document", "text"),
    *("source", "src", "context", "ctx"),
)
"""Names of prompt columns, in order of precedence."""
BESIDES = (
    *("input", "context", "passage", "hypothesis", "sentence2", "system", "system_prompt", "history", "document"),
    *("table", "schema", "sql_context", "tools", "code", "article"),
)
"""Columns that belong to the prompt apart from the leading one."""
ANSWERS = (
    *("output", "outputs", "response", "completion", "answer", "answers", "solution", "target", "targets", "tgt"),
    *("ground_truth", "chosen", "correct_answer", "answerkey", "answer_key", "final_answer", "summary", "highlights"),
    *("label", "labels", "class", "sentiment", "intent", "emotion", "gold"),
)
TEXTS = ("text", "content")
QUESTIONS = ("question", "question_type")
"""Columns that distinguish kinds of questions. `category` or `type` may be derived from the answer."""
_MEDIA = re.compile(
    r"^(?:images?|image_(?:path|file|filename|name|url)s?|img(?:_(?:path|file|name))?s?|pictures?|photos?|videos?"
    r"|video_(?:path|file)s?|audios?|audio_(?:path|file)s?|frames?|media|file_name|filename)$"
)
_IDENTIFIER = re.compile(r"(?:^|_)(?:id|ids|idx|index|uid|uuid|guid|hash|key|number|row|no|seed|timestamp|date)$")
_OF_MEDIA = re.compile(r"img|image|video|audio|frame|clip|slide|scan|photo|picture")
_ABOUT = re.compile(
    r"^(?:split|source|dataset|data_source|origin|language|lang|license|licence|url|score|rating|quality|confidence"
    r"|difficulty|level|stage|category|topic|subject|type|task|tags?|meta|metadata|model|generator|rationale"
    r"|explanation|reasoning|cot|rejected|weight|num_.*|.*_(?:type|confidence|score|length|count|source|tokens)"
    r"|short_answer|answer_.*|label_.*|is_.*)$"
)
_EXTENSION = re.compile(r"\.(?:jpe?g|png|gif|bmp|webp|tiff?|mp4|avi|mov|mkv|webm|wav|mp3|flac|ogg|m4a|npy|dcm)$", re.I)
_SHOWN_KINDS = frozenset({"text", "number", "null"})
"""Types of values that a prompt can show."""
_ANSWERING = ("assistant", "function_call")


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnMapping:
    """Roles of the columns."""

    kind: Kind
    prompts: tuple[str, ...] = ()
    answer: str | None = None
    chat: str | None = None
    media: tuple[str, ...] = ()
    candidates: str | None = None
    question: str | None = None
    """Column that distinguishes kinds of questions."""
    others: tuple[str, ...] = ()
    """Other columns that may distinguish rows with equal prompts."""
    template: str | None = None
    """Prompt with columns in braces. None to join the columns."""
    inputs: tuple[str, ...] = ()
    """Columns that `{input}` of the template stands for, joined."""
    stated: bool = False
    """Whether an experiment names these columns."""
    rejected: str | None = None

    def named(self) -> str:
        """Return the roles of the columns as text."""
        if self.kind == "chat":
            taken = f"{self.chat!r} as the chat"
        elif self.kind == "text":
            taken = f"{self.answer!r} as whole texts"
        else:
            prompt = ", ".join(map(repr, self.prompts)) or "no column"
            answer = "no column" if self.answer is None else repr(self.answer)
            taken = f"{prompt} as the prompt, {answer} as the answer"
        more = [f"{', '.join(map(repr, self.media))} as media"] if self.media else []
        more += [f"{self.candidates!r} as the allowed answers"] if self.candidates else []
        return ", ".join([taken, *more])


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """Row as prompt and answer."""

    prompt: str
    asked: str
    """Last question of a chat, else the prompt."""
    answer: str | None
    """Answer. None if the row has none or it is null."""
    media: tuple[str, ...] = ()
    fault: str | None = None


def find_layout(counts: Mapping[str, int], kinds: Mapping[str, Counter[str]]) -> ColumnMapping | None:
    """Return the roles of columns by their names. None if the names do not determine them.

    Args:
        kinds: of each column how often its values are of which kind, as `kind_of` says it.
    """
    names = {name.casefold(): name for name in counts}
    media = tuple(name for name in counts if _MEDIA.match(name.casefold()))
    candidates = _first(counts, CANDIDATE_COLUMNS)
    chat = next((names[name] for name in CHATS if name in names and kinds[names[name]]["list"]), None)
    chosen = names.get("chosen") if "rejected" in names else None
    answer = chosen or _first(counts, ANSWERS)
    prompts = _prompts(counts, kinds, {answer})
    layout: ColumnMapping | None = None
    if chat is not None:
        layout = ColumnMapping(kind="chat", chat=chat, answer=chosen)
    elif prompts and answer is not None:
        layout = ColumnMapping(kind="columns", prompts=prompts, answer=answer)
    elif (text := _first(counts, TEXTS)) is not None and kinds[text]["text"]:
        layout = ColumnMapping(kind="text", answer=text)
    if layout is None:
        return None
    used = {*layout.prompts, layout.answer, layout.chat, candidates, *media}
    return replace(
        layout,
        media=media,
        candidates=candidates,
        question=next((names[q] for q in QUESTIONS if q in names and names[q] != layout.answer), None),
        others=_others(counts, used),
        rejected=names.get("rejected"),
    )


def _first(counts: Mapping[str, int], known: Iterable[str]) -> str | None:
    """Return the first known name that is a column, ignoring case."""
    names = {name.casefold(): name for name in counts}
    return next((names[name] for name in known if name in names), None)


def _prompts(
    counts: Mapping[str, int], kinds: Mapping[str, Counter[str]], taken: Collection[str | None]
) -> tuple[str, ...]:
    names = {name.casefold(): name for name in counts}
    leading = _first(counts, PROMPTS)
    if leading is None or leading in taken:
        return ()
    beside = (names[name] for name in BESIDES if name in names and names[name] not in (leading, *taken))
    return (leading, *(name for name in beside if kinds[name].keys() <= _SHOWN_KINDS))


def resolve_columns(
    data: DataConfig, given: Collection[str], counts: Mapping[str, int], kinds: Mapping[str, Counter[str]]
) -> DataConfig:
    """Return the data settings with columns that were not given found by name.

    What is given stays. Where no name is known, the defaults stay, and the loader says what is missing.

    Args:
        kinds: of each column how often its values are of which kind.
    """
    default = DataConfig(path=data.file)
    opens_input = "data.input" not in given and data.input == default.input
    opens_output = "data.output" not in given and data.output == default.output
    if data.messages is not None or not (opens_input or opens_output):
        return data
    if data.prompt is not None:
        # A prompt that names its columns says what the input is; `{input}` of it is the column of that name.
        shown = set(re.findall(r"\{([^{}]+)\}", data.prompt))
        opens_input = opens_input and "input" in shown and "input" not in counts
        asked = (shown - {"input"}) | ({data.input} if isinstance(data.input, str) else {*data.input})
    else:
        asked = set() if opens_input else {data.input} if isinstance(data.input, str) else {*data.input}
    if not (opens_input or opens_output):
        return data
    taken = {data.output} if not opens_output else set()
    rest = {name: count for name, count in counts.items() if name not in taken | (asked if opens_output else set())}
    found = find_layout(counts if opens_input and opens_output else rest, kinds)
    if opens_input and opens_output and found is not None and found.kind == "chat" and found.answer is None:
        return replace(data, messages=found.chat)
    if opens_output and not opens_input:
        answer = data.output if data.output in rest else _first(rest, ANSWERS)
        return replace(data, output=answer or data.output)
    if not opens_output:
        prompts = _prompts(rest, kinds, taken)
    elif found is not None and found.kind == "columns":
        prompts = found.prompts
        data = replace(data, output=found.answer or data.output)
    else:
        return data
    return replace(data, input=prompts[0] if len(prompts) == 1 else prompts) if prompts else data


def stated_layout(
    counts: Mapping[str, int], *, inputs: str | tuple[str, ...], output: str, messages: str | None, template: str
) -> ColumnMapping:
    """Return the roles that an experiment states, with media and allowed answers found by name."""
    joined = (inputs,) if isinstance(inputs, str) else inputs
    media = tuple(name for name in counts if _MEDIA.match(name.casefold()))
    candidates = next((name for name in counts if name.casefold() in CANDIDATE_COLUMNS), None)
    asked = [
        column for name in re.findall(r"\{([^{}]+)\}", template) for column in (joined if name == "input" else (name,))
    ]
    prompts = tuple(dict.fromkeys(name for name in asked if name in counts or name in joined))
    used = {*prompts, output, messages, candidates, *media}
    return ColumnMapping(
        kind="columns" if messages is None else "chat",
        prompts=prompts if messages is None else (),
        answer=output if messages is None else None,
        chat=messages,
        media=media,
        candidates=candidates,
        question=next(
            (name for name in counts if name.casefold() in QUESTIONS and name not in used - {*prompts}), None
        ),
        others=_others(counts, used),
        template=template,
        inputs=joined,
        stated=True,
    )


def _others(counts: Mapping[str, int], used: Iterable[str | None]) -> tuple[str, ...]:
    taken = set(used)
    return tuple(
        sorted(
            name
            for name in counts
            if name not in taken
            and (
                _OF_MEDIA.search(name.casefold())
                or not (_IDENTIFIER.search(name.casefold()) or _ABOUT.match(name.casefold()))
            )
        )
    )


def kind_of(value: object) -> str:
    """Return `text`, `number`, `bool`, `list`, `object` or `null`."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "object" if isinstance(value, Mapping) else "list" if isinstance(value, list) else "other"


def text_of(value: object) -> str | None:
    """Return a value as text: numbers and booleans as in JSON, a list of one text as that text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):  # SQuAD's {text: [...], answer_start: [...]}
        value = value["text"]
    if isinstance(value, Mapping) and (said := value.get("content", value.get("value"))) is not None:
        return text_of(said)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return str(value[0])
    if isinstance(value, list) and value and isinstance(value[-1], Mapping):  # a chat whose last turn is the answer
        return text_of(value[-1])
    if isinstance(value, int | float):
        return json.dumps(value)
    if isinstance(value, list) and not value:
        return ""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return None


def turns_of(values: Values, layout: ColumnMapping) -> Turns:
    """Split a row by the roles of its columns."""
    if layout.kind == "chat":
        return _chat(values.get(layout.chat or ""), text_of(values.get(layout.answer)) if layout.answer else None)
    answer = text_of(values.get(layout.answer or ""))
    if layout.template is not None:
        prompt = re.sub(r"\{([^{}]+)\}", lambda m: _filled(values, m, layout.inputs), layout.template)
    else:
        texts = (_said(values.get(name)) for name in layout.prompts)
        prompt = "\n".join(text for text in texts if text)
    return Turns(prompt=prompt, asked=prompt, answer=answer)


def _filled(values: Values, match: re.Match[str], inputs: Sequence[str]) -> str:
    columns = inputs if match.group(1) == "input" else (match.group(1),)
    there = [text_of(values[name]) or "" for name in columns if name in values]
    return "\n".join(text for text in there if text or len(columns) == 1) if there else match.group()


def _said(value: object) -> str:
    if isinstance(value, list) and value:
        return "\n".join(text for item in value if (text := _said(item)))
    return text_of(value) or ""


def _chat(turns: object, answer: str | None) -> Turns:
    if isinstance(turns, str):
        try:
            turns = parse_json(turns, allow_half_characters=True)
        except (ValueError, RecursionError):
            turns = None
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        return Turns(prompt="", asked="", answer=answer, fault="is not a list of turns")
    said: list[tuple[str, str]] = []
    media: list[str] = []
    for turn in turns:
        role = turn.get("role", turn.get("from"))
        if not isinstance(role, str):
            return Turns(prompt="", asked="", answer=answer, fault="has a turn without a role")
        said.append((ROLES.get(role.casefold(), role.casefold()), _content(turn, media)))
    last = max((place for place, (role, _) in enumerate(said) if role in _ANSWERING), default=-1)
    fault = None
    if answer is None:
        answer = said[last][1] if last >= 0 else None
        if last < 0:
            fault = "has no assistant turn"
        elif last < len(said) - 1:
            fault = f"ends with a {said[-1][0]!r} turn that has no answer"
        said = said[:last] if last >= 0 else said
    asked = next((text for role, text in reversed(said) if role == "user"), "")
    return Turns(
        prompt="\n".join(f"{role}: {text}" for role, text in said),
        asked=asked,
        answer=answer,
        media=tuple(media),
        fault=fault,
    )


def _content(turn: Values, media: list[str]) -> str:
    content = turn.get("content", turn.get("value"))
    if not isinstance(content, list):
        if content is None and (calls := turn.get("tool_calls")) is not None:
            return text_of(calls) or ""
        return text_of(content) or ""
    texts: list[str] = []
    for part in content:
        if not isinstance(part, Mapping):
            texts.append(text_of(part) or "")
            continue
        texts.append(text_of(part.get("text", part.get("value", part.get("content")))) or "")
        media += [
            path for key in ("image", "path", "video", "audio") if (path := _media_path(part.get(key))) is not None
        ]
    return "\n".join(text for text in texts if text)


def media_of(values: Values, layout: ColumnMapping) -> tuple[str, ...]:
    """Return the paths in the first media column that has any."""
    for name in sorted(layout.media, key=lambda name: ("path" not in name, "name" in name, name)):
        value = values.get(name)
        items = value if isinstance(value, list) else [value]
        paths = tuple(path for item in items if (path := _media_path(item)) is not None)
        if paths:
            return paths
    return ()


def _media_path(value: object) -> str | None:
    """Return the path of a media file. None for URLs, names without a suffix, and embedded media."""
    if isinstance(value, Mapping):
        value = value.get("path")
    if not isinstance(value, str) or len(value) > 1000 or "\n" in value:
        return None
    text = value.removeprefix("file://")
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:", text) or not _EXTENSION.search(text):
        return None
    return text


def group_of(values: Values, layout: ColumnMapping, asked: str) -> str:
    """Return the kind of question of a row: rows that differ only in their input have the same."""
    if layout.template is not None and layout.question is None:
        return ""
    if layout.kind == "columns" and "instruction" in layout.prompts[0].casefold() and layout.question is None:
        return text_of(values.get(layout.prompts[0])) or ""
    if layout.question is not None:
        return text_of(values.get(layout.question)) or ""
    return asked


def column_counts(rows: Iterable[Values]) -> tuple[Counter[str], dict[str, Counter[str]]]:
    """Count the rows that have each column, and the types of its values."""
    counts: Counter[str] = Counter()
    kinds: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for values in rows:
        for name, value in values.items():
            counts[name] += 1
            kinds[name][kind_of(value)] += 1
    return counts, kinds
