"""What can happen to a checkpoint: each function spoils a sound one in its own way.

`RESAVED` ones get a marker that fits them again, so that only what is in the file can tell; of the others the marker
is left as it was. Those in `DEEP` change values alone, which no header shows.
"""

import json
import struct
from collections.abc import Callable
from pathlib import Path

from tests.results.made_checkpoints import ADAPTER, CONFIG, INDEX, MARKER, Spec, load, save, values

Spoil = Callable[[Path], None]


def edit_json(path: Path, **changes: object) -> None:
    """Change keys of a JSON object."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _cut(name: str, share: float) -> Spoil:
    """Leave the first part of a file; 0 leaves nothing but its name."""

    def spoil(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return spoil


def resave(path: Path, change: Callable[[Spec, dict[str, bytes]], None]) -> None:
    """Read a file of weights, change it, and save it anew."""
    spec, data = load(path)
    change(spec, data)
    save(path, spec, {name: each for name, each in data.items() if name in spec})


def reshape(spec: Spec, data: dict[str, bytes], name: str, dtype: str, shape: tuple[int, ...]) -> None:
    spec[name] = (dtype, shape)
    data[name] = values(dtype, shape)


def _header(change: Callable[[dict[str, list[int]]], object]) -> Spoil:
    """Change what an adapter's header says of its third tensor, and leave the data as it is."""

    def spoil(folder: Path) -> None:
        data = (folder / ADAPTER).read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        change(header[sorted(key for key in header if key != "__metadata__")[2]])
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        (folder / ADAPTER).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return spoil


def _wider(tensor: dict[str, list[int]]) -> None:
    tensor["shape"][0] += 1


def _shift(by: int) -> Callable[[dict[str, list[int]]], object]:
    return lambda tensor: tensor.update(data_offsets=[offset + by for offset in tensor["data_offsets"]])


def _adapter(change: Callable[[Spec, dict[str, bytes]], None]) -> Spoil:
    return lambda folder: resave(folder / ADAPTER, change)


def _drop(part: str) -> Callable[[Spec, dict[str, bytes]], None]:
    def change(spec: Spec, data: dict[str, bytes]) -> None:
        for name in [name for name in spec if part in name]:
            del spec[name], data[name]

    return change


def _rename(old: str, new: str) -> Callable[[Spec, dict[str, bytes]], None]:
    def change(spec: Spec, data: dict[str, bytes]) -> None:
        for name in [name for name in spec if old in name]:
            spec[name.replace(old, new)], data[name.replace(old, new)] = spec.pop(name), data.pop(name)

    return change


