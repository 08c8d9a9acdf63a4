"""python -m ssd_jax.check: sound folders of every family pass, damaged ones fail in the part that is damaged, and the
page says no more of the machine than it should.

Damage that both sides read alike cannot be seen, so the damaged folder is compared with the sound one (--reference).
"""

import getpass
import hashlib
import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import published_folders
import pytest
from published_folders import CONFIGS, published_folder
from safetensors.numpy import load_file, save_file

from ssd_jax.bench import torch_process
from ssd_jax.check import memory, reference, transformers_process
from ssd_jax.check.folder import inspect
from ssd_jax.check.hashes import small_files, weight_files
from ssd_jax.cli.check import main

PARTS = ["tensors", "special ids", "logits", "greedy codes", "image to codes", "codes to image"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, Path]:
    """A folder of every family, with the id of the size that Lumina-mGPT's prompts name by default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(published_folders.SPECIAL["lumina_mgpt"], "<reserved08824>", 98)
        top = tmp_path_factory.mktemp("sound")
        return {name: published_folder(name, top / name, num_hidden_layers=2) for name in CONFIGS}


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[dict, dict]]:
    """What transformers has said so far."""
    return {}


@pytest.fixture
def here(monkeypatch, answers):
    """Lets transformers answer in this process, and every question once."""

    def run(module, job, what):
        question = json.dumps({key: value for key, value in job.items() if key != "out"})
        if question not in answers:
            answers[question] = transformers_process.answer(json.loads(json.dumps(job))), load_file(job["out"])
        said, arrays = answers[question]
        save_file(arrays, job["out"])
        return said

    monkeypatch.setattr(reference, "run_process", run)


@pytest.fixture
def check(run_command):
    """check(*flags) -> (exit code, the page, standard error)."""
    return partial(run_command, main, "check")


@pytest.fixture
def damaged(sound, tmp_path):
    """damaged(family) -> a copy of its folder."""
    return lambda name: Path(shutil.copytree(sound[name], tmp_path / f"{name}-damaged"))


@pytest.fixture
def sound_page(here, check, sound, pages):
    """sound_page(family) -> (exit code, the page) of the sound folder, made once."""

    def run(name) -> tuple[int, str]:
        if name not in pages:
            pages[name] = check(f"--weights={sound[name]}", f"--config=configs/{name}.py")[:2]
        return pages[name]

    return run


@pytest.fixture(scope="module")
def pages() -> dict[str, tuple[int, str]]:
    """Those made so far."""
    return {}


def parts(page: str) -> dict[str, str]:
    """Part -> PASS, FAIL or ----."""
    return {name.strip(): word for word, name in re.findall(r"^(PASS|FAIL|----)  (.{17})", page, re.MULTILINE)}


def failed(page: str) -> list[str]:
    return [name for name, word in parts(page).items() if word == "FAIL"]


def change(folder: Path, pattern: str, how, file: str = "model.safetensors") -> None:
    """Replaces the tensors whose names match by how(tensor)."""
    state = load_file(folder / file)
    names = [name for name in state if re.search(pattern, name)]
    assert names
    state |= {name: np.ascontiguousarray(how(state[name])) for name in names}
    save_file(state, folder / file, metadata={"format": "pt"})


def edit(folder: Path, how, file: str = "config.json") -> None:
    values = json.loads((folder / file).read_text())
    how(values)
    (folder / file).write_text(json.dumps(values))


# -- sound folders


@pytest.mark.parametrize("name", CONFIGS)
def test_a_sound_folder_passes(sound_page, name):
    code, page = sound_page(name)
    assert (code, parts(page)) == (0, dict.fromkeys(PARTS, "PASS")), page
    assert page.endswith("\nPASS: 6 parts\n")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_sound_folder_passes_in_bfloat16(here, check, sound, name):
    code, page, _ = check(f"--weights={sound[name]}", "--dtype=bfloat16")
    assert (code, parts(page)) == (0, dict.fromkeys(PARTS, "PASS")), page


def test_transformers_answers_in_a_process_of_its_own(check, sound):
    code, page, _ = check(f"--weights={sound['janus_pro']}")
    assert (code, parts(page)) == (0, dict.fromkeys(PARTS, "PASS")), page


def test_an_image_tokenizer_may_be_absent(here, check, damaged):
    """And the config that of the first repository, whose codes no vocabulary of config.json names."""
    folder = damaged("lumina_mgpt")
    edit(folder, lambda values: values.pop("vocabulary_map") and values.update(model_type="chameleon_xllmx"))
    (folder / "vqgan.safetensors").unlink()
    change_names(folder, lambda name: "vqmodel" not in name)
    code, page, _ = check(f"--weights={folder}")
    assert code == 0 and parts(page)["image tokenizer"] == "----"
    assert page.endswith("PASS: 4 parts; not compared: image tokenizer\n")


def change_names(folder: Path, keep) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({name: x for name, x in state.items() if keep(name)}, folder / "model.safetensors")


# -- damaged ones

LAYER = r"^(text_model\.model|model(\.language_model|\.text_model)?)\.layers\."


@pytest.mark.parametrize("name", CONFIGS)
def test_a_negated_matrix_fails(here, check, sound, damaged, name):
    folder = damaged(name)
    change(folder, LAYER + r"1\.self_attn\.q_proj", np.negative)
    code, page, _ = check(f"--weights={folder}", f"--reference={sound[name]}")
    assert code == 1 and "logits" in failed(page) and not set(failed(page)) - {"logits", "greedy codes"}
    assert page.splitlines()[-1].startswith("FAIL: logits")
    # Both sides leave out the layers behind --layers.
    code, page, _ = check(f"--weights={folder}", f"--reference={sound[name]}", "--layers=1")
    assert (code, failed(page)) == (0, []) and "1 of 2 layers, weights in float32" in page


def test_a_transposed_matrix_fails(here, check, sound, damaged):
    folder = damaged("lumina_mgpt")
    change(folder, LAYER + r"0\.self_attn\.o_proj", np.transpose)
    code, page, _ = check(f"--weights={folder}", f"--reference={sound['lumina_mgpt']}")
    assert code == 1 and "logits" in failed(page)


def test_layers_in_another_order_fail(here, check, sound, damaged):
    folder = damaged("emu3")
    state, swap = load_file(folder / "model.safetensors"), {"0": "1", "1": "0"}
    named = {re.sub(f"({LAYER})([01])", lambda m: m[1] + swap[m[m.lastindex]], name): x for name, x in state.items()}
    assert named.keys() == state.keys()
    save_file(named, folder / "model.safetensors")
    for dtype in ("float32", "bfloat16"):
        code, page, _ = check(f"--weights={folder}", f"--reference={sound['emu3']}", f"--dtype={dtype}")
        assert code == 1 and "logits" in failed(page)


def test_another_epsilon_fails(here, check, sound, damaged):
    folder = damaged("janus_pro")
    edit(folder, lambda values: values["text_config"].update(rms_norm_eps=1e-4))
    code, page, _ = check(f"--weights={folder}", f"--reference={sound['janus_pro']}")
    assert code == 1 and "logits" in failed(page)
    assert "norm_eps 0.0001 (published 1e-06)" in page


def test_another_row_end_fails(here, check, sound, damaged):
    for name, token in (("emu3", "<|extra_200|>"), ("lumina_mgpt", "<reserved08799>")):
        folder = damaged(name)
        edit(folder, lambda values, token=token: values["vocabulary_map"].update({token: 9}))
        code, page, _ = check(f"--weights={folder}", f"--reference={sound[name]}")
        assert code == 1 and "special ids" in failed(page) and "row_end_id 9, not" in page


def test_ids_that_transformers_reads_otherwise_fail(here, check, damaged):
    """In one and the same folder."""
    folder = damaged("janus_pro")
    edit(
        folder,
        lambda values: values.update(_from_model_config=False, generation_kwargs={"boi_token_id": 7}),
        "generation_config.json",
    )
    code, page, _ = check(f"--weights={folder}")
    assert (code, failed(page)) == (1, ["special ids"]) and "boi_id 2, not 7" in page


@pytest.mark.parametrize(
    ("name", "half", "part"),
    [
        ("emu3", "encoder", "image to codes"),
        ("emu3", "decoder", "codes to image"),
        ("lumina_mgpt", "decoder", "codes to image"),
        ("janus_pro", "encoder", "image to codes"),
        ("emu3_5", "decoder", "codes to image"),
    ],
)
def test_a_damaged_image_tokenizer_fails(here, check, sound, damaged, name, half, part):
    folder = damaged(name)
    file = "vqgan.safetensors" if name in published_folders.WITHOUT_VQ else "model.safetensors"
    change(folder, rf"(^|vqmodel\.){half}\.conv_out\.weight", np.negative, file)
    code, page, _ = check(f"--weights={folder}", f"--reference={sound[name]}")
    assert (code, failed(page)) == (1, [part])


def test_missing_and_unexplained_tensors_are_named_before_anything_is_read(check, damaged):
    folder = damaged("emu3")
    state = load_file(folder / "model.safetensors")
    lacking = next(name for name in state if name.endswith("layers.1.mlp.up_proj.weight"))
    state["text_model.odd"] = state.pop(lacking)
    save_file(state, folder / "model.safetensors")
    code, page, error = check(f"--weights={folder}")
    assert (code, failed(page), error) == (1, ["tensors"], "")
    assert f"1 missing, such as {lacking!r}; 1 unexplained, such as 'text_model.odd'" in page


# -- what stands on the page


def test_the_page_names_no_place_and_no_person(sound_page, sound):
    _, page = sound_page("emu3")
    assert page.startswith("check of emu3\n")
    for secret in (str(sound["emu3"].parent), sound["emu3"].parent.name, str(Path.home()), getpass.getuser() + "/"):
        assert secret not in page
    assert not re.search(r"(^|\s)/\w", page)


def test_the_page_tells_versions_and_ids(sound_page):
    _, page = sound_page("emu3")
    for said in ("transformers 5.", "torch 2.", "pad 0, bos 1, boi 2, row_end 3", "visual codes 300 to 363"):
        assert said in page


def test_hashes_of_headers_and_of_whole_files(sound, damaged):
    folder = damaged("emu3")
    change(folder, "embed_tokens", np.negative)
    one, other = inspect(sound["emu3"]), inspect(folder)
    assert weight_files(one, full=False) == weight_files(other, full=False)  # the same names and shapes
    [(name, size, digits)], [(*_, others)] = (weight_files(found, full=True) for found in (one, other))
    path = sound["emu3"] / "model.safetensors"
    assert (name, size) == (path.name, path.stat().st_size) and others != digits
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(digits)
    assert small_files(one) == small_files(other) and set(small_files(one)) >= {"config.json", "tokenizer.json"}


def test_the_bundled_model_has_no_counterpart(check):
    code, page, _ = check("--weights=emoji")
    assert (code, parts(page)) == (0, dict.fromkeys(["tensors", "values", "image and back"], "PASS"))
    assert "transformers has no model of this family" in page and "heads.safetensors" in page


# -- refusals: one sentence, exit code 2


def refused(found: tuple[int, str, str]) -> str:
    code, _, error = found
    sentence = error.strip().splitlines()[-1]
    assert code == 2 and sentence.startswith("error: ")
    return sentence


def test_what_cannot_be_used_is_refused(check, sound, tmp_path):
    emu3, janus = sound["emu3"], sound["janus_pro"]
    assert "no checkpoint folder" in refused(check(f"--weights={tmp_path / 'none'}"))
    assert "nothing is downloaded" in refused(check("--weights=organisation/name"))
    assert "for checkpoints of janus" in refused(check(f"--weights={emu3}", "--config=configs/janus_pro.py"))
    assert "between 1 and 2, not 3" in refused(check(f"--weights={emu3}", "--layers=3"))
    assert "not of one model" in refused(check(f"--weights={emu3}", f"--reference={janus}"))


def test_values_that_are_not_finite_are_refused(here, check, sound, damaged):
    folder = damaged("emu3")
    change(folder, LAYER + r"0\.mlp\.up_proj", lambda x: np.full_like(x, np.nan))
    assert "not finite" in refused(check(f"--weights={folder}", f"--reference={sound['emu3']}"))


def test_a_layout_that_transformers_does_not_read_is_refused(check, damaged):
    folder = damaged("janus_pro")
    edit(folder, lambda values: values.update(model_type="multi_modality"))
    assert "--reference=DIR" in refused(check(f"--weights={folder}"))


def test_without_torch_the_first_part_is_there_and_a_sentence_says_what_to_install(check, sound, monkeypatch):
    real = torch_process.importlib.util.find_spec
    monkeypatch.setattr(torch_process.importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    code, page, error = check(f"--weights={sound['emu3']}")
    assert code == 2 and parts(page) == {"tensors": "PASS"} and "model.safetensors" in page
    assert 'needs torch, which is not installed; pip install "ssd_jax[baseline]"' in error


def test_too_little_memory_is_refused_with_what_would_fit(check, sound, monkeypatch):
    monkeypatch.setattr(memory, "OWN", 0)
    free = 4 * 278_547 - 1  # a byte less than all numbers of the folder take in float32
    monkeypatch.setattr(memory, "free_host_bytes", lambda: free)
    said = refused(check(f"--weights={sound['emu3']}"))
    assert "does not fit in memory: transformers needs about" in said
    assert "--dtype=bfloat16 would fit" in said and said.endswith("--layers=1 would compare the first 1 layers.")
