"""Loops of no known trainer, in many forms, facts that scripts print, and lines that say nothing of a training."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.backends.logtext.parts import read_row
from touchline.backends.logtext.vocabulary import Concept, Split, meaning_of
from touchline.core.observation import Event, Observation, Sign
from touchline.history.loop_facts import duration
from touchline.history.loop_lines import TrainingLines
from touchline.history.loop_rows import StepCounter
from touchline.history.scan import clean

pytestmark = pytest.mark.planning


def is_offered(line: bytes) -> bool:
    """Whether a line holds one of the reader's words."""
    words = set(re.findall(rb"[a-z_\x80-\xff]+", bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in line)))
    return any(word.encode() in words for word in TrainingLines.words)


def read(content: bytes) -> list[Event]:
    """All events of a file's bytes, of lines that are offered only."""
    reader = TrainingLines()
    events: list[Event] = []
    for number, line in enumerate(content.split(b"\n"), 1):
        for part in line.split(b"\r"):
            if not is_offered(part):
                continue
            text = clean(part)
            events += reader.line(text, number)
            row = read_row(text)
            if row is not None:
                events += reader.row(row, text, number)
    return events


def told(event: Event) -> str:
    """An event in one line: number, name, value, and what else it says; a guess ends in a tilde."""
    if isinstance(event, Sign):
        return f"{event.line} {event.kind.value}" + ("" if event.step is None else f" @{event.step}")
    assert isinstance(event, Observation)
    value = event.value if isinstance(event.value, str) else f"{event.value:.10g}"
    words = [f"{event.line} {event.name} {value}"]
    words += [event.unit] if event.unit != "1" else []
    words += [f"@{event.step}"] if event.step is not None else []
    words += [f"epoch={event.epoch:.4g}"] if event.epoch is not None else []
    words += [word for word in (event.phase, event.kind, event.token_unit, event.aggregation) if word]
    return " ".join(words if event.certain else [*words, "~"])


NO_TRAINING = (
    "Step 1: Preheat the oven. Step 2: mix 3 eggs, loss of volume is normal.",
    "Once upon a time, at step 3 of the stair, the loss: 5 coins were gone.",
    "The training loss was 0.5 at epoch 3 and then it rose.",
    "In epoch 3 the loss is 0.4, as we reported earlier in the paper.",
    "User: what is a loss? Assistant: At step 100 the loss is 0.5.",
    '"text": "Epoch 1: loss 0.5"',
    '{"messages": [{"role": "user", "content": "Epoch 1: loss 0.5"}], "step": 1, "loss": 0.5}',
    '{"instruction": "Tell the loss at step 3", "output": "2.0", "step": 3, "loss": 2.0}',
    '{"prompt": "loss", "epoch": 1, "train_loss": 2.0}',
    "Collecting torch==2.4.0 (step 1 of 3)",
    "model: tern-labs/Tern-7B",
    "  loss: cross_entropy",
    '  "batch_size": 4,',
    "TrainingArguments(per_device_train_batch_size=4, num_train_epochs=3, max_steps=100)",
    "epoch 1 best loss 0.4",
    "Epoch 2: kl loss 0.1, policy loss 0.2",
    "Epoch 2: loss 45%",
    "Question 4: Solve for x. Step 2: x = 3, loss = none",
    "### Response: Loss: 0.5",
    "Loss: 0.5",
    'print(f"Epoch {epoch + 1}/{epochs}, Loss: {loss.item():.4f}")',
    "Model: LlamaForCausalLM",
    "Model: the best one we have",
    "Batch size: auto",
    "Max steps: -1",
    "Training time: a while",
    "Training took longer than 3 hours, as we feared.",
    "Evaluating: 100%|██████████| 9/9 [00:02<00:00,  4.00it/s, loss=0.951]",
    "user 4.2 M params",
    "GPU memory used: 3.2 GB",
    "轮次 1/3 - 训练损失: 0.5 - 验证损失: 0.6",
    "Эпоха 1/9 - Потери обуч: 2,301, Потери вал: 0,5",
    "valid | epoch 001 | valid on 'valid' subset | loss 5.25 | nll_loss 3.6 | ppl 12.1 | num_updates 5000",
    "train_inner | epoch 001:    100 / 5000 loss=8.102, nll_loss=6.5, ppl=90.51, num_updates=100",
)
"""Stories, chats, rows of data, dumps of configurations, output of installers: no line of them says anything."""
OTHERS_OWN = (
    "wandb: loss 0.5",
    "wandb: train_loss 0.25",
    "1|9|Loss: 0.1452:  90%|█████████ | 9/10 [00:33<00:03,  3.40s/it]",
    "Step 9 | loss:0.1452 lr:9.5e-05 tokens_per_second_per_gpu:16.4",
    "{'loss': 0.5, 'learning_rate': 1e-05, 'epoch': 0.5}",
    "{'train_runtime': 3.2, 'train_loss': 0.5, 'epoch': 1.0}",
    "{'eval_loss': 0.5, 'eval_runtime': 3.2, 'epoch': 1.0}",
    '{"event": "step", "step": 50, "loss": 1.0}',
    '{"current_steps": 60, "total_steps": 70, "loss": 1.0, "epoch": 0.5}',
    "{'loss': 1.0, 'global_step/max_steps': '5/10', 'memory(GiB)': 3.2}",
    "trainable params: 4,194,304 || all params: 6,742,609,920 || trainable%: 0.0622",
    "  Num examples = 1,000",
    "  Num Epochs = 3",
    "  train_loss               =     1.5507",
    "  eval_loss = 1.5507",
    "***** train metrics *****\n  epoch                    =        3.0\n  train_loss               =     1.5507",
    "\\        /    Total batch size = 16 | Total steps = 156",
    "  Gradient Accumulation steps = 8",
    "  Number of trainable parameters = 4,194,304",
    "Peak GPU memory: 45.2 GB",
    "Loaded 8,000 training examples",
)
"""Lines of trainers that have readers of their own."""


