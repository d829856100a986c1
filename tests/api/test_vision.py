"""A tiny vision-language model, planned, checked, trained, killed by a stop, resumed, evaluated and reported."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from inspect_ai.dataset import json_dataset
from inspect_ai.model import ContentImage, ContentText
from tests.api.folders import environment, touchline
from tests.tiny_vision import build_tiny_vision_model, write_colors
from transformers import AutoModelForImageTextToText

from touchline.data.datasets import load_examples
from touchline.data.evaluations import EVALUATION_FILE, read_evaluation_config
from touchline.data.images import load_pixels
from touchline.data.models import load_renderer, read_model
from touchline.data.rendering.image_rule import ImageRule
from touchline.evaluate.decoding import write_answers
from touchline.evaluate.inspect_task import write_items
from touchline.spec.experiment import DataConfig

EXPERIMENT = """\
name: colors
question: Does an adapter learn colors?
task: exact_match
models: [Tiny-VL-1M]
data: {path: data/colors.json, images: image, prompt: "{input}"}
train: {epochs: 1, global_batch_size: 4, micro_batch_size: 2, learning_rate: 1e-3, max_seq_len: 256,
        base_dtype: float32, lora: {rank: 2}}
seeds: [1]
controls: [base]
evaluate: {max_new_tokens: 4}
compute: {executor: local}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, the images and the experiment."""
    folder = tmp_path_factory.mktemp("vision")
    build_tiny_vision_model(folder / "models" / "Tiny-VL-1M")
    write_colors(folder / "data")
    (folder / "experiment.yaml").write_text(EXPERIMENT, encoding="utf-8")
    return folder


def call(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`touchline ...` in that folder."""
    return touchline(*words, env=environment(place / "models", place / "cache"), cwd=place)


def test_an_experiment_with_images_goes_from_plan_to_report(place: Path) -> None:
    checked = call(place, "check", "experiment.yaml", "--json")
    assert not {"TK202", "TK232"} & {finding["code"] for finding in json.loads(checked.stdout)["findings"]}
    done = call(place, "run", "experiment.yaml", "--no-probe")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (place / "1M_rank2" / "metrics.jsonl").read_text("utf-8").splitlines()]
    plan = json.loads((place / "plan.json").read_text("utf-8"))
    (trained,) = (run for run in plan["runs"] if run["name"] == "1M_rank2")
    start = rows[0]
    assert (start["layout"], start["packed_requested"]) == ("padded", False)
    # 4 linear layers of attention with rank 2, on the language model alone.
    adapter = json.loads((place / "1M_rank2" / "epoch_0" / "adapter_config.json").read_text("utf-8"))
    assert "visual" in adapter["exclude_modules"]
    steps = [row for row in rows if row["event"] == "step"]
    assert len(steps) == trained["batches"]["steps"] == 4

    model = read_model(place / "models" / "Tiny-VL-1M")
    renderer = load_renderer(model, plan["date"])
    data = DataConfig(path="data/colors.json", images="image", prompt="{input}")
    examples = [renderer.example(each) for each in load_examples(data, "train", place)]
    assert sum(row["real_tokens"] for row in steps) == sum(len(e.prompt_ids) + len(e.answer_ids) for e in examples)
    # The mean over the label tokens before the first step, by the model's own forward pass without an adapter.
    validation = [renderer.example(each) for each in load_examples(data, "validation", place)]
    base = AutoModelForImageTextToText.from_pretrained(model.path, attn_implementation="eager")
    assert isinstance(renderer.images, ImageRule)
    losses: list[float] = []
    for example in validation:
        pixels = load_pixels(example.images, renderer.images)
        ids = torch.tensor([example.prompt_ids + example.answer_ids])
        with torch.no_grad():
            logits = base(
                input_ids=ids,
                pixel_values=torch.from_numpy(pixels.values),
                image_grid_thw=torch.from_numpy(pixels.grids),
                mm_token_type_ids=(ids == renderer.images.token_id).int(),
            ).logits[0]
        first = len(example.prompt_ids)
        predicted = logits[first - 1 : -1].log_softmax(-1)
        losses += (-predicted[range(len(example.answer_ids)), list(example.answer_ids)]).tolist()
    before = next(row["loss"] for row in rows if row["event"] == "validation")
    assert before == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    report = (place / "RESULTS.md").read_text("utf-8")
    assert "Both runs are complete" in report
    assert "n/a (not evaluated)" not in report
    samples = [json.loads(line) for line in (place / "samples.jsonl").read_text("utf-8").splitlines()]
    assert len(samples) == 8


def test_answers_with_images_are_those_of_transformers_generate(place: Path) -> None:
    folder = read_model(place / "models" / "Tiny-VL-1M")
    renderer = load_renderer(folder, "2026-01-01")
    rule = renderer.images
    assert isinstance(rule, ImageRule)
    model = AutoModelForImageTextToText.from_pretrained(folder.path).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # So that answers differ by prompt, which those of small random weights do not.
            parameter.mul_(1.0 if parameter.ndim == 1 else 6.0)
    data = DataConfig(path="data/colors.json", images="image", prompt="{input}")
    examples = [renderer.example(each) for each in load_examples(data, "train", place)[:4]]
    pixels = load_pixels([path for example in examples for path in example.images], rule)
    values = {"pixel_values": torch.from_numpy(pixels.values), "image_grid_thw": torch.from_numpy(pixels.grids)}
    answers = write_answers(
        model,
        [example.prompt_ids for example in examples],
        max_new_tokens=8,
        stop_ids=renderer.stop_ids,
        pad_id=renderer.pad_id,
        images=(rule.token_id, values),
    )
    for example, answer in zip(examples, answers, strict=True):
        one = load_pixels(example.images, rule)
        ids = torch.tensor([example.prompt_ids])
        whole = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == rule.token_id).int(),
            pixel_values=torch.from_numpy(one.values),
            image_grid_thw=torch.from_numpy(one.grids),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=sorted(renderer.stop_ids),
        )
        written = [token for token in whole[0, ids.shape[1] :].tolist() if token not in renderer.stop_ids]
        assert list(answer.ids) == written
    assert len({answer.ids for answer in answers}) > 1


def test_items_of_own_tasks_hold_the_images(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = place / "1M_rank2"
    monkeypatch.chdir(run)
    items = write_items(read_evaluation_config(run / EVALUATION_FILE), run)
    found = list(json_dataset(str(items)))
    assert len(found) == 4
    for sample in found:
        assert not isinstance(sample.input, str)
        image, text = sample.input[0].content
        assert isinstance(image, ContentImage)
        assert Path(image.image).is_file()
        assert isinstance(text, ContentText)
        assert text.text.startswith("Color of picture")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("epochs: 1", "backend: trl, epochs: 1"), "trl trains no vision-language model"),
        (("epochs: 1", "packed: true, epochs: 1"), "sequences cannot be packed"),
    ],
)
def test_what_cannot_be_done_with_images_is_refused(place: Path, change: tuple[str, str], words: str) -> None:
    folder = place / "refused" / words.split()[0]
    folder.mkdir(parents=True)
    text = EXPERIMENT.replace(*change).replace("data/colors", str(place / "data" / "colors"))
    (folder / "experiment.yaml").write_text(text, encoding="utf-8")
    done = touchline("plan", "experiment.yaml", env=environment(place / "models", place / "cache"), cwd=folder)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
