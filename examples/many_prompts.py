"""Many prompts from Python: python examples/many_prompts.py PROMPTS.txt FOLDER

Generates an image for every line, eight at a time, with the exact decoder: each is the image that its line and seed
give alone, too. Existing images are not generated again.
"""

import sys
from pathlib import Path

import ssd_jax

BATCH = 8


def main(prompts: Path, folder: Path) -> None:
    lines = [line.strip() for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    folder.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(len(lines)) if not (folder / f"{number:05d}.png").exists()]
    pipe = ssd_jax.load("emoji")
    for start in range(0, len(missing), BATCH):
        numbers = missing[start : start + BATCH]
        texts = [lines[number] for number in numbers]
        # A seed for each line: equal lines are different images, and the same ones in the next run.
        out = pipe.generate(texts, decoder="ssd-exact", seed=numbers, max_batch=BATCH)
        for number, image in zip(numbers, out.images, strict=True):
            image.save(folder / f"{number:05d}.png")
        print(f"{start + len(numbers)} of {len(missing)} drawn, {out.passes.mean():.0f} passes each")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
