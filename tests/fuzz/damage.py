"""Generators of odd inputs: each takes a random generator and says in words what it did, so that a case can be read."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

Random = np.random.Generator

DEEP = "[" * 2000 + "]" * 2000
ODD = [
    None, True, False, 0, -1, 1, 2, 3, 7, 10**6, 2**31, 2**63, -(2**40), 10**30, 0.5, -0.0, 1e-40, 1e39, 1e400,
    float("nan"),
    "", " ", "x", "1", "rms", "\ud800", "é" * 300, [], [[]], [1], ["a"], {}, {"a": 1}, {"format": "ssd_jax-2"},
]  # fmt: skip
"""What may stand where a config, a tokenizer or a header says something else."""


def pick(rng: Random, options: list) -> Any:
    return options[int(rng.integers(len(options)))]


# -- JSON


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths of all values in a JSON value, its own among them."""
    found = [path]
    if isinstance(value, dict):
        found += [inner for key in value for inner in places(value[key], (*path, key))]
    elif isinstance(value, list):
        found += [inner for index in range(min(len(value), 20)) for inner in places(value[index], (*path, index))]
    return found


def at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def mutate_value(rng: Random, value: Any) -> tuple[Any, str]:
    """A copy of a JSON value with one odd thing in it."""
    value = json.loads(json.dumps(value))
    path = pick(rng, places(value)[1:] or [()])
    if not path:
        return pick(rng, ODD), "another value altogether"
    parent, key = at(value, path[:-1]), path[-1]
    name = ".".join(map(str, path))
    match int(rng.integers(4)):
        case 0:
            del parent[key]
            return value, f"without {name}"
        case 1 if isinstance(parent, dict):
            parent[f"{key}x"] = parent.pop(key)
            return value, f"{name} has another name"
        case 2 if isinstance(parent[key], int) and not isinstance(parent[key], bool):
            parent[key] += int(pick(rng, [-1, 1, 10, 1000, -parent[key], 2**33]))
            return value, f"{name} is {parent[key]}"
        case _:
            parent[key] = pick(rng, ODD)
            return value, f"{name} is {ascii(parent[key])[:30]}"


def mutate_text(rng: Random, text: bytes) -> tuple[bytes, str]:
    """The bytes of a JSON file, damaged as bytes."""
    where = int(rng.integers(len(text)))
    match int(rng.integers(6)):
        case 0:
            return text[:where], f"cut after {where} bytes"
        case 1:
            bit = 1 << int(rng.integers(8))
            return text[:where] + bytes([text[where] ^ bit]) + text[where + 1 :], f"bit {bit} of byte {where} flipped"
        case 2:
            return b"\xef\xbb\xbf" + text, "a byte order mark"
        case 3:
            return text.decode().encode("utf-16"), "UTF-16"
        case 4:
            return text[:where] + DEEP.encode() + text[where:], f"nesting of 2000 at byte {where}"
        case _:
            return text + pick(rng, [b"{}", b"\0", b"x", b"\xff"]), "something behind the end"


def mutate_json(rng: Random, path: Path) -> str:
    """Damages a JSON file."""
    if rng.random() < 0.3:
        text, said = mutate_text(rng, path.read_bytes())
        path.write_bytes(text)
        return f"{path.name}: {said}"
    value, said = mutate_value(rng, json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(value), encoding="utf-8")
    return f"{path.name}: {said}"


# -- safetensors


