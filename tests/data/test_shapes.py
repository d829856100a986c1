"""Names, folders and config.json files to shapes; and every row of the catalogue of public models computed again."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import parametrize, refusal, some

from touchline.core.errors import InputError
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.families import FAMILIES
from touchline.data.public import PublicModel, is_stored_in_4_bits, known_name, near_models, public_model, public_models
from touchline.data.shapes import load_shape, shape_of_config, shape_of_folder

pytestmark = pytest.mark.planning

SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
TOLERANCE = 0.005
ROWS = public_models()


def shape_of(model: PublicModel, **changed: object) -> ModelShape:
    return shaped({**model.config, **changed})


def shaped(config: Mapping[str, object]) -> ModelShape:
    found = shape_of_config(config, "model", "here")
    assert isinstance(found, ModelShape), found
    return found


def missing(config: dict[str, object]) -> str:
    found = shape_of_config(config, "model", "config.json")
    assert isinstance(found, Missing), found
    return found.missing


def test_every_row_of_the_catalogue_makes_the_parameter_count_that_was_published(subtests: pytest.Subtests) -> None:
    for model in some(ROWS):
        with subtests.test(model.name):
            shape = shape_of(model)
            again = shape.vocab_size * shape.hidden_size if model.output_layer_counted_again else 0
            assert shape.num_parameters + again == pytest.approx(model.num_parameters, rel=TOLERANCE)
            assert not model.output_layer_counted_again or shape.tied_embeddings


def test_the_published_count_tells_whether_the_output_layer_is_the_embedding(subtests: pytest.Subtests) -> None:
    for model in some(ROWS):
        with subtests.test(model.name):
            right = shape_of(model)
            wrong = shape_of(model, tie_word_embeddings=not right.tied_embeddings)
            distances = [
                abs(shape.num_parameters + shape.vocab_size * shape.hidden_size * again - model.num_parameters)
                for shape, again in ((right, model.output_layer_counted_again), (wrong, False))
            ]
            # A tied layer that the published count holds a second time cannot be told from one that is not tied.
            assert distances[0] < distances[1] or model.output_layer_counted_again


def test_the_catalogue_holds_the_models_that_the_seeds_and_benchmarks_name() -> None:
    names = {model.name for model in ROWS}
    assert names >= {
        *("Llama-3.2-1B", "Llama-3.2-3B", "Llama-3.1-8B", "Llama-3.1-70B", "Llama-3-8B", "Llama-2-7b", "Llama-2-70b"),
        *("SmolLM2-135M", "SmolLM3-3B", "Qwen2.5-0.5B", "Qwen3-32B", "Mistral-7B-v0.3", "Mixtral-8x7B-v0.1"),
        *("phi-1_5", "Phi-3-mini-4k", "gemma-2-9b", "gemma-3-1b", "stablelm-base-alpha-3b", "falcon-40b"),
        *("pythia-12b", "gpt2", "OLMo-2-1124-7B", "Yi-6B", "CodeLlama-34b", "TinyLlama-1.1B"),
    }
    assert len(ROWS) >= 60


def test_every_row_names_its_sources_and_every_name_means_one_row() -> None:
    for model in ROWS:
        assert all(source.count(": ") >= 1 for source in (model.source, model.count_source)), model.name
    spelled = Counter(name for model in ROWS for name in (model.name, *model.aliases))
    assert [name for name, count in spelled.items() if count > 1] == []
    for model in ROWS:
        for name in (model.name, *model.aliases):
            assert public_model(name) == model, name
    assert max(Counter(builder for model in ROWS for builder in model.builders).values()) == 1


def test_smollm2_has_exactly_its_parameters() -> None:
    shape = shaped(SMOLLM2)
    assert shape.num_parameters == 134_515_008
    assert shape.extrapolated is None
    assert [linear.name for linear in shape.linears] == [
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    ]
    # 30 blocks x 8 x (576 + 576 + 576 + 192): queries and values.
    assert shape.adapter_parameters(8, ("q_proj", "v_proj")) == 460_800


@parametrize(
    "written, meant",
    ("Llama-3.2-1B", "Llama-3.2-1B"),
    ("meta-llama/Llama-3.2-1B-Instruct", "Llama-3.2-1B"),
    ("llama-3.2-1b-instruct", "Llama-3.2-1B"),
    ("meta-llama/Meta-Llama-3-8B", "Llama-3-8B"),
    ("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M"),
    ("mistralai/Mistral-7B-Instruct-v0.3", "Mistral-7B-v0.3"),
    ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "TinyLlama-1.1B"),
    ("google/gemma-2-9b-it", "gemma-2-9b"),
    ("meta-llama/Llama-2-7b-chat-hf", "Llama-2-7b"),
    ("Qwen/Qwen3-8B-Base", "Qwen3-8B"),
    ("microsoft/phi-1_5", "phi-1_5"),
    ("phi-1.5", "phi-1_5"),
    ("PHI-2", "phi-2"),
    ("torchtune.models.llama3_2.lora_llama3_2_1b", "Llama-3.2-1B"),
    ("unsloth/llama-3-8b-bnb-4bit", "Llama-3-8B"),
    ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "Llama-3.1-8B"),
    ("unsloth/Qwen3-14B-Base-unsloth-bnb-4bit", "Qwen3-14B"),
    ("unsloth/mistral-7b-instruct-v0.3-bnb-4bit", "Mistral-7B-v0.3"),
    ("unsloth/Mistral-Nemo-Instruct-2407-bnb-4bit", "Mistral-Nemo-2407"),
    ("mistralai/Mistral-Nemo-Base-2407", "Mistral-Nemo-2407"),
    ("mistralai/Mistral-Small-Instruct-2409", "Mistral-Small-2409"),
    ("mistralai/Mistral-Small-24B-Instruct-2501", "Mistral-Small-24B-2501"),
    ("microsoft/Phi-3-medium-4k-instruct", "Phi-3-medium-4k"),
    ("google/gemma-3-27b-it", "gemma-3-27b"),
    ("google/gemma-3-270m-it", "gemma-3-270m"),
    ("Qwen/Qwen3-VL-8B-Instruct", "Qwen3-VL-8B"),
    ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL-7B"),
)
def test_a_public_model_is_found_by_the_names_that_people_write(written: str, meant: str, tmp_path: Path) -> None:
    assert load_shape(written, tmp_path).name == meant
    assert is_stored_in_4_bits(written) == written.endswith("bnb-4bit")


@parametrize(
    "written, near",
    ("Llama-3.2-2B", "'Llama-3.2-1B'"),
    ("Qwen2.5-8B", "'Qwen2.5-"),
    ("smolm2-135m", "'SmolLM2-135M'"),
    ("meta-llama/Llama-3.2-1B-Vision", "'Llama-3.2-1B'"),
)
def test_an_unknown_name_is_a_fault_with_near_names_and_never_a_guess(written: str, near: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nor a model of the built-in catalog") as caught:
        load_shape(written, tmp_path)
    assert caught.value.hint.startswith("did you mean")
    assert near in caught.value.hint


@pytest.mark.parametrize("name", ["", "7B", "no/such/model", "a\0b", "x" * 5000, "zzzzzzzz"])
def test_a_name_that_looks_like_nothing_is_a_fault_without_a_hint(name: str, tmp_path: Path) -> None:
    assert near_models(name) == []
    caught = refusal(load_shape, name, tmp_path)
    assert caught.hint is None
    assert len(caught.message) < 400


@parametrize(
    "builder, name",
    ("torchtune.models.llama3_2.lora_llama3_2_1b", "Llama-3.2-1B"),
    ("torchtune.models.llama3_2.qlora_llama3_2_3b", "Llama-3.2-3B"),
    ("torchtune.models.qwen2_5.lora_qwen2_5_7b_instruct", "Qwen2.5-7B"),
    ("torchtune.models.llama3_3.llama3_3_70b", "Llama-3.3-70B"),
    ("gemma2_9b", "gemma-2-9b"),
    ("torchtune.models.llama3_2_vision.lora_llama3_2_vision_11b", None),
    ("torchtune.models.llama2.llama2_reward_7b", None),
    ("os.system", None),
    ("", None),
)
def test_torchtune_builders_name_their_model(builder: str, name: str | None) -> None:
    assert known_name(builder) == name


def write_config(folder: Path, **changed: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps({**SMOLLM2, **changed}))
    return path


def test_a_folder_under_models_dir_wins_over_the_catalogue(tmp_path: Path) -> None:
    path = write_config(tmp_path / "Llama-3.2-1B")
    for name in ("Llama-3.2-1B", "meta-llama/Llama-3.2-1B"):
        shape = load_shape(name, tmp_path)
        assert (shape.num_parameters, shape.source) == (134_515_008, str(path))
    assert load_shape("Llama-3.2-3B", tmp_path).num_layers == 28


def test_a_model_is_read_from_its_folder_and_from_its_config_json(tmp_path: Path) -> None:
    path = write_config(tmp_path / "elsewhere" / "mine")
    for written in (path, path.parent):
        shape = load_shape(str(written), tmp_path / "models")
        assert (shape.name, shape.num_parameters, shape.source) == ("mine", 134_515_008, str(path))
    assert shape_of_folder(path.parent) == shape
    assert load_shape(str(path.rename(path.with_name("saved.json"))), tmp_path).name == "saved"


def test_a_folder_whose_config_gives_no_shape_is_a_fault_and_not_the_catalogues_model(tmp_path: Path) -> None:
    write_config(tmp_path / "Llama-3.2-1B", hidden_size=0)
    with pytest.raises(InputError, match="hidden_size is 0"):
        load_shape("Llama-3.2-1B", tmp_path)


@parametrize(
    "content, reason",
    (None, "does not exist"),
    (b"{", "is not JSON"),
    (b"[1]", "is not an object"),
    (b"\xff\xfe", "is not UTF-8"),
    (b"[" * 200_000, "is not JSON"),
    (b'{"hidden_size": ' + b"9" * 5000 + b"}", "is not JSON"),
)
def test_a_config_json_that_cannot_be_read_is_missing(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    assert reason in shape_of_folder(tmp_path).missing


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
@pytest.mark.parametrize("value", [0, -1, "4096", 4096.0, True, [1], 1 << 40, 10**30])
def test_an_impossible_size_is_missing_by_its_key(key: str, value: object) -> None:
    assert f"config.json: {key} is" in missing({**SMOLLM2, key: value})


def test_a_number_that_cannot_even_be_written_out_is_missing_by_its_key() -> None:
    assert "hidden_size is an integer of 16610 bits" in missing({**SMOLLM2, "hidden_size": 10**5000})


@parametrize("key", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size")
def test_a_size_that_is_not_there_is_missing_by_its_key(key: str) -> None:
    assert missing({name: value for name, value in SMOLLM2.items() if name != key}) == f"config.json: {key} is missing"
    assert missing({**SMOLLM2, key: None}) == f"config.json: {key} is missing"


@parametrize(
    "changed, reason",
    ({"num_attention_heads": 7}, "hidden_size 576 is not a multiple of num_attention_heads 7"),
    ({"num_key_value_heads": 4}, "num_attention_heads 9 is not a multiple of num_key_value_heads 4"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes', expected true or false"),
    ({"attention_bias": 1}, "attention_bias is 1, expected true or false"),
    ({"num_hidden_layers": 1 << 19, "hidden_size": 9 << 16, "intermediate_size": 1 << 20}, "not plausible"),
    ({"model_type": "mamba", "state_size": 16}, "state-space layers"),
    ({"model_type": "rwkv", "rwkv_version": 4}, "recurrent layers"),
    ({"model_type": "deepseek_v3", "kv_lora_rank": 512}, "qk_rope_head_dim is missing"),
    ({"model_type": "bert", "architectures": ["BertModel"]}, "not a known decoder-only language model"),
    ({"model_type": "mystery", "auto_map": {"AutoConfig": "x.Y"}}, "custom code"),
    ({"model_type": "mystery", "tie_word_embeddings": None}, "tie_word_embeddings is missing"),
    ({"model_type": "qwen2_moe", "mlp_only_layers": [0]}, "makes its blocks differ"),
    ({"model_type": None, "architectures": []}, "without model_type"),
    ({"model_type": "gpt2", "n_inner": -3}, "n_inner is -3"),
)
def test_a_model_that_no_formula_fits_says_why(changed: dict[str, object], reason: str) -> None:
    assert reason in missing({**SMOLLM2, **changed})


def test_an_unknown_architecture_with_llamas_keys_is_counted_as_llama_and_marked() -> None:
    shape = shaped({**SMOLLM2, "model_type": "mystery"})
    assert shape.num_parameters == 134_515_008
    assert shape.extrapolated == "model_type 'mystery' is unknown, and is counted with Llama blocks"


@parametrize(
    "changed, words, least",
    ({"model_type": "qwen3_next", "linear_num_key_heads": 16}, "linear attention", 0.05),
    ({"model_type": "olmoe", "num_experts": 64}, "a mixture of experts", 0.01),
    ({"model_type": "mystery", "layer_types": ["full_attention", "conv"]}, "unknown layers (conv)", 0.2),
    ({"model_type": "falcon_h1", "mamba_d_ssm": 1536}, "state-space layers", 0.3),
    ({"model_type": "gpt_oss", "num_local_experts": 4, "layer_types": ["sliding_attention"]}, "experts", 0.01),
)
def test_blocks_of_another_kind_are_counted_and_marked(changed: dict[str, object], words: str, least: float) -> None:
    shape = shaped({**SMOLLM2, **changed})
    assert shape.extrapolated is not None
    assert words in shape.extrapolated
    assert shape.count_error >= least


def test_attention_of_low_rank_has_the_parameters_of_deepseek_v2() -> None:
    """transformers 5.23, DeepseekV2Config() and DeepseekV2ForCausalLM on meta tensors: 38,612 million."""
    config = {
        **{"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "vocab_size": 32000},
        **{"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
        **{"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128},
        **{"v_head_dim": 128, "n_routed_experts": 64, "n_shared_experts": 2, "moe_intermediate_size": 1407},
        **{"num_experts_per_tok": None, "tie_word_embeddings": False, "max_position_embeddings": 2048},
    }
    assert shaped(config).num_parameters == pytest.approx(38.612e9, rel=0.02)


def test_a_config_with_a_vision_tower_counts_it_in_both_of_its_forms() -> None:
    """Qwen2-VL's config.json holds the text model's values at the top; later ones in text_config."""
    vision = {"model_type": "qwen2_vl", "depth": 2, "embed_dim": 128, "mlp_ratio": 4, "spatial_merge_size": 2}
    flat = {**SMOLLM2, "architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl"}
    text = {key: value for key, value in SMOLLM2.items() if key != "architectures"}
    inner = {"model_type": "qwen2_vl", "text_config": {**text, "model_type": "qwen2_vl_text"}, "vision_config": vision}
    for config in ({**flat, "vision_config": vision}, inner):
        shape = shaped(config)
        assert shape.vision.patches_per_token == 4
        assert shape.vision.parameters > 2 * 12 * 128 * 128
        assert "vision tower" in (shape.extrapolated or "")
        bare = shaped({**SMOLLM2, "model_type": "qwen2_vl_text"})
        assert shape.num_parameters == bare.num_parameters + shape.vision.parameters


def test_a_mixture_of_experts_is_marked_and_its_experts_are_no_linear_layers() -> None:
    model = public_model("Mixtral-8x7B-v0.1")
    assert model is not None
    shape = shape_of(model)
    assert shape.extrapolated == "mixture of experts (2 of 8 per token), but formulas were checked on dense models"
    assert {linear.name for linear in shape.linears} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert shape.adapter_parameters(8, ("gate_proj", "w1")) == 0


def test_the_text_part_of_a_model_with_eyes_is_marked() -> None:
    outer = {"model_type": "llava", "text_config": {**SMOLLM2, "tie_word_embeddings": None}, "vision_config": {}}
    shape = shaped({**outer, "tie_word_embeddings": True})
    assert shape.num_parameters == 134_515_008
    assert shape.extrapolated == "model_type 'llava' has parts other than text, which are not counted"
    assert shaped({**outer, "tie_word_embeddings": False}).num_parameters == 134_515_008 + 49152 * 576


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-3, max_value=10**30)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([1, 2, 64, 4096, 128_256]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)
KEYS = st.sampled_from(
    [
        *SMOLLM2,
        *("head_dim", "n_embd", "n_layer", "n_head", "n_inner", "n_positions", "ffn_hidden_size", "num_kv_heads"),
        *("text_config", "layer_types", "num_experts", "num_local_experts", "num_experts_per_tok", "attention_bias"),
        *("moe_intermediate_size", "shared_expert_intermediate_size", "mlp_only_layers", "qk_layernorm", "bias"),
        *("decoder_sparse_step", "new_decoder_architecture", "multi_query", "num_ln_in_parallel_attn", "auto_map"),
    ]
)


@given(
    model_type=st.sampled_from([*FAMILIES, "mystery", ""]) | JUNK,
    changed=st.dictionaries(KEYS | st.text(max_size=8), JUNK, max_size=6),
    kept=st.booleans(),
)
def test_any_config_gives_a_shape_or_a_reason(model_type: object, changed: dict[str, object], kept: bool) -> None:
    found = shape_of_config({**(SMOLLM2 if kept else {}), "model_type": model_type, **changed}, "model", "here")
    if isinstance(found, Missing):
        assert 0 < len(found.missing) < 300
        return
    assert 0 < found.num_parameters <= 10**14
    assert min(found.num_layers, found.head_dim, found.num_kv_heads, found.context_length) >= 1
    assert all(linear.inputs >= 1 and linear.outputs >= 1 for linear in found.linears)
    assert found.num_heads % found.num_kv_heads == 0


@given(
    heads=st.integers(1, 64),
    groups=st.integers(1, 8),
    head_dim=st.integers(1, 256),
    layers=st.integers(1, 100),
    inner=st.integers(1, 30_000),
    vocab=st.integers(1, 300_000),
    tied=st.booleans(),
)
def test_a_llama_has_the_parameters_of_its_textbook_formula(
    heads: int, groups: int, head_dim: int, layers: int, inner: int, vocab: int, tied: bool
) -> None:
    kv_heads = max(divisor for divisor in range(1, groups + 1) if heads % divisor == 0)
    hidden = heads * head_dim
    config = {
        **SMOLLM2,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
    }
    shape = shaped(config)
    block = 2 * hidden * hidden + 2 * hidden * kv_heads * head_dim + 3 * hidden * inner + 2 * hidden
    assert shape.num_parameters == layers * block + hidden + vocab * hidden * (1 if tied else 2)
    assert math.gcd(shape.q_size, shape.kv_size) == shape.kv_size
