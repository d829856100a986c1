"""The grammar that all logs share: bars, dictionary lines, time stamps, numbers, secrets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiers import examples

from touchline.backends.logtext.bars import read_bars
from touchline.backends.logtext.dicts import read_row
from touchline.backends.logtext.numbers import not_a_number, to_count, to_gib, to_number, to_seconds
from touchline.backends.logtext.redact import redact
from touchline.backends.logtext.stamps import read_stamp

pytestmark = pytest.mark.planning


def bars(text: str) -> list[tuple[str, int, int | None, float | None]]:
    return [(bar.label, bar.done, bar.total, bar.elapsed_seconds) for bar in read_bars(text.encode(), 1)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (" 60%|██████    | 6/10 [00:16<00:11,  2.89s/it]", [("", 6, 10, 16.0)]),
        ("Epoch 1:  45%|####5     | 450/1000 [1:01:15<01:32, 5.9it/s, loss=0.5]", [("Epoch 1", 450, 1000, 3675.0)]),
        (
            "2|350|Loss: 0.23:  90%|█████████ | 225/250 [01:42<00:11,  2.20it/s]",
            [("2|350|Loss: 0.23", 225, 250, 102.0)],
        ),
        ("100%|██████████| 8/8 [1 day, 2:00:00<00:00, 9.3s/it]", [("", 8, 8, 93600.0)]),
        ("model.safetensors:  12%|█▏        | 1.1G/9.1G [00:09<01:10, 110MB/s]", []),
        ("42it [00:21,  2.00it/s]", [("", 42, None, 21.0)]),
        ("the odds are 50%| so they say", []),
    ],
)
def test_bars(line: str, expected: list[tuple[str, int, int, float]]) -> None:
    assert bars(line) == expected


def test_two_bars_on_one_line_have_their_own_labels() -> None:
    line = "a: 10%|█         | 1/10 [00:01<00:09,  1.00s/it]b: 20%|██        | 2/10 [00:02<00:08,  1.00s/it]"
    assert [bar[0] for bar in bars(line)] == ["a", "b"]


@settings(max_examples=examples(25), deadline=None)
@given(text=st.text(max_size=200))
def test_no_line_breaks_the_grammar(text: str) -> None:
    for bar in read_bars(text.encode("utf-8", "surrogatepass"), 1):
        assert bar.done >= 0
    assert read_row(text) is None or text.rstrip().endswith("}")
    assert redact(redact(text)) == redact(text)
    for number in (read_stamp(text), to_number(text), to_seconds(text)):
        assert number is None or math.isfinite(number)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=examples(25), deadline=None)
@given(
    row=st.dictionaries(
        st.from_regex(r"[a-z_/]{1,12}", fullmatch=True), NUMBERS | st.none() | st.booleans(), min_size=1
    )
)
def test_a_printed_dictionary_is_read_back(row: dict[str, object]) -> None:
    assert read_row(str(row)) == row
    assert read_row("step 3: " + str(row) + " ") == row


def test_dictionaries_as_programs_print_them() -> None:
    row = read_row("{'loss': nan, 'a': None, 'b': tensor(2.5, device='cuda:0'), 'c': np.float64(1e-05), 'd': 'it'}")
    assert math.isnan(row["loss"])  # type: ignore[arg-type]
    assert (row["a"], row["b"], row["c"], row["d"]) == (None, 2.5, 1e-05, "it")
    assert read_row("{'text': \"it's 5\", 'n': 2}") == {"text": "it's 5", "n": 2}
    assert read_row("{'loss': 1.5, 'epoch'") is None
    assert read_row("{__import__('os').getcwd(): 1}") is None


@pytest.mark.parametrize(
    ("line", "iso"),
    [
        ("[2025-05-08 13:40:27,488] [INFO] [x:1]", "2025-05-08T13:40:27"),
        ("04/07/2024 20:29:47 - INFO - x", "2024-04-07T20:29:47"),
        ("[INFO|tokenization.py:2084] 2024-04-07 20:29:48,633 >> x", "2024-04-07T20:29:48"),
        ("[INFO|2025-01-01 10:00:00] a.b:1 >> x", "2025-01-01T10:00:00"),
        ("Job started at Mon Jan  5 10:00:00 EST 2026", "2026-01-05T10:00:00"),
        ("2026-06-29T06:36:52Z INFO x", "2026-06-29T06:36:52"),
        ("epoch 2025 of 3000", None),
        ("2025-99-99 99:99:99 x", None),
    ],
)
def test_stamps(line: str, iso: str | None) -> None:
    import datetime

    expected = None if iso is None else datetime.datetime.fromisoformat(iso + "+00:00").timestamp()
    assert read_stamp(line) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("29,933,568", 29933568.0),
        ("1.026e+04", 10260.0),
        ("4.5M", 4500000.0),
        ("1_234", 1234.0),
        (".5", 0.5),
        ("nan", None),
        ("", None),
        ("1,23", None),
        ("12 GB", None),
    ],
)
def test_numbers(text: str, value: float | None) -> None:
    assert to_number(text) == value


def test_counts_sizes_clocks() -> None:
    assert to_count("16,266") == 16266
    assert to_count("1.5") is None
    assert to_gib(2048, "MiB") == 2.0
    assert to_gib(14, "GB") is None
    assert to_seconds("0:50:01.40") == pytest.approx(3001.4)
    assert not_a_number("NaN")
    assert not not_a_number("0.5")


@pytest.mark.parametrize(
    "secret",
    [
        "hf_abcdefghijklmnopqrstuvwx",
        "WANDB_API_KEY=0123456789abcdef0123",
        "Authorization: Bearer abcdefgh12345678",
        "https://user:passw0rd@example.org/x",
        "--hub_token=s3cr3ts3cr3t",
    ],
)
def test_secrets_are_redacted(secret: str) -> None:
    shown = redact(f"export {secret} now")
    assert "[redacted]" in shown
    for piece in ("abcdefgh", "0123456789abcdef", "passw0rd", "s3cr3t"):
        assert piece not in shown


@pytest.mark.parametrize(
    "plain", ["'num_tokens': '1.026e+04'", "eos_token: </s>", "tokens/s: 1234567", "max_tokens=1000000"]
)
def test_what_is_no_secret_stays(plain: str) -> None:
    assert redact(plain) == plain
