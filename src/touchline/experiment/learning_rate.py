"""Learning rate by a published rule: "LoRA Without Regret" (Schulman and Thinking Machines Lab, September 2025).

In the form of tinker-cookbook's `get_lr` (version of 2026-08-19): for LoRA 5e-4 x (2000 / hidden size)^p, for all
weights a tenth of it. It was fitted to Llama (p = 0.781) and Qwen (p = 0.0775) models with AdamW; other decoders get
Llama's p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RULE: Final = "LoRA Without Regret, 2025"
"""Source of the rule, as plans and files name it."""
FAR: Final = 3.0
"""Factor from the rule's rate beyond which a rate is a warning."""
UNLIKE: Final = 2.0
"""Factor between the rule's rates of two runs beyond which one rate for both is a warning."""
_ADAPTER_RATE: Final = 5e-4
_ALL_WEIGHTS: Final = 0.1
_WIDTH: Final = 2000
_EXPONENTS: Final = {"llama": 0.781, "qwen": 0.0775}
_SMALLEST: Final = 500_000_000


@dataclass(frozen=True, slots=True)
class RuleRate:
    """Learning rate that the rule gives a model."""

    value: float
    """Peak learning rate."""
    extrapolated: str = ""
    """Why the rule was not fitted to this; empty if it was."""

    def __str__(self) -> str:
        return rate_text(self.value) + (f" (extrapolated: {self.extrapolated})" if self.extrapolated else "")


def rule_rate(
    model_type: str, hidden_size: int, num_parameters: int | None, *, trains_all: bool = False, optimizer: str = "adamw"
) -> RuleRate:
    """Return the rule's learning rate for a model and a method.

    Args:
        model_type: `model_type` of config.json.
        hidden_size: its width, more than 0.
        num_parameters: its parameters, where they are known.
        trains_all: whether all weights are trained.
    """
    family = next((family for family in _EXPONENTS if model_type.lower().startswith(family)), None)
    rate = _ADAPTER_RATE * (_WIDTH / hidden_size) ** _EXPONENTS[family or "llama"]
    reasons = (
        ("not a Llama or Qwen model" if family is None else ""),
        ("below 0.5B parameters" if num_parameters is not None and num_parameters < _SMALLEST else ""),
        ("not AdamW" if "adam" not in optimizer.lower() else ""),
    )
    return RuleRate(two_digits(rate * _ALL_WEIGHTS if trains_all else rate), ", ".join(filter(None, reasons)))


def two_digits(rate: float) -> float:
    """Return a rate rounded to two digits."""
    return float(f"{rate:.1e}")


def rate_text(rate: float) -> str:
    """Return a rate as one writes it: `2e-4`, `1.3e-3`."""
    digits, _, exponent = f"{rate:.2e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}"
