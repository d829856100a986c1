"""Runs that are told of by notebooks, W&B's files and exports, and PEFT's comparison of methods."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from touchline.core.quantity import Missing
from touchline.history.adding import record_of_run
from touchline.history.files import LoggedRun, find_runs
from touchline.history.reading import RunReading

pytestmark = pytest.mark.planning

LOG = "\n".join(
    [
        "***** Running training *****",
        "  Num examples = 1,600",
        "  Num Epochs = 1",
        "  Instantaneous batch size per device = 8",
        "  Gradient Accumulation steps = 2",
        "  Total optimization steps = 100",
        *(f"{{'loss': {2 - step / 100}, 'learning_rate': 1e-4, 'epoch': {step / 100}}}" for step in range(10, 101, 10)),
        "{'train_runtime': 50.0, 'train_samples_per_second': 32.0, 'train_loss': 1.45, 'epoch': 1.0}",
        "",
    ]
)
SOURCE = """!pip install trl
max_len = 1024
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B")
args = SFTConfig(per_device_train_batch_size=8, gradient_accumulation_steps=2, max_length=max_len, bf16=True)
peft = LoraConfig(r=32, lora_alpha=64, target_modules=["q_proj", "v_proj"])
open("made-by-a-cell", "w")
"""
TABLE = (
    "<div><progress value='3' max='3'></progress>[3/3 02:13, Epoch 1/1]</div><table><thead><tr><th>Step</th>"
    "<th>Training Loss</th></tr></thead><tbody><tr><td>1</td><td>1.500000</td></tr><tr><td>2</td><td>1.400000</td></tr>"
    "<tr><td>3</td><td>1.300000</td></tr></tbody></table>"
)


def read(*paths: Path) -> RunReading:
    """The one run of these files."""
    (found,) = find_runs(paths)
    assert isinstance(found, LoggedRun), found
    return found.reading


def values(reading: RunReading, *names: str) -> list[Any]:
    """Values of fields; None for what is missing."""
    return [None if isinstance(fact := getattr(reading, name), Missing) else fact.value for name in names]


def notebook(
    path: Path, *outputs: dict[str, object], source: str = SOURCE, indent: int | None = 1, ran: bool = True
) -> Path:
    """A notebook of one cell."""
    cell = {"cell_type": "code", "execution_count": 1 if ran else None, "source": source.splitlines(True)}
    whole = {
        "cells": [{"cell_type": "markdown", "source": "# r = 7"}, cell | {"outputs": list(outputs)}],
        "nbformat": 4,
    }
    path.write_text(json.dumps(whole, indent=indent))
    return path


def stream(text: str, whole: bool = False) -> dict[str, object]:
    return {"output_type": "stream", "name": "stdout", "text": text if whole else text.splitlines(True)}


# ---- notebooks -------------------------------------------------------------------------------------------------------


def test_a_notebook_says_what_its_outputs_say_as_a_log(tmp_path: Path) -> None:
    """However its text is laid out in the file; a place is the line on which the text stands."""
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "run.log").write_text(LOG)
    fields = (
        "steps_done",
        "steps_total",
        "last_loss",
        "mean_train_loss",
        "train_seconds",
        "micro_batch_size",
        "outcome",
    )
    wanted = values(read(tmp_path / "log" / "run.log"), *fields)
    assert None not in wanted
    for number, (indent, whole) in enumerate(((1, False), (None, False), (1, True), (None, True))):
        path = notebook(tmp_path / f"nb{number}.ipynb", stream(LOG, whole), indent=indent)
        assert values(read(path), *fields) == wanted, (indent, whole)
    path = notebook(tmp_path / "places.ipynb", stream(LOG))
    where = read(path).train_seconds.where  # type: ignore[union-attr]
    assert where is not None
    assert "train_runtime" in path.read_text().splitlines()[int(where.rpartition(":")[2]) - 1]


def test_arguments_of_cells_are_guesses_and_code_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reading = read(notebook(tmp_path / "a.ipynb", stream(LOG)))
    assert values(reading, "model", "lora_rank", "max_seq_len", "dtype") == ["Qwen/Qwen3-0.6B", 32, 1024, "bfloat16"]
    assert reading.lora_rank.method is not None  # type: ignore[union-attr]
    assert not (tmp_path / "made-by-a-cell").exists()
    # A cell that never ran says nothing, and what was printed counts more than what is written.
    assert values(read(notebook(tmp_path / "b.ipynb", stream(LOG), ran=False)), "lora_rank", "model") == [None, None]
    other = SOURCE.replace("batch_size=8", "batch_size=3")
    assert values(read(notebook(tmp_path / "c.ipynb", stream(LOG), source=other)), "micro_batch_size") == [8]


def test_a_table_of_losses_is_read(tmp_path: Path) -> None:
    shown = {"output_type": "display_data", "data": {"text/html": [TABLE], "text/plain": ["<IPython.HTML object>"]}}
    reading = read(notebook(tmp_path / "a.ipynb", shown))
    assert values(reading, "steps_done", "steps_total", "last_loss", "train_seconds") == [3, 3, 1.3, 133]


def test_an_error_in_a_notebook_is_a_crash(tmp_path: Path) -> None:
    log = LOG[: LOG.index("{'train_runtime'")].replace("= 100", "= 200")
    trace = [
        "Traceback (most recent call last)",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    ]
    reading = read(notebook(tmp_path / "a.ipynb", stream(log), {"output_type": "error", "traceback": trace}))
    assert reading.outcome.value == "gpu_oom"


CELL = '{"cells": [{"cell_type": "code", "execution_count": 1, %s}], "nbformat": 4}'
BROKEN = (
    *("", "[1, 2", "[]", "{}", '{"cells": 3, "nbformat": 4}', '{"cells": [3, null, {"outputs": 5}], "nbformat": 4}'),
    *(CELL % '"source": {"a": 1}, "outputs": [{"data": [1]}]', CELL % '"source": "((((", "outputs": []'),
)


@pytest.mark.parametrize("text", BROKEN)
def test_broken_notebooks_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.ipynb").write_text(text)
    assert not any(isinstance(found, LoggedRun) for found in find_runs([tmp_path / "a.ipynb"]))


# ---- W&B -------------------------------------------------------------------------------------------------------------

METADATA = {
    "executable": "/usr/bin/python",
    "program": "train.py",
    "startedAt": "2024-01-01T00:00:00Z",
    "args": [
        "--model_name_or_path",
        "Qwen/Qwen2.5-0.5B",
        "--learning_rate",
        "1e-4",
        "--max_length=512",
        "--packing",
        "--bf16",
        "true",
    ],
    "gpu_nvidia": [{"name": "NVIDIA A100-SXM4-80GB", "memoryTotal": "85899345920"}] * 2,
}
CONFIG = """wandb_version: 1
_wandb: {desc: null, value: {python_version: '3.10'}}
per_device_train_batch_size: {desc: null, value: 8}
_name_or_path: {desc: null, value: Qwen/Qwen2.5-0.5B}
learning_rate: {value: 0.0001}
peft_config: {value: {default: {peft_type: LORA, r: 16, lora_alpha: 32, target_modules: [q_proj, v_proj]}}}
"""


def test_the_files_of_a_wandb_run_are_of_the_log_above_them(tmp_path: Path) -> None:
    """The machine, the arguments and the settings; not a second run."""
    files = tmp_path / "exp" / "wandb" / "run-20240101_10-abc" / "files"
    files.mkdir(parents=True)
    (tmp_path / "exp" / "slurm-7.out").write_text(LOG)
    (files / "wandb-metadata.json").write_text(json.dumps(METADATA))
    (files / "output.log").write_text(LOG)
    reading = read(tmp_path / "exp")
    assert values(reading, "gpu", "model", "max_seq_len") == ["NVIDIA A100-SXM4-80GB", "Qwen/Qwen2.5-0.5B", 512]
    (files / "config.yaml").write_text(CONFIG)
    reading = read(tmp_path / "exp")
    assert values(reading, "lora_rank", "lora_alpha", "target_modules") == [16, 32, "q_proj,v_proj"]
    # Two runs of W&B, or two logs: whose they are is not known.
    (tmp_path / "exp" / "slurm-8.out").write_text(LOG.replace("1,600", "1,700"))
    gpus = [each.reading.gpu for each in find_runs([tmp_path / "exp"]) if isinstance(each, LoggedRun)]
    assert sum(not isinstance(gpu, Missing) for gpu in gpus) == 1


def test_a_metadata_file_may_be_named_with_the_log(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "wandb-metadata.json").write_text(json.dumps(METADATA))
    (tmp_path / "train_5.log").write_text(LOG)
    reading = read(tmp_path / "train_5.log", tmp_path / "a" / "wandb-metadata.json")
    assert values(reading, "gpu", "steps_done") == ["NVIDIA A100-SXM4-80GB", 100]
    (alone,) = find_runs([tmp_path / "a" / "wandb-metadata.json"])
    assert not isinstance(alone, LoggedRun)
    assert "name the run's log with it" in alone.reason


def test_exports_of_a_history_are_read(tmp_path: Path) -> None:
    """As CSV, as JSON by rows and by columns; the logged clock gives the pace."""
    rows = [
        {
            "_step": i,
            "_runtime": 10 + i * 5.0,
            "train/global_step": (i + 1) * 10,
            "train/loss": 2 - i / 10,
            "eval/loss": None,
        }
        for i in range(10)
    ]
    rows[-1]["eval/loss"] = 1.25
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    texts = {
        "history.csv": stream.getvalue(),
        "rows.json": json.dumps(rows),
        "columns.json": json.dumps({key: {str(i): row[key] for i, row in enumerate(rows)} for key in rows[0]}),
        "lines.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        reading = read(tmp_path / name)
        assert values(reading, "steps_done", "last_loss", "eval_loss") == [100, 1.1, 1.25], name
        if name != "lines.jsonl":
            assert values(reading, "seconds_per_step") == [pytest.approx(0.5)], name
    chart = '"Step","run a - train/loss","run a - train/loss__MIN","run a - train/loss__MAX"\n'
    (tmp_path / "wandb_export_1.csv").write_text(
        chart + "".join(f'"{i * 10}","{2 - i}","0","9"\n' for i in range(1, 9))
    )
    assert values(read(tmp_path / "wandb_export_1.csv"), "steps_done", "last_loss") == [80, -6]


# ---- SLURM -----------------------------------------------------------------------------------------------------------


def test_saved_accounting_tells_the_gpus_of_its_job(tmp_path: Path) -> None:
    """In each of sacct's forms; by the job's id, where there are several."""
    (tmp_path / "slurm-77.out").write_text(LOG)
    forms = (
        "JobID|State|AllocTRES\n76|COMPLETED|cpu=4,gres/gpu:t4=4\n77|COMPLETED|cpu=4,gres/gpu:a100=2,mem=9G\n77.0|X|\n",
        "JobID      State      AllocTRES\n---------- ---------- ------------------------\n"
        "76         COMPLETED  gres/gpu:t4=4\n77         COMPLETED  gres/gpu:a100=2\n",
        "JobID,State,ReqGRES\n77,COMPLETED,gres/gpu:a100:2\n",
    )
    for text in forms:
        (tmp_path / "sacct.txt").write_text(text)
        reading = read(tmp_path)
        assert values(reading, "gpu", "steps_done") == ["a100", 100], text
        assert reading.gpu.where is not None  # type: ignore[union-attr]
        assert reading.gpu.where.startswith("sacct.txt:")  # type: ignore[union-attr]
    # Of several jobs none of which is the log's, nothing is taken.
    (tmp_path / "sacct.txt").write_text("JobID|AllocTRES\n1|gres/gpu:t4=4\n2|gres/gpu:a100=2\n")
    assert values(read(tmp_path), "gpu") == [None]


# ---- PEFT's comparison -----------------------------------------------------------------------------------------------


def comparison(**train: object) -> dict[str, Any]:
    """A result as PEFT's benchmark writes it, of 500 steps."""
    rows: list[dict[str, object]] = [
        {"step": 250 * i, "train loss": 1 - i / 10, "train samples": 1000 * i, "train time": 31.0, "eval time": 11.0}
        for i in (1, 2)
    ]
    rows.append({"step": 500, "train loss": 0.8, "train samples": 2000, "train total tokens": 420_000})
    return {
        "run_info": {
            "train_config": {
                "model_id": "meta-llama/Llama-3.2-3B",
                "dtype": "bfloat16",
                "max_seq_length": 768,
                "batch_size": 4,
                "max_steps": 500,
                "use_gc": False,
                "compile": False,
                "autocast_adapter_dtype": True,
                "optimizer_type": "AdamW",
                "optimizer_kwargs": {"lr": 1e-4},
            },
            "peft_config": {
                "peft_type": "LORA",
                "r": 32,
                "lora_alpha": 64,
                "lora_dropout": 0.0,
                "target_modules": ["v_proj", "q_proj"],
            },
            "error_msg": "",
        },
        "train_info": {
            "accelerator_memory_max": 20 * 1024**3,
            "status": "success",
            "num_trainable_params": 9175040,
            "metrics": rows,
            **train,
        },
        "meta_info": {
            "dataset_info": {"metamath": {}},
            "package_info": {"torch-version": "2.7.1"},
            "system_info": {"accelerator": "NVIDIA L40S"},
        },
    }


