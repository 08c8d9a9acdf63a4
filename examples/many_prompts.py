"""Many prompts from Python: python examples/many_prompts.py PROMPTS.txt FOLDER [I/N]

Generates an image for every line, eight at a time, with the exact decoder: each is the image that its line and seed
give alone, too. Existing images are not generated again. With I/N only every N-th line is drawn, from the I-th on: N of
these runs, on N machines that share the folder, draw all of them.
"""

import sys
from pathlib import Path

import ssd_jax
from ssd_jax.eval.benchmarks.shard import Shard
from ssd_jax.files import replacing

BATCH = 8


def main(prompts: Path, folder: Path, shard: str = "1/1") -> None:
    lines = [line.strip() for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    folder.mkdir(parents=True, exist_ok=True)
    own = filter(Shard.parse(shard).has, range(len(lines)))
    missing = [number for number in own if not (folder / f"{number:05d}.png").exists()]
    pipe = ssd_jax.load("emoji")
    for start in range(0, len(missing), BATCH):
        numbers = missing[start : start + BATCH]
        texts = [lines[number] for number in numbers]
        # A seed for each line: equal lines are different images, and the same ones in the next run.
        out = pipe.generate(texts, decoder="ssd-exact", seed=numbers, max_batch=BATCH)
        for number, image in zip(numbers, out.images, strict=True):
            with replacing(folder / f"{number:05d}.png") as unfinished:  # a run that is killed leaves no half image
                image.save(unfinished)
        print(f"{start + len(numbers)} of {len(missing)} drawn, {out.passes.mean():.0f} passes each")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
