"""`touchline estimate` and `touchline pack` as people type them: the story of the seeds, JSON, and words for faults."""

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.api.folders import make_experiment
from tests.cases import refusal

from touchline.data.requests import PackRequest
from touchline.data.user_config import load_settings
from touchline.plan.local.packing import load_lengths

pytestmark = [pytest.mark.planning, pytest.mark.slow]

Call = Callable[..., subprocess.CompletedProcess[str]]
STORY = (
    *("estimate", "--model", "Llama-3.2-1B", "--method", "lora", "--rank", "64", "--backend", "torchtune"),
    *("--target-modules", "q_proj,v_proj,o_proj,gate_proj,up_proj,down_proj", "--micro-batch-size", "16"),
)


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["schema_version"] == 1
    return found


def test_the_story_of_the_seeds(call: Call) -> None:
    """What the rule called 6 GB took 80.5 GiB and died on an 80 GB card."""
    memory = answer(call(*STORY, "--seq-len", "2048", "--gpu", "A100-80GB", "--json"))["memory"]
    assert 79.3 <= memory["allocated_gib"]["value"] <= 81.7
    assert memory["verdict"] == "OOM"
    assert round(memory["after_init_gib"]["value"], 2) == 2.41
    assert sum(memory["breakdown"].values()) == pytest.approx(memory["allocated_gib"]["value"])
    for kind in ("allocated_gib", "reserved_gib", "process_gib"):
        assert memory[kind]["low"] <= memory[kind]["value"] <= memory[kind]["high"]


def test_whether_a_vision_language_model_fits_40_gb(call: Call) -> None:
    """Four images of 1280 x 1024 pixels in a micro-batch, as in seed 004; its script checkpoints gradients."""
    model = ("--model", "Qwen3-VL-8B-Instruct", "--rank", "4", "--target-modules", "q_proj,k_proj,v_proj,o_proj")
    rows = ("--micro-batch-size", "4", "--seq-len", "1400", "--image-tokens", "1280", "--gpu", "A100-40GB")
    for more, verdict in ((("lora",), "OOM"), (("qlora", "--gradient-checkpointing"), "FITS")):
        found = answer(call("estimate", *model, *rows, "--backend", "trl", "--json", "--method", *more))
        assert found["memory"]["verdict"] == verdict
        assert found["parameters"] == 8_767_123_696


def test_all_wrong_options_come_at_once(call: Call) -> None:
    wrong = ("--backend", "torchtun", "--method", "lorra", "--rank", "0")
    done = call("estimate", "--model", "Llama-3.2-1", *wrong)
    assert done.returncode == 2
    for word in ("Llama-3.2-1B", "torchtune", "did you mean lora?", "--rank"):
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_gpu_is_an_error_and_no_guess(call: Call) -> None:
    done = call("estimate", "--model", "Llama-3.2-1B", "--gpu", "A1000")
    assert (done.returncode, "A100-80GB" in done.stderr) == (2, True)


def test_a_folder_of_ones_own_is_found(call: Call) -> None:
    found = answer(call("estimate", "--model", "Tiny-1M-Instruct", "--seq-len", "64", "--json"))
    assert found["model"] == "Tiny-1M-Instruct"
    assert found["source"].endswith("config.json")


def test_no_time_is_given_without_the_mean_length(call: Call) -> None:
    """Memory grows with the longest sequence, time with the mean one: one number cannot be both."""
    words = ("estimate", "--model", "Llama-3.2-1B", "--gpu", "A100-80GB", "--seq-len", "2048", "--json")
    without, with_mean = answer(call(*words)), answer(call(*words, "--mean-length", "256", "--examples", "100"))
    assert "--mean-length" in without["seconds_per_step"]["missing"]
    assert with_mean["memory"]["allocated_gib"] == without["memory"]["allocated_gib"]
    longer = answer(call(*words, "--mean-length", "2048"))
    assert longer["seconds_per_step"]["value"] > 1.2 * with_mean["seconds_per_step"]["value"]
    assert with_mean["total_seconds"]["value"] > 0
    done = call(*words, "--mean-length", "4096")
    assert done.returncode == 2
    assert "--seq-len 4096" in done.stderr


