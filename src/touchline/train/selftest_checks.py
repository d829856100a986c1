"""Checks of `touchline selftest` that need the trainer: facts of the device, losses, gradients, isolation, resuming.

A loss and its gradient are compared with a plain forward pass of transformers, example by example, in float32 on the
CPU: no hook, no mask, no packing. The CUDA parts are not verified on a GPU.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from transformers import AutoConfig, AutoModelForCausalLM

from touchline.backends.local.compilers import missing_compiler
from touchline.backends.peft.layout import PADDED, ROW_TOKENS, BatchLayout, arrange
from touchline.backends.run_config import PlannedBatches, RunConfig, run_config_text
from touchline.core.catalog import RenderedExample
from touchline.core.files import read_bytes, sha256_file
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import GIB, plural
from touchline.data.machine import visible_gpus
from touchline.data.metrics_file import METRICS, read_metrics
from touchline.data.models import load_model
from touchline.data.packing.batches import plan_batches
from touchline.history.probe import ProbedModel, ProbeRequest
from touchline.history.selftest import NodeCheck, Section, StepCheck, Verdict
from touchline.spec.evaluation import PlannedModel
from touchline.spec.experiment import CheckpointConfig, DataConfig, LoraConfig, TrainConfig
from touchline.train.compiling import compile_layers
from touchline.train.folders import ADAPTER_FILE
from touchline.train.isolation import block_mask_fault, prove
from touchline.train.machine import Machine, Stopwatch, select_device
from touchline.train.model import attach_adapter, attention_for, load_base, trainable
from touchline.train.run import Stop, run_cohort, run_training
from touchline.train.target_loss import TargetLoss, add_gradient

VOCABULARY = 320
LIMITS = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (0.05, 0.1)}
"""Largest difference of the loss in nats, and of the gradient as a fraction of its length, that rounding explains.

A mask that shows packed examples each other changes the gradient by more than half of its length."""
QLORA_LIMIT_NATS = 0.5
"""Largest change of the loss by 4-bit weights."""
CHUNK = 3
"""Label positions with logits at once, where that is tested."""
COHORT_RANKS = (4, 8, 2, 4)
COHORT_LIMIT_NATS = 1e-5
"""Largest difference of a step's loss that sums in another order explain in float32."""
PACKED = BatchLayout(row_tokens=96)
PREFIX = BatchLayout(row_tokens=96, share_prefix=True)
_WEIGHTS = 3.0
"""Factor of the initial weights: with larger ones attention is uneven, and a leak plain to see."""
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_FAMILIES = {"llama": "llama", "qwen": "qwen3", "gemma": "gemma3_text"}
"""Families of models, each with the `model_type` that stands for it."""
_SUBJECTS = {
    StepCheck.LLAMA_FLOAT32: ("llama", torch.float32),
    StepCheck.QWEN_FLOAT32: ("qwen", torch.float32),
    StepCheck.GEMMA_FLOAT32: ("gemma", torch.float32),
    StepCheck.LLAMA_BFLOAT16: ("llama", torch.bfloat16),
    StepCheck.QWEN_BFLOAT16: ("qwen", torch.bfloat16),
    StepCheck.GEMMA_BFLOAT16: ("gemma", torch.bfloat16),
}
_PRODUCT_SIZE = {"cpu": 1024, "cuda": 8192}
_PRODUCT_TIMES = 5
_KERNEL_PACKAGES = ("flash_attn", "liger_kernel")
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + ' ' + message['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant ' }}{% endif %}"
)
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "ivory", "jolly", "kiosk", "lemon")
_DATE = "2026-01-01"
_CONFIG = "finetune.yaml"