def test_what_is_no_loop_says_nothing() -> None:
    for line in NO_TRAINING:
        assert read(line.encode()) == [], line
    for line in OTHERS_OWN:
        assert read(line.encode()) == [], line


def test_steps_of_the_run() -> None:
    for line, step, total, loss in [
        ("step 120/500 loss 1.2345", 120, 500, 1.2345),
        ("Step: 120, Loss: 1.2345", 120, None, 1.2345),
        ("[Step 100] loss=2.31 lr=1e-4", 100, None, 2.31),
        ("iter 100: loss 2.31, time 120.5ms, mfu 12.3%", 100, None, 2.31),
        ("2025-03-04 09:00:00.123 | INFO     | __main__:train:45 - Step 10 of 40 | Loss: 1.5", 10, 40, 1.5),
        ("INFO:trainer:global_step=30 train_loss=1.5", 30, None, 1.5),
        ("step 00100/21400 (0.47%) | loss: 6.1234 | lrm: 1.00 | dt: 412.33ms | mfu: 49.10", 100, 21400, 6.1234),
        ("step:100/1750 train_loss:6.1234 train_time:9876ms step_avg:98.76ms", 100, 1750, 6.1234),
        ("I0304 09:00:00.123456 1234 solver.cpp:239] Iteration 100 (5.1 iter/s), loss = 2.31", 100, None, 2.31),
        ("[INFO|2025-03-04 09:00:00] step = 10 , loss = 0.5", 10, None, 0.5),
        ("📈 Step 10/20 — Loss: 0.5 ✅", 10, 20, 0.5),
    ]:
        events = [event for event in read(line.encode()) if isinstance(event, Observation)]
        assert [(event.value, event.step) for event in events if event.name == "loss"] == [(loss, step)], line
        assert [event.value for event in events if event.name == "steps_total"] == ([total] if total else []), line


