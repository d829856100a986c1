"""Whole logs, end to end, in one table: the mistakes that cost GPU hours cannot be made with what is read here."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from tests.cases import parametrize

from touchline.core.quantity import Missing, Quantity
from touchline.history.facts import read_facts
from touchline.history.files import LoggedRun, SkippedFile, find_runs
from touchline.history.record import RunRecord

pytestmark = pytest.mark.planning


def bar(done: int, total: int, seconds: float, label: str = "") -> str:
    percent, clock = 100 * done // total, f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
    return f"\r{label}{percent:3d}%|{'█' * (percent // 10):<10}| {done}/{total} [{clock}<00:30,  4.34it/s]"


def bars(first: int, last: int, total: int, pace: float, *, every: int = 10, label: str = "") -> str:
    return "".join(bar(step, total, pace * step, label) + "\n" for step in range(first, last + 1, every))


def rows(first: int, last: int, per_epoch: int, start: float = 2.0) -> str:
    """Every tenth row of the Hugging Face Trainer."""
    return "".join(
        f"{{'loss': {start - n / 1000:.4f}, 'grad_norm': 0.5, 'learning_rate': 1e-05, 'epoch': {n / per_epoch:.4f}}}\n"
        for n in range(first, last + 1, 10)
    )


def closing(seconds: float, loss: float, epoch: float, steps: int) -> str:
    return (
        f"{{'train_runtime': {seconds}, 'train_samples_per_second': {steps * 8 / seconds:.3f}, "
        f"'train_steps_per_second': {steps / seconds:.3f}, 'train_loss': {loss}, 'epoch': {epoch}}}\n"
    )


def many(template: str, *numbers: int, **more: float) -> str:
    """A row of a template for each number of a range; `{n}` is the number, `{x}` a loss that falls with it."""
    return "".join(template.format(n=n, x=3 - n / 1000, **more) + "\n" for n in range(*numbers))


def banner(examples: int, epochs: int, steps: int) -> str:
    return (
        f"***** Running training *****\n  Num examples = {examples}\n  Num Epochs = {epochs}\n"
        "  Instantaneous batch size per device = 4\n"
        "  Total train batch size (w. parallel, distributed & accumulation) = 16\n"
        f"  Gradient Accumulation steps = 4\n  Total optimization steps = {steps}\n"
    )


def crash(last: str, *frames: tuple[str, str]) -> str:
    """A traceback of the Trainer, or of these frames: file and function."""
    trainer = "/venv/site-packages/transformers/trainer.py"
    shown = frames or (("/home/u/sft.py", "<module>"), (trainer, "train"), (trainer, "_inner_training_loop"))
    lines = "".join(f'  File "{file}", line 90, in {function}\n    call()\n' for file, function in shown)
    return f"Traceback (most recent call last):\n{lines}{last}\n"


OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a capacity of 21 GiB"
CAUGHT = "2026-01-05 10:00:00 ERROR attempt failed\n" + crash(
    OUT_OF_MEMORY, ("/home/u/run.py", "attempt"), ("/home/u/run.py", "train")
)
KILLED = (
    "slurmstepd: error: Detected 1 oom_kill event in StepId={job}.batch. Some of the step tasks have been OOM Killed.\n"
)
ENDED = "slurmstepd: error: *** JOB 411 ON n01 CANCELLED AT 2026-01-05T10:00:00 DUE TO {why} ***\n"
STEPS = "step {n}/900 | loss {x:.4f}"
TORCHTUNE = """\
Running LoRAFinetuneRecipeSingleDevice with resolved config:

batch_size: 1
epochs: 1
gradient_accumulation_steps: 1
model:
  _component_: torchtune.models.llama3_2.lora_llama3_2_1b
  lora_rank: 64
dataset:
  packed: true
tokenizer:
  max_seq_len: 2048

