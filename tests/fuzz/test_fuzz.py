"""Odd inputs from seeded generators: each is refused in one sentence, does what the sound one does, or, where it may
mean something else that is sound, runs.

A few hundred run with the other tests. Thousands, other ones with every seed:

    python -m pytest tests/fuzz --fuzz_cases=2000 --fuzz_seed=1

A failure tells the seed of its case; `--fuzz_only=SEED` runs that one alone.
"""

import re
import shutil
import warnings
from pathlib import Path

import damage
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from ml_collections import ConfigDict
from published_folders import SIZE, published_folder

import ssd_jax
from ssd_jax.backbones.prompting import grid_of
from ssd_jax.cli import entry
from ssd_jax.errors import UserError
from ssd_jax.recipes.emoji_spec import EmojiSpec
from ssd_jax.recipes.published_spec import PublishedSpec

PROMPT = "red apple"
LONGEST = 700
"""Letters of a message; a path and a list of valid names are in some."""


@pytest.fixture
def cases(request, record_property):
    """cases(judge): calls judge(rng) -> "refused", "same" or "ran" for every case, and tells of all that failed."""
    count, seed, only = (request.config.getoption(f"--fuzz_{name}") for name in ("cases", "seed", "only"))

    def run(judge, share: float = 1.0) -> None:
        seeds = [only] if only is not None else [seed * 10**6 + n for n in range(max(1, round(count * share)))]
        outcomes, failures = [], []
        for number in seeds:
            try:
                outcomes.append(judge(np.random.default_rng(number)))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure of this case
                failures.append(f"case {number}: {type(error).__name__}: {str(error)[:600]}")
        for name in ("refused", "same", "ran"):
            record_property(name, outcomes.count(name))
        record_property("failed", len(failures))
        assert failures or only is not None or outcomes.count("refused"), "nothing odd was refused"
        assert not failures, "\n".join(failures)

    return run


def sentence(text: str, what: str) -> None:
    """Fails unless a message is one sentence for people."""
    assert "\n" not in text and len(text) < LONGEST and text.rstrip().endswith((".", ").")), f"{what} -> {text!r}"
    assert not re.search(r" at 0x[0-9a-f]{6}", text), f"{what} -> {text!r}"


class Sound:
    """A checkpoint folder, what is loaded of it, and the same of damaged copies."""

    def __init__(self, folder: Path, size: str = ""):
        self.folder, self.size = folder, size or None
        self.loaded = self.all_of(ssd_jax.load(folder, dtype=jnp.float32))

    def all_of(self, pipe) -> list:
        """All that an image depends on: configs, ids of the prompt, every parameter."""
        grid = grid_of(pipe.config, self.size, pipe.vq_config.stride)
        parameters = pipe.params, pipe.heads_params, pipe.pictures.params
        return [pipe.config, pipe.heads, pipe.vq_config, pipe.prompts.pair(PROMPT, None, grid), parameters]

    def same(self, loaded: list) -> bool:
        mine, theirs = (jax.tree.leaves_with_path(found[-1]) for found in (self.loaded, loaded))
        if self.loaded[:-1] != loaded[:-1] or [path for path, _ in mine] != [path for path, _ in theirs]:
            return False
        return all(np.array_equal(a, b) for (_, a), (_, b) in zip(mine, theirs, strict=True))

    def judge(self, folder: Path, what: str, harmless: bool) -> str:
        """What became of a damaged folder; `harmless`: what is accepted must be what the sound folder holds."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pipe = ssd_jax.load(folder, dtype=jnp.float32)
                loaded = self.all_of(pipe)
                if self.same(loaded):
                    return "same"
                assert not harmless, f"{what} -> accepted, but something else was loaded"
                pipe.generate([PROMPT], size=self.size, max_passes=1)
        except UserError as error:
            sentence(str(error), what)
            return "refused"
        return "ran"


@pytest.fixture(scope="module")
def own(headed_folder) -> Sound:
    return Sound(headed_folder)


@pytest.fixture(scope="module", params=["emu3", "lumina_mgpt", "janus_pro"])
def published(request, tmp_path_factory) -> Sound:
    folder = published_folder(request.param, tmp_path_factory.mktemp(request.param) / "checkpoint")
    return Sound(folder, SIZE[request.param])


def damaged(sound: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(sound, folder))


@pytest.mark.parametrize("name", ["model.safetensors", "vq.safetensors", "heads.safetensors"])
def test_damaged_headers_are_refused_or_do_not_matter(own, cases, tmp_path, name):
    def judge(rng) -> str:
        folder = damaged(own.folder, tmp_path / "checkpoint")
        return own.judge(folder, damage.mutate_header(rng, folder / name), harmless=True)

    cases(judge)


@pytest.mark.parametrize("name", ["model.safetensors", "vq.safetensors", "heads.safetensors"])
def test_odd_numbers_are_refused_or_drawn_with(own, cases, tmp_path, name):
    def judge(rng) -> str:
        folder = damaged(own.folder, tmp_path / "checkpoint")
        what = damage.mutate_data(rng, folder / name)
        outcome = own.judge(folder, what, harmless=False)
        assert outcome == "refused" or not what.endswith(("nan", "inf")), what
        return outcome

    cases(judge, share=0.2)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_damaged_json_is_refused_or_drawn_with(own, cases, tmp_path, name):
    """A config with another number in its bounds is a sound config of another model."""

    def judge(rng) -> str:
        folder = damaged(own.folder, tmp_path / "checkpoint")
        return own.judge(folder, damage.mutate_json(rng, folder / name), harmless=False)

    cases(judge)


def test_damaged_folders_of_published_models(published, cases, tmp_path):
    weights = sorted(path.name for path in published.folder.glob("*.safetensors"))
    texts = sorted(path.name for path in published.folder.glob("*.json") if "generation" not in path.name)

    def judge(rng) -> str:
        folder = damaged(published.folder, tmp_path / "checkpoint")
        if rng.random() < 0.4:
            return published.judge(folder, damage.mutate_header(rng, folder / damage.pick(rng, weights)), True)
        return published.judge(folder, damage.mutate_json(rng, folder / damage.pick(rng, texts)), False)

    cases(judge, share=0.5)


def test_command_lines(cases, command_line, monkeypatch):
    monkeypatch.chdir(ROOT)

    def judge(rng) -> str:
        arguments = damage.command_line(rng)
        shown = str([argument[:80] for argument in arguments])
        code, out, error = command_line(*arguments)
        assert code in (0, 2), f"{shown} -> {code}"
        assert "Traceback" not in error, shown
        if code == 0:
            assert out, shown
            return "ran"
        assert not out, shown
        last = error.strip().splitlines()[-1]
        assert last.startswith(("error: ", "sample.py: error: ")), f"{shown} -> {last}"
        if last.startswith("error: "):
            sentence(last, shown)
        return "refused"

    ran = []
    cases(lambda rng: ran.append(judge(rng)) or ran[-1])
    assert len(ran) < 20 or "ran" in ran  # some of them plan


@pytest.mark.parametrize(("name", "spec"), [("emoji", EmojiSpec), ("emu3", PublishedSpec)])
def test_configs_of_trainings(cases, name, spec):
    config = entry.read_config(f"configs/{name}.py:tiny")
    if name == "emu3":
        config.update(weights="somewhere", prompts_file="prompts.txt")
    sound = config.to_dict()

    def judge(rng) -> str:
        value, what = damage.mutate_value(rng, sound)
        try:
            found = spec.parse(ConfigDict(value))
        except UserError as error:
            sentence(str(error), what)
            return "refused"
        return "same" if found == spec.parse(config) else "ran"

    cases(judge)
