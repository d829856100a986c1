"""Lines that people write into their training scripts: that the training is over, that something is evaluated or saved.

They are read at the beginning of a line only, after time stamps, levels, emoji and bullets, and with little behind
them: the same words stand in what models write. The trainers' own lines belong to the trainers' readers.
"""

from __future__ import annotations

import re

from touchline.backends.logtext.prefixes import strip_prefix
from touchline.core.observation import SignKind

_LENGTH_LIMIT = 240
_DECORATION = re.compile(r"^(?:\d{1,2}[.)] +|\[[\w ./:-]{1,40}\]\s*|[\w.:<>]{1,60} - (?=\S)|[^\w\s]+\s*|\s+)*")
_TRAINERS_OWN = re.compile(
    r"\*{5} |Saving model checkpoint to |.*\bhuggingface\.co/models =\)|.*\bSaving (?:pre-)?trained model to "
)
_TAIL = (
    r"(?:\s+(?:successfully|sucessfully))?"
    r"(?:\s*$|\s*[!.:,;|=*)\]\-–—~…✅🎉🏁✓✔🚀]+\s*$"
    r"|\s+(?:in|after|at|on)\s*:?\s*(?:[\d~(]|(?-i:[A-Z][a-z]{2}\b))[^!?]{0,60}$"
    r"|\s+and\s+(?=.{0,90}$)(?=.*\b(?:model|adapter|weights|checkpoint)\b.*\bsaved\b).*$"
    r"|\s*[!.:,;|(\-–—]+\s*(?=.{0,90}$)(?=.*(?:\d|model|saved|saving|loss|time|best|output|checkpoint|adapter)).*$)"
)
_WHAT = r"(?:(?:the|your|model|lora|qlora|sft|dpo|grpo|ppo|full|adapter|instruction|(?:stage|phase) \d+)\s+)*"
_TRAINING = r"(?:training|fine-?\s?tuning|train|sft|dpo)"
_TRAINED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_WHAT}{_TRAINING}(?:\s+(?:process|run|loop|phase|job|pipeline))?(?:\s+(?:is|has|was)(?: been)?)?\s+"
        rf"(?:now )?(?:complete[d]?|finished|done|ended|concluded|successful)\b{_TAIL}",
        rf"(?:finished|completed|done|end of|ended)\s+{_WHAT}(?:training|fine-?\s?tuning)\b{_TAIL}",
    )
)
_OTHERS: tuple[tuple[re.Pattern[str], SignKind], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (
            r"early[ -]?stop(?:ping|ped)?(?: (?:is |was |has been )?(?:triggered|activated|reached)"
            r"| (?:training )?(?:at|after|in) (?:epoch|step|iteration|\d)|[!.]*$"
            r"|[.:!,(] ?(?:no|val|best|patience|after|at)\b)"
            r"[^?]{0,160}$"
            r"|early stop since [^?]{0,160}$|epoch \d+: early stopping$|[^?]{0,160}signaling trainer to stop[^?]{0,40}$"
            r"|(?:max(?:imum)? )?patience (?:of \d+ )?(?:was |has been )?(?:reached|exceeded|exhausted)"
            r"\b[^?]{0,80}$"
            r"|no improvement (?:for|in|after) \d+ [^?]{0,60}\bstopping\b[^?]{0,40}$"
            r"|(?:stop(?:ping|ped)|halt(?:ing|ed)) (?:the )?(?:training )?early\b[^?]{0,160}$"
            r"|training (?:was )?(?:stopped|halted) early\b[^?]{0,160}$|stopping_early: [^?]{0,160}$",
            SignKind.STOPPED,
        ),
        (
            r"(?:(?:start(?:ing)?|running|run|begin(?:ning)?|performing)\s+)(?:\w+[ -]){0,2}evaluation\b[^?!]{0,60}$"
            r"|evaluating(?: (?:the|on|model|base|final|fine-?tuned|adapter|test|validation|checkpoint)\b[^?!]{0,80})?"
            r"\s*[.…:]*$",
            SignKind.EVALUATING,
        ),
        (
            r"(?:merging|exporting|pushing|uploading)\s+(?:\w+[ -]){0,3}"
            r"(?:adapters?|weights|model|lora|hub|gguf|hugging ?face)\b[^?!]{0,160}$"
            r"|saving\s+(?:the\s+)?(?:final|merged|fine-?tuned|trained|full)\s+(?:\w+\s+){0,2}?"
            r"(?:model|adapters?|weights|checkpoint|lora|16-?bit)\b[^?!]{0,160}$"
            r"|convert(?:ing)?\s+(?:\w+\s){0,2}to gguf\b[^?!]{0,160}$",
            SignKind.EXPORTING,
        ),
        (
            r"saving\s+(?:(?:the|lora|best|model|peft|current)\s+){0,3}(?:model|adapters?|checkpoint|weights|state|lora)\b"
            r"[^?!]{0,160}$",
            SignKind.SAVING,
        ),
        (
            r"(?:(?:the|final|merged|fine-?tuned|trained|lora|peft|full)\s+)*(?:model|adapters?|weights)"
            r"(?: (?:and|&|\+) (?:tokenizer|adapter|config|processor))?"
            r"(?: (?:has|have) been| was| were| successfully| is)*"
            r" (?:saved|exported|pushed|uploaded)\b[^?]{0,200}$"
            r"|saved\s+(?:(?:the|final|merged|fine-?tuned|trained|lora|peft|full)\s+)*(?:model|adapters?|weights)\b"
            r"[^?]{0,200}$",
            SignKind.SAVED,
        ),
    )
)
# A checkpoint on the way says nothing of the end; what is best so far is saved at any time.
_ON_THE_WAY = re.compile(
    r"checkpoint-?\d|\bbest\b|\bepoch\b|\bstep\b|\bevery\b|\bwill be\b|\bnot saved\b", re.IGNORECASE
)

WORDS: frozenset[str] = frozenset(
    {
        *("training", "finetuning", "tuning", "train", "sft", "finished", "evaluating", "evaluation", "merging"),
        *("exporting", "pushing", "uploading", "saving", "saved", "exported", "pushed", "uploaded", "gguf"),
        *("patience", "signaling", "improvement"),
        *("early", "earlystopping", "stopped", "stopping", "halted", "halting", "stopping_early", "early_stop"),
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
    said = rest[_DECORATION.match(rest).end() :].strip()  # type: ignore[union-attr]
    if any(pattern.match(said) for pattern in _TRAINED):
        return SignKind.TRAINED
    for pattern, kind in _OTHERS:
        if pattern.match(said):
            return None if kind is SignKind.SAVED and _ON_THE_WAY.search(said) else kind
    return None
