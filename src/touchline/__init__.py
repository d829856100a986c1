"""touchline plans, runs and reports LLM fine-tuning experiments.

Start reading at `touchline.api`: one function a verb, in the order in which people use them.
"""

__version__ = "0.1.0"