def test_the_lengths_change_reserved_memory(call: Call, tmp_path: Path) -> None:
    """The mean, a list and a file; rows of one length keep nothing, and without lengths the interval is wider."""
    words = ("estimate", "--model", "Llama-3.2-1B", "--gpu", "A100-80GB", "--backend", "trl", "--json")
    words = (*words, "--backend-version", "0.9", "--gradient-checkpointing")
    file = tmp_path / "lengths.txt"
    file.write_text("".join(f"{tokens}\n" for tokens in range(4, 2049, 4)), encoding="utf-8")
    asked = {
        "none": (),
        "one": ("--mean-length", "2048"),
        "mean": ("--mean-length", "1024"),
        "file": ("--lengths", str(file)),
        "list": ("--lengths", "2048,2048,2048"),
    }
    found = {name: answer(call(*words, *more))["memory"] for name, more in asked.items()}
    reserved = {name: memory["reserved_gib"]["value"] for name, memory in found.items()}
    assert reserved["none"] == reserved["one"] == reserved["list"]
    assert found["none"]["reserved_gib"]["high"] > found["one"]["reserved_gib"]["high"]
    assert reserved["mean"] > 1.5 * reserved["one"]
    # These lengths are uniform up to the longest, which is what a mean of half of it is taken as.
    assert reserved["file"] == pytest.approx(reserved["mean"], rel=0.1)
    assert len({memory["allocated_gib"]["value"] for memory in found.values()}) == 1
    assert {memory["verdict"] for memory in found.values()} == {"FITS"}
    done = call(*words, "--lengths", "100,4000")
    assert "1 of 2 lengths cut at 2048" in " ".join(answer(done)["notes"])


@pytest.mark.parametrize(
    ("lengths", "more", "words"),
    [
        ("nowhere.txt", (), "not a text file"),
        ("12,0", (), "'0' is not a number of tokens"),
        (",", (), "it has no number"),
        ("12", ("--mean-length", "12"), "expected one of them"),
        ("99999999999999999999", (), "is not a number of tokens"),
    ],
)
def test_wrong_lengths_are_named_with_what_to_type(call: Call, lengths: str, more: tuple[str, ...], words: str) -> None:
    done = call("estimate", "--model", "Llama-3.2-1B", "--gpu", "A100-80GB", "--rank", "0", "--lengths", lengths, *more)
    assert done.returncode == 2
    assert words in done.stderr
    # All errors at once.
    assert "--rank" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_that_change_memory_are_options(call: Call) -> None:
    words = ("estimate", "--model", "Llama-3.1-8B", "--gpu", "A100-80GB", "--seq-len", "1024", "--json")

    def gib(*more: str) -> float:
        return float(answer(call(*words, *more))["memory"]["allocated_gib"]["value"])

    litgpt = ("--backend", "litgpt", "--target-modules", "q_proj,v_proj")
    assert gib(*litgpt, "--lora-dropout", "0") < gib(*litgpt)
    unsloth = ("--backend", "unsloth", "--method", "qlora", "--gradient-checkpointing", "--micro-batch-size", "4")
    early, late = (gib(*unsloth, "--backend-version", version) for version in ("2024.5", "2025.3"))
    assert early > late + 1
    assert gib("--adapter", "dora") > gib() + 1
    assert gib("--loss", "fused") < gib("--loss", "full", "--backend", "trl")


def test_a_model_that_is_stored_in_4_bits_is_qlora(call: Call) -> None:
    words = ("estimate", "--model", "unsloth/llama-3-8b-bnb-4bit", "--backend", "unsloth", "--gpu", "T4", "--json")
    found = answer(call(*words))
    assert found["model"] == "Llama-3-8B"
    assert found["settings"]["method"] == "qlora"
    assert found["settings"]["base"] == "float16"
    assert any("stored in 4 bits" in note for note in found["notes"])


