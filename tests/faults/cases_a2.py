"""Faults in configs of TRL, LLaMA-Factory and axolotl that show in the file alone."""

from tests.faults.case import FaultCase, base, changed

TRL, FACTORY, AXOLOTL = base("trl"), base("llamafactory"), base("axolotl")


def _case(name: str, code: str, file: str, text: str, near: str) -> FaultCase:
    return FaultCase(name=name, code=code, files={file: text}, near_miss={file: near})


def _factory(name: str, code: str, old: str, wrong: str, right: str) -> FaultCase:
    return _case(name, code, "train.yaml", changed(FACTORY, old, wrong), changed(FACTORY, old, right))


def _axolotl(name: str, code: str, old: str, wrong: str, right: str) -> FaultCase:
    return _case(name, code, "axolotl.yml", changed(AXOLOTL, old, wrong), changed(AXOLOTL, old, right))


_JSON = """{
  "model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
  "dataset_name": "trl-lib/Capybara",
  "output_dir": "runs/capybara",
  "learning_rate": LEARNING_RATE,
  "per_device_train_batch_size": 4,
  "gradient_accumulation_steps": 4,
  "num_train_epochs": 2,
  "max_length": 1024
}
"""

CASES: list[FaultCase] = [
    _axolotl(
        "a misspelt key that axolotl leaves out without a word",
        "BK011",
        "gradient_accumulation_steps: 4",
        "gradient_acumulation_steps: 4",
        "gradient_accumulation_steps: 8",
    ),
    _case(
        "a learning rate in quotation marks in JSON",
        "BK014",
        "sft.json",
        _JSON.replace("LEARNING_RATE", '"2e-4"'),
        _JSON.replace("LEARNING_RATE", "2e-4"),
    ),
    _factory(
        "a batch size in quotation marks",
        "BK014",
        "per_device_train_batch_size: 4",
        'per_device_train_batch_size: "4"',
        "per_device_train_batch_size: 8",
    ),
    _axolotl(
        "a key given twice, of which the last one counts",
        "BK015",
        "num_epochs: 2\n",
        "num_epochs: 2\nnum_epochs: 4\n",
        "num_epochs: 4\n",
    ),
    _factory(
        "checkpointing switched off by a name that LLaMA-Factory overrides",
        "BK019",
        "bf16: true",
        "bf16: true\ngradient_checkpointing: false",
        "bf16: true\ndisable_gradient_checkpointing: true",
    ),
]