class Checks:
    """Checks on tiny models in a folder.

    Args:
        folder: empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, name: StepCheck) -> NodeCheck:
        """Run a check.

        Raises:
            TouchlineError: it could not be completed.
        """
        return _CHECKS[name](name, self._folder)


# ---- facts -----------------------------------------------------------------------------------------------------------


def _device(name: StepCheck, folder: Path) -> NodeCheck:
    del folder
    machine = select_device("auto")
    if machine.kind == "cpu" and (gpus := visible_gpus()):
        return _failed(
            name, {}, f"nvidia-smi lists {plural(len(gpus), 'GPU')}, and torch {torch.__version__} sees none"
        )
    if machine.kind == "cpu":
        return _ok(name, {}, f"{machine.device_name}, {plural(machine.threads, 'thread')}")
    free, total = torch.cuda.mem_get_info()
    return _ok(name, {"memory": _gib(total), "free": _gib(free)}, f"{machine.device_name}, CUDA {torch.version.cuda}")


def _bfloat16(name: StepCheck, folder: Path) -> NodeCheck:
    """Report which dtype `train.base_dtype: auto` becomes."""
    del folder
    choice = select_device("auto").choice
    return _ok(name, {}, choice.reason) if choice.dtype == "bfloat16" else _not_run(name, choice.reason)


def _kernels(name: StepCheck, folder: Path) -> NodeCheck:
    """Ask torch which kernel it chooses for rows of their own, and for packed ones, whose mask is a tensor."""
    del folder
    machine = select_device("auto")
    shape = (2, 4, ROW_TOKENS, 64)
    query = torch.zeros(shape, dtype=machine.base_dtype, device=machine.device, requires_grad=True)
    mask = torch.zeros((2, 1, ROW_TOKENS, ROW_TOKENS), dtype=machine.base_dtype, device=machine.device)
    own = SDPBackend(torch._fused_sdp_choice(query, query, query, None, 0.0, True))
    packed = SDPBackend(torch._fused_sdp_choice(query, query, query, mask, 0.0, False))
    words = [_kernel(own), f"packed {_kernel(packed)}"]
    if machine.kind == "cpu":
        words.append("short rows plain")
    else:
        words += [f"{each} {'installed' if importlib.util.find_spec(each) else 'absent'}" for each in _KERNEL_PACKAGES]
    return _ok(name, {}, ", ".join(words))


def _kernel(kernel: SDPBackend) -> str:
    return str(kernel.name).lower().removesuffix("_attention")


def _products(name: StepCheck, folder: Path) -> NodeCheck:
    """Time square matrix products."""
    del folder
    machine = select_device("auto")
    size = _PRODUCT_SIZE[machine.kind]
    figures: dict[str, Measured] = {}
    for label, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        matrix = torch.ones((size, size), dtype=dtype, device=machine.device)
        seconds = []
        for _ in range(_PRODUCT_TIMES + 1):
            watch = Stopwatch()
            matrix @ matrix
            if machine.kind == "cuda":
                torch.cuda.synchronize()
            seconds.append(watch.seconds())
        rate = 2 * size**3 / statistics.median(seconds[1:]) / 1e12
        how = f"median of {_PRODUCT_TIMES} products of {size} x {size}"
        figures[label] = Quantity(value=rate, unit="TFLOP/s", aggregation="median", method=how)
    return _ok(name, figures)


# ---- losses and gradients --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Reference:
    """Tiny model of a family, with what a plain float32 pass gives."""

    recipe: ProbeRequest
    """Folder and adapter."""
    adapter: dict[str, Tensor]
    """Random weights of the adapter."""
    loss: float
    """Mean loss over the label tokens, nats."""
    gradient: Tensor
    """Gradients of all adapter weights, in one vector."""


def _compare(name: StepCheck, folder: Path) -> NodeCheck:
    """Compare loss and gradient of the trainer's step with the reference, in each layout."""
    family, dtype = _SUBJECTS[name]
    if dtype is torch.bfloat16 and (choice := select_device("auto").choice).dtype != "bfloat16":
        return _not_run(name, choice.reason)
    machine = select_device("bfloat16" if dtype is torch.bfloat16 else "float32")
    reference = _reference(family, folder)
    model, target_loss = _on(machine, reference)
    examples = _examples()
    targets = sum(len(example.answer_ids) for example in examples)
    loss, gradient = 0.0, 0.0
    for layout in (PADDED, PACKED, PREFIX):
        model.zero_grad(set_to_none=True)
        found = add_gradient(target_loss, arrange(examples, layout), targets).item()
        difference = _gradient(model) - reference.gradient
        loss = _worse(loss, abs(found - reference.loss))
        gradient = _worse(gradient, float(difference.norm() / reference.gradient.norm()))
    figures: dict[str, Measured] = {
        "loss": Quantity(value=loss, unit="nats", method="largest difference over the layouts"),
        "gradient": Quantity(value=100 * gradient, unit="%", method="length of the difference over the length"),
    }
    most_loss, most_gradient = LIMITS[dtype]
    # NaN compares false, so what is not finite fails.
    if loss <= most_loss and gradient <= most_gradient:
        return _ok(name, figures)
    limits = f"differs from float32 on the CPU by more than {most_loss:g} nats or {100 * most_gradient:g} %"
    return _failed(name, figures, limits)


