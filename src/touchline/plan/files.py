"""plan.json, both ways."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from touchline.core.errors import InputError
from touchline.core.json_text import parse_json
from touchline.spec.anchors import relative_datasets
from touchline.spec.plan import PLAN_SCHEMA_VERSION, Plan

_ADAPTER = TypeAdapter(Plan)


def plan_to_json(plan: Plan) -> str:
    """The text of plan.json; the same plan gives the same text."""
    return _ADAPTER.dump_json(plan, indent=2).decode() + "\n"


def plan_from_json(text: str, path: str) -> Plan:
    """A plan.

    Raises:
        InputError: the text is no plan, or one of another schema version.
    """
    hint = "move it away and plan again"
    try:
        # Once, and not a second time for its version: a thousand runs take a tenth of a second.
        plan = _ADAPTER.validate_json(text)
    except ValidationError as fault:
        version = _version(text)
        if version is None:
            raise InputError(f"{path} is not a plan: no JSON object", hint=hint) from None
        if version != PLAN_SCHEMA_VERSION:
            raise _other_version(path, version, hint) from None
        first = fault.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path} is not a plan: {place}: {first['msg']}", hint=hint) from None
    if plan.schema_version != PLAN_SCHEMA_VERSION:
        raise _other_version(path, plan.schema_version, hint)
    return relative_datasets(plan)


def _version(text: str) -> object:
    """What the text says of its version, `absent` where it says nothing; None where it is no JSON object."""
    try:
        return parse_json(text).get("schema_version", "absent")
    except (ValueError, AttributeError):
        return None


def _other_version(path: str, version: object, hint: str) -> InputError:
    return InputError(f"{path} has schema version {version}", expected=f"version {PLAN_SCHEMA_VERSION}", hint=hint)
