"""Defines the dimension letters that every einsum and shape comment of the package uses, and the prompt bucket.

B  batch rows, those of guidance included; images where G stands beside it
G  rows of the CFG batch: 2B with guidance, else B
S  prompt tokens            T  cache length             W  window: positions per verifier pass
D  model width              F  mlp width                V  visual vocabulary (codebook size)
N  query heads              K  key/value heads          H  head width
L  layers                   R  grid rows                C  grid columns

In signatures `*batch` is any number of leading axes (`*#batch`: axes that broadcast to these) and `...` any axes; the
docstring defines any other letter.
"""

PROMPT_BUCKET = 16
"""Prompts are left-padded to a multiple of this many tokens, so that a new prompt does not recompile the program."""


def bucket(length: int, multiple: int = PROMPT_BUCKET) -> int:
    """The smallest positive multiple of `multiple` that is at least `length`."""
    return max(1, -(-length // multiple)) * multiple