def _isolated(name: StepCheck, folder: Path) -> NodeCheck:
    """Test that examples in one row keep their losses when their neighbors change, on every family."""
    layout = PACKED if name is StepCheck.PACKED else PREFIX
    machine = select_device("float32")
    loss, leak, faults = 0.0, 0.0, []
    for family in _FAMILIES:
        _, target_loss = _on(machine, _reference(family, folder))
        proof = prove(target_loss, _examples(), layout, seed=1)
        loss, leak = _worse(loss, proof.loss_difference), _worse(leak, proof.leak)
        faults += [] if proof.passed else [family]
    figures: dict[str, Measured] = {
        "loss": Quantity(value=loss, unit="nats", method="largest change against the example alone"),
        "leak": Quantity(value=leak, unit="nats", method="largest change by other neighbors"),
    }
    if faults:
        which = ", ".join(faults)
        return _failed(name, figures, f"losses in one row are not those of the examples alone: {which}")
    return _ok(name, figures)


def _chunks(name: StepCheck, folder: Path) -> NodeCheck:
    """Compare loss and gradient with the reference on every family, with logits of few label positions at a time."""
    machine = select_device("float32")
    examples = _examples()
    targets = sum(len(example.answer_ids) for example in examples)
    loss, gradient, whole = 0.0, 0.0, []
    for family in _FAMILIES:
        reference = _reference(family, folder)
        model, target_loss = _on(machine, reference)
        target_loss.set_label_chunk(CHUNK)
        found = add_gradient(target_loss, arrange(examples, PADDED), targets).item()
        difference = _gradient(model) - reference.gradient
        loss = _worse(loss, abs(found - reference.loss))
        gradient = _worse(gradient, float(difference.norm() / reference.gradient.norm()))
        whole += [] if target_loss.label_chunk == CHUNK else [family]
    figures: dict[str, Measured] = {
        "loss": Quantity(value=loss, unit="nats", method="largest difference over the models"),
        "gradient": Quantity(value=100 * gradient, unit="%", method="length of the difference over the length"),
    }
    if whole:
        return _failed(name, figures, f"all logits are computed at once: {', '.join(whole)}")
    most_loss, most_gradient = LIMITS[torch.float32]
    if loss <= most_loss and gradient <= most_gradient:
        return _ok(name, figures)
    return _failed(name, figures, f"differs by more than {most_loss:g} nats or {100 * most_gradient:g} %")


def _blocks(name: StepCheck, folder: Path) -> NodeCheck:
    """Compare losses and gradients under masks by blocks with those under dense masks, on every family."""
    machine = select_device("auto")
    if machine.kind == "cpu":
        return _not_run(name, "needs a GPU")
    faults = []
    for family in _FAMILIES:
        _, target_loss = _on(machine, _reference(family, folder))
        for layout in (PACKED, PREFIX):
            fault = block_mask_fault(target_loss, arrange(_examples(), layout))
            faults += [] if fault is None else [f"{family}: {fault}"]
    if faults:
        return _failed(name, {}, f"packed rows get dense masks; {'; '.join(faults)}")
    return _ok(name, {}, "FlexAttention")


