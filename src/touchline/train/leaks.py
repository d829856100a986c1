"""Command `python -m touchline.train.leaks < config.json`: test an architecture for leaks between packed documents.

On a small random model, two documents share a sequence. When the tokens of one change, the other's log-probabilities
must not change, nor differ from those it has alone. Each packing mode of common trainers is tested.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from touchline.backends.registry import all_traits
from touchline.data.worker import prepare_worker, tell_fault

if __name__ == "__main__":
    prepare_worker()

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from touchline.core.errors import HostError, InputError, TouchlineError
from touchline.core.json_text import parse_json
from touchline.data.packing.forecast import IsolationCheck, PackingMode

LAYERS = 4  # Hybrid models repeat a pattern of at most four kinds of layers
LENGTHS = (9, 12, 7)  # Tokens of the documents in the sequence
VOCABULARY = 128
TOLERANCE_NATS = 1e-4
"""Effect of float32 rounding on a log-probability; a leak is about a thousand times larger."""
_SMALL: dict[str, int] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "state_size": 16,
    "num_heads": 8,
    "n_groups": 2,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
}
"""Sizes of the small model, as far as the architecture has them."""


def small_config(config: dict[str, Any]) -> PretrainedConfig:
    """Return the architecture's configuration with small sizes; layer types, masks and norms stay."""
    inner = config.get("text_config")
    text = {**inner, **{key: config[key] for key in ("model_type",) if "model_type" not in inner}} if inner else config
    kind = str(text.get("model_type", ""))
    layers = min(int(text.get("num_hidden_layers") or LAYERS), LAYERS)
    small = {key: value for key, value in text.items() if not isinstance(value, dict)}
    small |= {key: value for key, value in _SMALL.items() if key in text}
    heads = _SMALL["num_attention_heads"]
    same = text.get("num_key_value_heads") in (None, text.get("num_attention_heads"))
    small |= {"num_hidden_layers": layers, "num_key_value_heads": heads if same else heads // 2}
    if isinstance(text.get("layer_types"), list):
        small["layer_types"] = text["layer_types"][:layers]
    for key in ("architectures", "auto_map", "quantization_config", "dtype", "torch_dtype"):
        small.pop(key, None)
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        small[key] = 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            # By way of a file, as configurations have forms that only its reader turns into values.
            (Path(folder) / "config.json").write_text(json.dumps(small), encoding="utf-8")
            made: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            return made
    except Exception as error:
        # Each architecture checks its sizes in its own way, with errors of its own.
        raise _cannot(kind, error) from error


def check(config: dict[str, Any]) -> IsolationCheck:
    """Test every packing mode on a small random model of this configuration.

    Raises:
        InputError: no such model can be created.
    """
    small = small_config(config)
    model, attention = _small_model(small)
    # Random weights as they are begun with leave attention nearly even; larger ones make a leak plain to see.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    ways = tuple(_way(model, name, _used_by(name, more)) for name, more in _WAYS.items())
    return IsolationCheck(
        model_type=small.model_type,
        layers=small.num_hidden_layers,
        attention=attention,
        tolerance=TOLERANCE_NATS,
        versions=versions,
        ways=ways,
    )


def _small_model(config: PretrainedConfig) -> tuple[torch.nn.Module, str]:
    fault: Exception | None = None
    for attention in ("sdpa", "eager"):
        torch.manual_seed(1)
        try:
            model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
        except (ValueError, ImportError, RuntimeError, AttributeError, TypeError, KeyError, IndexError) as error:
            fault = error
        else:
            return model.eval(), attention
    raise _cannot(config.model_type, fault)


def _cannot(kind: str, error: Exception | None) -> InputError:
    message = (str(error).splitlines() or ["no message"])[0][:200]
    return InputError(
        f"no small model of architecture {kind!r} can be built: {message}",
        expected="a causal language model that transformers knows",
    )


_WAYS = {
    "block mask": "",
    "positions": "where no mask is passed",
    "positions and a mask of ones": "any collator that adds attention_mask to packed rows",
    "nothing": "",
}
"""Ways of packing, each with what is said of it after the trainers that use it."""


def _used_by(way: str, more: str) -> str:
    users = [traits.packing_ways[way] for traits in all_traits() if way in traits.packing_ways]
    return ", ".join((*users, more) if more else users)


@torch.no_grad()
def _way(model: torch.nn.Module, name: str, used_by: str) -> PackingMode:
    generator = torch.Generator().manual_seed(2)
    documents = [torch.randint(1, VOCABULARY, (length,), generator=generator) for length in LENGTHS]
    try:
        together = _row(model, documents, name)
    except (ValueError, RuntimeError, IndexError, TypeError, AttributeError) as error:
        refused = f"the model rejects it: {(str(error).splitlines() or [''])[0][:160]}"
        return PackingMode(name=name, used_by=used_by, leak=None, difference=None, isolated=False, note=refused)
    leak = 0.0
    for changed in range(len(documents)):
        others = list(documents)
        others[changed] = torch.randint(1, VOCABULARY, (LENGTHS[changed],), generator=generator)
        for index, (before, after) in enumerate(zip(together, _row(model, others, name), strict=True)):
            if index != changed:
                leak = max(leak, float((before - after).abs().max()))
    alone = [_row(model, [document], name)[0] for document in documents]
    difference = max(float((a - b).abs().max()) for a, b in zip(together, alone, strict=True))
    # NaN compares false, so what is not finite proves nothing.
    isolated = leak <= TOLERANCE_NATS and difference <= TOLERANCE_NATS
    return PackingMode(name=name, used_by=used_by, leak=leak, difference=difference, isolated=isolated)


def _row(model: torch.nn.Module, documents: list[Tensor], name: str) -> list[Tensor]:
    """Return the log-probabilities of each document in one sequence, shape [tokens, vocabulary]."""
    ids = torch.cat(documents).unsqueeze(0)
    given: dict[str, Tensor] = {"input_ids": ids}
    if name != "nothing":
        given["position_ids"] = torch.cat([torch.arange(len(document)) for document in documents]).unsqueeze(0)
    if name == "positions and a mask of ones":
        given["attention_mask"] = torch.ones_like(ids)
    if name == "block mask":
        owner = torch.repeat_interleave(
            torch.arange(len(documents)), torch.tensor([len(document) for document in documents])
        )
        seen = (owner[:, None] == owner[None, :]).tril()
        mask = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)
        given["attention_mask"] = mask[None, None]
    logits = model(**given, use_cache=False).logits[0]
    return list(torch.log_softmax(logits.double(), -1).split([len(document) for document in documents]))


def main() -> int:
    """Read a config.json from stdin and print the result as JSON; errors go to stderr."""
    try:
        config = parse_json(sys.stdin.read())
        sys.stdout.write(json.dumps(asdict(check(config))) + "\n")
    except TouchlineError as fault:
        tell_fault(fault)
        return fault.exit_code
    except (OSError, ValueError) as error:
        tell_fault(HostError(f"no config.json can be read: {error}"))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