def test_a_result_of_the_comparison_is_evidence(tmp_path: Path) -> None:
    from touchline.data.shapes import load_shape
    from touchline.estimate.history_points import missing_facts, to_memory_points, to_time_point
    from touchline.history.record import RunRecord

    path = tmp_path / "lora--llama-3.2-3B-rank32.json"
    path.write_text(json.dumps(comparison()))
    (found,) = find_runs([path])
    assert isinstance(found, LoggedRun)
    reading = found.reading
    assert values(reading, "method", "lora_rank", "micro_batch_size", "steps_done", "seconds_per_step") == [
        *("lora", 32, 4, 500),
        pytest.approx(0.124),
    ]
    assert values(reading, "gpu", "dataset", "peak_memory", "outcome") == ["NVIDIA L40S", "metamath", 20, "completed"]
    assert values(reading, "adapter_dtype", "dropout", "compiled", "gradient_checkpointing") == [
        *("float32", 0, "false", "false"),
    ]
    assert reading.peak_memory.kind == "reserved"  # type: ignore[union-attr]
    record = record_of_run(found)
    assert isinstance(record, RunRecord)
    assert missing_facts(record) == ()

    def shape(name: str) -> Any:
        return load_shape(name, tmp_path)

    time, memory = to_time_point(record, shape), to_memory_points(record, shape)
    assert not isinstance(time, Missing)
    assert not isinstance(memory, Missing)
    assert time.work.tokens == pytest.approx(4 * 210)
    assert (memory[0].batch.rows, memory[0].batch.width) == (4, 768)


