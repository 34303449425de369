# SPDX-License-Identifier: MIT
"""An architecture as a value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torchsparse_lite.errors import refuse

__all__ = ["Arch", "Value"]

Value = int | float | str
_SCHEMA = 1


@dataclass(frozen=True)
class Arch(Mapping[str, Value]):
    """One choice for each gene of a search space that matters; equal if and only if these are.

    Attributes:
        space: name of the search space.
        genes: name and value of each active gene, in the order of the space.
    """

    space: str
    genes: tuple[tuple[str, Value], ...]

    def __getitem__(self, name: str) -> Value:
        for gene, value in self.genes:
            if gene == name:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(name for name, _ in self.genes)

    def __len__(self) -> int:
        return len(self.genes)

    def whole(self, name: str) -> int:
        """The value of a gene that is a number of things."""
        return int(self[name])

    def to_json(self) -> str:
        """One line of JSON; :meth:`from_json` reads it."""
        content = {"schema": _SCHEMA, "space": self.space, "genes": dict(self.genes)}
        return json.dumps(content)

    @classmethod
    def from_json(cls, text: str) -> Arch:
        """The architecture that :meth:`to_json` wrote. Its space checks it, see ``validate``.

        Raises:
            ValueError: it is something else.
        """
        try:
            content: dict[str, Any] = json.loads(text)
            schema, space = content["schema"], content["space"]
            genes = tuple((str(name), value) for name, value in content["genes"].items())
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            remedy = "Give what Arch.to_json wrote."
            refuse("Arch.from_json: text", "JSON of an Arch", repr(text[:60]), remedy)
        if schema != _SCHEMA:
            remedy = "Read it with the version of the library that wrote it."
            refuse("Arch.from_json: schema", str(_SCHEMA), schema, remedy)
        return cls(str(space), genes)

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that name it, the same on every machine."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Arch({self.space!r}, {self.hash}, {len(self.genes)} genes)"