def parts(path: Path) -> tuple[dict, bytes]:
    """Header and data of a safetensors file."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def write(path: Path, header: bytes, data: bytes, size: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if size is None else size) + header + data)


def mutate_header(rng: Random, path: Path) -> str:
    """Damages the header of a safetensors file; the numbers of its tensors stay."""
    header, data = parts(path)
    text = json.dumps(header).encode()
    names = [name for name in header if name != "__metadata__"]
    name = pick(rng, names)
    match int(rng.integers(9)):
        case 0:
            text, said = mutate_text(rng, text)
        case 1:
            write(path, text, data, int(pick(rng, [0, 1, len(text) - 1, len(text) + 1, 2**40, 2**63, 2**64 - 1])))
            return f"{path.name}: another length of the header"
        case 2:
            cut = int(rng.integers(len(data)))
            write(path, text, data[:cut])
            return f"{path.name}: {cut} of {len(data)} bytes of data"
        case 3:
            write(path, text, data + bytes(int(rng.integers(1, 100))))
            return f"{path.name}: bytes behind the data"
        case 4:
            other = pick(rng, names)
            header[name]["data_offsets"] = header[other]["data_offsets"]
            text, said = json.dumps(header).encode(), f"{name} lies where {other} does"
        case 5:
            header[name]["dtype"] = pick(rng, ["F16", "BF16", "F64", "I32", "U8", "BOOL", "F8_E4M3", "", "X", 3, None])
            text, said = json.dumps(header).encode(), f"{name} is {header[name]['dtype']!r}"
        case 6:
            del header[name]
            text, said = json.dumps(header).encode(), f"without {name}"
        case 7:
            header[f"{name}x"] = header.pop(name)
            text, said = json.dumps(header).encode(), f"{name} has another name"
        case _:
            value, said = mutate_value(rng, header)
            text = json.dumps(value).encode()
    write(path, text, data)
    return f"{path.name}: {said}"


def mutate_data(rng: Random, path: Path) -> str:
    """Plants odd numbers among those of a safetensors file of float32."""
    header, data = parts(path)
    numbers = np.frombuffer(data, "<f4").copy()
    where = int(rng.integers(len(numbers)))
    planted = pick(rng, [np.nan, np.inf, -np.inf, 3e38, 1e-45, 0.0])
    numbers[where] = planted
    write(path, json.dumps(header).encode(), numbers.tobytes())
    return f"{path.name}: number {where} is {planted}"


# -- command lines

NUMBERS = [
    "0",
    "1",
    "-1",
    "2",
    "1e9",
    "999999999999",
    "nan",
    "inf",
    "-inf",
    "0x10",
    "1.5",
    "",
    " ",
    "x",
    "9" * 400,
    "-" * 50,
]
TEXTS = ["", " ", "red apple", "x" * 5000, "\ud800", "é🍎", "%s%n", "../..", "/", "--", "a\nb", "\0"[:0]]
SIZES = [
    "",
    "0x0",
    "16x16",
    "32x24",
    "99992x99992",
    "1x",
    "16:9",
    "x",
    "-16x16",
    "1e2x1e2",
    "16x16x16",
    "9" * 300 + "x8",
]
MESHES = ["", "data:1", "model:99999", "data:0", "model:-1", "x:1", "data:1,data:1", "data", ":", "model:" + "9" * 100]
DECODERS = ["ar", "ssd", "ssd-exact", "none", "", "AR", "SSD(rounds=2)", "SSD(rounds=999999999999)", "SSD(rounds=-1)",
            "SSD(", "SSD()()", "SSD(rounds='x')", "__import__('os')", "-" * 20_000, "SSD(rounds=1,rounds=2)",
            "ar,ssd"]  # fmt: skip
OPTIONS = {
    "--prompt": TEXTS,
    "--negative_prompt": TEXTS,
    "--prompts_file": ["n" * 300, "", "nowhere.txt", ".", "/dev/null", "README.md"],
    "--num_images": NUMBERS,
    "--seed": NUMBERS,
    "--cfg_scale": NUMBERS,
    "--temperature": NUMBERS,
    "--top_k": NUMBERS,
    "--top_p": NUMBERS,
    "--max_batch": NUMBERS,
    "--size": SIZES,
    "--mesh": MESHES,
    "--decoder": DECODERS,
    "--compare": DECODERS,
    "--attention": ["plain", "x", ""],
    "--quantize": ["int8", "int4", ""],
    "--weights": ["n" * 300, "nowhere", "", ".", "README.md", "random", "a/b"],
    "--heads": ["n" * 300, "nowhere", "", "."],
    "--vq_weights": ["n" * 300, "nowhere", "", "."],
    "--config": [
        "configs/emoji.py",
        "n" * 300,
        "configs/emu3.py:tiny",
        "configs/emoji.py:x",
        "nowhere.py",
        "",
        ".",
        "README.md",
    ],
    "--process_id": NUMBERS,
    "--num_processes": NUMBERS,
}
"""Options of sample.py and what people, scripts and fuzzers put behind them."""


def command_line(rng: Random) -> list[str]:
    """Some options of a command that plans and draws nothing."""
    names = rng.permutation(list(OPTIONS))[: int(rng.integers(1, 5))]
    return ["--plan", *(f"{name}={pick(rng, OPTIONS[name])}" for name in names)]
