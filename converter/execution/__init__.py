"""Carrying out a plan: every source tensor is read once and written to every output by position."""

from __future__ import annotations

from converter.execution.executor import Execution, execute
from converter.execution.resume import Journal, plan_hash

__all__ = ["Execution", "Journal", "execute", "plan_hash"]
