"""Lines that people write into their training scripts: that the training is over, that something is evaluated or saved.

They are read at the beginning of a line only, after time stamps, levels, emoji and bullets, and with little behind
them: the same words stand in what models write. The trainers' own lines belong to the trainers' readers.
"""

from __future__ import annotations

import re

from touchline.backends.logtext.parts import strip_prefix
from touchline.core.observation import SignKind

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