def _worse(before: float, now: float) -> float:
    """Return the larger one; not a number is worse than any number."""
    return now if not now <= before else before


@functools.cache
def _reference(family: str, folder: Path) -> _Reference:
    place = folder / family
    config = AutoConfig.for_model(_FAMILIES[family], **_SIZES)
    torch.manual_seed(1)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(_WEIGHTS)
    made.save_pretrained(place)
    recipe = ProbeRequest(
        model=ProbedModel(name=f"tiny {family}", path=str(place)),
        train=TrainConfig(lora=LoraConfig(rank=4)),
        seed=1,
        width=1,
        label_tokens=1,
    )
    processor = replace(select_device("float32"), device=torch.device("cpu"))
    model = attach_adapter(load_base(recipe, processor, "eager"), recipe)
    generator = torch.Generator().manual_seed(2)
    adapter = {
        name: torch.randn(parameter.shape, generator=generator) * 0.05 for name, parameter in trainable(model).items()
    }
    _set_adapter(model, adapter)
    examples = _examples()
    targets = sum(len(example.answer_ids) for example in examples)
    total = torch.zeros(())
    for example in examples:
        token_ids = torch.tensor([example.prompt_ids + example.answer_ids])
        labels = torch.tensor(example.answer_ids)
        logits = model(input_ids=token_ids, use_cache=False).logits[0, -len(labels) - 1 : -1]
        total = total + nn.functional.cross_entropy(logits, labels, reduction="sum") / targets
    total.backward()
    return _Reference(recipe=recipe, adapter=adapter, loss=total.item(), gradient=_gradient(model))


def _on(machine: Machine, reference: _Reference) -> tuple[PeftModel, TargetLoss]:
    """Return the reference's model on a device, with its loss as the trainer computes it."""
    base = load_base(reference.recipe, machine, attention_for(machine, PACKED.row_tokens or 0))
    model = attach_adapter(base, reference.recipe)
    _set_adapter(model, reference.adapter)
    return model, TargetLoss(model, machine)


