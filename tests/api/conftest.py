"""Fixtures that the tests of whole commands share with those of what they read."""

from __future__ import annotations

from tests.results.conftest import trained, trained_once

__all__ = ["trained", "trained_once"]
