"""Checks of `touchline selftest` that need the trainer: device, losses, gradients, isolation, resuming.

The reference is a plain float32 pass of transformers on the CPU, example by example. Not verified on a GPU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend

from touchline.backends.local.environments import missing_compiler
from touchline.backends.peft.layout import PADDED, ROW_TOKENS, SequenceBatch, arrange
from touchline.backends.run_config import run_config_text
from touchline.core.files import read_bytes
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import GIB, plural
from touchline.data.machine import visible_gpus
from touchline.data.metrics_file import METRICS, read_metrics
from touchline.experiment.training import LoraConfig
from touchline.history.probe import NodeCheck, StepCheck, Verdict
from touchline.train.attempt import Stop
from touchline.train.folders import ADAPTER_FILE
from touchline.train.machine import select_device
from touchline.train.optimizers import compile_layers
from touchline.train.process import run_cohort, run_training
from touchline.train.proofs import block_mask_fault, prove
from touchline.train.selftest_model import (
    FAMILIES,
    PACKED,
    PREFIX,
    Reference,
    load_on,
    make_examples,
    make_reference,
    make_training,
    read_gradient,
)
from touchline.train.target_loss import TargetLoss, add_gradient

LIMITS = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (0.05, 0.1)}
"""Largest difference of the loss in nats, and of the gradient as a fraction of its length, that rounding explains.

A mask that shows packed examples each other changes the gradient by more than half of its length."""
QLORA_LIMIT_NATS = 0.5  # Largest change of the loss by 4-bit weights
LAYOUTS = (PADDED, PACKED, PREFIX)
COHORT_RANKS = (4, 8, 2, 4)
COHORT_LIMIT_NATS = 1e-5  # Largest difference of a step's loss that sums in another order explain in float32
_SUBJECTS = {
    StepCheck.LLAMA_FLOAT32: ("llama", torch.float32),
    StepCheck.QWEN_FLOAT32: ("qwen", torch.float32),
    StepCheck.GEMMA_FLOAT32: ("gemma", torch.float32),
    StepCheck.LLAMA_BFLOAT16: ("llama", torch.bfloat16),
    StepCheck.QWEN_BFLOAT16: ("qwen", torch.bfloat16),
    StepCheck.GEMMA_BFLOAT16: ("gemma", torch.bfloat16),
}
_KERNEL_PACKAGES = ("flash_attn", "liger_kernel")
_CONFIG = "finetune.yaml"


class Checks:
    """Checks on tiny models in a folder.

    Args:
        folder: empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, name: StepCheck) -> NodeCheck:
        """Run a check."""
        return _CHECKS[name](name, self._folder)


