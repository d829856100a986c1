"""Any dataset whose answers can be compared as text."""

from __future__ import annotations

from touchline.spec.tasks.protocol import Task, score_text

EXACT_MATCH = Task(name="exact_match", prompt="{input}", score=score_text)