def test_a_whole_model_is_trained_in_float32_where_there_is_no_bfloat16(call: Call) -> None:
    """A notebook (unslothai/notebooks, Qwen3_(0_6B)-Phone_Deployment) took 10.562 GiB on a T4."""
    words = (
        "estimate --model Qwen3-0.6B --method full --gpu T4 --micro-batch-size 2 --seq-len 1024 --optimizer adamw_8bit"
    )
    trainer = (
        "--gradient-accumulation-steps 4 --backend unsloth --backend-version 2025.12 --gradient-checkpointing --json"
    )
    reserved = answer(call(*words.split(), *trainer.split()))["memory"]["reserved_gib"]
    assert reserved["low"] <= 10.562 <= reserved["high"]


def test_packing_of_a_file_of_lengths(call: Call, tmp_path: Path) -> None:
    lengths = np.random.default_rng(1).integers(30, 60, 2000)
    np.save(tmp_path / "lengths.npy", lengths)
    (tmp_path / "lengths.txt").write_text("\n".join(map(str, lengths)))
    found = [
        answer(call("pack", "--lengths", str(tmp_path / name), "--max-seq-len", "512", "--json"))
        for name in ("lengths.npy", "lengths.txt")
    ]
    assert found[0] == found[1]
    packed, unpacked = found[0]["packed"], found[0]["unpacked"]
    assert packed["lower_bound"] <= packed["packs"] <= packed["lower_bound"] + 1
    assert unpacked["packs"] == 2000
    assert packed["efficiency"] > 99
    assert packed["density"] == pytest.approx(2000 / packed["packs"])
    assert packed["largest_micro_batch_tokens"] == 16 * 512


@pytest.mark.parametrize("backend", ["peft", "torchtune", "trl", "llamafactory", "axolotl"])
def test_packing_of_a_dataset_by_every_trainer(call: Call, tmp_path: Path, backend: str) -> None:
    make_experiment(tmp_path / "exp")
    words = ("--tokenizer", "Tiny-1M-Instruct", "--max-seq-len", "128", "--backend", backend)
    found = answer(call("pack", str(tmp_path / "exp" / "data" / "words.json"), *words, "--json"))
    assert found["backend"] == backend
    assert found["packed"]["padded_tokens"] > 0


def test_a_hand_off_holds_every_row_once(call: Call, tmp_path: Path) -> None:
    make_experiment(tmp_path / "exp")
    data = tmp_path / "exp" / "data" / "words.json"
    done = call(
        *("pack", "write", str(data), "--tokenizer", "Tiny-1M-Instruct"),
        *("--max-seq-len", "256", "--out", str(tmp_path / "packed.jsonl")),
    )
    assert done.returncode == 0, done.stderr
    assert "the same packs" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "packed.jsonl").read_text().splitlines()]
    train = json.loads(data.read_text())["train"]
    assert sorted(map(str, rows)) == sorted(map(str, train))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max-seq-len", "64"), "--lengths"),
        (("none.json", "--tokenizer", "Tiny-1M-Instruct", "--max-seq-len", "64"), "does not exist"),
        (("--lengths", "none.npy", "--max-seq-len", "64"), "does not exist"),
        (("--lengths", "none.npy", "--max-seq-len", "0"), "max-seq-len"),
        (("check", "no-such-model"), "no-such-model"),
    ],
)
def test_faults_of_pack_are_words(call: Call, words: tuple[str, ...], said: str) -> None:
    done = call("pack", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_that_is_offered_names_the_dataset_and_the_length(tmp_path: Path) -> None:
    """Also where its name has spaces."""
    for path in (Path("data.csv"), tmp_path / "my data.csv"):
        caught = refusal(load_lengths, PackRequest(dataset=path, max_seq_len=77), load_settings(), None)
        assert f"touchline pack {shlex.quote(str(path))} --tokenizer" in (caught.hint or "")
        assert "--max-seq-len 77" in (caught.hint or "")
