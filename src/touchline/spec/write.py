"""Plain data to YAML."""

from __future__ import annotations

import json


def to_yaml(data: dict[str, object]) -> str:
    """Plain data as YAML in block style; texts and numbers as JSON writes them, which every YAML reader reads alike."""

    def lines(node: dict[str, object], indent: str) -> list[str]:
        out: list[str] = []
        for key, value in node.items():
            if isinstance(value, dict) and value:
                out.append(f"{indent}{key}:")
                out += lines(value, indent + "  ")
            else:
                out.append(f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}")
        return out

    return "\n".join(lines(data, "")) + "\n"
