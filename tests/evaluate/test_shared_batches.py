"""Adapters that share batches answer as each does alone, on Llama-, Qwen- and Gemma-like tiny models."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.cases import some
from tests.evaluate.tiny_configs import tiny_sizes
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PretrainedConfig, Qwen3Config

from touchline.core.errors import InputError
from touchline.evaluate import engine as engine_module
from touchline.evaluate.decoding import Generation, Prefix, Sampling, read_prefix, write_answers
from touchline.evaluate.engine import Decoding, Engine, Request
from touchline.evaluate.own_task import stream_of
from touchline.evaluate.weights import ActiveAdapter, Weights, pick_dtype

CPU = torch.device("cpu")
SIZES = tiny_sizes(128)
FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
    "gemma3": Gemma3TextConfig(**SIZES, sliding_window=64, layer_types=["sliding_attention", "full_attention"]),
    "gemma3 beyond its window": Gemma3TextConfig(
        **SIZES, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    ),
}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL_LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "rank2": {"r": 2, "lora_alpha": 4, "target_modules": ATTENTION},
    "rank8": {"r": 8, "lora_alpha": 8, "target_modules": ALL_LINEAR},
    "rslora": {"r": 4, "lora_alpha": 4, "target_modules": ALL_LINEAR, "use_rslora": True},
    "embedding": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "embed_tokens"]},
    "dora": {"r": 4, "lora_alpha": 8, "target_modules": ALL_LINEAR, "use_dora": True},
}
DECODING = Decoding(max_new_tokens=8, stop_ids=frozenset({2}), pad_id=0, batch_size=16)
PREFIX = tuple(range(3, 23))
PROMPTS = [(*PREFIX, *range(30 + number, 31 + number + number % 5)) for number in range(6)]
Answers = dict[tuple[ActiveAdapter | None, int], Generation]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, ActiveAdapter]]]:
    """Bases and their adapters by family; louder than random weights are, so that answers differ."""
    made: dict[str, tuple[Path, dict[str, ActiveAdapter]]] = {}

    def of(family: str) -> tuple[Path, dict[str, ActiveAdapter]]:
        if family in made:
            return made[family]
        root = tmp_path_factory.mktemp(family)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(FAMILIES[family], dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data *= 4
        model.save_pretrained(root / "base")
        for seed, (name, settings) in enumerate(ADAPTERS.items()):
            base = AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float32)
            torch.manual_seed(seed)
            adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
            for key, parameter in adapted.named_parameters():
                if any(part in key for part in ("lora_A", "lora_B", "lora_embedding")):
                    parameter.data = torch.randn_like(parameter) * 0.3
            adapted.save_pretrained(root / name)
        made[family] = root / "base", {name: ActiveAdapter(folder=root / name, merged=False) for name in ADAPTERS}
        return made[family]

    return of


def of_families(*names: str) -> pytest.MarkDecorator:
    """Return the mark of a test that `make test` does for these families, and `make test-all` for every one."""
    params = [pytest.param(name, marks=[] if name in names else pytest.mark.thorough) for name in FAMILIES]
    return pytest.mark.parametrize("family", params, indirect=True)


@pytest.fixture
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Setup = tuple[Engine, dict[str, ActiveAdapter]]


@pytest.fixture
def setup(models: Callable[[str], tuple[Path, dict[str, ActiveAdapter]]], family: str) -> Iterator[Setup]:
    base, adapters = models(family)
    engine = Engine(Weights(str(base), pick_dtype("float32", CPU), CPU))
    yield engine, adapters
    engine.close()


def ask(
    engine: Engine, worn: Sequence[ActiveAdapter | None], decoding: Decoding = DECODING, prompts: int = len(PROMPTS)
) -> Answers:
    engine.expected = len(worn) * prompts
    futures = {
        (each, number): engine.submit(
            Request(worn=each, prompt=prompt, decoding=decoding, stream=stream_of("item", 0, str(number), 1, 0))
        )
        for each in worn
        for number, prompt in enumerate(PROMPTS[:prompts])
    }
    return {key: future.result(timeout=60) for key, future in futures.items()}


def alone(engine: Engine, worn: Sequence[ActiveAdapter | None], decoding: Decoding = DECODING) -> Answers:
    """Submit the prompts of one adapter after the other."""
    return {key: answer for each in worn for key, answer in ask(engine, [each], decoding).items()}


def different(answers: Answers) -> int:
    """Number of different answers to the first prompt."""
    return len({answer for (_, number), answer in answers.items() if number == 0})


@of_families(*FAMILIES)
def test_adapters_of_other_ranks_and_layers_answer_as_each_alone(setup: Setup) -> None:
    """Base, plain LoRA of two ranks on other layers, and rsLoRA: 24 prompts in two batches of 16 and 8."""
    engine, adapters = setup
    worn = [None, adapters["rank2"], adapters["rank8"], adapters["rslora"]]
    expected = alone(engine, worn)
    engine.batches.clear()
    assert ask(engine, worn) == expected
    assert engine.batches == [16, 8]
    assert different(expected) == len(worn)
    assert alone(engine, worn) == expected


@of_families("qwen3")
def test_merged_adapters_answer_alike_in_float32(setup: Setup) -> None:
    """The same tokens, each adapter merged in batches of its own."""
    engine, adapters = setup
    worn = [adapters["rank2"], adapters["rslora"]]
    found = ask(engine, worn)
    merged = [replace(each, merged=True) for each in worn]
    engine.batches.clear()
    others = ask(engine, merged)
    assert engine.batches == [len(PROMPTS)] * 2
    for each, other in zip(some(worn), merged, strict=True):
        assert [found[each, number] for number in range(6)] == [others[other, number] for number in range(6)]


@of_families("llama")
def test_dora_stays_by_itself(setup: Setup) -> None:
    """Base and LoRA share a batch; DoRA has its own, whose prompts it answers as by itself."""
    engine, adapters = setup
    worn = [None, adapters["dora"], adapters["rank8"]]
    expected = alone(engine, worn)
    engine.batches.clear()
    assert ask(engine, worn) == expected
    assert sorted(engine.batches) == [6, 12]


@pytest.mark.parametrize("family", ["llama"], indirect=True)
def test_an_adapter_of_the_embedding_stays_by_itself(setup: Setup) -> None:
    """Only linear layers get rows with all their tokens; that is seen when it is made active, and leaves no trace."""
    engine, adapters = setup
    worn = [None, adapters["embedding"], adapters["rank8"]]
    expected = alone(engine, worn)
    engine.batches.clear()
    assert ask(engine, worn) == expected
    assert different(expected) == len(worn)
    assert alone(engine, worn) == expected


@of_families("gemma3 beyond its window")
def test_rows_leave_the_batch_when_they_end(setup: Setup) -> None:
    """A token that some answers contain is made the stop token, so that rows of every adapter move up."""
    engine, adapters = setup
    worn = [None, adapters["rank2"], adapters["rank8"]]
    free = replace(DECODING, stop_ids=frozenset({-1}))
    written = [answer.ids for answer in alone(engine, worn, free).values()]
    counts = {token: sum(token in ids[:4] for ids in written) for ids in written for token in ids[1:4]}
    stop = min((token for token in counts), key=lambda token: abs(counts[token] - len(written) // 2))
    stopping = replace(DECODING, stop_ids=frozenset({stop}))
    expected = alone(engine, worn, stopping)
    assert len({len(answer.ids) for answer in expected.values()}) > 1
    assert ask(engine, worn, stopping) == expected


@of_families("llama")
def test_drawn_answers_do_not_depend_on_who_shares_the_batch(setup: Setup) -> None:
    """Each request has its own random stream."""
    engine, adapters = setup
    worn = [None, adapters["rank2"], adapters["rslora"]]
    drawn = replace(DECODING, sampling=Sampling(temperature=1.0, top_p=0.9))
    assert ask(engine, worn, drawn) == alone(engine, worn, drawn)


@of_families("gemma3")
def test_a_shared_batch_that_does_not_fit_is_halved(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for five prompts: batches of adapters halve as others do."""
    engine, adapters = setup
    worn = [None, adapters["rank2"], adapters["rank8"]]
    expected = alone(engine, worn)
    tried: list[int] = []

    def narrow(model: object, prompts: list[tuple[int, ...]], **options: object) -> list[Generation]:
        tried.append(len(prompts))
        if len(prompts) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return write_answers(model, prompts, **options)

    monkeypatch.setattr(engine_module, "write_answers", narrow)
    assert ask(engine, worn) == expected
    assert tried[:3] == [16, 8, 4]
    assert max(tried[2:]) <= 5


