"""Tracebacks, line by line: which exception ended them, and in which part of the run.

Python prints the outermost frame first and the exception last. Frames may come from several ranks, with prefixes or
without, from `rich` in a box, or from a notebook. Of a chain of exceptions Python prints the root cause first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from touchline.backends.logtext.parts import strip_prefix
from touchline.backends.registry import launch_commands, logged_trainers
from touchline.core.observation import During, SignKind

_LENGTH_LIMIT = 240
_DECORATION = re.compile(r"^(?:\d{1,2}[.)] +|\[[\w ./:-]{1,40}\]\s*|[\w.:<>]{1,60} - (?=\S)|[^\w\s]+\s*|\s+)*")
_TRAINERS_OWN = re.compile(
    r"\*{5} |Saving model checkpoint to |.*\bhuggingface\.co/models =\)|.*\bSaving (?:pre-)?trained model to "
)
_TAIL = (
    r"(?:\s+successfully)?"
    r"(?:\s*$|\s*[!.:,;|=*)\]\-–—~…✅🎉🏁✓✔🚀]+\s*$"
    r"|\s+(?:in|after|at|on)\s*:?\s*(?:[\d~(]|(?-i:[A-Z][a-z]{2}\b))[^!?]{0,60}$"
    r"|\s+and\s+(?=.{0,90}$)(?=.*\b(?:model|adapter|weights|checkpoint)\b.*\bsaved\b).*$"
    r"|\s*[!.:,;|(\-–—]+\s*(?=.{0,90}$)(?=.*(?:\d|model|saved|saving|loss|time|best|output|checkpoint|adapter)).*$)"
)
_WHAT = r"(?:(?:the|your|model|lora|qlora|sft|dpo|grpo|full|adapter|(?:stage|phase) \d+)\s+)*"
_TRAINING = r"(?:training|fine-?\s?tuning)"
_SAVABLE = r"(?:model|adapters?|checkpoint|weights|state|lora|hub|gguf)\b[^?!]{0,160}$"
_OF_THE_MODEL = r"(?:(?:the|final|merged|fine-?tuned|trained|lora|peft|full)\s+)*(?:model|adapters?|weights)"
_FORMS: tuple[tuple[SignKind, str], ...] = (
    (
        SignKind.TRAINED,
        rf"{_WHAT}{_TRAINING}(?:\s+(?:process|run|loop|phase|job))?(?:\s+(?:is|has|was)(?: been)?)?\s+(?:now )?"
        rf"(?:complete[d]?|finished|done|ended)\b{_TAIL}"
        rf"|(?:finished|completed|done|end of)\s+{_WHAT}{_TRAINING}\b{_TAIL}",
    ),
    (
        SignKind.STOPPED,
        r"early[ -]?stop(?:ping|ped)?(?: (?:is |was |has been )?(?:triggered|activated|reached)| since "
        r"| (?:training )?(?:at|after|in) (?:epoch|step|iteration|\d)|[!.]*$"
        r"|[.:!,(] ?(?:no|val|best|patience|after|at)\b)[^?]{0,160}$"
        r"|epoch \d+: early stopping$|[^?]{0,160}signaling trainer to stop[^?]{0,40}$|stopping_early: "
        r"|(?:max(?:imum)? )?patience (?:was |has been )?(?:reached|exceeded|exhausted)\b[^?]{0,80}$"
        r"|no improvement (?:for|in|after) \d+ [^?]{0,60}\bstopping\b[^?]{0,40}$"
        r"|(?:stop(?:ping|ped)|training (?:was )?(?:stopped|halted)) (?:training )?early\b[^?]{0,160}$",
    ),
    (
        SignKind.EVALUATING,
        r"(?:start(?:ing)?|running|run|begin(?:ning)?|performing)\s+(?:\w+[ -]){0,2}(?:evalu|valid)ation\b[^?!]{0,60}$"
        r"|(?:evalu|valid)ating"
        r"(?: (?:the|on|model|base|final|fine-?tuned|adapter|test|validation|checkpoint)\b[^?!]{0,80})?\s*[.…:]*$",
    ),
    (
        SignKind.EXPORTING,
        rf"(?:merging|exporting|pushing|uploading)\s+(?:\w+[ -]){{0,3}}{_SAVABLE}"
        rf"|saving\s+(?:the\s+)?(?:final|merged|fine-?tuned|trained|full)\s+(?:\w+\s+){{0,2}}?{_SAVABLE}"
        r"|convert(?:ing)?\s+(?:\w+\s){0,2}to gguf\b[^?!]{0,160}$",
    ),
    (SignKind.START, r"(?:(?:re-?)?starting |launching )?(?:training )?attempt #?\d+(?:\s*(?:/|of)\s*\d+)?\W*$"),
    (SignKind.SAVING, rf"saving\s+(?:(?:the|lora|best|model|peft|current)\s+){{0,3}}{_SAVABLE}"),
    (
        SignKind.SAVED,
        rf"{_OF_THE_MODEL}(?: (?:and|&|\+) (?:tokenizer|adapter|config|processor))?"
        r"(?: (?:has|have) been| was| were| successfully| is)* (?:saved|exported|pushed|uploaded)\b[^?]{0,200}$"
        rf"|saved\s+{_OF_THE_MODEL}\b[^?]{{0,200}}$",
    ),
)
_KINDS = tuple((kind, re.compile(form, re.IGNORECASE)) for kind, form in _FORMS)
# A checkpoint on the way says nothing of the end; what is best so far is saved at any time.
_ON_THE_WAY = re.compile(
    r"checkpoint-?\d|\bbest\b|\bepoch\b|\bstep\b|\bevery\b|\bwill be\b|\bnot saved\b", re.IGNORECASE
)

WORDS: frozenset[str] = frozenset(
    {
        *("training", "finetuning", "tuning", "finished", "evaluating", "evaluation", "merging", "exporting"),
        *("validating", "validation", "attempt"),
        *("pushing", "uploading", "saving", "saved", "exported", "pushed", "uploaded", "gguf", "patience"),
        *("signaling", "improvement", "early", "earlystopping", "stopped", "stopping", "halted", "stopping_early"),
    }
)
"""Words of the lines that `milestone` reads."""


def milestone(text: str) -> SignKind | None:
    """Return the sign that a hand-written line gives; None for all other lines."""
    if len(text) > _LENGTH_LIMIT or "%|" in text or text.lstrip().startswith(("{", '"', "'")):
        return None
    _, rest = strip_prefix(text)
    if _TRAINERS_OWN.match(rest):
        return None
    said = _DECORATION.sub("", rest).strip()
    kind = next((kind for kind, form in _KINDS if form.match(said)), None)
    return None if kind is SignKind.SAVED and _ON_THE_WAY.search(said) else kind


Frame = tuple[str, str]
"""File and function."""

_HEADER = re.compile(r"(?P<before>.*?)(?P<original>Original )?Traceback \(most recent call last\)")
_CHAINS = (
    "During handling of the above exception, another exception occurred",
    "The above exception was the direct cause of the following exception",
)
_SURVIVED = re.compile(
    r"Exception ignored (?:in|on)|--- Logging error ---|Error in atexit\._run_exitfuncs|Exception in thread "
)
"""Python continues after these: their tracebacks ended no program."""
_SURVIVED_WITHIN_LINES = 4
_FRAMES = (
    re.compile(r'^\s*File "(?P<file>[^"]+)", line \d+, in (?P<function>\S+)'),
    re.compile(r"^\s*File (?P<file>\S+?):\d+, in (?:[\w<>]+\.)*(?P<function>[\w<>]+)"),
    re.compile(r"^\[?(?P<file>[/~]\S+?\.py)\]?(?:\(\S+\))? in (?P<function>[\w<>]+)"),
    re.compile(r"^(?P<file><ipython-input-[^>]+>) in (?P<function>[\w<>]+)"),
    re.compile(r"^[│|] (?P<file>\S+\.py):\d+ in (?P<function>[\w<>]+)"),
)
_CELL = re.compile(r"^(?:Input )?Cell (?:In ?)?\[\d+\](?:, line \d+|$)")
"""The outermost frame in a notebook."""
_LAST = re.compile(r"(?P<name>(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)(?::(?: (?P<message>.*))?)?$")
_SUFFIXES = (*("Error", "Exception", "Interrupt", "Exit", "Failure", "Expired", "Timeout", "StopIteration", "Abort"),)
_NOT_EXCEPTIONS = frozenset({"Error", "Timeout", "Failure", "Exit", "Abort"})

_CALLED = re.compile(r"([A-Za-z_]\w*)\(")
_OUTERMOST = frozenset({"<module>", "_run_module_as_main"})
_MOST_OPEN = 64
_FRAMES_KEPT = 400
_PATIENCE_LINES = 200
"""So far apart the lines of one traceback may stand, with those of other ranks between them."""
_NESTED_LINES = 20
"""A traceback that begins so soon within another is of another rank; later, the first one was cut off."""


@dataclass(kw_only=True, slots=True)
class TracebackEnd:
    """The end of a traceback."""

    name: str
    """The exception's class, dotted as printed."""
    text: str
    line: int
    frames: list[Frame]
    """From the outermost to the innermost, those of its causes last."""
    during: During | None
    """Part of the run where it was raised; None if the frames do not show it."""
    root: TracebackEnd | None = None
    """The first of its chain; None when it stands alone."""
    survived: bool = False
    """Whether Python reported it and continued."""

    @property
    def is_uncaught(self) -> bool:
        """Return True if its frames begin at a program's start; a handler prints them from where it caught it."""
        return not self.survived and bool(self.frames) and self.frames[0][1] in _OUTERMOST


