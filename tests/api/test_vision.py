"""A tiny vision-language model, planned, checked, trained by two trainers, killed, resumed, evaluated and reported."""

import json
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.api.folders import command, environment, touchline
from tests.api.harm import kill_first_process, training_processes, wait_for_steps
from tests.tiny_vision import build_tiny_vision_model, write_colors

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.core.errors import InputError, PlanDriftError
from touchline.data.datasets import load_examples
from touchline.data.evaluations import EVALUATION_FILE, read_evaluation_config
from touchline.data.images import PixelBatch, load_pixels
from touchline.data.lengths import token_lengths
from touchline.data.metrics_file import read_metrics
from touchline.data.models import load_renderer, read_model
from touchline.data.rendering.chat import ImageRule
from touchline.data.user_config import UserConfig
from touchline.experiment.data_config import DataConfig

pytestmark = pytest.mark.slow

EXPERIMENT = """\
name: colors
question: Does an adapter learn colors?
task: exact_match
models: [Tiny-VL-1M]
data: {path: data/colors.json, images: image, prompt: "{input}"}
train: {epochs: 3, global_batch_size: 4, micro_batch_size: 2, learning_rate: 1e-3, max_seq_len: 256,
        base_dtype: float32, lora: {rank: 2}}
factors: {train.backend: [peft, trl]}
seeds: [1]
controls: [base]
evaluate: {max_new_tokens: 4}
compute: {executor: local}
"""
COUNT = 22
"""Rows: 15 to train, so that the last step of an epoch has one example less."""
PEFT, TRL = "1M_rank2_peft", "1M_rank2_trl"
FLOAT32 = 1e-5
"""Tolerance for sums in another order, in nats."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, the images and the experiment."""
    folder = tmp_path_factory.mktemp("vision")
    build_tiny_vision_model(folder / "models" / "Tiny-VL-1M", scale=3.0)
    write_colors(folder / "data", COUNT)
    (folder / "experiment.yaml").write_text(EXPERIMENT, encoding="utf-8")
    return folder