def _each(part: str, dtype: str | None, shape: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Spoil:
    def change(spec: Spec, data: dict[str, bytes]) -> None:
        for name, (old, size) in list(spec.items()):
            if part in name:
                reshape(spec, data, name, dtype or old, shape(size))

    return _adapter(change)


def _fill(file: str, part: str, pattern: bytes, *, all_of_it: bool) -> Spoil:
    """Put a bit pattern into a tensor, once or everywhere."""

    def change(spec: Spec, data: dict[str, bytes]) -> None:
        name = next(name for name in sorted(spec) if part in name)
        many = len(data[name]) // len(pattern)
        data[name] = pattern * many if all_of_it else pattern + data[name][len(pattern) :]

    return lambda folder: resave(folder / file, change)


def _remove(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def _write(name: str, content: str | bytes) -> Spoil:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


def _marked(**changes: object) -> Spoil:
    return lambda folder: edit_json(folder / MARKER, **changes)


def _configured(**changes: object) -> Spoil:
    return lambda folder: edit_json(folder / CONFIG, **changes)


def _as_folder(folder: Path) -> None:
    (folder / ADAPTER).unlink()
    (folder / ADAPTER).mkdir()


def _dangling(folder: Path) -> None:
    (folder / ADAPTER).rename(folder.parent / "moved.safetensors")
    (folder / ADAPTER).symlink_to(folder / "blob")


def _flip(name: str, share: float = 0.9) -> Spoil:
    def spoil(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[int(len(data) * share)] ^= 1
        (folder / name).write_bytes(bytes(data))

    return spoil


def _deeper(spec: Spec, data: dict[str, bytes]) -> None:
    for name in [name for name in spec if "layers.1." in name]:
        other = name.replace("layers.1.", "layers.2.")
        spec[other], data[other] = spec[name], data[name]


NAN, INFINITY = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))
ONE_A, ONE_B = "layers.1.self_attn.q_proj.lora_A", "layers.1.self_attn.q_proj.lora_B"

ADAPTERS: dict[str, tuple[str, Spoil]] = {
    "empty weights": ("zero-byte", _cut(ADAPTER, 0)),
    "weights cut in the data": ("truncated", _cut(ADAPTER, 0.9)),
    "weights cut in the header": ("truncated", _cut(ADAPTER, 0.02)),
    "five bytes of weights": ("truncated", _write(ADAPTER, b"\x01" * 5)),
    "bytes behind the weights": (
        "overlong",
        lambda folder: (folder / ADAPTER).write_bytes((folder / ADAPTER).read_bytes() + b"\0" * 64) and None,
    ),
    "a page of HTML for weights": ("bad-header", _write(ADAPTER, "<!DOCTYPE html><title>404</title>" * 9)),
    "a header that is no JSON": ("bad-header", _write(ADAPTER, struct.pack("<Q", 8) + b"not json" + b"\0" * 99)),
    "tensors that overlap": ("bad-offsets", _header(_shift(-16))),
    "a gap between tensors": ("bad-offsets", _header(_shift(16))),
    "a shape that its bytes cannot hold": ("bad-offsets", _header(_wider)),
    "no weights": ("missing-file", _remove(ADAPTER)),
    "no configuration": ("missing-file", _remove(CONFIG)),
    "a configuration cut off": ("broken-json", _cut(CONFIG, 0.6)),
    "an empty configuration": ("zero-byte", _cut(CONFIG, 0)),
    "weights that are a folder": ("not-a-file", _as_folder),
    "weights behind a dead link": ("missing-file", _dangling),
    "no marker": ("half-written", _remove(MARKER)),
    "a marker cut off": ("broken-marker", _cut(MARKER, 0.5)),
    "a marker of another run": ("other-run", _marked(run="1M_rank2")),
    "a marker of another plan": ("other-run", _marked(run_digest="0" * 64)),
    "a marker of another base": ("other-base", _marked(base_weights_sha256="0" * 64)),
    "a marker of another epoch": ("wrong-place", _marked(epoch=0, step=20)),
    "a marker of another kind": ("wrong-kind", _marked(kind="merged")),
    "no tokenizer": ("missing-file", _remove("tokenizer.json")),
    "a tokenizer cut off": ("wrong-size", _cut("tokenizer.json", 0.5)),
    "an empty chat template": ("zero-byte", _cut("chat_template.jinja", 0)),
}
RESAVED: dict[str, tuple[str, Spoil]] = {
    "another rank in the configuration": ("wrong-rank", _configured(r=8)),
    "another scale in the configuration": ("wrong-config", _configured(lora_alpha=4)),
    "a factor without the other": ("missing-tensor", _adapter(_drop(ONE_B))),
    "factors of two ranks": ("wrong-shape", _each(ONE_B, None, lambda shape: (shape[0], shape[1] + 1))),
    "another rank than planned": ("wrong-rank", _each("lora_", None, lambda s: tuple(2 if n == 4 else n for n in s))),
    "factors of a wider base": ("wrong-shape", _each("lora_A", None, lambda shape: (shape[0], shape[1] + 16))),
    "more layers than the base has": ("other-base", _adapter(_deeper)),
    "layers of another architecture": ("other-base", _adapter(_rename("model.layers", "transformer.blocks"))),
    "a layer that the base has not": ("extra-tensor", _adapter(_rename("layers.1.mlp.up_proj", "layers.1.mlp.fc_in"))),
    "a whole model beside the adapter": (
        "wrong-kind",
        lambda folder: save(folder / "model.safetensors", {"x.weight": ("float32", (2, 2))}),
    ),
}
DEEP: dict[str, tuple[str, Spoil]] = {
    "a number that is none": ("nan", _fill(ADAPTER, ONE_A, NAN, all_of_it=False)),
    "an infinite number": ("infinite", _fill(ADAPTER, ONE_A, INFINITY, all_of_it=False)),
    "a factor B of zeros": ("all-zero", _fill(ADAPTER, ONE_B, b"\0\0\0\0", all_of_it=True)),
    "a factor A of zeros": ("all-zero", _fill(ADAPTER, ONE_A, b"\0\0\0\0", all_of_it=True)),
}
DEEP_UNMARKED: dict[str, tuple[str, Spoil]] = {
    "a flipped bit": ("changed", _flip(ADAPTER)),
    "a flipped letter of the chat template": ("changed", _flip("chat_template.jinja")),
}


# ---- checkpoints that touchline did not make -------------------------------------------------------------------------

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def _moved(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    name = next(name for name, file in index["weight_map"].items() if file == FIRST)
    index["weight_map"][name] = SECOND
    (folder / INDEX).write_text(json.dumps(index))


def _renamed_index(folder: Path) -> None:
    text = (folder / INDEX).read_text()
    (folder / INDEX).write_text(text.replace("-of-00002", "-of-00005").replace("model-0000", "model-0001"))


def _unlisted(folder: Path) -> None:
    save(folder / "model-00003-of-00002.safetensors", {"extra.weight": ("float32", (4, 4))})


MODELS: dict[str, tuple[str, Spoil]] = {
    "a shard is missing": ("missing-file", _remove(SECOND)),
    "an empty shard": ("zero-byte", _cut(SECOND, 0)),
    "a shard cut off": ("truncated", _cut(FIRST, 0.7)),
    "no index": ("missing-file", _remove(INDEX)),
    "an index cut off": ("broken-index", _cut(INDEX, 0.7)),
    "an empty index": ("zero-byte", _cut(INDEX, 0)),
    "the index of another save": ("stale-index", _renamed_index),
    "a tensor in another shard than indexed": ("stale-index", _moved),
    "a shard that the index does not name": ("stale-index", _unlisted),
    "no config.json": ("missing-file", _remove("config.json")),
    "a config.json that is a list": ("broken-json", _write("config.json", "[1, 2]")),
}
MODELS_DEEP: dict[str, tuple[str, Spoil]] = {
    "a number in a shard that is none": ("nan", _fill(FIRST, "proj.weight", NAN, all_of_it=False))
}

PT = "adapter_model.pt"


ARCHIVES: dict[str, tuple[str, Spoil]] = {
    "an empty archive": ("zero-byte", _cut(PT, 0)),
    "an archive cut off": ("truncated", _cut(PT, 0.8)),
    "an archive that is none": ("not-a-zip", _write(PT, b"\x80\x02}q\0." * 50)),
}
ARCHIVES_DEEP: dict[str, tuple[str, Spoil]] = {"a flipped bit in an archive": ("changed", _flip(PT, 0.5))}


TRAINER: dict[str, tuple[str, Spoil]] = {
    "a state cut off": ("broken-json", _cut("trainer_state.json", 0.5)),
    "an optimizer cut off": ("truncated", _cut("optimizer.pt", 0.5)),
    "a tokenizer that the others have": ("missing-file", _remove("tokenizer_config.json")),
    "nothing but a state": ("no-weights", lambda folder: [p.unlink() for p in folder.glob("adapter_*")] and None),
}