def test_epochs_done() -> None:
    for line, done, loss, held_out in [
        ("Epoch 1: train_loss=0.5, val_loss=0.6", 1, 0.5, 0.6),
        ("Epoch 1: train_loss=0.5, val_loss=0.6 -> saved best model to out/best", 1, 0.5, 0.6),
        ("epoch 2 average loss 0.51", 2, 0.51, None),
        ("Epoch 1 finished. Avg training loss: 0.3891", 1, 0.3891, None),
        ("Epoch: [0][10/500]\tTime 0.1 (0.2)\tLoss 2.3 (2.5)", 0.02, 2.3, None),
        ("Epoch 1, Batch 100/500, Loss: 0.5123, Tokens/s: 12345", 0.2, 0.5123, None),
        ("epoch 0: perplexity: 23.4 eval_loss: 3.15", 1, None, 3.15),
        ("Epoch 1/9 - Train loss: 2,301, Val loss: 0,5", 1, None, 0.5),
        ("Epoch 1 - Train loss: 0.52 - Test loss: 0.61", 1, 0.52, 0.61),
        ("Val | Epoch 3 | Loss: 0.7", 3, None, 0.7),
        ("[VAL] Epoch 1 | Loss: 0.7", 1, None, 0.7),
        ("Epoch 1/3 - Train Loss: 0.9961, Train Acc: 0.8758 - Val Loss: 1.3483 (Saved!)", 1, 0.9961, 1.3483),
    ]:
        events = [event for event in read(line.encode()) if isinstance(event, Observation)]
        found = {event.name: event.value for event in events}
        assert (found.get("loss"), found.get("eval_loss")) == (loss, held_out), line
        assert {event.epoch for event in events if event.name in ("loss", "eval_loss")} == {done}, line


def test_printed_facts_are_guesses() -> None:
    for line, expected in [
        ("- **Batch size**: 4", "micro_batch_size 4"),
        ("Per-device batch size: 4", "micro_batch_size 4"),
        ("Gradient accumulation: 8", "gradient_accumulation_steps 8"),
        ("Effective batch size: 32 (4 x 8)", "global_batch_size 32"),
        ("Num epochs: 3", "epochs 3 epochs"),
        ("Max steps: 500", "steps_total 500 steps"),
        ("Train samples: 52002", "train_examples 52002 examples"),
        ("Fine-tuning with LoRA on 52002 samples...", "train_examples 52002 examples"),
        ("  16,266 training examples", "train_examples 16266 examples"),
        ("Loaded 5749 training samples and 1500 validation samples", "train_examples 5749 examples"),
        ("Train: 900, Val: 100", "train_examples 900 examples"),
        ("Learning rate: 2e-4", "learning_rate 0.0002"),
        ("LoRA rank: 16", "lora_rank 16"),
        ("Max seq length: 2048", "max_seq_len 2048 tokens"),
        ("Number of GPUs: 2", "gpus 2"),
        ("GPU: NVIDIA A100-SXM4-80GB (79.2 GB)", "gpu NVIDIA A100-SXM4-80GB"),
        ("Trainable params: 4.19M (0.06%)", "trainable_parameters 4190000 parameters"),
        ("Final loss: 0.42", "loss 0.42 nats last"),
        ("Validation loss: 0.5", "eval_loss 0.5 nats"),
        ("Training time: 1234.5 seconds", "train_seconds 1234.5 s"),
        ("Training took 0:12:34", "train_seconds 754 s"),
        ("Training completed in 12.5 minutes!", "train_seconds 750 s"),
        ("Max memory allocated: 12.5 GiB", "peak_memory 12.5 GiB after_init allocated peak"),
    ]:
        (event,) = read(line.encode())
        assert told(event) == f"1 {expected} ~", line


def test_times_and_rates_that_are_none_of_the_training() -> None:
    lines = b"Epoch 1/2 - loss: 0.5\nTraining time: 10.0 seconds\nEpoch 2/2 - loss: 0.4\nTraining time: 10.0 seconds"
    assert not [event for event in read(lines) if isinstance(event, Observation) and event.name == "train_seconds"]
    whole = lines.replace(b"\nTraining time: 10.0 seconds", b"", 1)
    assert [told(event) for event in read(whole)][-2:] == ["3 train_seconds 10 s ~", "3 trained"]
    events = read(b"Step 10: loss 0.5\nLearning rate: 1e-5")
    assert all(isinstance(event, Observation) and event.name != "learning_rate" for event in events)


