"""How runs end by themselves: each fault has its sign, where it was raised, and no line of another kind has one."""

from pathlib import Path

import pytest
from tests.history.sound import is_offered, read_lines

from touchline.core.observation import Event, Sign
from touchline.history.faults import Faults
from touchline.history.tracebacks import during_of

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs" / "faults"
LOGS = sorted(path.name for path in FIXTURES.iterdir())
SITE = "/opt/e/lib/python3.12/site-packages"
TRAINER = f"{SITE}/transformers/trainer.py"


def read(text: str) -> list[Event]:
    return read_lines(Faults, text, every=True)


def signs(text: str) -> list[tuple[str, str | None]]:
    return [(event.kind.name, event.during) for event in read(text) if isinstance(event, Sign)]


def kinds(text: str) -> list[str]:
    return [kind for kind, _ in signs(text)]


def fixture(name: str) -> str:
    return (FIXTURES / name).read_text(encoding="utf-8")


def traceback(*frames: tuple[str, str], last: str = "ValueError: no") -> str:
    lines = [f'  File "{file}", line 7, in {function}\n    pass' for file, function in frames]
    return "\n".join(["Traceback (most recent call last):", *lines, last])


def test_a_log_has_its_signs_and_no_others() -> None:
    for name, expected in [
        ("evaluate.err", [("EXCEPTION", "evaluate")]),
        ("save_chain.err", [("EXCEPTION", None), ("DISK_FULL", None), ("EXCEPTION", "save"), ("DISK_FULL", "save")]),
        (
            "two_ranks.err",
            [
                ("EXCEPTION", "train"),
                ("GPU_OOM", "train"),
                ("EXCEPTION", "train"),
                ("TASK_FAILED", None),
                ("TASK_FAILED", None),
            ],
        ),
        ("merge.out", [("TRAINED", None), ("EXPORTING", None), ("EXCEPTION", "export"), ("FAILED_COMMAND", None)]),
        ("rich_box.out", [("EXCEPTION", "train"), ("GPU_OOM", "train")]),
        ("notebook.txt", [("EXCEPTION", "load")]),
        ("survived.err", []),
        ("interrupted.err", [("INTERRUPTED", None), ("INTERRUPTED", "train")]),
        ("command.out", [("FAILED_COMMAND", None), ("EXCEPTION", "load"), ("EXCEPTION", "load")]),
        ("diverged.log", [("NOT_A_NUMBER", None), ("NOT_A_NUMBER", None)]),
        ("async_allocator.err", [("EXCEPTION", "train"), ("GPU_OOM", "train")]),
    ]:
        assert signs(fixture(name)) == expected, name


def test_the_reader_s_words_offer_all_lines_that_matter() -> None:
    for name in LOGS:
        assert read_lines(Faults, fixture(name)) == read(fixture(name)), name


