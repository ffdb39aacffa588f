"""Carrying out a plan: every source tensor is read once and written to every output by position."""

from __future__ import annotations

from converter.engine.execution import Execution, execute
from converter.engine.journal import Journal, fingerprint

__all__ = ["Execution", "Journal", "execute", "fingerprint"]
