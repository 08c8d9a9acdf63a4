"""The page itself, asked as a browser asks it: two decoders side by side, mistakes as messages, one job at a time."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from conftest import ROOT
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from ssd_jax.cli import demo
from ssd_jax.demo.drawing import draw
from ssd_jax.demo.page import NONE, THEME, page

WISH = dict(prompt="red apple", first="ar", second=NONE, seed=0, scale=2.0)
WISH |= dict(temperature=1.0, top_k=0, negative="", size="")


@pytest.fixture(scope="module")
def client(headed, tmp_path_factory):
    blocks = page(headed, ["red apple", "dog"], tmp_path_factory.mktemp("drawn"))
    _, address, _ = blocks.launch(server_name="127.0.0.1", theme=THEME, quiet=True, prevent_thread_lock=True)
    yield Client(address, verbose=False, download_files=str(tmp_path_factory.mktemp("downloaded")))
    blocks.close()


def ask(client, **changes):
    return client.predict(*{**WISH, **changes}.values(), api_name="/draw")


def test_two_decoders_draw_the_same_prompt_and_seed(client, headed):
    shown = ask(client, second="jacobi-above", seed=5)
    assert len(shown) == 10
    for (status, _, animation, passes, files), name in zip((shown[:5], shown[5:]), ("ar", "jacobi-above"), strict=True):
        out = headed.generate(["red apple"], decoder=name, seed=5, cfg_scale=2.0, top_k=0)
        assert f"**{name}**: {out.passes[0]} passes" in status and "seconds" in status
        picture, record = files
        assert np.array_equal(Image.open(picture), out.images[0])
        assert json.loads(open(record).read())["decoder"] == name
        assert Image.open(animation).format == "GIF" and Image.open(passes).format == "PNG"


def test_one_decoder_leaves_the_second_column_empty(client):
    shown = ask(client)
    assert "ar" in shown[0] and shown[5:] == ("", None, None, None, None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"first": "nonesuch"}, "Unknown decoder 'nonesuch'"),
        ({"first": "SSD(rounds="}, "is no decoder"),
        ({"second": "nonesuch"}, "Unknown decoder 'nonesuch'"),
        ({"seed": -1}, "seed"),
        ({"seed": None}, "seed"),
        ({"scale": 1e9}, "cfg_scale"),
        ({"temperature": -1}, "temperature"),
        ({"size": "one"}, "one"),
        ({"prompt": "a" * 30_000}, "letters"),
    ],
)
def test_a_mistake_is_a_message_and_the_page_goes_on(client, changes, said):
    with pytest.raises(AppError, match=re.escape(said)):
        ask(client, **changes)


def test_jobs_wait_for_each_other(client, headed, monkeypatch):
    running, most = [], []

    def watched(*arguments):
        running.append(arguments)
        most.append(len(running))
        yield from draw(*arguments)
        running.pop()

    monkeypatch.setattr("ssd_jax.demo.page.draw", watched)
    jobs = [client.submit(*{**WISH, "seed": seed}.values(), api_name="/draw") for seed in range(4)]
    for seed, job in enumerate(jobs):
        out = headed.generate(["red apple"], seed=seed, cfg_scale=2.0, top_k=0)
        assert np.array_equal(Image.open(job.result(timeout=60)[4][0]), out.images[0])
    assert most == [1] * 4


def test_the_command_serves_the_page_to_this_machine_alone(headed_folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"GRADIO_SHARE": "true"}  # a tunnel that gradio would open
    command = [sys.executable, "-m", "ssd_jax.demo", f"--port={port}", f"--weights={headed_folder}"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == f"The page is at http://127.0.0.1:{port}; Ctrl-C ends it.\n"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}") as answer:
                assert "ssd_jax" in answer.read().decode()
            listening = [line for line in open("/proc/net/tcp") if f":{port:04X} 00000000:0000 0A" in line]
            assert [line.split()[1].split(":")[0] for line in listening] == ["0100007F"]
        finally:
            process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=60) in (0, 130)
        finally:
            process.kill()
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--port=0"], "port"),
        (["--port=70000"], "port"),
        (["--coordinator=auto", "--mesh=data:1"], "--coordinator"),
        (["--weights=/nowhere"], "/nowhere"),
    ],
)
def test_a_bad_command_line_is_one_sentence(run_command, flags, said):
    code, _, error = run_command(demo.main, "demo", *flags)
    assert code == 2 and said in error and error.count("\n") == 1


def test_a_port_that_is_taken_is_named(run_command, headed_folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, error = run_command(demo.main, "demo", f"--port={port}", f"--weights={headed_folder}")
    assert code == 2 and f"cannot be served at port {port}" in error


def test_without_gradio_it_says_how_to_get_it(run_command, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "ssd_jax.demo.page")
    code, _, error = run_command(demo.main, "demo")
    assert code == 2 and "pip install" in error and "[demo]" in error
