"""What people print at the ends of their scripts is read, and the same words elsewhere are not."""

from __future__ import annotations

import re

import pytest

from touchline.core.observation import Sign
from touchline.history.failures.reader import Faults

pytestmark = pytest.mark.planning


def kinds(text: str) -> list[str]:
    """Kinds of the signs."""
    reader = Faults()
    lines = enumerate(text.split("\n"), 1)
    return [event.kind.name for n, line in lines for event in reader.line(line, n) if isinstance(event, Sign)]


def words_of(line: str) -> set[str]:
    """The words by which a line is offered."""
    return set(re.findall(r"[a-z_\x80-\U0010ffff]+", "".join(c.lower() if c.isascii() else c for c in line)))


def test_a_hand_written_milestone_is_read() -> None:
    for line, kind in [
        ("Training complete!", "TRAINED"),
        ("=== Training Complete ===", "TRAINED"),
        ("✅ Training completed successfully!", "TRAINED"),
        ("2026-01-02 03:04:05,678 - INFO - __main__ - Training finished in 3h 12m", "TRAINED"),
        ("2026-01-02 03:04:05.678 | INFO     | train:main:42 - Fine-tuning complete.", "TRAINED"),
        ("[rank0]: training done", "TRAINED"),
        ("LoRA training complete. Model saved to out/", "TRAINED"),
        ("Training complete and model saved to out/", "TRAINED"),
        ("5. Training Complete! Saving weights...", "TRAINED"),
        ("Running final evaluation", "EVALUATING"),
        ("🔍 Evaluating on the test set...", "EVALUATING"),
        ("Saving model to out/lora", "SAVING"),
        ("Saving final model to out/", "EXPORTING"),
        ("Merging adapter weights", "EXPORTING"),
        ("💾 Model and tokenizer saved to out/", "SAVED"),
        ("Rank 0:  Model saved to out/", "SAVED"),
    ]:
        assert kinds(line) == [kind], line
        assert words_of(line) & Faults.words, line


def test_other_lines_are_no_milestones() -> None:
    for line in [
        "After training completed, the dog slept.",
        "Training complete the set before noon with the athletes",
        "Training finished for epoch 2",
        "Training completed. The dog then walked home and slept",
        "***** Running Evaluation *****",
        "Saving model checkpoint to out/checkpoint-100",
        "Training completed. Do not forget to share your model on huggingface.co/models =)",
        "Training completed! Saving pre-trained model to ./out.",
        "Saving merged prepared dataset to disk... prepared/77",
        "Best model saved to out/best at step 70",
        "Evaluation strategy: steps",
        "Evaluating: 10%|█         | 1/10 [00:01<00:09,  1.00s/it]",
        "wandb: Synced 5 files",
    ]:
        assert kinds(line) == [], line


FAILED = 'Traceback (most recent call last):\n  File "t.py", line 7, in <module>\nValueError: no'


def test_a_script_that_says_so_after_a_fault_is_not_believed() -> None:
    assert kinds(FAILED + "\nTraining complete!") == ["EXCEPTION"]
    assert kinds("Killed\nTraining complete!") == ["HOST_OOM"]


def test_long_after_a_fault_it_is_believed_again() -> None:
    assert kinds(FAILED + "\n" * 100 + "Training complete!") == ["EXCEPTION", "TRAINED"]
