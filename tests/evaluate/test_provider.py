"""The provider: same prompts as in training, honest counts, refusals, no wrong base."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, GenerateConfig
from inspect_ai.tool import ToolInfo
from tests.cases import parametrize
from tests.evaluate.tiny_evaluation import DATE, write_marker
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from touchline.core.catalog import Example, Message
from touchline.core.errors import InputError, PlanDriftError
from touchline.data.models import load_model, load_renderer
from touchline.evaluate.decoding import write_answers
from touchline.evaluate.provider import TouchlineAPI, plain_messages, refuse_unsupported, release_engines, shared_engine

CHATS = [
    [Message(role="user", content="Capitalize the given word: quantity")],
    [
        Message(role="system", content="Be brief."),
        Message(role="user", content="  spaces, 'quotes' and <b>ünïcode</b>\n"),
    ],
    [
        Message(role="user", content="one"),
        Message(role="assistant", content="One"),
        Message(role="user", content="two"),
    ],
]
ROLES = {"user": ChatMessageUser, "system": ChatMessageSystem, "assistant": ChatMessageAssistant}
BOS_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '[' + message['role'] + ']' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)


@pytest.fixture(autouse=True)
def _fresh_engines() -> Iterator[None]:
    yield
    release_engines()


@pytest.fixture
def bos_model(tiny_base: Path, tmp_path: Path) -> Path:
    """A model whose template writes BOS and whose tokenizer would add another, as Llama 3's does."""
    folder = shutil.copytree(tiny_base, tmp_path / "bos")
    (folder / "chat_template.jinja").write_text(BOS_TEMPLATE)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bos = "<|im_start|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def ask(api: TouchlineAPI, chat: list[Message], **config: object):
    messages = [ROLES[message.role](content=message.content) for message in chat]
    settings = GenerateConfig(max_tokens=6, **config)
    return asyncio.run(api.generate(messages, [], "none", settings))


def inspect_prompt(api: TouchlineAPI, chat: list[Message]) -> tuple[int, ...]:
    messages = [ROLES[message.role](content=message.content) for message in chat]
    return api.renderer(DATE).prompt_ids(plain_messages(messages))


@pytest.mark.parametrize("chat", CHATS)
def test_the_prompt_is_the_training_prompt_and_transformers_own(tiny_base: Path, chat: list[Message]) -> None:
    """Token for token: evaluation, training, apply_chat_template."""
    api = TouchlineAPI(str(tiny_base), dtype="float32")
    seen = inspect_prompt(api, chat)
    training = load_renderer(load_model(str(tiny_base), tiny_base.parent), DATE)
    assert seen == training.example(Example(id="0", prompt=tuple(chat), answer="Word")).prompt_ids
    turns = [{"role": message.role, "content": message.content} for message in chat]
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    assert list(seen) == tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=False
    )


def test_a_template_that_writes_bos_gets_no_second_one(bos_model: Path) -> None:
    """The tokenizer here adds BOS by itself when asked to tokenize text; the provider must not let it."""
    api = TouchlineAPI(str(bos_model), dtype="float32")
    ids = inspect_prompt(api, CHATS[0])
    tokenizer = AutoTokenizer.from_pretrained(bos_model)
    bos = tokenizer.convert_tokens_to_ids("<|im_start|>")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert tokenizer(text).input_ids[:2] == [bos, bos]
    assert ids.count(bos) == 1
    assert ids[0] == bos


@pytest.mark.parametrize("which", ["base", "adapter"])
def test_answers_are_those_of_the_plain_loop(tiny_base: Path, adapters: tuple[Path, ...], which: str) -> None:
    """What comes back through Inspect's interface is what the model writes, with true counts."""
    api = TouchlineAPI(str(tiny_base if which == "base" else adapters[1]), dtype="float32")
    for chat in CHATS:
        output = ask(api, chat)
        prompt = inspect_prompt(api, chat)
        renderer = api.renderer(DATE)
        (plain,) = write_answers(
            api.engine.weights.model, [prompt], max_new_tokens=6, stop_ids=renderer.stop_ids, pad_id=renderer.pad_id
        )
        assert output.completion == renderer.decode(plain.ids)
        assert (output.stop_reason, output.usage.input_tokens) == (plain.stop_reason, len(prompt))
        assert output.usage.output_tokens == len(plain.ids) + (plain.stop_reason == "stop")


