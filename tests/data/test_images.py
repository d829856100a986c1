"""Images: sizes in headers and tokens by the rule, held against Pillow and the installed processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from touchline.core.errors import InputError
from touchline.core.quantity import Missing
from touchline.data.images import image_fault, image_size, load_pixels, read_image_rule
from touchline.data.rendering.image_rule import ImageRule

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
    generator = np.random.default_rng(3)
    image = Image.fromarray(generator.integers(0, 256, (47, 90, 3), dtype=np.uint8))
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
    assert "ratio above 200" in (image_fault(str(wide)) or "")
    with pytest.raises(InputError):
        image_size(str(tmp_path))


def test_a_folder_without_a_known_processor_has_no_rule(tmp_path: Path) -> None:
    assert isinstance(read_image_rule(tmp_path), Missing)
    (tmp_path / "config.json").write_text(CONFIG, encoding="utf-8")
    assert isinstance(read_image_rule(tmp_path), Missing)
    path = tmp_path / "preprocessor_config.json"
    for content in ("{", '{"image_processor_type": "CLIPImageProcessor"}', '{"image_processor_type": 4}'):
        path.write_text(content, encoding="utf-8")
        assert isinstance(read_image_rule(tmp_path), Missing)
    path.write_text('{"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 0}', encoding="utf-8")
    found = read_image_rule(tmp_path)
    assert isinstance(found, Missing)
    assert "patch" in found.missing
