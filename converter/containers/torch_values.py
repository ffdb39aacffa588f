"""What a pickle is read into: descriptions of objects that do nothing."""

from __future__ import annotations


class Global:
    """A name that the pickle would import: a class or a function, never looked up."""

    __slots__ = ("name",)

    def __init__(self, module: str, name: str) -> None:
        self.name = f"{module}.{name}"

    def __repr__(self) -> str:
        return self.name


class Opaque:
    """An object of an unknown kind, with all that it was made from."""

    __slots__ = ("kind", "parts")

    def __init__(self, kind: str, *parts: object) -> None:
        self.kind = kind
        self.parts = list(parts)


class Pairs:
    """A dictionary as the pickle fills it: key and value by turns, in order."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: list[tuple[object, object]] = []