def test_of_several_ranks_one_counts() -> None:
    lines = (
        b"[rank1]: step 20 loss 0.5\n[rank0]: step 10 loss 0.4\n[rank1]: step 30 loss 0.3\n[rank0]: step 20 loss 0.2"
    )
    steps = [event.step for event in read(lines) if isinstance(event, Observation) and event.name == "loss"]
    assert steps == [20, 30]
    bare = b"step 10 loss 0.5\nstep 20 loss 0.5\nstep 10 loss 0.6\nstep 20 loss 0.6\nstep 30 loss 0.4"
    steps = [event.step for event in read(bare) if isinstance(event, Observation) and event.name == "loss"]
    assert steps == [10, 20, 20, 30], "what another process prints late does not go back"


def test_another_attempt_is_told_whose_it_is() -> None:
    lines = b"step 10/40 loss 0.5\nstep 20/40 loss 0.4\nstep 30/40 loss 0.3\nstep 10/40 loss 0.5"
    assert [event.line for event in read(lines) if isinstance(event, Observation) and event.name == "trainer"] == [1, 4]


@given(epochs=st.integers(1, 5), length=st.integers(4, 400), from_zero=st.booleans(), stride=st.integers(1, 4))
def test_counters_of_epochs_and_of_runs(epochs: int, length: int, from_zero: bool, stride: int) -> None:
    first = 0 if from_zero else 1
    for per_epoch in (True, False):
        counter = StepCounter()
        last = 0.0
        total = length if per_epoch else length * epochs
        for epoch in range(epochs):
            for step in range(stride, length + 1, stride):
                shown = step if per_epoch else epoch * length + step
                at, planned, done = counter.place(epoch + first, epochs, shown, total, is_global=False)
                assert at in (None, epoch * length + step), "a step that is given is one of the run"
                assert planned in (None, length * epochs)
                assert done is None or done >= last, "no epoch goes back"
                last = last if done is None else done


def test_a_counter_from_zero_ends_one_below_its_total() -> None:
    counter = StepCounter()
    assert counter.place(None, None, 0, 10, is_global=False)[0] == 0
    assert counter.place(None, None, 9, 10, is_global=False)[0] == 10


def test_durations() -> None:
    for text, seconds in [
        ("1234.5 seconds", 1234.5),
        ("12.5 minutes", 750),
        ("2h 13m 5s", 7985),
        ("1 hour and 30 minutes", 5400),
        ("0:12:34", 754),
        ("3", None),
        ("a few minutes", None),
        ("12 apples", None),
    ]:
        assert duration(text) == seconds, text


def test_meanings() -> None:
    for name, concept, split in [
        ("train_loss", Concept.LOSS, Split.TRAIN),
        ("Val. Loss", Concept.LOSS, Split.VALIDATION),
        ("avg training loss", Concept.LOSS, Split.TRAIN),
        ("global_step", Concept.GLOBAL_STEP, None),
        ("optimizer step", Concept.GLOBAL_STEP, None),
        ("micro_step", Concept.BATCH, None),
        ("end of epoch", Concept.EPOCH, None),
        ("tok/s", Concept.TOKEN_RATE, None),
        ("max mem allocated", Concept.PEAK_ALLOCATED, None),
        ("kl loss", None, None),
        ("loss scale", None, None),
        ("mem", None, None),
    ]:
        meaning = meaning_of(name)
        assert (meaning.concept, meaning.split) == (concept, split), name


def test_an_event_that_begins_a_training_tells_of_its_examples() -> None:
    for line, expected in [
        (b"2026-03-01 10:00:00 [info     ] training_started   model=tiny epochs=2 train_samples=1200", 1200),
        (b"training_start samples=31", 31),
        (b"generation_started samples=31", None),
        (b"evaluation_started output=a samples=31", None),
        (b"training_started batch=4 max_samples=31", None),
    ]:
        counts = [e.value for e in read(line) if isinstance(e, Observation) and e.name == "train_examples"]
        assert counts == ([] if expected is None else [expected]), line
