"""A share of a benchmark's prompts."""

import dataclasses
import re

from ssd_jax.errors import UserError, shown


@dataclasses.dataclass(frozen=True)
class Shard:
    """Every `count`-th prompt, from the `index`-th on; both count from 1."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From "2/4"; raises `UserError` for what is no share."""
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(f"--shard is I/N with I from 1 to N, such as 2/4, not {shown(text)}.")
        return cls(int(found[1]), int(found[2]))

    def has(self, prompt: int) -> bool:
        """Whether a prompt, counted from 0, belongs to it."""
        return prompt % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"