@dataclass(slots=True)
class _Open:
    last_line: int
    frames: list[Frame] = field(default_factory=list)
    depth: int = 1
    root: TracebackEnd | None = None
    survived: bool = False
    text: str = ""
    """Its last frame so far, or its head."""
    name: str | None = None
    """The exception's class, where a notebook names it before the frames; None if no head was seen."""
    code: str = ""
    """The program's text below the last frame."""


class Tracebacks:
    """Follows all tracebacks of a file, those of each rank apart."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._ended: dict[str, TracebackEnd] = {}
        self._chains: dict[str, TracebackEnd] = {}
        self._survived_line = -_SURVIVED_WITHIN_LINES

    @property
    def inside(self) -> bool:
        """Return True if a traceback has begun and its exception is still to come."""
        return bool(self._open)

    def line(self, text: str, number: int) -> TracebackEnd | None:
        """Return the traceback that ends at this line, if one does."""
        if "Traceback (most" in text and (header := _HEADER.match(text)) is not None:
            self._begin(header, number)
            return None
        key, rest = strip_prefix(text)
        if rest.startswith(_CHAINS):
            if (unended := self._open.get(key)) is not None:
                unended.depth = 0  # its exception was none that is known: the next one ends both
            elif (ended := self._ended.get(key)) is not None:
                self._chains[key] = ended
            return None
        if _SURVIVED.search(rest) is not None:
            self._survived_line = number
            return None
        if (frame := _frame(rest)) is not None:
            self._add(key, frame, rest, number)
            return None
        if (state := self._open.get(key)) is not None and state.frames and state.last_line == number - 1:
            state.code = rest
        return self._end(key, rest, number) if self._open else None

    # -------------------------------------------------------------------------------------------------------- states

    def _begin(self, header: re.Match[str], number: int) -> None:
        key, _ = strip_prefix(header.group("before"))
        root = self._ended.get(key) if header.group("original") else self._chains.pop(key, None)
        survived = number - self._survived_line < _SURVIVED_WITHIN_LINES
        known = self._open.get(key)
        if known is not None and number - known.last_line < _NESTED_LINES and root is None:
            # Ranks without prefixes, one within the other: as many exceptions follow as tracebacks have begun.
            known.depth += 1
            known.last_line = number
            return
        self._drop_old(number)
        name = header.group("before").split()[-1:]
        self._open[key] = _Open(
            number,
            root=root,
            survived=survived or (root is not None and root.survived),
            text=" ".join(header.group().split()),
            name=name[0] if name and _is_exception(name[0], None) else "",
        )

    def cut(self, number: int) -> list[TracebackEnd]:
        """Return the tracebacks that a file's last line cut off before their exception."""
        ends = []
        for name, state in ((each.name, each) for each in self._open.values() if not each.survived):
            if name is not None and number - state.last_line < _NESTED_LINES:
                called = [(state.frames[-1][0], function) for function in _CALLED.findall(state.code)]
                # The frames that are missing may show another part of the run than the training.
                during = None if (part := during_of([*state.frames, *called])) == "train" else part
                text, line, frames = name or state.text, state.last_line, state.frames
                ends.append(TracebackEnd(name=name, text=text, line=line, frames=frames, during=during))
        return ends

    def _add(self, key: str, frame: Frame, text: str, number: int) -> None:
        state = self._open.get(key)
        if state is None or number - state.last_line >= _PATIENCE_LINES:
            # Its beginning was cut off, or swallowed by a bar or another rank.
            self._drop_old(number)
            state = self._open[key] = _Open(number)
        state.last_line, state.text, state.code = number, text.strip(), ""
        if len(state.frames) < _FRAMES_KEPT:
            state.frames.append(frame)

    def _end(self, key: str, rest: str, number: int) -> TracebackEnd | None:
        state = self._open.get(key)
        match = _LAST.match(rest.rstrip())
        if state is None or match is None or not _is_exception(match.group("name"), match.group("message")):
            return None
        if number - state.last_line >= _PATIENCE_LINES:
            del self._open[key]
            return None
        frames = [*state.frames, *(state.root.frames if state.root is not None else ())]
        name = match.group("name")
        fault = TracebackEnd(
            name=name,
            text=rest.strip(),
            line=number,
            frames=frames,
            during=during_of(frames) or _by_name(name),
            root=(state.root.root or state.root) if state.root is not None else None,
            survived=state.survived,
        )
        state.depth -= 1
        if state.depth <= 0:
            del self._open[key]
        self._ended[key] = fault
        return fault

    def _drop_old(self, number: int) -> None:
        for key in [key for key, state in self._open.items() if number - state.last_line >= _PATIENCE_LINES]:
            del self._open[key]
        for states in (self._open, self._ended, self._chains):
            if len(states) > _MOST_OPEN:
                states.clear()


