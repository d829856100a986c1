"""Chats with images: the forms of the field, their tokens, and their faults, all at once."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cases import refusal
from tests.tiny_model import build_tiny_model
from tests.tiny_vision import build_tiny_vision_model, write_colors
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from touchline.core.errors import InputError
from touchline.core.quantity import Missing
from touchline.data.datasets import load_dataset, load_examples
from touchline.data.images import image_fault, image_size, load_pixels, read_image_rule
from touchline.data.lengths import token_lengths
from touchline.data.models import load_renderer, read_model
from touchline.data.rendering.chat import ImageRule, images_of
from touchline.experiment.data_config import DataConfig

DATE = "2026-01-01"
ANSWER = {"role": "assistant", "content": "Red"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_vision_model(tmp_path_factory.mktemp("models") / "Tiny-VL-1M")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colors(tmp_path_factory.mktemp("images"), 24).parent


def chats(folder: Path, rows: list[dict[str, object]], name: str = "chats.json") -> Path:
    other = {"messages": [{"role": "user", "content": f"Another {name}?"}, ANSWER]}
    path = folder / name
    path.write_text(json.dumps({"train": rows, "test": [other | {"image": [], "images": []}]}), encoding="utf-8")
    return path


def test_every_form_of_a_chat_with_images_is_the_same_prompt(model: Path, images: Path) -> None:
    first, second = "image_00.jpg", "image_01.png"
    parts = [{"type": "image", "image": first}, {"type": "text", "text": "and "}, {"type": "image", "image": second}]
    bare = [{"type": "image"}, {"type": "text", "text": "and "}, {"type": "image"}]
    asked = {"type": "text", "text": " which?"}
    both = [first, second]
    forms: list[tuple[dict[str, object], str | None]] = [
        ({"messages": [{"role": "user", "content": [*parts, asked]}, ANSWER]}, None),
        ({"messages": [{"role": "user", "content": [*bare, asked]}, ANSWER], "images": both}, "images"),
        ({"messages": [{"role": "user", "content": "<image>and <image> which?"}, ANSWER], "images": both}, "images"),
        (
            {
                "messages": [{"from": "human", "value": "<image>and <image> which?"}, {"from": "gpt", "value": "Red"}],
                "images": [{"path": first, "bytes": None}, {"path": second}],
            },
            "images",
        ),
    ]
    renderer = load_renderer(read_model(model), DATE)
    assert isinstance(renderer.images, ImageRule)
    rendered = []
    for number, (row, column) in enumerate(forms):
        data = DataConfig(path=str(chats(images, [row], f"form_{number}.json")), messages="messages", images=column)
        assert load_dataset(data, images).images == 2
        (example,) = load_examples(data, "train", images)
        assert images_of(example.prompt) == tuple(str(images / name) for name in both)
        rendered.append(renderer.example(example))
    assert all(each == rendered[0] for each in rendered)
    text = renderer.decode(rendered[0].prompt_ids, keep_special=True)
    assert "user\n<|vision_start|><|image_pad|><|vision_end|>and <|vision_start|>" in text
    expected = [renderer.images.tokens(*image_size(str(images / name))) for name in both]
    assert rendered[0].prompt_ids.count(renderer.images.token_id) == sum(expected)
    assert rendered[0].images == tuple(str(images / name) for name in both)


def test_images_of_columns_come_first_and_lengths_are_exact(model: Path, images: Path, tmp_path: Path) -> None:
    data = DataConfig(path="colors.json", images="image", prompt="{input}")
    found = read_model(model)
    assert found.vision
    lengths = token_lengths(found, data, "train", images, DATE, tmp_path)
    renderer = load_renderer(found, DATE)
    assert isinstance(renderer.images, ImageRule)
    examples = load_examples(data, "train", images)
    assert len(set(lengths.prompt.tolist())) > 1
    for number, example in enumerate(examples):
        rendered = renderer.example(example)
        assert int(lengths.prompt[number]) == len(rendered.prompt_ids)
        (image,) = rendered.images
        assert rendered.prompt_ids.count(renderer.images.token_id) == renderer.images.tokens(*image_size(image))
        assert example.prompt[0].content.startswith("<image>Color")
    # Lengths are cached by the size of each image, which rows do not show.
    assert token_lengths(found, data, "train", images, DATE, tmp_path).prompt.tolist() == lengths.prompt.tolist()
    (first,) = renderer.example(examples[0]).images
    content = Path(first).read_bytes()
    try:
        width, height = image_size(first)
        Image.new("RGB", (4 * width, 4 * height)).save(first)
        other = token_lengths(found, data, "train", images, DATE, tmp_path)
        assert int(other.prompt[0]) == len(renderer.example(examples[0]).prompt_ids) != int(lengths.prompt[0])
    finally:
        Path(first).write_bytes(content)


def test_all_faults_of_images_come_at_once(images: Path) -> None:
    (images / "text.png").write_text("no image", encoding="utf-8")
    rows: list[dict[str, object]] = [
        {"messages": [{"role": "user", "content": f"{number} {text}"}, ANSWER], "images": files}
        for number, (text, files) in enumerate(
            [
                ("<image>", ["gone.png"]),
                ("<image>", ["text.png"]),
                ("<image> <image>", ["image_00.jpg"]),
                ("", [{"bytes": "abc"}]),
                ("<image>", ["gone too.png"]),
            ]
        )
    ]
    answered = {"role": "assistant", "content": [{"type": "image", "image": "image_00.jpg"}]}
    rows.append({"messages": [{"role": "user", "content": "draw"}, answered], "images": []})
    data = DataConfig(path=str(chats(images, rows, "faults.json")), messages="messages", images="images")
    messages = [finding.message for finding in load_dataset(data, images).findings]
    for words in (
        "an image does not exist (2 times: rows 1, 5)",
        "an image is not a valid PNG or JPEG file",
        "the text has 2 <image>, but the row has 1",
        "column 'images' contains an image that is not a path",
        "an assistant turn contains an image",
    ):
        assert any(words in message for message in messages), (words, messages)
    refusal(load_examples, data, "train", images)


def test_a_text_model_refuses_images_and_text_needs_none(images: Path, model: Path, tmp_path: Path) -> None:
    example, *_ = load_examples(DataConfig(path="colors.json", images="image", prompt="{input}"), "train", images)
    with pytest.raises(InputError, match="have images, but the model takes text only"):
        load_renderer(read_model(build_tiny_model(tmp_path / "Tiny-1M")), DATE).example(example)
    example, *_ = load_examples(DataConfig(path="colors.json", prompt="{input} <|image_pad|>"), "train", images)
    with pytest.raises(InputError, match="writes 1 image tokens, but"):
        load_renderer(read_model(model), DATE).example(example)


CONFIG = '{"vision_config": {}, "image_token_id": 5}'
SIZES = [(1280, 1024), (37, 90), (8, 8), (3000, 40), (641, 479), (28, 28), (4000, 3000)]
RULES = [(14, 3136, 1_003_520), (16, 65_536, 16_777_216), (14, 3136, 12_845_056), (4, 64, 4096)]


def processor(patch: int, least: int, most: int) -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(patch_size=patch, size={"shortest_edge": least, "longest_edge": most})


@pytest.mark.parametrize(("patch", "least", "most"), RULES)
def test_an_image_has_the_tokens_of_the_installed_processor(tmp_path: Path, patch: int, least: int, most: int) -> None:
    installed = processor(patch, least, most)
    installed.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(CONFIG, encoding="utf-8")
    rule = read_image_rule(tmp_path)
    assert isinstance(rule, ImageRule), rule
    for width, height in SIZES:
        patches = installed.get_number_of_image_patches(height, width)
        assert rule.tokens(width, height) == patches // 4, (width, height)
        assert np.prod(rule.grid(width, height)) == patches
    with pytest.raises(ValueError, match="pixels"):
        rule.grid(2001, 10)


@pytest.mark.parametrize("kind", ["png", "jpeg", "turned"])
def test_pixels_are_those_of_the_installed_processor(tmp_path: Path, kind: str) -> None:
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (47, 90, 3), dtype=np.uint8))
    path = tmp_path / f"image.{'png' if kind == 'png' else 'jpg'}"
    exif = Image.Exif()
    if kind == "turned":
        exif[0x0112] = 6
    image.save(path, exif=exif)
    installed = processor(4, 64, 4096)
    installed.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(CONFIG, encoding="utf-8")
    rule = read_image_rule(tmp_path)
    assert isinstance(rule, ImageRule)
    assert image_size(str(path)) == ((47, 90) if kind == "turned" else (90, 47))
    assert image_fault(str(path)) is None

    expected = installed(images=[str(path), str(path)], return_tensors="np")
    found = load_pixels([str(path), str(path)], rule)
    assert np.array_equal(found.grids, expected["image_grid_thw"])
    np.testing.assert_allclose(found.values, expected["pixel_values"], rtol=0, atol=1e-6)
    width, height = image_size(str(path))
    assert rule.tokens(width, height) == expected["image_grid_thw"][0].prod() // 4


def test_faults_of_images_are_words(tmp_path: Path) -> None:
    text = tmp_path / "a.png"
    text.write_text("no image", encoding="utf-8")
    wide = tmp_path / "wide.png"
    Image.new("RGB", (2100, 10)).save(wide)
    cut = tmp_path / "cut.jpg"
    Image.new("RGB", (20, 10)).save(cut)
    cut.write_bytes(cut.read_bytes()[:15])
    assert image_fault(str(tmp_path / "none.png")) == "an image does not exist"
    assert image_fault(str(text)) == "an image is not a valid PNG or JPEG file"
    assert image_fault(str(cut)) in ("an image is not a valid PNG or JPEG file", "an image cannot be read")
    assert "above 200" in (image_fault(str(wide)) or "")
    refusal(image_size, str(tmp_path))


def test_a_folder_without_a_known_processor_has_no_rule(tmp_path: Path) -> None:
    assert isinstance(read_image_rule(tmp_path), Missing)
    (tmp_path / "config.json").write_text(CONFIG, encoding="utf-8")
    assert isinstance(read_image_rule(tmp_path), Missing)
    path = tmp_path / "preprocessor_config.json"
    for content in ("{", '{"image_processor_type": "CLIPImageProcessor"}', '{"image_processor_type": 4}'):
        path.write_text(content, encoding="utf-8")
        assert isinstance(read_image_rule(tmp_path), Missing)
    path.write_text('{"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 0}', encoding="utf-8")
    assert "patch" in read_image_rule(tmp_path).missing
