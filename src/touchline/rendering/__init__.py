"""Chat template to token ids and label span: one place, for training and for evaluation."""

from touchline.rendering.chat import ChatRenderer, SpecialTokens
from touchline.rendering.sandbox import TemplateFault

__all__ = ["ChatRenderer", "SpecialTokens", "TemplateFault"]