def test_the_frames_tell_where_it_was_raised() -> None:
    for frames, during in [
        (
            [("t.py", "<module>"), (TRAINER, "train"), (TRAINER, "_inner_training_loop"), (TRAINER, "training_step")],
            "train",
        ),
        ([("t.py", "<module>"), (TRAINER, "train"), (TRAINER, "evaluate"), (TRAINER, "evaluation_loop")], "evaluate"),
        ([("t.py", "<module>"), (TRAINER, "train"), (TRAINER, "_save_checkpoint"), (TRAINER, "save_model")], "save"),
        ([("t.py", "<module>"), ("t.py", "train"), (TRAINER, "save_model"), (TRAINER, "_save")], "export"),
        ([("t.py", "<module>"), ("t.py", "train"), (f"{SITE}/peft/peft_model.py", "save_pretrained")], "save"),
        ([("t.py", "<module>"), (f"{SITE}/peft/peft_model.py", "save_pretrained")], "export"),
        ([("t.py", "<module>"), (f"{SITE}/peft/lora.py", "merge_and_unload")], "export"),
        ([("t.py", "<module>"), (f"{SITE}/huggingface_hub/hf_api.py", "upload_folder")], "export"),
        (
            [("t.py", "<module>"), ("t.py", "train"), (f"{SITE}/transformers/modeling_utils.py", "from_pretrained")],
            "load",
        ),
        ([("t.py", "<module>"), (f"{SITE}/datasets/load.py", "load_dataset")], "load"),
        ([("t.py", "<module>"), (f"{SITE}/datasets/arrow_dataset.py", "map"), ("t.py", "tokenize")], "load"),
        ([("t.py", "<module>"), (f"{SITE}/trl/trainer/sft_trainer.py", "__init__")], "load"),
        ([("t.py", "<module>"), (TRAINER, "train"), (TRAINER, "_load_from_checkpoint")], "load"),
        ([("t.py", "<module>"), ("t.py", "main"), (f"{SITE}/torch/_tensor.py", "backward")], "train"),
        ([("t.py", "<module>"), ("t.py", "main")], None),
        # The callers of a library's frames are missing, so nobody knows in which part it was called.
        ([(f"{SITE}/torch/serialization.py", "save"), (f"{SITE}/torch/serialization.py", "_save")], None),
        ([], None),
    ]:
        assert during_of(frames) == during, frames
        assert signs(traceback(*frames)) == [("EXCEPTION", during)], frames


def test_a_prefix_on_each_line_changes_nothing() -> None:
    for prefix in [
        *(
            "[rank3]: ",
            "[rank3]:",
            "0: ",
            "  12: ",
            "[default0]:",
            "[1,0]<stderr>:",
            "(TrainWorker pid=77, ip=10.0.0.2) ",
        ),
        *("2026-01-02 03:04:05,678 - ERROR - ", "[2026-01-02 03:04:05] ", "ERROR:root:"),
    ]:
        plain = traceback(("t.py", "<module>"), (TRAINER, "train"), (TRAINER, "evaluate"), last="KeyError: 'x'")
        assert signs("\n".join(prefix + line for line in plain.split("\n"))) == [("EXCEPTION", "evaluate")], prefix


def test_a_chain_is_one_fault_and_its_root_decides() -> None:
    second = traceback(("t.py", "<module>"), (f"{SITE}/datasets/load.py", "load_dataset"), last="OSError: build failed")
    first = traceback((f"{SITE}/fsspec/x.py", "info"), last="PermissionError: /data")
    for between in (
        "During handling of the above exception, another exception occurred:",
        "The above exception was the direct cause of the following exception:",
    ):
        found = [event for event in read(f"{first}\n\n{between}\n\n{second}") if isinstance(event, Sign)]
        assert [(sign.text, sign.during) for sign in found] == [
            ("PermissionError: /data", None),
            ("PermissionError: /data", "load"),
        ]


def test_memory_that_runs_out_while_an_exception_is_handled_is_told() -> None:
    first = traceback(("t.py", "<module>"), ("t.py", "load"), last="KeyError: 'cache'")
    second = traceback(("t.py", "<module>"), ("t.py", "load"), last="RuntimeError: CUDA error: out of memory")
    chained = f"{first}\n\nDuring handling of the above exception, another exception occurred:\n\n{second}"
    assert kinds(chained) == ["EXCEPTION", "GPU_OOM"]


def test_two_ranks_without_prefixes_end_in_two_exceptions() -> None:
    text = "\n".join(
        [
            "Traceback (most recent call last):",
            "Traceback (most recent call last):",
            '  File "t.py", line 1, in <module>',
            '  File "t.py", line 1, in <module>',
            f'  File "{TRAINER}", line 9, in train',
            "ValueError: a",
            "ValueError: b",
            "ValueError: c",
        ]
    )
    assert signs(text) == [("EXCEPTION", "train")] * 2