def _device(name: StepCheck, folder: Path) -> NodeCheck:
    del folder
    machine = select_device("auto")
    if machine.kind == "cpu" and (gpus := visible_gpus()):
        return _failed(
            name, {}, f"nvidia-smi lists {plural(len(gpus), 'GPU')}, but torch {torch.__version__} finds none"
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


# ---- losses and gradients --------------------------------------------------------------------------------------------


def _compare(name: StepCheck, folder: Path) -> NodeCheck:
    family, dtype = _SUBJECTS[name]
    if dtype is torch.bfloat16 and (choice := select_device("auto").choice).dtype != "bfloat16":
        return _not_run(name, choice.reason)
    machine = select_device("bfloat16" if dtype is torch.bfloat16 else "float32")
    reference = make_reference(family, folder)
    model, target_loss = load_on(machine, reference)
    steps = [_difference(model, target_loss, arrange(make_examples(), each), reference) for each in LAYOUTS]
    return _judged(name, steps, dtype)


def _difference(model: PeftModel, loss: TargetLoss, rows: SequenceBatch, reference: Reference) -> tuple[float, float]:
    """Return by how much a step differs from the reference: loss in nats, gradient as a fraction of its length."""
    model.zero_grad(set_to_none=True)
    found = add_gradient(loss, rows, sum(len(example.answer_ids) for example in make_examples())).item()
    gradient = float((read_gradient(model) - reference.gradient).norm() / reference.gradient.norm())
    return abs(found - reference.loss), gradient


def _judged(name: StepCheck, steps: Sequence[tuple[float, float]], dtype: torch.dtype = torch.float32) -> NodeCheck:
    loss, gradient = 0.0, 0.0
    for step_loss, step_gradient in steps:
        loss, gradient = _worse(loss, step_loss), _worse(gradient, step_gradient)
    figures: dict[str, Measured] = {
        "loss": Quantity(value=loss, unit="nats", method="largest difference"),
        "gradient": Quantity(value=100 * gradient, unit="%", method="length of the difference over the length"),
    }
    most_loss, most_gradient = LIMITS[dtype]
    # NaN compares false, so what is not finite fails.
    if loss <= most_loss and gradient <= most_gradient:
        return _ok(name, figures)
    limits = f"differs from float32 on the CPU by more than {most_loss:g} nats or {100 * most_gradient:g} %"
    return _failed(name, figures, limits)


def _isolated(name: StepCheck, folder: Path) -> NodeCheck:
    layout = PACKED if name is StepCheck.PACKED else PREFIX
    machine = select_device("float32")
    loss, leak, faults = 0.0, 0.0, []
    for family in FAMILIES:
        _, target_loss = load_on(machine, make_reference(family, folder))
        proof = prove(target_loss, make_examples(), layout, seed=1)
        loss, leak = _worse(loss, proof.loss_difference), _worse(leak, proof.leak)
        faults += [] if proof.passed else [family]
    figures: dict[str, Measured] = {
        "loss": Quantity(value=loss, unit="nats", method="largest change compared with the example alone"),
        "leak": Quantity(value=leak, unit="nats", method="largest change by other neighbors"),
    }
    if faults:
        which = ", ".join(faults)
        return _failed(name, figures, f"losses in a packed sequence differ from those of the examples alone: {which}")
    return _ok(name, figures)


def _blocks(name: StepCheck, folder: Path) -> NodeCheck:
    machine = select_device("auto")
    if machine.kind == "cpu":
        return _not_run(name, "needs a GPU")
    faults = []
    for family in FAMILIES:
        _, target_loss = load_on(machine, make_reference(family, folder))
        for layout in (PACKED, PREFIX):
            fault = block_mask_fault(target_loss, arrange(make_examples(), layout))
            faults += [] if fault is None else [f"{family}: {fault}"]
    if faults:
        return _failed(name, {}, f"packed sequences get dense masks: {', '.join(faults)}")
    return _ok(name, {}, "FlexAttention")


def _worse(before: float, now: float) -> float:
    """Return the larger one; not a number is worse than any number."""
    return now if not now <= before else before


# ---- QLoRA, resuming and cohorts -------------------------------------------------------------------------------------


def _qlora(name: StepCheck, folder: Path) -> NodeCheck:
    if importlib.util.find_spec("bitsandbytes") is None:
        return _not_run(name, "bitsandbytes is not installed")
    reference = make_reference("llama", folder)
    recipe = replace(reference.recipe, train=replace(reference.recipe.train, quantization="nf4"))
    model, target_loss = load_on(select_device("auto"), replace(reference, recipe=recipe))
    examples = make_examples()
    targets = sum(len(example.answer_ids) for example in examples)
    loss = add_gradient(target_loss, arrange(examples, PADDED), targets).item()
    length = float(read_gradient(model).norm() / reference.gradient.norm())
    difference = abs(loss - reference.loss)
    figures: dict[str, Measured] = {
        "loss": Quantity(value=difference, unit="nats", method="difference to float32 weights"),
        "gradient length": Quantity(value=100 * length, unit="%", method="of that with float32 weights"),
    }
    if difference <= QLORA_LIMIT_NATS and 0 < length < float("inf"):
        return _ok(name, figures)
    return _failed(name, figures, f"the loss differs by more than {QLORA_LIMIT_NATS:g} nats, or has no gradient")


def _compiled(name: StepCheck, folder: Path) -> NodeCheck:
    machine = select_device("float32")
    lacking = missing_compiler("gpu" if machine.kind == "cuda" else "cpu")
    if lacking is not None:
        return _not_run(name, f"needs {lacking.what}")
    reference = make_reference("llama", folder)
    model, target_loss = load_on(machine, reference)
    compile_layers(model)
    model.train()
    return _judged(name, [_difference(model, target_loss, arrange(make_examples(), PADDED), reference)])


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
    make_reference("llama", folder)
    config = make_training(folder / "llama")
    adapters = []
    for stops in (False, True):
        run = folder / f"resume_{stops}"
        run.mkdir(exist_ok=True)
        stopped = not stops or not run_training(config, run, _StopAfter(left=7))
        complete = run_training(config, run, Stop())
        if not (stopped and complete):
            return _failed(name, {}, "the run did not stop, or did not finish")
        adapters.append(run / "epoch_0" / ADAPTER_FILE)
    figures: dict[str, Measured] = {"adapter": Quantity(value=float(adapters[0].stat().st_size), unit="B")}
    first, second = (read_bytes(path) for path in adapters)
    if first == second:
        return _ok(name, figures, "equal byte for byte")
    one, other = (load_file(path) for path in adapters)
    difference = max(float((one[key].double() - other[key].double()).abs().max()) for key in one)
    figures["weights"] = Quantity(value=difference, unit="1", method="largest difference")
    return _failed(name, figures, "the adapter of a resumed run differs from that of an uninterrupted one")


def _cohort(name: StepCheck, folder: Path) -> NodeCheck:
    """Train runs side by side and one after the other, and compare the losses of all steps."""
    make_reference("llama", folder)
    config = make_training(folder / "llama")
    runs = []
    for number, rank in enumerate(COHORT_RANKS):
        train = replace(
            config.train,
            learning_rate=config.train.peak_learning_rate / (number + 1),
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
            return _failed(name, {}, "a run in a cohort has other steps than alone")
        for before, after in zip(first, second, strict=True):
            loss = _worse(loss, abs(before.loss - after.loss))
    how = f"largest difference of a step, {len(runs)} runs"
    figures: dict[str, Measured] = {"loss": Quantity(value=loss, unit="nats", method=how)}
    if loss <= COHORT_LIMIT_NATS:
        return _ok(name, figures)
    return _failed(name, figures, f"losses differ from those of separate runs by more than {COHORT_LIMIT_NATS:g}")


def _gib(size_bytes: int) -> Quantity:
    return Quantity(value=size_bytes / GIB, unit="GiB")


def _ok(name: StepCheck, figures: Mapping[str, Measured], message: str = "") -> NodeCheck:
    return NodeCheck(name=name.value, verdict=Verdict.OK, figures=figures, message=message)


def _failed(name: StepCheck, figures: Mapping[str, Measured], message: str) -> NodeCheck:
    return NodeCheck(name=name.value, verdict=Verdict.FAILED, figures=figures, message=message)


def _not_run(name: StepCheck, reason: str) -> NodeCheck:
    return NodeCheck(name=name.value, verdict=Verdict.NOT_RUN, reason=Missing(missing=reason))


_CHECKS: dict[StepCheck, Callable[[StepCheck, Path], NodeCheck]] = {
    StepCheck.DEVICE: _device,
    StepCheck.BFLOAT16: _bfloat16,
    StepCheck.KERNELS: _kernels,
    **dict.fromkeys(_SUBJECTS, _compare),
    StepCheck.PACKED: _isolated,
    StepCheck.PREFIX: _isolated,
    StepCheck.BLOCKS: _blocks,
    StepCheck.RESUME: _resume,
    StepCheck.COHORT: _cohort,
    StepCheck.QLORA: _qlora,
    StepCheck.COMPILED: _compiled,
}
