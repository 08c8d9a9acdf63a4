"""The compilation cache of the entry points: its folder, and how a user moves it or turns it off."""

from pathlib import Path

import jax
import pytest

from ssd_jax.cli import entry


@pytest.fixture
def settings(monkeypatch):
    """settings(**environment) -> what `compilation_cache` sets in jax.config under these variables."""

    def under(**environment) -> dict[str, object]:
        for name in (entry.CACHE_VARIABLE, entry.MIN_SECONDS_VARIABLE, "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        changed: dict[str, object] = {}
        with monkeypatch.context() as patch:
            patch.setattr(jax.config, "update", changed.__setitem__)
            entry.compilation_cache()
        return changed

    return under


def test_it_is_on_by_default_under_the_home_folder(settings, tmp_path):
    changed = settings(HOME=tmp_path)
    assert Path(changed["jax_compilation_cache_dir"]).is_relative_to(tmp_path / ".cache" / "ssd_jax")
    assert changed["jax_persistent_cache_min_compile_time_secs"] < 1.0
    assert "jax_enable_compilation_cache" not in changed


def test_it_respects_xdg_cache_home(settings, tmp_path):
    changed = settings(XDG_CACHE_HOME=tmp_path)
    assert Path(changed["jax_compilation_cache_dir"]).is_relative_to(tmp_path / "ssd_jax")


def test_jaxs_own_variables_win(settings, tmp_path):
    changed = settings(JAX_COMPILATION_CACHE_DIR=tmp_path / "mine", XDG_CACHE_HOME=tmp_path / "other")
    assert changed["jax_compilation_cache_dir"] == str(tmp_path / "mine")
    assert "jax_persistent_cache_min_compile_time_secs" not in settings(JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0)


def test_the_empty_string_turns_it_off(settings):
    assert settings(JAX_COMPILATION_CACHE_DIR="") == {"jax_enable_compilation_cache": False}


@pytest.mark.parametrize("mistake", [False, True])
def test_every_entry_point_turns_it_on(monkeypatch, mistake):
    called = []
    monkeypatch.setattr(entry, "compilation_cache", lambda: called.append("cache"))

    def main():
        called.append("main")
        if mistake:
            raise entry.UserError("No.")

    if mistake:
        with pytest.raises(SystemExit) as stop:
            entry.run(main)
        assert stop.value.code == 2
    else:
        entry.run(main)
    assert called == ["cache", "main"]
