"""Faults in configs of trainers that show in the file alone, one for each code.

tests/backends/test_formats.py has the table of all of them, of one format at a time.
"""

from tests.faults.case import FaultCase, base, changed

FACTORY, AXOLOTL, STAGE, TORCHTUNE = base("llamafactory"), base("axolotl"), base("qlora_stage"), base("torchtune")
_COMPONENT = "torchtune.models.llama3_2.lora_llama3_2_1b"


def _case(name: str, code: str, file: str, text: str, old: str, fault: str, near: str) -> FaultCase:
    """A config with one thing wrong, and the same place right."""
    files, near_miss = ({file: changed(text, old, new)} for new in (fault, near))
    return FaultCase(name=name, code=code, files=files, near_miss=near_miss)


CASES: list[FaultCase] = [
    _case(
        *("an argument of a builder is misspelt", "BK011", "1B_rank8/finetune.yaml", TORCHTUNE),
        *("lora_rank: 8", "lora_rnk: 8", "lora_rank: 4"),
    ),
    _case(
        *("the batch size is a word", "BK012", "1B_rank8/finetune.yaml", TORCHTUNE),
        *("batch_size: 4", "batch_size: lots", "batch_size: 2"),
    ),
    _case(
        *("the batch size is missing", "BK013", "1B_rank8/finetune.yaml", TORCHTUNE),
        *("batch_size: 4\n", "", "batch_size: 1\n"),
    ),
    _case(
        *("the learning rate of a stage is a text for PyYAML", "BK014", "stage1.yaml", STAGE),
        *("lr: 5.0e-5", "lr: 5e-5", "lr: 5.e-5"),
    ),
    _case(
        *("a key given twice, of which the last one counts", "BK015", "axolotl.yml", AXOLOTL),
        *("num_epochs: 2\n", "num_epochs: 2\nnum_epochs: 4\n", "num_epochs: 4\n"),
    ),
    _case(
        *("a component does not exist", "BK018", "1B_rank8/finetune.yaml", TORCHTUNE),
        *(_COMPONENT, _COMPONENT.replace("llama3_2_1b", "lama3_2_1b"), _COMPONENT.replace("lora_", "qlora_")),
    ),
    _case(
        *("checkpointing switched off by a name that LLaMA-Factory overrides", "BK019", "train.yaml", FACTORY),
        "bf16: true",
        *(f"bf16: true\n{key}" for key in ("gradient_checkpointing: false", "disable_gradient_checkpointing: true")),
    ),
]