def test_models_share_a_base(tiny_base: Path, adapters: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Control and adapters, by relative, absolute and plain names: one base in memory."""
    monkeypatch.chdir(adapters[0].parent)
    monkeypatch.setenv("TOUCHLINE_MODELS_DIR", str(tiny_base.parent))
    assert TouchlineAPI("a0").checkpoint == TouchlineAPI(str(adapters[0])).checkpoint
    assert TouchlineAPI("tiny").checkpoint == TouchlineAPI(str(tiny_base)).checkpoint
    apis = [TouchlineAPI(str(path), dtype="float32") for path in (tiny_base, *adapters[:3])]
    answers = [ask(api, CHATS[0]).completion for api in apis]
    assert {id(api.engine) for api in apis} == {id(shared_engine(str(tiny_base.resolve()), "float32"))}
    assert len(set(answers)) > 1
    assert [ask(api, CHATS[0]).completion for api in reversed(apis)] == answers[::-1]


@parametrize(
    "config",
    {"temperature": -0.5},
    {"temperature": float("inf")},
    {"num_choices": 2},
    {"top_p": 0.9},
    {"temperature": 1, "top_p": 1.5},
    {"top_k": 5},
    {"stop_seqs": ["\n"]},
    {"logprobs": True},
    {"frequency_penalty": 1.0},
    {"best_of": 3},
    {"logit_bias": {1: 5.0}},
)
def test_what_would_change_answers_is_refused(config: dict[str, object]) -> None:
    """Nothing is ignored in silence."""
    with pytest.raises(InputError):
        refuse_unsupported([], GenerateConfig(**config))


def test_greedy_and_sampled_settings_pass_and_tools_do_not() -> None:
    """Temperature 0 is what is done anyway."""
    refuse_unsupported([], GenerateConfig(temperature=0, num_choices=1, top_p=1, seed=3, max_tokens=5))
    refuse_unsupported([], GenerateConfig(temperature=0.7, top_p=0.9, seed=3, max_tokens=5))
    with pytest.raises(InputError, match="tools"):
        refuse_unsupported([ToolInfo(name="search", description="finds")], GenerateConfig())


def test_a_temperature_draws_and_none_does_not(tiny_base: Path) -> None:
    """The same prompt again is another draw; greedily it is the same answer."""
    api = TouchlineAPI(str(tiny_base), dtype="float32")
    drawn = [ask(api, CHATS[0], temperature=2.0).completion for _ in range(6)]
    assert len(set(drawn)) > 1
    assert len({ask(api, CHATS[0]).completion for _ in range(3)}) == 1
    assert ask(api, CHATS[0], temperature=0).completion == ask(api, CHATS[0]).completion


def test_a_prompt_beyond_the_context_is_refused(tiny_base: Path) -> None:
    """Cut in silence it would be another question."""
    api = TouchlineAPI(str(tiny_base), dtype="float32")
    with pytest.raises(InputError, match="tokens"):
        ask(api, [Message(role="user", content="word " * 600)])


def test_an_adapter_of_another_base_is_refused(tiny_base: Path, adapters: tuple[Path, ...], tmp_path: Path) -> None:
    """The recorded hash of the base decides, not its path."""
    moved = shutil.copytree(adapters[0], tmp_path / "epoch_0")
    write_marker(tiny_base, moved, base_weights_sha256="0" * 64)
    with pytest.raises(PlanDriftError, match="a different base"):
        TouchlineAPI(str(moved))


def test_empty_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapters: tuple[Path, ...]) -> None:
    """With words that say what would be one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOUCHLINE_MODELS_DIR", str(tmp_path / "models"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="contains neither"):
        TouchlineAPI("empty")
    with pytest.raises(InputError, match="does not exist"):
        TouchlineAPI("epoch_3")
    other = shutil.copytree(adapters[0], tmp_path / "other")
    config = json.loads((other / "adapter_config.json").read_text())
    for changed in (
        {"peft_type": "PROMPT_TUNING"},
        {"base_model_name_or_path": None},
        {"base_model_name_or_path": "gone"},
    ):
        (other / "adapter_config.json").write_text(json.dumps(config | changed))
        with pytest.raises(InputError):
            TouchlineAPI("other")
