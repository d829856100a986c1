"""Reader and writer of plan.json."""

from __future__ import annotations

import json

from pydantic import TypeAdapter, ValidationError

from touchline.core.errors import InputError
from touchline.core.json_text import parse_json
from touchline.core.removed import drop_removed
from touchline.experiment.anchors import relative_datasets
from touchline.experiment.plan import PLAN_SCHEMA_VERSION, Plan

_ADAPTER = TypeAdapter(Plan)


def plan_to_json(plan: Plan) -> str:
    """Return the text of plan.json. Equal plans give equal text."""
    return _ADAPTER.dump_json(plan, indent=2).decode() + "\n"


def plan_from_json(text: str, path: str) -> Plan:
    """Return the plan in a text.

    Raises:
        InputError: the text is no plan, or one of another schema version.
    """
    hint = "move it and run `touchline plan` again"
    try:
        # Once, and not a second time for its version: a thousand runs take a tenth of a second.
        try:
            plan = _ADAPTER.validate_json(text)
        except ValidationError:
            plan = _ADAPTER.validate_json(_without_removed(text))
    except ValidationError as fault:
        version = _version(text)
        if version is None:
            raise InputError(f"{path} is not a plan: not a JSON object", hint=hint) from None
        if version != PLAN_SCHEMA_VERSION:
            raise _other_version(path, version, hint) from None
        first = fault.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path} is not a plan: {place}: {first['msg']}", hint=hint) from None
    if plan.schema_version != PLAN_SCHEMA_VERSION:
        raise _other_version(path, plan.schema_version, hint)
    return relative_datasets(plan)


def _without_removed(text: str) -> str:
    """Return the text of a plan of version 0.1.0, which wrote defaults too, without keys that were removed."""
    try:
        data = parse_json(text)
        for settings in (data, *data["runs"]):
            drop_removed(settings)
    except (ValueError, TypeError, KeyError, AttributeError):
        return text
    return json.dumps(data)


def _version(text: str) -> object:
    """Return the schema version in the text, or `absent`. None if the text is not a JSON object."""
    try:
        return parse_json(text).get("schema_version", "absent")
    except (ValueError, AttributeError):
        return None


def _other_version(path: str, version: object, hint: str) -> InputError:
    return InputError(f"{path} has schema version {version}", expected=f"version {PLAN_SCHEMA_VERSION}", hint=hint)