Model is initialized with precision torch.bfloat16.
Memory stats after model init:
\tGPU peak memory allocation: 2.41 GiB
\tGPU peak memory reserved: 2.42 GiB
Packing dataset: 100%|██████████| 4000/4000 [00:00<00:00, 6478.45it/s]
"""
SUMMARY = (
    "wandb: \nwandb: Run summary:\nwandb:               global_step 109\nwandb:                      loss 0.50138\n"
    "wandb: tokens_per_second_per_gpu 50.20202\nwandb: \nwandb: You can sync this run to the cloud\n"
)


def with_evaluations() -> tuple[str, float]:
    """400 steps of two seconds, a minute of evaluation after every hundredth; and the whole time."""
    text, clock = rows(10, 10, 200), 0.0
    for step in range(1, 401):
        clock += 2.0
        text += bar(step, 400, clock)
        if step % 100 == 0:
            clock += 60.0
            said = f"'eval_loss': 1.5, 'eval_runtime': 60.0, 'eval_samples_per_second': 5.0, 'epoch': {step / 200}"
            text += f"\n{{{said}}}\n"
    return text + closing(clock, 1.8, 2.0, 400), clock


EVALUATED, CLOCK = with_evaluations()
RESUMED = (
    "***** Running training *****\n  Num examples = 4,000\n  Num Epochs = 2\n  Total optimization steps = 1,000\n"
    "  Continuing training from checkpoint, will skip to saved global_step\n"
    "  Continuing training from global step 500\n"
    + "".join(bar(step, 1000, step / 400) for step in range(0, 501, 25))
    + "".join(bar(step, 1000, 2 + (step - 500) * 3.0) for step in range(501, 1001))
    + "\n" + rows(510, 1000, 500) + closing(1502.0, 0.62, 2.0, 1000)
)  # fmt: skip
EXAMPLES = (
    "Epoch {n}\n----\nloss: 2.{n}03494  [   64/60000]\nloss: 1.{n}01000  [57664/60000]\nTest Error:\n"
    " Accuracy: 44.7%, Avg loss: 1.7{n}1022\n\n"
)
SOURCE = (
    "import torch\nclass Config:\n    batch_size = 4\n    lr = 0.1\ndef main():\n    epochs = 3\n    lora_r = 8\n"
    '        raise RuntimeError(f"non-finite train loss at step {step}: {loss}")\n'
    "step:10/20 val_loss:3.5 train_time:10s step_avg:1000ms\n"
)
EPOCHS = many("Epoch {n}/5 | step {n}00 | loss: {x:.4f}", 1, 6)
STOPPED = (
    "{'train_runtime': 500.0, 'train_samples_per_second': 80.0, 'train_steps_per_second': 10.0, 'train_loss': 1.7, "
    "'epoch': 1.0}\n"
)
ROWS = rows(10, 400, 100)
FRAMES = (
    '  File "/home/u/sft.py", line 9, in <module>\n    main()\n'
    '  File "/venv/site-packages/transformers/trainer.py", line 90, in _inner_training_loop\n'
)
KILLING = "[2026-01-05 10:00:00,123] [INFO] [launch.py:316:sigkill_handler]"
GUESS = "guessed from a line that any program could print"

ONE: dict[str, tuple[str | dict[str, str], dict[str, Any]]] = {
    # ---- early stops, and ends that are none
    "a bar that stops and a closing row within the epochs": (
        banner(1600, 10, 1000) + bars(0, 400, 1000, 1) + rows(10, 400, 100) + closing(410.0, 1.7, 4.0, 400),
        {"steps": (400, 1000), "outcome": "completed"},
    ),
    "the epoch of the closing row alone tells of the stop": (
        banner(1600, 10, 1000) + rows(10, 300, 100) + closing(300.0, 1.7, 3.0, 300),
        {"steps": (300, 1000), "outcome": "completed"},
    ),
    "`max_steps` within an epoch is the plan": (
        banner(1600, 2, 150) + rows(10, 150, 100) + closing(150.0, 1.7, 1.5, 150),
        {"steps": (150, 150), "outcome": "completed"},
    ),
    "a loop that stops itself": (
        many("step {n}/5000 | loss {x:.4f} | lr 1e-4", 100, 2101, 100)
        + "Early stopping triggered at step 2100\nTraining complete.\n",
        {"steps": (2100, 5000), "outcome": "completed"},
    ),
    "the last interval of a whole loop is not logged": (
        many("step {n}/5000 | loss {x:.4f} | lr 1e-4", 0, 5000, 100) + "Training complete.\n",
        {"steps": (5000, 5000), "outcome": "completed"},
    ),
    # The Trainer divides all planned examples by the runtime.
    "rates and epochs of a training that was stopped": (
        bars(0, 500, 5000, 1) + rows(10, 500, 500) + STOPPED,
        {"steps": (500, 5000), "epochs": None, "examples_per_second": 8.0},
    ),
    "an early stop whose bars and rows are two files": (
        {
            "train_7.err": "".join(bar(step, 5000, step) for step in range(0, 501, 10)),
            "train_7.out": rows(10, 500, 500) + closing(510.0, 1.7, 1.0, 500),
        },
        {"steps": (500, 5000)},
    ),
    "epochs that were not needed leave the training complete": (
        many("[Epoch {n}/50]\nTrain Loss: {x:.4f}\nVal Loss: {x:.4f}", 1, 25)
        + "Early stopping triggered.\nTest Loss: 0.4872, Test Accuracy: 0.8253\n",
        {"outcome": "completed", "epochs": 50},
    ),
    # ---- rows behind a traceback: standard output may be held back
    **{
        f"rows behind a crash do not undo it, {first} to {last}": (
            bars(0, 260, 500, 2) + crash("ValueError: no row 7") + rows(first, last, per_epoch),
            {"outcome": "crash_mid", "exit": "no row 7", "steps": (260, 500)},
        )
        for first, last, per_epoch in ((260, 260, 500), (10, 260, 500), (10, 2600, 5000))
    },
    "a closing row behind the traceback of an evaluation": (
        bars(0, 100, 100, 2)
        + crash("ValueError: operands do not fit", ("a.py", "<module>"), ("/x/trainer.py", "evaluate"))
        + rows(10, 100, 50) + closing(200.0, 1.9, 2.0, 100),
        {"outcome": "crash_eval", "steps": (100, 100)},
    ),
    "a bar that goes on shows that a fault was survived": (
        bars(0, 50, 100, 2) + crash("OSError: tracker") + bars(60, 100, 100, 2) + closing(200.0, 1.9, 2.0, 100),
        {"outcome": "completed"},
    ),
    "a caught fault with rows behind it was survived": (
        "step 10/50 | loss 2.5\n" + CAUGHT + "step 20/50 | loss 2.4\nstep 30/50 | loss 2.2\n",
        {"outcome": "running_or_truncated", "steps": (30, 50)},
    ),
    # ---- what opens a training does not beat its closing row
    **{
        f"what opens a training: {opening}": (
            opening + "\n" + rows(10, 60, 30) + closing(120.0, 1.9, 2.0, 60),
            {"outcome": "completed", "steps": (60, 60)},
        )
        for opening in (
            "[2026-01-01 10:00:00,000] [INFO] [logging.py:96:log_dist] [Rank 0] step=0, skipped=0, lr=[0.0], mom=[0.9]",
            "  0%|          | 0/1 [00:00<?, ?it/s]", "  0%|          | 0/60 [00:00<?, ?it/s]",
        )
    },
    **{
        f"bars of an {what} are never training": (
            f"***** Running {what} *****\n  Num examples = 400\n  Batch size = 8\n" + bars(0, 50, 50, 3, every=5)
            + "{'eval_loss': 1.5, 'eval_runtime': 150.0, 'epoch': 1.0}\n",
            {"steps": (None, None), "seconds_per_step": None},
        )
        for what in ("Evaluation", "Prediction")
    },
    # 2.41 GiB are the weights; 80 ÷ 2.41 allowed a batch that ran out of memory at 78 GB.
    "memory after loading, and packing, are no training": (
        TORCHTUNE,
        {"peak_memory": None, "memory_after_init": 2.41, "steps": (None, None), "seconds_per_step": None,
         "outcome": "running_or_truncated"},
    ),
    "a tracker's summary holds last values": (
        TORCHTUNE + "".join(bar(n, 109, n * 0.23, f"1|{n}|Loss: {1 / n}:") for n in range(1, 110)) + "\n" + SUMMARY,
        {"tokens_per_second": 50.20202, "tokens_per_second.aggregation": "last",
         "tokens_per_second.token_unit": "label",
         "mean_train_loss": None, "steps": (109, 109), "seconds_per_step": pytest.approx(0.23, rel=0.05)},
    ),
    "bars on stderr and rows on stdout are one run": (
        {
            "train_7.err": "".join(bar(step, 400, 6 + 2.5 * step) for step in range(401)),
            "train_7.out": rows(10, 400, 200) + closing(1010.0, 1.8, 2.0, 400),
        },
        {"steps": (400, 400), "seconds_per_step": pytest.approx(2.5, rel=0.01), "last_loss": 1.6,
         "mean_train_loss": 1.8, "outcome": "completed"},
    ),
    "evaluations are in the time of a step and not in its pace": (
        EVALUATED,
        {"seconds_per_step_without_pauses": pytest.approx(2.0, rel=0.02), "evaluate_seconds": 240.0,
         "seconds_per_step": pytest.approx((CLOCK - 80) / 390, rel=0.1)},
    ),
    # The printed mean was divided by all steps, the printed rates count the steps before the resume.
    "a resumed run is corrected": (
        RESUMED,
        {"mean_train_loss": pytest.approx(1.24, rel=0.01), "seconds_per_step": pytest.approx(3.0, rel=0.02),
         "examples_per_second": pytest.approx(1000 * 8 / 1502 / 2, rel=0.01), "note": "divided by all steps"},
    ),
    # ---- attempts
    "attempts in one file are segments and the last counts": (
        rows(10, 120, 100) + ENDED.format(why="PREEMPTION") + rows(10, 200, 100) + closing(500.0, 1.9, 2.0, 200),
        {"segments": ["preempted", "completed"], "outcome": "completed", "last_loss": 1.8},
    ),
    "attempts one after the other stay attempts": (
        many(STEPS, 10, 301, 10) + "Killed\n" + many(STEPS, 205, 901, 10),
        {"segments": ["host_oom", "running_or_truncated"], "steps": (895, 900)},
    ),
    "two jobs that were killed for memory": (
        "".join(f"Loading checkpoint shards:   0%|    | 0/4 [00:00<?, ?it/s]\nLoading model plover/Reed-7B\n"
                f"{KILLED.format(job=job)}" for job in (411, 412)),
        {"segments": ["host_oom", "host_oom"], "outcome": "host_oom"},
    ),
    "two lines of one job's end are one end": (
        "step 10/50 | loss 2.5\n" + KILLED.format(job=411) * 2 + "srun: error: n01: task 0: Out Of Memory\n",
        {"segments": ["host_oom"]},
    ),
    "a job behind one that its time limit ended": (
        many(STEPS, 10, 301, 10) + ENDED.format(why="TIME LIMIT") + many(STEPS, 10, 901, 10) + "Training complete\n",
        {"segments": ["timeout", "completed"]},
    ),
    "attempts within one process after caught faults": (
        (banner(1600, 1, 100) + CAUGHT) * 2 + banner(1600, 1, 100) + rows(10, 100, 100) + closing(100.0, 1.8, 1.0, 100),
        {"segments": ["gpu_oom", "gpu_oom", "completed"], "outcome": "completed"},
    ),
    "a caught fault and the same first step again": (
        "step 10/100 | loss 2.5\n" + CAUGHT + many("step {n}/200 | loss 2.5", 10, 201, 10),
        {"segments": ["gpu_oom", "completed"]},
    ),
    **{
        f"a closing summary is no second run: {summary.strip()}": (
            EPOCHS + "Training complete\n" + summary,
            {"segments": ["completed"], "last_loss": pytest.approx(2.995)},
        )
        for summary in ("Best: epoch 3, loss: 1.0\n", "epoch 2 | step 200 | loss: 1.5\n", "Epoch 1 loss: 3.0\n")
    },
    "ranks that print the same are one run": (
        "".join(f"{rank}: {line}" for line in (rows(10, 100, 100) + closing(100.0, 1.95, 1.0, 100)).splitlines(True)
                for rank in range(4)),
        {"segments": ["completed"], "last_loss": 1.9},
    ),
    # ---- causes
    "complete training with a failed exit is complete": (
        rows(10, 100, 100) + closing(100.0, 1.95, 1.0, 100) + "mv: 'a.pt' and 'a.pt' are the same file\n",
        {"outcome": "completed", "exit": "failed"},
    ),
    "memory of the GPU": (
        rows(10, 50, 100) + crash(OUT_OF_MEMORY, ("train.py", "<module>")),
        {"outcome": "gpu_oom", "exit": "OutOfMemoryError"},
    ),
    "host memory": (rows(10, 50, 100) + KILLED.format(job=9), {"outcome": "host_oom"}),
    "a warning that names an exception ends nothing": (
        "step 10/50 | loss 2.5\nWARNING 06-25 16:32:09 [import_utils.py:408] ImportError: libnvrtc: cannot open\n",
        {"outcome": "running_or_truncated"},
    ),
    "the cause and not what follows from it": (
        "step 10/50 | loss 2.5\n" + crash("KeyError: 'labels'")
        + crash("BrokenPipeError: [Errno 32] Broken pipe", ("w.py", "<module>")),
        {"exit": "KeyError"},
    ),
    "the cause and not what was survived before it": (
        "step 10/50 | loss 2.5\nERROR could not reach the tracker, going on\n"
        "mv: cannot stat 'a.txt': No such file or directory\n" + crash(OUT_OF_MEMORY),
        {"exit": "OutOfMemoryError"},
    ),
    "the cause and not the other ranks' end": (
        "step 10/50 | loss 2.5\n" + crash("RuntimeError: mat1 and mat2 shapes cannot be multiplied")
        + "[rank1]: torch.distributed.DistBackendError: NCCL error in: x.cpp:77, remote process exited\n",
        {"exit": "mat1 and mat2"},
    ),
    "a full disk is the cause of what it raises after the training": (
        bars(0, 100, 100, 2) + rows(10, 100, 50)
        + crash('SafetensorError: IoError(Os { code: 122, message: "Disk quota exceeded (os error 122)" })',
                ("sft.py", "<module>"), ("/x/peft_model.py", "save_pretrained")),
        {"outcome": "disk_quota"},
    ),
    # ---- guesses, and what is none
    "what is guessed is marked": (
        "Batch size: 8\nEpochs: 3\nEpoch 1/3 | loss: 2.5 | lr 1e-4\n",
        {"micro_batch_size": 8, "micro_batch_size.method": GUESS,
         "epochs.method": GUESS, "last_loss": 2.5},
    ),
    "what is printed behind a bar counts": (
        banner(2336, 3, 876) + "".join(
            bar(292 * n, 876, 150 * n).lstrip() + f"01/05/2026 10:0{n}:40 - INFO - __main__ - epoch {n}: eval_loss: "
            f"{4 - n}.5\n"
            for n in (1, 2, 3)),
        {"eval_loss": 1.5},
    ),
    "settings in columns do not begin an epoch": (
        "per_device_train_batch_size   4\ngradient_accumulation_steps   8\nnum_train_epochs              3\n"
        + many("Step {n}/312 - loss: 1.7 - 3.2s/step - 1300 tok/s", 10, 21, 10),
        {"steps": (20, 312), "seconds_per_step": 3.2, "tokens_per_second": 1300},
    ),
    # ---- rows with fields that are not known
    **{
        f"an unknown field drops no row: {row}": (
            many(row, 10, 301, 10), {"last_loss": pytest.approx(2.7), "steps": (300, 400)},
        )
        for row in (
            "step {n}/400 | loss {x:.4f} | 2026-03-29 01:01:01",
            "step {n}/400, loss {x:.4f}, eta 3 days, 2:11:05",
            "iter {n}/400 rl_loss: {x:.4f} kl: 0.01",
            "[step {n}/400] loss={x:.4f} widgets=3 zig-zags",
            "step {n}/400\tloss {x:.4f}\tthroughput 12.5 kfoo/s\tnode n01",
            "step {n}/400 | train loss {x:.4f} | held-out loss 3.5 | 7s elapsed so far",
        )
    },
    "iterations of an epoch in parentheses": (
        "".join(many(f"Epoch:[{epoch}/2]({{n}}/500), loss: {{x:.4f}}, lr: 0.00005, epoch_time: 3.0min", 100, 501, 100)
                for epoch in (1, 2)),
        {"steps": (1000, 1000), "last_loss": pytest.approx(2.5), "outcome": "completed"},
    ),
    **{
        f"a peak in plain words: {line}": (
            f"step 10/20 | loss 2.5\nstep 20/20 | loss 2.4\n{line}\n",
            {"peak_memory": pytest.approx(size), "peak_memory.unit": unit, "peak_memory.kind": kind}
            if size else {"peak_memory": None},
        )
        for line, size, unit, kind in (
            ("Peak GPU memory usage: 29.84 GB", 29.84, "GB", "allocated"),
            ("peak memory allocated: 10184 MiB", 10184 / 1024, "GiB", "allocated"),
            ("peak memory allocated: 10184 MiB reserved: 10200 MiB", 10184 / 1024, "GiB", "allocated"),
            ("Peak memory usage was 13.7 GB", 13.7, "GB", "allocated"),
            ("Peak mem: 21.5GB | reserved: 23.0GB", 21.5, "GB", "allocated"),
            ("Max GPU memory reserved during training: 17.2 GiB", 17.2, "GiB", "reserved"),
            ("max_memory_allocated = 21.5 GB", 21.5, "GB", "allocated"),
            ("Peak CPU memory: 30 GB", 0, "", ""),
            ("max memory per node: 64 GB", 0, "", ""),
            ("RSS peak 3 GB", 0, "", ""),
        )
    },
    "a bar without a forecast has counts and a clock": (
        "".join(f"Training: 50%|█████     | {n}/1617 [{n // 60:02d}:{n % 60:02d}, 1.00it/s]\n"
                for n in range(0, 1500, 7))
        + "loss: 2.5\n",
        {"seconds_per_step": pytest.approx(1.0, rel=0.02)},
    ),
    # ---- trainers of laboratories, tables
    "a table of metrics": (
        {"metrics.csv": "_runtime,train/global_step,train/loss,eval/loss\n"
         + "".join(f"{n * 5.0},{(n + 1) * 10},{2 - n / 10},{1.25 if n == 9 else ''}\n" for n in range(10))},
        {"steps": (100, None), "last_loss": pytest.approx(1.1), "eval_loss": 1.25,
         "seconds_per_step": pytest.approx(0.5)},
    ),
    "a log that is a table with commas": (
        "step,loss\n" + many("{n},{x}", 10, 501, 10), {"steps": (500, None), "last_loss": 2.5},
    ),
    "a log that is a table with tabs": (
        "step\tloss\n" + many("{n}\t{x}", 10, 501, 10), {"steps": (500, None), "last_loss": 2.5},
    ),
    "a table whose epochs and validation have rows of their own": (
        {"metrics.csv": "epoch,step,train_loss_step,val_loss,train_loss_epoch\n"
         + "".join(f"0,{n},{3 - n / 500},,\n" for n in range(50, 501, 50)) + "0,500,,2.5,\n0,500,,,2.9\n"},
        {"steps": (500, None), "last_loss": pytest.approx(2.0), "eval_loss": 2.5},
    ),
    # ---- counters
    "an epoch's summary behind its steps shifts nothing": (
        "".join(many("Step {n}/200 loss: {x:.4f}", 50, 201, 50) + f"Epoch {n}/3 mean loss: 2.9\n" for n in (1, 2, 3)),
        {"segments": ["completed"], "steps": (600, 600), "epochs": 3},
    ),
    "examples are no steps and the loss of a test is none of the training": (
        EXAMPLES.format(n=1) + EXAMPLES.format(n=2) + "Done!\n",
        {"steps": (None, None), "last_loss": 1.201, "eval_loss": 1.721022},
    ),
    **{
        f"a block of an evaluation is none of the training: {header}": (
            "".join(f"INFO:__main__:Epoch 1 | Step {at}/40 | Loss: 0.{90 - at}\n" for at in range(10, 41, 10))
            + f"INFO:__main__:{header}\nINFO:__main__:   Loss: 0.4887\n",
            {"last_loss": 0.5, "eval_loss": 0.4887, "steps": (40, None)},
        )
        for header in ("Evaluation Results:", "📊 Validation results", "Test set metrics:", "Eval:")
    },
    "the mean of an epoch is not its last loss": (
        "".join(f"Epoch 3 - Batch loss: 0.{at}\n" for at in (61, 52, 43)) + "Epoch 3 - Average Train Loss: 0.55\n",
        {"last_loss": 0.43},
    ),
    "means of epochs alone": (
        "".join(f"Epoch {at} - Average Train Loss: 0.{70 - at}\n" for at in (1, 2, 3)), {"last_loss": 0.67},
    ),
    "a launcher whose processes end well": (
        "Train step of epoch 0: 100%|██████████| 17/17 [00:32<00:00,  1.9s/it, gpt_loss=0.9, lr=5e-6]\n"
        "[2026-01-05 10:00:00,123] [INFO] [launch.py:367:main] Process 1234 exits successfully.\n",
        {"outcome": "completed"},
    ),
    # ---- last lines without their end
    **{
        f"a last line that is whole counts: {last}": (text + last, {"last_loss": loss})
        for last, loss, text in (
            ("step 300/300 | loss 2.7000", 2.7, many("step {n}/300 | loss {x:.4f}", 10, 300, 10)),
            ("step 300/300 | loss 2.7", 2.71, many("step {n}/300 | loss {x:.4f}", 10, 300, 10)),
            ("step 300/300 | loss 2.7000 | lr 0.1", 2.7, many("step {n}/300 | loss {x:.4f} | lr 0.1", 10, 300, 10)),
            ("{'loss': 2.7, 'learning_rate': 0.0, 'epoch': 3.0}", 2.7, rows(10, 290, 100)),
            ("{'loss': 1.23, 'grad_no", 1.71, rows(10, 290, 100)),
        )
    },
    # ---- a scheduler's words behind a bar, and cut tracebacks
    "a bar's row counts when the job is cancelled on its line": (
        TORCHTUNE + "".join(bar(n, 100, n, f"1|{n}|Loss: {3 - n / 100}: ") for n in range(1, 41))
        + ENDED.format(why="TIME LIMIT"),
        {"steps": (40, 100), "last_loss": 2.6, "outcome": "timeout", "exit": "failed: slurmstepd: error"},
    ),
    **{
        f"a traceback that is cut: {where}": (
            f"{banner(1600, 10, 1000)}{text}{head}Traceback (most recent call last):\n{cut}", {"outcome": outcome},
        )
        for where, text, head, cut, outcome in (
            ("in the training", ROWS, "", FRAMES, "crash_mid"),
            ("before the first step", bars(0, 0, 1000, 1), "", FRAMES, "crash_start"),
            ("by its last line, in an evaluation", ROWS, "", FRAMES + "    a = self._evaluate(b)\n", "crash_eval"),
            ("behind the head of an evaluation", ROWS, "***** Running Evaluation *****\n", "", "crash_eval"),
            ("behind words on a validation", ROWS, "Running validation...\n", "", "crash_eval"),
            ("after an evaluation", ROWS, "Evaluating...\n{'eval_loss': 1.5, 'epoch': 4.0}\n", "", "crash_mid"),
            ("a notebook's, which begins with the exception", ROWS, "OutOfMemoryError      ", "", "gpu_oom"),
        )
    },
    **{
        f"DeepSpeed's launcher ends its processes {why}": (f"{ROWS}{KILLING} Killing subprocess 4711\n{last}", facts)
        for why, last, facts in (
            ("and the log ends", "", {"outcome": "crash_mid"}),
            ("by a signal", f"{KILLING} Main process received SIGINT, exiting\n", {"outcome": "cancelled"}),
            ("with a code", f"{KILLING} ['a.py'] exits with return code = -9\n", {"outcome": "host_oom"}),
        )
    },
    "an exit code alone": (STEPS.format(n=1, x=1) + "\nJob finished with exit code 1\n", {"outcome": "crash_mid"}),
    # ---- rows that come twice
    **{
        f"rows of a console and of a logger's file: {what}": (
            start + "".join("".join(each[at : at + 9]) for at in range(0, 400, 9) for each in (printed, logged)) + end,
            {"segments": ["completed"], "steps": (400, 400), "last_loss": pytest.approx(2.6)},
        )
        for what, start, printed, logged, end in (
            ("a loop", "", *[many("step {n}/400 | loss {x:.4f}", 1, 401).splitlines(True)] * 2, "Training complete\n"),
            ("the Trainer", banner(400, 4, 400), *[rows(10, 4000, 1000, 6.6).splitlines(True)] * 2,
             2 * closing(400.0, 4.6, 4.0, 400)),
            ("torchtune", TORCHTUNE, [bar(n, 400, n, f"1|{n}|Loss: {3 - n / 1000}: ") + "\n" for n in range(1, 401)],
             many("Step {n} | loss:{x} lr:0.0001 tokens_per_second_per_gpu:300 ", 1, 401).splitlines(True), ""),
        )
    },
    # ---- settings
    "the Trainer's settings without their title": (
        banner(1600, 10, 1000).split("\n", 3)[3] + rows(10, 100, 100),
        {"micro_batch_size": 4, "global_batch_size": 16, "gradient_accumulation_steps": 4, "steps": (None, 1000)},
    ),
    **{
        f"settings on one line: {line}": (line + "\n" + many(STEPS, 10, 101, 10), facts)
        for line, facts in (
            ("per_device_batch=2 grad_accum=2", {"micro_batch_size": 2, "gradient_accumulation_steps": 2}),
            ("world_size:8 grad_accum_steps:1", {"gpus": 8, "gradient_accumulation_steps": 1}),
            ("batch_size=4 grad_accum=8 epochs=3", {"micro_batch_size": 4, "epochs": 3, "steps": (100, 900)}),
            ("batch_size=4 lr=2e-4", {"micro_batch_size": None}),
        )
    },
    **{
        f"Megatron's rows with memory: {row}": (
            many(row, 10, 101, 10),
            {"last_loss": 2.9, "steps": (100, 200), "peak_memory": 20.5, "peak_memory.kind": "reserved"},
        )
        for row in (
            *(" [2026-01-05 10:00:00] iteration {n:8d}/     200 | elapsed time per iteration (ms): 1510.3 | "
              f"memory(GiB): 20.5 | elapsed time: 1m 3s | global batch size: 128 | {key}: {{x:.6E}} | loss scale: 1.0 |"
              for key in ("lm loss", "lm-loss")),
            "{{'loss': {x:.4f}, 'grad_norm': 1.2, 'learning_rate': 1e-5, 'memory(GiB)': 20.5, 'iteration': '{n}/200'}}",
        )
    },
    "a history at the end of a log of rows is no second run": (
        {"logging.jsonl": "".join(json.dumps(row) + "\n" for row in (
            *({"loss": 2 - n / 100, "grad_norm": 1.0, "learning_rate": 1e-4, "epoch": n / 40,
               "global_step/max_steps": f"{n}/40", "memory(GiB)": 9.5} for n in range(10, 41, 10)),
            {"train_runtime": 80.0, "train_samples_per_second": 2.0, "train_steps_per_second": 0.5, "train_loss": 1.8,
             "epoch": 1.0, "global_step/max_steps": "40/40"},
            {"last_model_checkpoint": "out/checkpoint-40", "global_step": 40, "log_history": [
                {"loss": 2 - n / 100, "grad_norm": 1.0, "learning_rate": 1e-4, "epoch": n / 40, "step": n}
                for n in range(10, 41, 10)], "memory": 9.5},
        ))},
        {"last_loss": pytest.approx(1.6), "steps": (40, 40)},
    ),
}  # fmt: skip
"""Files, or the text of one, with facts of the only run that they hold."""


def written(folder: Path, files: str | dict[str, str]) -> list[RunRecord]:
    for name, text in ({"run.log": files} if isinstance(files, str) else files).items():
        (folder / name).write_text(text, encoding="utf-8")
    return [each.reading for each in find_runs([folder]) if isinstance(each, LoggedRun)]


def told(reading: RunRecord, name: str) -> object:
    """A fact by the name that the table gives it."""
    if name == "steps":
        return told(reading, "steps_done"), told(reading, "steps_total")
    if name == "segments":
        return [each.outcome.value for each in reading.course.segments]
    name, _, member = name.partition(".")
    fact = dict(read_facts(reading))[name]
    return None if isinstance(fact, Missing) else getattr(fact, member or "value")


@pytest.mark.parametrize("case", ONE)
def test_what_a_log_says(tmp_path: Path, case: str) -> None:
    files, facts = ONE[case]
    (reading,) = written(tmp_path, files)
    for name, expected in facts.items():
        if name == "note":
            assert any(expected in note for note in reading.notes)
        elif name == "exit":
            assert expected in str(told(reading, name))
        else:
            assert told(reading, name) == expected, name


def trainer_log(step: int, total: int, loss: float, seconds: int) -> str:
    clock = f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
    return (
        f'{{"current_steps": {step}, "total_steps": {total}, "loss": {loss:.4f}, "lr": 0.0001, '
        f'"epoch": {3 * step / total:.4f}, "percentage": 1.0, "elapsed_time": "{clock}"}}\n'
    )


def together(totals: tuple[int, int], shift: int, count: int) -> str:
    """Two trainings that write one trainer_log.jsonl, the second one from the row `shift` on."""
    lines = []
    for n in range(1, count + 1):
        lines.append(trainer_log(10 * n, 10 * totals[0], 3 - n / 1000, 20 * n))
        if n > shift:
            lines.append(trainer_log(10 * (n - shift), 10 * totals[1], 5 - n / 1000, 20 * (n - shift)))
    return "".join(lines)


LOOPS = many(STEPS, 10, 201, 10) + "".join(
    f"step {n}/900 | loss 2.5 | lr 1e-4\nstep {n - 200}/900 | loss 4.5 | lr 1e-4\n" for n in range(210, 401, 10)
)
SEVERAL: dict[str, tuple[dict[str, str], list[tuple[float, float]]]] = {
    "one log of two trainings": ({"trainer_log.jsonl": together((900, 900), 30, 40)}, [(100, 4.96), (400, 2.96)]),
    "two of other lengths": ({"trainer_log.jsonl": together((900, 1200), 50, 57)}, [(70, 4.943), (570, 2.943)]),
    "two for long": ({"trainer_log.jsonl": together((900, 900), 7, 300)}, [(2930, 4.7), (3000, 2.7)]),
    "two loops that print into one file": ({"run.log": LOOPS}, [(200, 4.5), (400, 2.5)]),
    "two whole trainings": (
        {"sweep.log": rows(10, 100, 100) + closing(100.0, 1.9, 1.0, 100) + rows(10, 200, 100, 3.0)
         + closing(300.0, 2, 2.0, 200)},
        [(100, 1.9), (200, 2.8)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SEVERAL)
def test_several_runs_in_one_file_are_several(tmp_path: Path, case: str) -> None:
    files, expected = SEVERAL[case]
    found = written(tmp_path, files)
    assert sorted((told(each, "steps_done"), told(each, "last_loss")) for each in found) == [
        (steps, pytest.approx(loss)) for steps, loss in expected
    ]
    assert [len(each.course.segments) for each in found] == [1, 1]


@parametrize("line", "Loading the model", "=== Attempt 2/3 ===")
def test_an_attempt_that_fails_behind_a_complete_training_is_another_run(tmp_path: Path, line: str) -> None:
    code = "Job finished with exit code {}\n"
    failed = crash("OSError: no such model", ("/a.py", "<module>"), ("/a.py", "load")) + code.format(1)
    found = written(tmp_path, ROWS + closing(400.0, 1.9, 4.0, 400) + code.format(0) + line + "\n" + failed)
    assert [(told(each, "outcome"), told(each, "exit")) for each in found] == [("completed", "0"), ("crash_start", "1")]


def test_a_second_run_of_epochs_behind_the_first_is_one(tmp_path: Path) -> None:
    one = many("Epoch {n}/5 | loss: {x:.4f}", 1, 6) + "Training complete\n"
    assert len(written(tmp_path, one + one)) == 2


STOPS = (
    "Early stopping triggered.",
    "Early stopping triggered after 3 epochs without improvement",
    "[pretrain] early stop after 3 epochs (no improvement for 2)",
    "Epoch 00003: early stopping",
    "early stop since valid performance hasn't improved for last 5 runs",
    "Monitored metric val_loss did not improve in the last 3 records. Best score: 0.512. Signaling Trainer to stop.",
    "No improvement for 3 epochs, stopping.",
    "Training stopped early at epoch 3",
    "Stopping early: validation loss rises",
)
NO_STOPS = (
    "Early stopping patience: 3\nUsing early stopping with patience 3\nEarlyStopping counter: 1 out of 3\n"
    "early_stopping: true\nearly_stopping_patience=3\nPatience: 3\nNo improvement for 2 epochs"
)


@parametrize("words, outcome", *((each, "completed") for each in STOPS), (NO_STOPS, "running_or_truncated"))
def test_what_says_that_a_training_stopped_itself(tmp_path: Path, words: str, outcome: str) -> None:
    (reading,) = written(tmp_path, many("Epoch {n}/9 | loss: {x:.4f}", 1, 4) + words + "\n")
    assert reading.course.outcome.value == outcome


@parametrize("text",
many("[{n}/500] loss: {x:.4f}", 50, 500, 50),
        *(bars(0, 50, 50, 3, every=5, label=f"{label}: ")
          for label in ("Evaluating", "Predicting", "Generating answers", "Validation DataLoader 0", "Testing")),
        "Once the training was complete, the loss: a river, step 5 of 10. 'loss' is 3, said 100% | 7/8 of them.\n" * 50,
        "[INFO|2026-01-05 10:00:00] llamafactory.hparams.parser:423 >> Process rank: 0, world size: 1, device: cuda:0\n"
        "***** Running Prediction *****\n  Num examples = 400\n  Batch size = 8\n" + bars(0, 50, 50, 3),
        "Running EleutherEvalRecipe with resolved config:\n\nbatch_size: 8\n\nModel is initialized with precision "
        "torch.bfloat16.\n",
        "[INFO:swift] args: InferArguments(model='Qwen/Qwen2.5-7B')\n" + bars(0, 50, 50, 3),
        "Loading model\n[4/4] Running evaluation...\n  [100/500] Accuracy so far: 0.85\nAccuracy: 0.8508\n"
)  # fmt: skip
def test_other_work_and_stories_are_no_training(tmp_path: Path, text: str) -> None:
    assert written(tmp_path, text) == []


@parametrize(
    "name, data",
    ("empty.log", b""),
    ("binary.log", bytes(range(256)) * 64),
    ("cut.log.gz", gzip.compress(b"{'loss': 1.0, 'learning_rate': 1e-5, 'epoch': 0.1}\n" * 5000, mtime=0)[:40]),
    ("line.log", b"x" * (3 << 20)),
    ("latin.log", "Époque 1/3 terminée, déjà\n".encode("latin-1") * 20),
    ("escapes.log", b"\x1b[31mred\x1b[0m \x1b]0;title\x07\n" * 20),
    ("broken.json", b'{"log_history": ['),
    ("deep.json", b"[" * 100_000),
    ("bomb.yaml", b"a: &a [x, x]\nb: [" + b"*a, " * 20_000 + b"]\n"),
    ("nothing.csv", b""),
    ("head.csv", b"epoch,loss,step"),
    ("columns.csv", b"step,step,step\n1,2,3\n"),
    ("wide.csv", b"loss," * 5000 + b"\n1\n"),
    ("quote.csv", b'"' + b"a" * 200_000),
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_bad_files_are_refused_with_a_reason(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    (found,) = find_runs([tmp_path / name])
    assert isinstance(found, SkippedFile)
    assert found.reason


@pytest.mark.parametrize("rows_of_table", ["0,nan,49\n0,inf,99\n", "0\n,,\n\0,\0,\0\n1e999,1e999,1e999\n1,nan,99\n"])
def test_a_table_of_numbers_that_are_none_says_no_loss(tmp_path: Path, rows_of_table: str) -> None:
    (reading,) = written(tmp_path, {"metrics.csv": f"epoch,loss,step\n{rows_of_table}"})
    assert isinstance(reading.losses.last, Missing)
    assert isinstance(reading.course.steps_done, Quantity)