def test_an_exception_far_below_does_not_end_a_cut_traceback() -> None:
    cut = traceback(("t.py", "<module>")).rpartition("\n")[0]
    assert kinds(cut) == []
    assert kinds(cut + "\nsome line" * 300 + "\nValueError: no") == []


def test_the_last_line_tells_the_cause() -> None:
    for last, expected in [
        ("KeyboardInterrupt", ["INTERRUPTED"]),
        ("torch.distributed.elastic.multiprocessing.api.SignalException: Process 8 got signal: 15", ["INTERRUPTED"]),
        ("torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ", ["TASK_FAILED"]),
        ("SystemExit: 0", []),
        ("SystemExit: 2", ["EXCEPTION"]),
        ("MemoryError", ["EXCEPTION", "HOST_OOM"]),
        ("OSError: [Errno 12] Cannot allocate memory", ["EXCEPTION", "HOST_OOM"]),
        ("ImportError: libgomp.so.1: cannot allocate memory in static TLS block", ["EXCEPTION"]),
        ("RuntimeError: DataLoader worker (pid 5) is killed by signal: Killed. ", ["EXCEPTION", "HOST_OOM"]),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory",
            ["EXCEPTION", "HOST_OOM"],
        ),
        (
            "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            ["EXCEPTION", "GPU_OOM"],
        ),
        ("jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory", ["EXCEPTION", "GPU_OOM"]),
        ("OSError: [Errno 28] No space left on device: 'out'", ["EXCEPTION", "DISK_FULL"]),
        ("OSError: [Errno 28] inotify watch limit reached", ["EXCEPTION"]),
        ("FloatingPointError: Minimum loss scale reached (0.0001).", ["EXCEPTION", "NOT_A_NUMBER"]),
        ("my_pkg.errors.BadRow: line 3", ["EXCEPTION"]),
    ]:
        assert kinds(traceback(("t.py", "<module>"), last=last)) == expected, last


def test_a_launcher_s_traceback_is_a_failed_child() -> None:
    frames = ((f"{SITE}/accelerate/commands/launch.py", "simple_launcher"),)
    command = "subprocess.CalledProcessError: Command '['python', 't.py']'"
    failed = read(traceback(*frames, last=f"{command} returned non-zero exit status 3."))
    assert [event.kind.name if isinstance(event, Sign) else event.value for event in failed] == ["TASK_FAILED", 3.0]
    assert kinds(traceback(*frames, last=f"{command} died with <Signals.SIGKILL: 9>.")) == ["TASK_FAILED", "HOST_OOM"]
    assert kinds(traceback(("t.py", "<module>"), last=f"{command} returned non-zero exit status 3.")) == ["EXCEPTION"]