def _set_adapter(model: PeftModel, adapter: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(adapter[name])


def _gradient(model: PeftModel) -> Tensor:
    found = [parameter.grad for parameter in trainable(model).values()]
    return torch.cat([grad.flatten().double().cpu() for grad in found if grad is not None])


def _examples() -> list[RenderedExample]:
    """Return examples of several lengths behind a common beginning."""
    generator = np.random.default_rng(3)
    beginning = tuple(generator.integers(1, VOCABULARY, 9).tolist())
    examples = []
    for prompt, answer in ((5, 3), (9, 1), (2, 7), (14, 4), (7, 2)):
        ids = tuple(generator.integers(1, VOCABULARY, prompt + answer).tolist())
        examples.append(RenderedExample(prompt_ids=beginning + ids[:prompt], answer_ids=ids[prompt:]))
    return examples


# ---- QLoRA, resuming and cohorts -------------------------------------------------------------------------------------


def _qlora(name: StepCheck, folder: Path) -> NodeCheck:
    """Compare the loss on 4-bit weights with the reference, and see that the adapter gets a gradient."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return _not_run(name, "bitsandbytes is not installed")
    reference = _reference("llama", folder)
    recipe = replace(reference.recipe, train=replace(reference.recipe.train, quantization="nf4"))
    model, target_loss = _on(select_device("auto"), replace(reference, recipe=recipe))
    examples = _examples()
    targets = sum(len(example.answer_ids) for example in examples)
    loss = add_gradient(target_loss, arrange(examples, PADDED), targets).item()
    length = float(_gradient(model).norm() / reference.gradient.norm())
    difference = abs(loss - reference.loss)
    figures: dict[str, Measured] = {
        "loss": Quantity(value=difference, unit="nats", method="difference to float32 weights"),
        "gradient length": Quantity(value=100 * length, unit="%", method="of that with float32 weights"),
    }
    if difference <= QLORA_LIMIT_NATS and 0 < length < float("inf"):
        return _ok(name, figures)
    return _failed(name, figures, f"the loss differs by more than {QLORA_LIMIT_NATS:g} nats, or there is no gradient")


def _compiled(name: StepCheck, folder: Path) -> NodeCheck:
    """Compare loss and gradient of compiled layers with the reference."""
    machine = select_device("float32")
    lacking = missing_compiler("gpu" if machine.kind == "cuda" else "cpu")
    if lacking is not None:
        return _not_run(name, f"needs {lacking.what}")
    reference = _reference("llama", folder)
    model, target_loss = _on(machine, reference)
    compile_layers(model)
    model.train()
    rows = arrange(_examples(), PADDED)
    loss = abs(add_gradient(target_loss, rows, len(rows.labels)).item() - reference.loss)
    gradient = float((_gradient(model) - reference.gradient).norm() / reference.gradient.norm())
    figures: dict[str, Measured] = {
        "loss": Quantity(value=loss, unit="nats", method="difference to uncompiled layers"),
        "gradient": Quantity(value=100 * gradient, unit="%", method="length of the difference over the length"),
    }
    most_loss, most_gradient = LIMITS[torch.float32]
    if loss <= most_loss and gradient <= most_gradient:
        return _ok(name, figures)
    return _failed(
        name, figures, f"differs from uncompiled by more than {most_loss:g} nats or {100 * most_gradient:g} %"
    )


@dataclass
class _StopAfter(Stop):
    """Stop request at the n-th look."""

    left: int = 0

    @property
    def asked(self) -> bool:
        """Return True from the n-th call on."""
        self.left -= 1
        if self.left < 0:
            self.reason = "the self-test"
        return self.left < 0


def _resume(name: StepCheck, folder: Path) -> NodeCheck:
    """Train twice, once with a stop within a step, and compare the adapters byte by byte."""
    _reference("llama", folder)
    config = _training(folder / "llama")
    adapters = []
    for stops in (False, True):
        run = folder / f"resume_{stops}"
        run.mkdir(exist_ok=True)
        stopped = not stops or not run_training(config, run, _StopAfter(left=7))
        complete = run_training(config, run, Stop())
        if not (stopped and complete):
            return _failed(name, {}, "the training did not stop, or did not end")
        adapters.append(run / "epoch_0" / ADAPTER_FILE)
    figures: dict[str, Measured] = {"adapter": Quantity(value=float(adapters[0].stat().st_size), unit="B")}
    first, second = (read_bytes(path) for path in adapters)
    if first == second:
        return _ok(name, figures, "equal byte for byte")
    one, other = (load_file(path) for path in adapters)
    difference = max(float((one[key].double() - other[key].double()).abs().max()) for key in one)
    figures["weights"] = Quantity(value=difference, unit="1", method="largest difference")
    return _failed(name, figures, "the adapter of a stopped training differs from that of one without a stop")


def _cohort(name: StepCheck, folder: Path) -> NodeCheck:
    """Train runs side by side and one after the other, and compare the losses of all steps."""
    _reference("llama", folder)
    config = _training(folder / "llama")
    runs = []
    for number, rank in enumerate(COHORT_RANKS):
        train = replace(
            config.train,
            learning_rate=config.train.learning_rate / (number + 1),
            lora=LoraConfig(rank=rank),
            base_dtype="float32",
        )
        runs.append(replace(config, run=f"run{number}", run_digest=f"{number}" * 64, train=train))
    together, alone = ([folder / f"{kind}_{run.run}" for run in runs] for kind in ("beside", "alone"))
    for run, place in zip(runs, together, strict=True):
        place.mkdir(exist_ok=True)
        (place / _CONFIG).write_text(run_config_text(run, "# A run of the self-test.\n"), encoding="utf-8")
    run_cohort(together, Stop(), _CONFIG)
    loss = 0.0
    for run, beside, own in zip(runs, together, alone, strict=True):
        own.mkdir(exist_ok=True)
        run_training(run, own, Stop())
        first, second = (read_metrics(place / METRICS).steps for place in (own, beside))
        if len(first) != len(second) or not first:
            return _failed(name, {}, "a run side by side has other steps than alone")
        for before, after in zip(first, second, strict=True):
            loss = _worse(loss, abs(before.loss - after.loss))
    how = f"largest difference of a step, {len(runs)} runs"
    figures: dict[str, Measured] = {"loss": Quantity(value=loss, unit="nats", method=how)}
    if loss <= COHORT_LIMIT_NATS:
        return _ok(name, figures)
    return _failed(name, figures, f"losses differ from those of separate trainings by more than {COHORT_LIMIT_NATS:g}")


def _training(folder: Path) -> RunConfig:
    """Return a training of some steps on the tiny model, which gets a tokenizer of bytes."""
    if not (folder / "tokenizer.json").exists():
        _add_tokenizer(folder)
    rows = [{"input": word, "output": word.capitalize()} for word in _WORDS]
    words = folder / "words.json"
    words.write_text(json.dumps({"train": rows[:-4], "validation": rows[-4:-2], "test": rows[-2:]}), encoding="utf-8")
    train = TrainConfig(
        epochs=1,
        global_batch_size=2,
        micro_batch_size=1,
        learning_rate=1e-2,
        max_seq_len=256,
        packed=False,
        lora=LoraConfig(rank=4, dropout=0.1),
        checkpoint=CheckpointConfig(resume_minutes=1000),
    )
    batches = plan_batches(
        np.ones(len(rows) - 4, dtype=np.uint32), global_batch_size=2, micro_batch_size=1, epochs=1, seed=1
    )
    info = load_model(str(folder), folder.parent)
    return RunConfig(
        experiment="selftest",
        run="selftest",
        run_digest="0" * 64,
        model=PlannedModel(
            name=info.name, path=info.path, weights_sha256=info.weights_sha256, tokenizer_sha256=info.tokenizer_sha256
        ),
        data=DataConfig(path=str(words), prompt="Capitalize: {input}"),
        data_sha256=sha256_file(words),
        date=_DATE,
        train=train,
        seed=1,
        batches=PlannedBatches(digest=batches.digest, steps=batches.steps, steps_per_epoch=batches.steps_per_epoch),
    )


def _add_tokenizer(folder: Path) -> None:
    special = ("<pad>", "<s>", "</s>")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate((*special, *alphabet))}, merges=[]))
    tokenizer.add_special_tokens(list(special))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "chat_template": _CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


# ---- results ---------------------------------------------------------------------------------------------------------


def _gib(size_bytes: int) -> Quantity:
    return Quantity(value=size_bytes / GIB, unit="GiB")


def _ok(name: StepCheck, figures: Mapping[str, Measured], message: str = "") -> NodeCheck:
    return NodeCheck(section=Section.CORRECTNESS, name=name.value, verdict=Verdict.OK, figures=figures, message=message)


def _failed(name: StepCheck, figures: Mapping[str, Measured], message: str) -> NodeCheck:
    return NodeCheck(
        section=Section.CORRECTNESS, name=name.value, verdict=Verdict.FAILED, figures=figures, message=message
    )


def _not_run(name: StepCheck, reason: str) -> NodeCheck:
    return NodeCheck(
        section=Section.CORRECTNESS, name=name.value, verdict=Verdict.NOT_RUN, reason=Missing(missing=reason)
    )


_CHECKS: dict[StepCheck, Callable[[StepCheck, Path], NodeCheck]] = {
    StepCheck.DEVICE: _device,
    StepCheck.BFLOAT16: _bfloat16,
    StepCheck.KERNELS: _kernels,
    StepCheck.PRODUCTS: _products,
    **dict.fromkeys(_SUBJECTS, _compare),
    StepCheck.PACKED: _isolated,
    StepCheck.PREFIX: _isolated,
    StepCheck.CHUNKS: _chunks,
    StepCheck.BLOCKS: _blocks,
    StepCheck.RESUME: _resume,
    StepCheck.COHORT: _cohort,
    StepCheck.QLORA: _qlora,
    StepCheck.COMPILED: _compiled,
}