def _frame(text: str) -> Frame | None:
    for pattern in _FRAMES:
        if (match := pattern.match(text)) is not None:
            return match.group("file").replace("\\", "/"), match.group("function")
    return ("<cell>", "<module>") if _CELL.match(text) is not None else None


def _is_exception(name: str, message: str | None) -> bool:
    modules, _, last = name.rpartition(".")
    if name in _NOT_EXCEPTIONS or last == "Empty":  # of a queue: an interrupted main loop waits in it
        return False
    return last.endswith(_SUFFIXES) or bool(
        modules and message and last[:1].isupper() and not last.endswith(("Warning", "RemoteTraceback"))
    )


def _by_name(name: str) -> During | None:
    last = name.rpartition(".")[2]
    return "load" if last in ("ModuleNotFoundError", "ImportError", "SyntaxError", "IndentationError") else None


# -------------------------------------------------------------------------------------------------- where it was raised

_EVALUATES = re.compile(
    r"_*(?:(?:run_|do_)?evaluat(?:e|ion)(?:_\w+)?|(?:run_)?validat(?:e|ion)(?:_(?:step|loop|epoch|model|batch))?"
    r"|prediction_(?:step|loop)|predict(?:_step|_loop)?|compute_metrics|eval_(?:step|loop|epoch|model|one_epoch))"
)
_NO_EVALUATION_FILES = re.compile(r"/(?:pydantic|huggingface_hub|jsonschema|omegaconf|evaluate)/|config[^/]*$")
_TRAINS_SURELY = re.compile(
    r"_?(?:fast_)?inner_training_loop|_*train(?:ing)?_(?:step|loop|epoch|one_epoch|batch)|_maybe_log_save_evaluate"
    r"|optimizer_step|_?run_(?:epoch|batch)|fit_loop"
)
_TRAINER_FILES = re.compile(r"trainer|_finetune_|full_finetune", re.IGNORECASE)
_TRAINS_PERHAPS = re.compile(r"_*(?:run_|do_)?(?:train(?:_\w+)?|fine_?tune(?:_\w+)?|fit|run_(?:sft|dpo|pt|kto|rm|ppo))")
_RESUMES = re.compile(r"_?load_(?:from_checkpoint|checkpoint|optimizer_and_scheduler|rng_state|state)|_load_scaler")
_OWN_EXPORTS = "".join(f"|{each.export_functions}" for each in logged_trainers().values() if each.export_functions)
_EXPORTS = re.compile(
    r"_*(?:merge_(?:and_unload|adapter|lora|model|weights)\w*|unload_and_optionally_merge|push_to_hub\w*|upload_\w+|create_commit|create_repo|export\w*"
    r"|save_pretrained_(?:merged|gguf)|save_to_gguf|convert_\w*gguf\w*|save_(?:trained|final|merged)\w*"
    rf"{_OWN_EXPORTS})"
)
_SAVES = re.compile(r"_*save(?:_\w+)?")
_SAVES_DATA = re.compile(r"save_to_disk|savefig|save_(?:plot|figure)\w*")
_LOADS = re.compile(
    r"_*(?:from_pretrained|load(?:_\w+)?|get_peft_model|tokenize\w*|map|map_single|parse_args\w*|parse_known_args|post_init__"
    r"|prepare_(?!inputs?\b)\w+|setup\w*|build_\w+|hf_hub_download|snapshot_download|cached_files?|import_module"
    r"|find_and_load\w*|call_with_frames_removed)"
)
_COMPUTES = frozenset({"forward", "backward", "compute_loss", "step", "clip_grad_norm_", "_wrapped_call_impl"})
_LIBRARY = re.compile(r"(?:site|dist)-packages/|/lib/python\d|<frozen ")
_OWN_FILES = "".join(f"|{each.own_files}" for each in launch_commands() if each.own_files)
_LAUNCHERS = re.compile(rf"accelerate/commands/|torch/distributed/(?:run|launch|elastic)|torchrun{_OWN_FILES}")