def test_a_fault_without_a_traceback_has_its_sign() -> None:
    for line, expected in [
        ("Killed", ["HOST_OOM"]),
        ("train.sh: line 12: 12345 Killed                  python train.py", ["HOST_OOM"]),
        ("  traceback : Signal 9 (SIGKILL) received by PID 51", ["HOST_OOM"]),
        ("terminate called after throwing an instance of 'std::bad_alloc'", ["EXCEPTION", "HOST_OOM"]),
        ("[Tue Jan  6 10:00:00 2026] Out of memory: Killed process 77 (python)", ["HOST_OOM"]),
        (
            "ERROR: Unexpected bus error encountered in worker. Maybe caused by insufficient shared memory (shm).",
            ["HOST_OOM"],
        ),
        ("2026-01-02 03:04:05 - ERROR - CUDA out of memory. Skipping the batch", ["GPU_OOM"]),
        ("Error during training: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 8.00 GiB total)", ["GPU_OOM"]),
        ("cp: error writing '/scratch/a': Disk quota exceeded", ["DISK_FULL", "FAILED_COMMAND"]),
        ("wandb: ERROR Unable to write: [Errno 28] No space left on device", ["DISK_FULL"]),
        ("Loss is nan, stopping training", ["NOT_A_NUMBER"]),
        ("NaN or Inf found in input tensor.", ["NOT_A_NUMBER"]),
        ("Epoch 3 | train loss: nan | val loss: nan", ["NOT_A_NUMBER"]),
        ("KeyboardInterrupt", ["INTERRUPTED"]),
        ("^C", ["INTERRUPTED"]),
        ("Terminated", ["INTERRUPTED"]),
        ("[2026-01-02 03:04:05] Received SIGTERM, saving and leaving", ["INTERRUPTED"]),
        ("Training interrupted by user", ["INTERRUPTED"]),
        ("Segmentation fault (core dumped)", ["EXCEPTION"]),
        ("Fatal Python error: Bus error", ["EXCEPTION"]),
        ("train.py: error: unrecognized arguments: --lorarank 8", ["EXCEPTION"]),
        ("usage: train.py [-h]", []),
        ("/opt/bin/python3.11: No module named axolotl", ["EXCEPTION"]),
        ("ModuleNotFoundError: No module named 'trl'", ["EXCEPTION"]),
        (
            "[rank2]:[E102 PG ID 0] [Rank 2] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9)",
            ["EXCEPTION"],
        ),
        ("mv: 'slurm-5.out' and '/x/slurm-5.out' are the same file", ["FAILED_COMMAND"]),
        ("/var/spool/slurmd/job9/slurm_script: line 40: notify: command not found", ["FAILED_COMMAND"]),
        ("/var/spool/slurmd/job9/slurm_script: line 20: torchrun: command not found", ["EXCEPTION"]),
        ("rsync error: some files could not be transferred (code 23) at main.c(1338)", ["FAILED_COMMAND"]),
    ]:
        assert kinds(line) == expected, line
        assert not expected or is_offered(Faults, line), line


def test_other_lines_are_neither_faults_nor_milestones() -> None:
    for line in [
        "If you see CUDA out of memory, lower the batch size.",
        "logging_nan_inf_filter=True",
        "nan_policy: keep",
        "best loss: inf",
        "val_loss improved from inf to 2.31",
        "Eval | loss: nan",
        "{'loss': nan, 'epoch': 0.5}",
        "The guard killed the lights.",
        "Sending process 81 closing signal SIGTERM",
        "Received SIGUSR1, saving a checkpoint",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed.",
        "srun: error: crag3: task 0: Killed",
        "ValueError: said the sample that the model wrote",
        '{"text": "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"}',
        " 40%|████      | 40/100 [00:40<01:00,  1.00s/it]",
        # No milestones either.
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


def test_lines_after_an_exception_and_behind_a_bar() -> None:
    assert kinds(traceback(("t.py", "<module>")) + "\nKilled") == ["EXCEPTION", "TASK_FAILED"]
    line = "E0101 10:00:00.000000 7 torch/x.py:8] failed (exitcode: -9) local_rank: 1 (pid: 5) of binary: p"
    assert [e.kind.name if isinstance(e, Sign) else e.value for e in read(line)] == [-9.0, "HOST_OOM", "TASK_FAILED"]
    bar, lost = (
        read(line)[0] for line in (" 4%|#  | 4/100 [00:40<01:00,  1.00s/it]Killed", "iteration 77: loss = nan")
    )
    assert isinstance(bar, Sign)
    assert isinstance(lost, Sign)
    assert (bar.text, lost.step) == ("Killed", 77)


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
        assert is_offered(Faults, line), line


def test_a_script_that_says_so_after_a_fault_is_not_believed() -> None:
    assert kinds(traceback(("t.py", "<module>")) + "\nTraining complete!") == ["EXCEPTION"]
    assert kinds("Killed\nTraining complete!") == ["HOST_OOM"]
    assert kinds(traceback(("t.py", "<module>")) + "\n" * 100 + "Training complete!") == ["EXCEPTION", "TRAINED"]
