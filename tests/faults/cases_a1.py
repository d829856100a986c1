"""Faults in torchtune's configs and in QLoRA stage files."""

from tests.faults.case import FaultCase, base, changed

TORCHTUNE = base("torchtune")
STAGE = base("qlora_stage")


def _tune(name: str, code: str, old: str, fault: str, near: str | None = None) -> FaultCase:
    """A torchtune config with one thing wrong, and the same place right."""
    return FaultCase(
        name=name,
        code=code,
        files={"1B_rank8/finetune.yaml": changed(TORCHTUNE, old, fault)},
        near_miss={"1B_rank8/finetune.yaml": TORCHTUNE if near is None else changed(TORCHTUNE, old, near)},
    )


_QWEN = """\
tokenizer:
  _component_: torchtune.models.qwen2_5.qwen2_5_tokenizer
  path: models/Qwen2.5-0.5B/vocab.json
  merges_file: models/Qwen2.5-0.5B/merges.txt
  max_seq_len: {limit}
"""
_LLAMA = """\
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
  path: models/Llama-3.2-1B/original/tokenizer.model
  max_seq_len: 2048
"""
_QWEN_MODEL = changed(
    changed(TORCHTUNE, "torchtune.models.llama3_2.lora_llama3_2_1b", "torchtune.models.qwen2_5.lora_qwen2_5_0_5b"),
    "model_type: LLAMA3_2",
    "model_type: QWEN2",
)

CASES: list[FaultCase] = [
    _tune("an argument of a builder is misspelt", "BK011", "lora_rank: 8", "lora_rnk: 8"),
    _tune(
        "a key that recipes read by a default is misspelt",
        "BK011",
        "log_every_n_steps: 1",
        "log_every_n_step: 1",
        "log_every_n_steps: 2",
    ),
    _tune("the batch size is a word", "BK012", "batch_size: 4", "batch_size: lots", "batch_size: 2"),
    _tune(
        "a layer is called as in another library, and gets no adapter",
        "BK012",
        '"v_proj", "output_proj"]',
        '"v_proj", "o_proj"]',
        '"v_proj", "k_proj"]',
    ),
    _tune("the batch size is missing", "BK013", "batch_size: 4\n", "", "batch_size: 1\n"),
    FaultCase(
        name="the learning rate of a stage is a text for PyYAML",
        code="BK014",
        files={"stage1.yaml": changed(STAGE, "lr: 5.0e-5", "lr: 5e-5")},
        near_miss={"stage1.yaml": changed(STAGE, "lr: 5.0e-5", "lr: 5.e-5")},
    ),
    _tune("a key stands twice, which OmegaConf refuses", "BK015", "epochs: 1", "epochs: 1\nepochs: 2", "epochs: 2"),
    _tune(
        "an interpolation refers to a key that is not there",
        "BK018",
        "log_dir: ${output_dir}/logs",
        "log_dir: ${output_path}/logs",
        "log_dir: ${checkpointer.output_dir}/logs",
    ),
    _tune(
        "a component does not exist",
        "BK018",
        "torchtune.models.llama3_2.lora_llama3_2_1b",
        "torchtune.models.llama3_2.lora_lama3_2_1b",
        "torchtune.models.llama3_2.qlora_llama3_2_1b",
    ),
    FaultCase(
        name="removes the end token from the loss",
        code="BK019",
        files={"finetune.yaml": changed(_QWEN_MODEL, _LLAMA, _QWEN.format(limit=2048))},
        near_miss={"finetune.yaml": changed(_QWEN_MODEL, _LLAMA, _QWEN.format(limit="null"))},
    ),
]