def test_what_a_comparison_says_of_failures_and_kinds(tmp_path: Path) -> None:
    path = tmp_path / "dora--x.json"
    result = comparison(status="canceled")
    result["run_info"]["error_msg"] = "CUDA out of memory. Tried to allocate 1.5 GiB"
    result["run_info"]["peft_config"]["use_dora"] = True
    path.write_text(json.dumps(result))
    assert values(read(path), "outcome", "method") == ["gpu_oom", "dora"]
    result["run_info"]["peft_config"] = None
    path.write_text(json.dumps(result))
    assert values(read(path), "method", "lora_rank") == ["full", None]
    for broken in ({}, {"metrics": 3}, {"metrics": [3, {"step": "x"}], "accelerator_memory_max": "lots"}):
        path.write_text(json.dumps(comparison() | {"train_info": broken}))
        list(find_runs([path]))


def test_a_result_of_the_comparison_is_a_run_of_the_same_settings_at_default_options(tmp_path: Path) -> None:
    """Its adapters are float32, as PEFT makes them and an estimate takes them; before, they had the base's dtype."""
    from touchline.backends.registry import memory_coefficients
    from touchline.core.estimate import EvidenceLevel, MicroBatch, TrainingSetup
    from touchline.data.shapes import load_shape
    from touchline.estimate.gpus import Gpu, find_gpu
    from touchline.estimate.history_points import to_memory_points
    from touchline.estimate.memory import memory_estimate
    from touchline.history.record import RunRecord

    path = tmp_path / "lora--llama-3.2-3B-rank32.json"
    path.write_text(json.dumps(comparison()))
    (found,) = find_runs([path])
    assert isinstance(found, LoggedRun)
    record = record_of_run(found)
    assert isinstance(record, RunRecord)
    points = to_memory_points(record, lambda name: load_shape(name, tmp_path))
    assert not isinstance(points, Missing)
    coefficients, gpu = memory_coefficients("plain"), find_gpu("L40S")
    assert not isinstance(coefficients, Missing)
    assert isinstance(gpu, Gpu)
    setup = TrainingSetup(
        shape=load_shape("meta-llama/Llama-3.2-3B", tmp_path),
        backend="plain",
        method="lora",
        rank=32,
        target_modules=("q_proj", "v_proj"),
        base_dtype="bfloat16",
        adapter_dtype=coefficients.adapter_dtype,
        dropout=coefficients.dropout,
    )
    batch = MicroBatch(rows=4, width=768, label_tokens=4 * 768)
    estimate = memory_estimate(setup, batch, coefficients=coefficients, gpu=gpu, evidence=points)
    assert estimate.reserved.rung is EvidenceLevel.SAME_RUN
    assert estimate.reserved.value == pytest.approx(20)
