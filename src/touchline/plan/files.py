"""plan.json, both ways."""

from __future__ import annotations

import json

from pydantic import TypeAdapter, ValidationError

from touchline.domain.plan import PLAN_SCHEMA_VERSION, Plan
from touchline.errors import InputFault

_ADAPTER = TypeAdapter(Plan)


def plan_to_json(plan: Plan) -> str:
    """The text of plan.json; the same plan gives the same text."""
    return _ADAPTER.dump_json(plan, indent=2).decode() + "\n"


def plan_from_json(text: str, path: str) -> Plan:
    """A plan.

    Raises:
        InputFault: the text is no plan, or one of another schema version.
    """
    hint = "move it away and plan again"
    try:
        version = json.loads(text).get("schema_version")
    except (ValueError, AttributeError):
        raise InputFault(f"{path} is not a plan: no JSON object", hint=hint) from None
    if version != PLAN_SCHEMA_VERSION:
        raise InputFault(f"{path} has schema version {version}", expected=f"version {PLAN_SCHEMA_VERSION}", hint=hint)
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputFault(f"{path} is not a plan: {place}: {first['msg']}", hint=hint) from None
