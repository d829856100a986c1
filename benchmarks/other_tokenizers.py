"""How far token counts by one tokenizer are from those by another, and from characters.

    python benchmarks/other_tokenizers.py --tokenizers FILES --texts FILES

Tokenizers are files of tokenizer.json, of tiktoken ranks (`.tiktoken`) or of SentencePiece (`.model`). Texts are JSON
files of rows, or others, cut into pieces of 1,000 characters. Printed are, for each text, the characters per token of
every tokenizer, and over all texts the ratios of one tokenizer's count to another's: of whole files and of rows. The
constants of `touchline.data.planned_models` are the ends of these ratios, measured on the tokenizers of Llama 2
(karpathy/llama2.c), Llama 3 and 4 (meta-llama/llama-models), Mistral v3 (mistralai/mistral-common) and SmolLM2, and on
alpaca_en_demo, dpo_en_demo, glaive_toolcall_en_demo and alpaca_zh_demo of hiyouga/LLaMA-Factory, 2,000 words to
capitalize, docs/guides and src/touchline/plan. tiktoken and sentencepiece are needed, as torchtune's environment has.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

# Of OpenAI's cl100k_base, as Llama 3 has it.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PIECE = 1000
_SHARES = (0, 5, 50, 95, 100)


def counter_of(path: Path) -> Callable[[str], int]:
    """Return the function that counts the tokens of a text."""
    if path.suffix == ".json":
        from tokenizers import Tokenizer

        whole = Tokenizer.from_file(str(path))
        return lambda text: len(whole.encode(text, add_special_tokens=False).ids)
    if path.suffix == ".tiktoken":
        import tiktoken
        from tiktoken.load import load_tiktoken_bpe

        ranks = tiktoken.Encoding(
            path.stem, pat_str=_PATTERN, mergeable_ranks=load_tiktoken_bpe(str(path)), special_tokens={}
        )
        return lambda text: len(ranks.encode_ordinary(text))
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return lambda text: len(pieces.encode(text))


def rows_of(path: Path) -> list[str]:
    """Return the texts of a file: of its rows, or pieces of it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        data = json.loads(text)
        rows = data if isinstance(data, list) else list(itertools.chain(*data.values()))
        return [row for each in rows if (row := "\n".join(_strings(each)))]
    return [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(each)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Token counts by other tokenizers.")
    parser.add_argument("--tokenizers", type=Path, nargs="+", required=True)
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    asked = parser.parse_args()
    counters = {path.stem: counter_of(path) for path in asked.tokenizers}
    of_files: list[float] = []
    of_rows: list[float] = []
    print("characters per token", *counters, sep="\t")
    for path in asked.texts:
        rows = rows_of(path)
        characters = np.array([len(row) for row in rows])
        tokens = {name: np.array([max(count(row), 1) for row in rows]) for name, count in counters.items()}
        print(path.name, *(f"{characters.sum() / found.sum():.2f}" for found in tokens.values()), sep="\t")
        for one, other in itertools.permutations(tokens.values(), 2):
            of_files.append(float(one.sum() / other.sum()))
            of_rows += list(one / other)
    for name, ratios in (("files", of_files), ("rows", of_rows)):
        ends = ", ".join(
            f"{share}%: {value:.2f}" for share, value in zip(_SHARES, np.percentile(ratios, _SHARES), strict=True)
        )
        print(f"ratio of one tokenizer's count to another's, {name}: {ends}")


if __name__ == "__main__":
    main()