@of_families("llama", "gemma3 beyond its window")
def test_the_common_prefix_is_computed_once_for_all(setup: Setup, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches of three adapters: one pass of three rows; alone, one pass for each. None beyond a window."""
    engine, adapters = setup
    worn = [None, adapters["rank2"], adapters["rank8"]]
    computed: list[tuple[int, int]] = []

    def counted(model: object, ids: tuple[int, ...], before_pass: object, variants: int) -> Prefix:
        computed.append((len(ids), variants))
        return read_prefix(model, ids, before_pass, variants)

    monkeypatch.setattr(engine_module, "read_prefix", counted)
    engine.batches.clear()
    found = ask(engine, worn)
    shares = "beyond" not in family
    assert (computed, engine.batches) == ([(len(PREFIX), 3)] * shares, [16, 2])
    narrow = replace(DECODING, batch_size=4)
    assert alone(engine, worn, narrow) == found
    assert computed[1:] == [(len(PREFIX), 1)] * 3 * shares
    for (each, number), answer in some(list(found.items())):
        engine.weights.activate(each)
        (reference,) = write_answers(
            engine.weights.model, [PROMPTS[number]], max_new_tokens=8, stop_ids=DECODING.stop_ids, pad_id=0
        )
        assert answer == reference


@pytest.mark.parametrize("family", ["llama"], indirect=True)
@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_an_adapter_that_cannot_load_fails_its_own_requests_alone(setup: Setup, tmp_path: Path, fault: str) -> None:
    """The others of its batch are answered, each by its own adapter."""
    engine, adapters = setup
    healthy = [None, adapters["rank2"], adapters["rank8"]]
    expected = alone(engine, healthy)
    broken = tmp_path / "broken"
    if fault == "truncated":
        shutil.copytree(adapters["rank2"].folder, broken)
        weights = broken / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    bad = engine.submit(Request(worn=ActiveAdapter(folder=broken, merged=False), prompt=PROMPTS[0], decoding=DECODING))
    assert ask(engine, healthy) == expected
    with pytest.raises(InputError, match="cannot be loaded"):
        bad.result(timeout=60)


@pytest.mark.parametrize("family", ["llama"], indirect=True)
def test_requests_that_fill_more_than_half_a_batch_do_not_share_it(setup: Setup) -> None:
    """Six prompts each in batches of eleven: as if each adapter were asked by itself."""
    engine, adapters = setup
    worn = [None, adapters["rank2"]]
    engine.batches.clear()
    ask(engine, worn, replace(DECODING, batch_size=11))
    assert engine.batches == [6, 6]


@pytest.mark.parametrize("family", ["llama"], indirect=True)
def test_more_adapters_than_may_be_active_share_batches_in_groups(setup: Setup, tmp_path: Path) -> None:
    """Base and six adapters, five at a time."""
    engine, adapters = setup
    copies = [
        ActiveAdapter(folder=Path(shutil.copytree(adapters[name].folder, tmp_path / f"{name}{number}")), merged=False)
        for number in range(2)
        for name in ("rank2", "rank8", "rslora")
    ]
    worn = [None, *copies]
    expected = alone(engine, worn)
    engine.batches.clear()
    assert ask(engine, worn, prompts=2) == {key: expected[key] for key in expected if key[1] < 2}
    assert sorted(engine.batches) == [4, 10]


@pytest.mark.parametrize("family", ["llama"], indirect=True)
def test_bfloat16_shares_nothing(models: Callable[[str], tuple[Path, dict[str, ActiveAdapter]]], family: str) -> None:
    """Answers depend on the size of a batch there, and must not depend on other runs."""
    base, adapters = models(family)
    engine = Engine(Weights(str(base), pick_dtype("bfloat16", CPU), CPU))
    ask(engine, [None, adapters["rank2"]])
    engine.close()
    assert engine.batches == [len(PROMPTS)] * 2