def call(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`touchline ...` in that folder."""
    return touchline(*words, env=environment(place / "models", place / "cache"), cwd=place)


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """The same folder, its experiment run to the end."""
    done = call(place, "run", "experiment.yaml", "--no-probe")
    assert done.returncode == 0, done.stderr
    return place


def test_an_experiment_with_images_goes_from_plan_to_report(trained: Path) -> None:
    import torch
    from transformers import AutoModelForImageTextToText

    place = trained
    rows = [json.loads(line) for line in (place / PEFT / "metrics.jsonl").read_text("utf-8").splitlines()]
    plan = json.loads((place / "plan.json").read_text("utf-8"))
    (planned,) = (run for run in plan["runs"] if run["name"] == PEFT)
    start = rows[0]
    assert (start["layout"], start["packed_requested"]) == ("padded", False)
    # 4 linear layers of attention with rank 2, on the language model alone.
    adapter = json.loads((place / PEFT / "epoch_2" / "adapter_config.json").read_text("utf-8"))
    assert "visual" in adapter["exclude_modules"]
    assert adapter == json.loads((place / TRL / "epoch_2" / "adapter_config.json").read_text("utf-8"))
    steps = [row for row in rows if row["event"] == "step"]
    assert len(steps) == planned["batches"]["steps"] == 12
    assert_same_training(place / TRL, place / PEFT)

    model = read_model(place / "models" / "Tiny-VL-1M")
    renderer = load_renderer(model, plan["date"])
    data = DataConfig(path="data/colors.json", images="image", prompt="{input}")
    examples = [renderer.example(each) for each in load_examples(data, "train", place)]
    tokens = sum(len(e.prompt_ids) + len(e.answer_ids) for e in examples)
    assert sum(row["real_tokens"] for row in steps) == 3 * tokens
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
    assert "### Agreement of trainers" in (place / "RESULTS.md").read_text("utf-8")
    samples = [json.loads(line) for line in (place / "samples.jsonl").read_text("utf-8").splitlines()]
    assert len(samples) == 9


def assert_same_training(run: Path, other: Path) -> None:
    """Equal steps and validations of two runs, in whatever attempts they were made."""
    found, wanted = read_metrics(run / "metrics.jsonl"), read_metrics(other / "metrics.jsonl")
    assert len(found.steps) == len(wanted.steps)
    for one, two in zip(found.steps, wanted.steps, strict=True):
        assert one.loss == pytest.approx(two.loss, abs=FLOAT32)
        assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-3)
        counts = ("examples", "real_tokens", "target_tokens")
        assert [getattr(one, name) for name in counts] == [getattr(two, name) for name in counts]
    for at, two_at in zip(found.validations, wanted.validations, strict=True):
        assert at.loss == pytest.approx(two_at.loss, abs=FLOAT32)


@pytest.mark.thorough
def test_kills_of_two_processes_per_run_change_nothing(trained: Path, tmp_path: Path) -> None:
    """Kill -9 of the first process of each trainer: no orphan is left, and the losses are those of one calm process."""
    folder = tmp_path / "rough"
    folder.mkdir()
    (folder / "data").symlink_to(trained / "data")
    text = EXPERIMENT.replace("executor: local", "executor: local, gpu: cpu, gpus_per_run: 2")
    text = text.replace("micro_batch_size: 2", "micro_batch_size: 1, checkpoint: {resume_minutes: 1e-9}")
    (folder / "experiment.yaml").write_text(text.replace("[base]", "[]"), encoding="utf-8")
    env = environment(trained / "models", trained / "cache")
    assert touchline("plan", str(folder), env=env).returncode == 0
    words = command("run", str(folder), "--no-probe")
    with subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        wait_for_steps(process, folder / PEFT, 3)
        kill_first_process(folder / PEFT, together=2)
        # The command resumes it by itself. The next time it is killed too.
        wait_for_steps(process, folder / TRL, 3)
        process.kill()
    kill_first_process(folder / TRL, together=2)
    assert not (folder / TRL / "training.json").exists()

    done = touchline("resume", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    for run in (PEFT, TRL):
        assert not training_processes(folder / run)
        assert len(read_metrics(folder / run / "metrics.jsonl").attempts) == 2
        assert_same_training(folder / run, trained / PEFT)
    answer = json.loads(touchline("results", str(folder), "--json", env=env).stdout)
    assert {run["status"] for run in answer["runs"]} == {"completed"}


def test_images_read_ahead_change_nothing(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, gradient norms and the adapter are byte-equal with and without threads that read images. Each step says
    how long it waited for them: without threads for all of the reading."""
    from touchline.train.attempt import Stop
    from touchline.train.inputs import read_config
    from touchline.train.process import run_training

    (tmp_path / "data").symlink_to(place / "data")
    text = EXPERIMENT.replace("train.backend: [peft, trl]", "train.dataloader_workers: [0, 2]").replace("[base]", "[]")
    (tmp_path / "experiment.yaml").write_text(text, encoding="utf-8")
    env = environment(place / "models", place / "cache")
    for verb in ("plan", "prepare"):
        done = touchline(verb, str(tmp_path), env=env)
        assert done.returncode == 0, done.stderr
    readers: set[str] = set()

    def load(images: Sequence[str], rule: ImageRule) -> PixelBatch:
        readers.add(threading.current_thread().name.partition("_")[0])
        return load_pixels(images, rule)

    monkeypatch.setattr("touchline.train.target_loss.load_pixels", load)
    results = []
    for number in (0, 2):
        (folder,) = tmp_path.glob(f"*workers{number}*")
        readers.clear()
        assert run_training(read_config(folder / "finetune.yaml"), folder, Stop())
        assert readers == ({"MainThread", "pixels"} if number else {"MainThread"})
        metrics = read_metrics(folder / "metrics.jsonl")
        (saved,) = folder.glob("epoch_2/adapter_model.safetensors")
        losses = [(row.loss, row.grad_norm) for row in metrics.steps]
        assert all(row.data_seconds is not None and row.data_seconds <= row.seconds for row in metrics.steps)
        assert number or all(row.data_seconds for row in metrics.steps)
        results.append((losses, [row.loss for row in metrics.validations], saved.read_bytes()))
    assert len(results[0][0]) == 12
    assert results[0] == results[1]


def test_answers_with_images_are_those_of_transformers_generate(place: Path) -> None:
    import torch
    from transformers import AutoModelForImageTextToText

    from touchline.evaluate.decoding import write_answers

    folder = read_model(place / "models" / "Tiny-VL-1M")
    renderer = load_renderer(folder, "2026-01-01")
    rule = renderer.images
    assert isinstance(rule, ImageRule)
    model = AutoModelForImageTextToText.from_pretrained(folder.path).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # So that answers differ by prompt, which those of small random weights do not.
            parameter.mul_(1.0 if parameter.ndim == 1 else 2.0)
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


def test_items_of_own_tasks_hold_the_images(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inspect_ai.dataset import json_dataset
    from inspect_ai.model import ContentImage, ContentText

    from touchline.evaluate.inspect_task import write_items

    run = trained / PEFT
    monkeypatch.chdir(run)
    items = write_items(read_evaluation_config(run / EVALUATION_FILE), run)
    found = list(json_dataset(str(items)))
    assert len(found) == 3
    for sample in found:
        assert not isinstance(sample.input, str)
        image, text = sample.input[0].content
        assert isinstance(image, ContentImage)
        assert Path(image.image).is_file()
        assert isinstance(text, ContentText)
        assert text.text.startswith("Color of picture")


def test_a_replaced_image_is_refused_by_its_name(place: Path, tmp_path: Path) -> None:
    """Other pixels in an image of the same size: no command goes on with them."""
    from PIL import Image

    from touchline.evaluate.checkpoint import resolve_job
    from touchline.train.inputs import load_inputs, read_config

    folder = tmp_path / "replaced"
    shutil.copytree(place / "data", folder / "data")
    (folder / "experiment.yaml").write_text(EXPERIMENT, encoding="utf-8")
    env = environment(place / "models", place / "cache")
    assert touchline("plan", str(folder), env=env).returncode == 0
    assert touchline("prepare", str(folder), env=env).returncode == 0
    run, base = folder / PEFT, folder / "1M_base"

    def read_train() -> object:
        return load_inputs(read_config(run / "finetune.yaml"), run)

    def read_test() -> object:
        return resolve_job(base, "base")

    for split, number, read in (("train", 0, read_train), ("test", COUNT - 1, read_test)):
        read()
        (image,) = (folder / "data").glob(f"image_{number:02d}.*")
        content = image.read_bytes()
        with Image.open(image) as opened:
            turned = opened.transpose(Image.Transpose.ROTATE_180)
        turned.save(image)
        done = touchline("resume", str(folder), env=env)
        assert done.returncode != 0
        assert f"the image {image.name!r} changed since planning" in done.stderr
        with pytest.raises(PlanDriftError, match=f"image '{image.name}' of the {split} split changed"):
            read()
        image.write_bytes(content)


def test_lengths_count_the_patches_of_the_images(place: Path, tmp_path: Path) -> None:
    """As the model's processor makes them; they are kept by the images' sizes."""
    from PIL import Image

    folder, cache, date = tmp_path / "sized", tmp_path / "cache", "2026-01-01"
    shutil.copytree(place / "data", folder / "data")
    model = read_model(place / "models" / "Tiny-VL-1M")
    rule = load_renderer(model, date).images
    assert isinstance(rule, ImageRule)
    data = DataConfig(path="data/colors.json", images="image", prompt="{input}")
    lengths = token_lengths(model, data, "train", folder, date, cache)
    images = [path for each in load_examples(data, "train", folder) for turn in each.prompt for path in turn.images]
    grids = load_pixels(images, rule).grids.prod(axis=1)
    assert (lengths.patches, lengths.patch_squares) == (grids.sum(), (grids**2).sum())
    kept = token_lengths(model, data, "train", folder, date, cache)
    assert (kept.prompt.tolist(), kept.patch_squares) == (lengths.prompt.tolist(), lengths.patch_squares)
    with Image.open(images[0]) as image:
        image.resize((4 * image.width, 4 * image.height)).save(images[0])
    other = token_lengths(model, data, "train", folder, date, cache)
    assert other.prompt[0] != lengths.prompt[0]
    assert other.patches != lengths.patches


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["models=[../Blind-1M]"], "the model takes text only"),
        (["factors={train.backend: [peft, axolotl]}"], "axolotl does not train vision-language models"),
        (["train.packed=true"], "sequences cannot be packed"),
    ],
)
def test_what_cannot_be_done_with_images_is_refused(
    place: Path, tmp_path: Path, overrides: list[str], words: str
) -> None:
    settings = UserConfig(models_dir=place / "models", cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")
    write_tiny_model(place / "Blind-1M")
    given = [each.replace("..", str(place)) for each in overrides]
    with pytest.raises(InputError) as refused:
        api.plan(place / "experiment.yaml", settings, given, dry_run=True)
    assert any(words in each for each in (str(refused.value), *(each.message for each in refused.value.findings)))
