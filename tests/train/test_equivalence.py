"""However examples lie in rows and in micro-batches, loss and gradient are the same."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cases import some
from tests.tiny_model import write_tiny_words
from tests.train.tiny_run import make_config, tiny_train

from touchline.backends.peft.layout import PADDED, BatchLayout, arrange, visible
from touchline.core.catalog import RenderedExample
from touchline.experiment.training import LoraConfig
from touchline.train import proofs as isolation
from touchline.train.inputs import Inputs, load_inputs
from touchline.train.machine import select_device
from touchline.train.model import attach_adapter, load_base, trainable
from touchline.train.target_loss import TargetLoss

SHARED_PREFIX = BatchLayout(row_tokens=512, share_prefix=True)
LAYOUTS = [
    PADDED,
    SHARED_PREFIX,
    BatchLayout(row_tokens=90, share_prefix=True),
    BatchLayout(row_tokens=200),
    BatchLayout(row_tokens=4096),
]


@pytest.fixture(scope="module")
def inputs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("data")
    words = write_tiny_words(folder / "words.json", 12, 4, 4)
    return load_inputs(make_config(tiny_model, words, tiny_train()), folder)


def build(inputs: Inputs, attention: str = "eager") -> TargetLoss:
    machine = select_device("float32")
    config = inputs.config
    model = attach_adapter(load_base(config, machine, attention), config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        # A fresh adapter has B = 0, which hides everything that goes wrong in A's gradient.
        for parameter in trainable(model).values():
            parameter.normal_(0.0, 0.05, generator=generator)
    return TargetLoss(model, machine)


def loss_and_gradient(
    target_loss: TargetLoss, batches: Sequence[Sequence[RenderedExample]], layout: BatchLayout
) -> tuple[float, torch.Tensor]:
    target_loss.model.zero_grad()
    targets = sum(len(example.answer_ids) for batch in batches for example in batch)
    total = 0.0
    for batch in batches:
        loss = target_loss(arrange(batch, layout)).sum() / targets
        loss.backward()
        total += loss.item()
    gradients = [parameter.grad for parameter in trainable(target_loss.model).values()]
    return total, torch.cat([gradient.reshape(-1) for gradient in gradients if gradient is not None])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("size", [5, *(pytest.param(size, marks=pytest.mark.thorough) for size in (12, 4))])
def test_every_layout_is_as_padded_examples(inputs: Inputs, attention: str, layout: BatchLayout, size: int) -> None:
    """The science is the global batch; rows, masks and accumulation must not show in it."""
    target_loss = build(inputs, attention)
    examples = inputs.train
    reference, gradient = loss_and_gradient(target_loss, [[example] for example in examples], PADDED)
    loss, other = loss_and_gradient(target_loss, [examples[i : i + size] for i in range(0, 12, size)], layout)
    assert loss == pytest.approx(reference, rel=1e-5)
    assert float((other - gradient).norm() / gradient.norm()) < 1e-5


def test_the_loss_is_that_of_the_library_with_labels_on_the_answer(inputs: Inputs) -> None:
    """Against transformers' own loss, token by token, so that the definition is the field's."""
    target_loss = build(inputs)
    for example in some(inputs.train[:4]):
        ids = torch.tensor([example.prompt_ids + example.answer_ids])
        labels = torch.tensor([(-100,) * len(example.prompt_ids) + example.answer_ids])
        with torch.no_grad():
            expected = target_loss.model(input_ids=ids, labels=labels).loss.item()
            found = target_loss(arrange([example], PADDED)).mean().item()
        assert found == pytest.approx(expected, rel=1e-5)


def test_the_label_span_is_the_answer_and_its_stop_token(inputs: Inputs) -> None:
    """A model that is not trained to stop never does."""
    renderer = inputs.renderer
    rows = arrange(inputs.train, SHARED_PREFIX)
    for index in range(len(inputs.train)):
        labels = rows.labels[rows.owners == index].tolist()
        text = renderer.decode(labels, keep_special=True)
        assert text.endswith("<|im_end|>")
        assert renderer.decode(labels) == text.removesuffix("<|im_end|>")
        assert labels[-1] in renderer.stop_ids
        assert renderer.decode(labels)[0].isupper()


def test_isolation_is_proved_and_leaks_of_either_kind_found(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that ignores the mask, as a state-space layer does, must not pass."""
    target_loss = build(inputs)
    for layout in LAYOUTS[1:]:
        sample = isolation.sample_for_proof(inputs.train[:4], inputs.train, layout)
        proof = isolation.prove(target_loss, sample, layout, 0)
        assert proof.passed
        assert proof.leak <= 1e-5

    def causal_only(segments: np.ndarray) -> np.ndarray:
        return visible(np.ones_like(segments))

    monkeypatch.setattr("touchline.train.target_loss.visible", causal_only)
    monkeypatch.setitem(isolation.TOLERANCE_NATS, torch.float32, 1e-5)  # a random model leaks little loss
    proof = isolation.prove(target_loss, inputs.train[:4], SHARED_PREFIX, 0)
    assert not proof.passed
    assert proof.leak > 1e-4
    assert proof.loss_difference > 1e-5


def test_examples_that_never_share_a_row_need_no_proof(inputs: Inputs) -> None:
    """A row limit below two examples makes the layout a padded one."""
    assert isolation.sample_for_proof(inputs.train[:4], inputs.train, BatchLayout(row_tokens=20)) == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_adapter_has_the_dtype_asked_for_and_the_start_of_its_seed(inputs: Inputs, dtype: str) -> None:
    """The initial adapter belongs to the seed, so that replicates differ by it and reruns do not."""
    config = inputs.config
    lora = LoraConfig(rank=4, dtype="float32" if dtype == "float32" else "bfloat16")
    machine = select_device("float32")
    states = []
    for seed in (1, 1, 2):
        changed = replace(config, seed=seed, train=replace(config.train, lora=lora))
        model = attach_adapter(load_base(changed, machine, "eager"), changed)
        states.append({name: value.detach().clone() for name, value in trainable(model).items()})
    assert {str(value.dtype) for value in states[0].values()} == {f"torch.{dtype}"}
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])
