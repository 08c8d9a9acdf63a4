"""Implements `sample.py --progress`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from ssd_jax.pipeline.progress import Preview


@contextmanager
def progress_bar(wanted: bool) -> Iterator[dict[str, Callable[[Preview], None]]]:
    """Options of `Pipeline.generate` that show a bar of final tokens, or none."""
    if not wanted:
        yield {}
        return
    with tqdm(desc="drawing", unit="token", dynamic_ncols=True) as bar:

        def show(preview: Preview) -> None:
            bar.total = preview.final.size
            bar.set_postfix(passes=preview.passes, refresh=False)
            bar.update(int(preview.final.sum()) - bar.n)

        yield {"progress": show}