def is_launcher(frames: list[Frame]) -> bool:
    """Return True if the frames are those of a program that starts others, and reports that one of them failed."""
    return any(_LAUNCHERS.search(file) for file, _ in frames)


def during_of(frames: list[Frame]) -> During | None:
    """Return the part of the run that the frames are in; None if they do not show it."""
    if any(_EVALUATES.fullmatch(function) and not _NO_EVALUATION_FILES.search(file) for file, function in frames):
        return "evaluate"
    for index, (file, function) in enumerate(frames):
        if _TRAINS_SURELY.fullmatch(function) or (function == "train" and _TRAINER_FILES.search(_base(file))):
            return _within_training([inner for _, inner in frames[index + 1 :]])
    if frames and _LIBRARY.search(frames[0][0]) and not frames[0][1].startswith(("_", "<")):
        # The frames of its callers are missing: a checkpoint's saving looks like an export's then.
        return None
    return _around_training(frames)


def _within_training(functions: list[str]) -> During:
    if any(_RESUMES.fullmatch(function) for function in functions):
        return "load"
    saves = any(_SAVES.fullmatch(function) or _EXPORTS.fullmatch(function) for function in functions)
    return "save" if saves else "train"


def _around_training(frames: list[Frame]) -> During | None:
    functions = [function for _, function in frames]
    perhaps = any(_TRAINS_PERHAPS.fullmatch(function) for function in functions)
    if any(function == "__init__" and _TRAINER_FILES.search(_base(file)) for file, function in frames):
        return "load"
    if any(_EXPORTS.fullmatch(function) for function in functions):
        return "export"
    for file, function in frames:
        if _SAVES.fullmatch(function) and not _SAVES_DATA.fullmatch(function) and "/datasets/" not in file:
            # A trainer's own saving that was not called by its training was called after it.
            return "save" if perhaps and not _TRAINER_FILES.search(_base(file)) else "export"
    if "generate" not in functions and not _COMPUTES.isdisjoint(functions):
        return "train"
    if any(_LOADS.fullmatch(function) for function in functions):
        return "load"
    return "train" if perhaps else None


def _base(file: str) -> str:
    return file.rpartition("/")[2]
