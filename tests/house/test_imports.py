"""Imports inside ssd_jax run one way (docs/architecture.md), and a few things do not occur in the library at all.

Everything is read from the source with `ast`. Module names are relative to the package: "decode.engine"; "" is
ssd_jax/__init__.py. The checker is tested first, on small sources in memory.
"""

import ast
import re
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "ssd_jax"

# Low to high. A module imports from its own group or a lower one. A new module belongs into one of these lines.
LAYERS = [
    {"errors", "files", "lock", "results", "compiling", "viz", "version"},
    {"sequence"},
    {"sampling"},
    {"models"},
    {"prompts"},
    {"backbones"},
    {"decode", "weights", "parallel"},
    {"pipeline"},
    {"data", "training"},
    {"eval"},
    {"recipes", "bench", "plan", "check", "demo"},
    {"configs", "cli"},
    {""},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# Further limits inside the layers.
BINDING = ("decode.model_verifier", "decode.engine")  # the others receive a verifier and know no model
NOT_FOR_PURE_DECODE = ("models", "backbones", "weights", *BINDING)
WEIGHTS_MAY_IMPORT = (
    "models.config",
    "models.config_json",
    "models.vq_config",
    "models.int8",
    "backbones",
    "parallel.mesh",
    "weights",
)
WEIGHTS_MAY_IMPORT += ("errors", "files")
SHARED = {
    "__init__",
    "base",
    "emu_text",
    "fields",
    "hf_config",
    "hf_vq",
    "prompting",
}  # files of backbones/ that are no rooms
ROOMS = {path.stem for path in (PACKAGE / "backbones").glob("*.py")} - SHARED  # others find them in __init__'s table
MAY_ENTER = {"emoji": ("data", "recipes", "configs")} | dict.fromkeys(
    ROOMS - {"emoji"}, ("configs",)
)  # what trains the bundled model
BELOW_THE_TABLE = {f"backbones.{name}" for name in (*ROOMS, "base", "emu_text", "fields")}
NAMES = re.compile("|".join([*ROOMS - {"emoji"}, "chameleon"]), re.IGNORECASE)
MAY_NAME = ("backbones", "bench", "check", "configs", "cli")  # bench and check know transformers' classes
OUTSIDE = {"configs", "train", "sample", "tests"}  # the checkout's own files, not installed
UNSAFE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve"}
# The one exception: a module that reads a single known file, whose sha256 it checks before it interprets a byte, with
# an unpickler that knows four names (tests/eval/test_eval.py holds it to both).
MAY_UNPICKLE = {("eval.unpickle", "pickle")}


def within(name: str, *parents: str) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def imported_names(tree: ast.AST, module: str, is_package: bool):
    """Yields (line, absolute dotted name) of every import, lazy ones too; `from a import b` gives "a.b"."""
    package = f"ssd_jax.{module}".rstrip(".").split(".")
    if not is_package:
        package.pop()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((node.lineno, base if alias.name == "*" else f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from ((node.lineno, arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def import_faults(module: str, target: str):
    """What is wrong with `module` (relative name) importing `target` (absolute name)."""
    root, _, inner = target.partition(".")
    if root in UNSAFE and (module, target) not in MAY_UNPICKLE:
        yield f"uses {root}"
    if root in OUTSIDE:
        yield f"imports {root}, which is not part of the library"
    if root != "ssd_jax":
        return
    top, own = inner.split(".")[0], module.split(".")[0]
    starts = module.endswith("__main__") and top == "cli"  # python -m
    if (
        RANK.get(top, RANK[""]) > RANK[own] and not starts
    ):  # a name that is no module lives in ssd_jax/__init__.py, the top
        yield f"imports {target}, which is higher up"
    if module.startswith("decode.") and module not in BINDING and within(inner, *NOT_FOR_PURE_DECODE):
        yield f"imports {target}, but receives a verifier instead"
    room = inner.removeprefix("backbones.").split(".")[0]
    if within(inner, "backbones") and room in ROOMS and module != "backbones" and own not in MAY_ENTER.get(room, ()):
        yield f"imports {target}: rooms are found in the table of backbones"
    if module in BELOW_THE_TABLE and within(inner, "backbones") and not within(inner, *BELOW_THE_TABLE):
        yield f"imports {target}: the table knows the rooms, not the reverse"
    if own == "decode" and top == "training":
        yield f"imports {target}: training may use decode, not the reverse"
    if own == "data" and top == "training":
        yield f"imports {target}: training uses data, not the reverse"
    if own == "weights" and not within(inner, *WEIGHTS_MAY_IMPORT):
        yield f"imports {target}; weights may import only {', '.join(WEIGHTS_MAY_IMPORT)}"


def is_entry_point(tree: ast.AST, module: str) -> bool:
    """What is run from a command line: may print and set jax.config."""
    guarded = any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in ast.walk(tree))
    return (
        within(module, "cli", "bench.transformers_process", "check.transformers_process")
        or within(module, "eval")
        and (guarded or module.endswith("__main__"))
    )


def code_faults(node: ast.AST, entry_point: bool):
    """What is wrong with one syntax node, whatever its module imports."""
    match node:
        case ast.Call(func=ast.Name(id="print")) if not entry_point:
            yield "prints"
        case ast.Attribute(attr="update", value=ast.Attribute(attr="config", value=ast.Name(id="jax"))):
            if not entry_point:
                yield "sets jax.config"
        case ast.Attribute(ctx=ast.Store(), value=ast.Attribute(attr="config", value=ast.Name(id="jax"))):
            if not entry_point:
                yield "sets jax.config"
        case ast.keyword(arg="trust_remote_code") | ast.Constant(value="trust_remote_code"):
            yield "trust_remote_code"
        case ast.keyword(arg="allow_pickle", value=value) if ast.unparse(value) != "False":
            yield "uses pickle (allow_pickle)"


def named_models(tree: ast.AST):
    """Yields (line, text) of published models that code names; docstrings and comments may."""
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname", "value"):
            found = getattr(node, field, None)
            if isinstance(found, str) and id(node) not in texts and NAMES.search(found):
                yield node.lineno, found


def faults(module: str, source: str, is_package: bool = False) -> list[str]:
    """Every broken rule in one module, as "ssd_jax.module:line what"."""
    tree = ast.parse(source)
    if module.split(".")[0] not in RANK:
        return [f"ssd_jax.{module}:1 has no layer in tests/house/test_imports.py"]
    entry_point = is_entry_point(tree, module)
    found = []
    for line, target in imported_names(tree, module, is_package):
        found += [(line, fault) for fault in import_faults(module, target)]
        if within(target, "jax.config") and not entry_point:
            found.append((line, "imports jax.config"))
    for node in ast.walk(tree):
        found += [(node.lineno, fault) for fault in code_faults(node, entry_point)]
    if not within(module, *MAY_NAME):
        found += [(line, f"names a published model: {text!r}") for line, text in named_models(tree)]
    return [f"ssd_jax.{module}:{line} {fault}" for line, fault in sorted(found)]


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        # upwards, in every spelling
        ("sequence.masks", "import ssd_jax.models.transformer", "higher up"),
        ("sequence.masks", "from ssd_jax.models import layers", "higher up"),
        ("sequence.masks", "from ssd_jax import models", "higher up"),
        ("sequence.masks", "from .. import models", "higher up"),
        ("sequence.masks", "from ..models.layers import rope", "higher up"),
        ("models.vq", "from ..pipeline import load", "higher up"),
        ("models.vq", "from .. import decode", "higher up"),
        ("models.vq", "importlib.import_module('ssd_jax.pipeline.pipeline')", "higher up"),
        ("models.vq", "def late():\n    from ssd_jax import parallel", "higher up"),
        ("decode.engine", "from ssd_jax import pipeline", "higher up"),
        ("training.loop", "from ssd_jax.cli.entry import main", "higher up"),
        ("viz", "from ssd_jax.sampling import draw", "higher up"),
        ("models.config", "from ssd_jax.backbones import BACKBONES", "higher up"),
        ("prompts.words", "from ..backbones.base import Token", "higher up"),
        ("backbones.emu3", "from ssd_jax.weights.load import read_config", "higher up"),
        ("pipeline", "import ssd_jax", "higher up"),
        ("pipeline.pipeline", "from ssd_jax import PRESETS", "higher up"),
        ("pipeline.pipeline", "from ssd_jax import *", "higher up"),
        # limits inside the layers
        ("decode.raster", "from ssd_jax.models.config import ModelConfig", "receives a verifier"),
        ("decode.acceptance", "from ..weights import load", "receives a verifier"),
        ("decode.state", "from . import engine", "receives a verifier"),
        ("decode.engine", "from ssd_jax import training", "not the reverse"),
        ("data.emoji", "from ssd_jax.training.losses import psnr", "not the reverse"),
        ("weights.load", "from ssd_jax.models import transformer", "weights may import only"),
        ("weights.load", "from ssd_jax.models import config_reader", "weights may import only"),
        ("weights.load", "from ssd_jax import sequence", "weights may import only"),
        ("weights.load", "from ssd_jax.backbones.emu3 import MODEL", "found in the table"),
        ("pipeline.loading", "from ssd_jax.backbones import janus", "found in the table"),
        ("pipeline.loading", "from ssd_jax.backbones import emoji", "found in the table"),
        ("backbones.emu3", "from ssd_jax.backbones.janus import VQ", "found in the table"),
        ("backbones.emu3", "from ssd_jax.backbones import PUBLISHED", "not the reverse"),
        ("backbones.base", "from .hf_config import from_hf", "not the reverse"),
        ("pipeline", "from configs import emoji", "not part of the library"),
        ("utils", "", "has no layer"),
        ("models.config", "FAMILIES = ('emoji', 'emu3')", "names a published model"),
        ("weights.load", "if config.architecture == 'chameleon':\n    pass", "names a published model"),
        ("plan.rendering", "def janus_rows():\n    return 1", "names a published model"),
        ("training.loop", "f(f'of Emu3 {x}')", "names a published model"),
        # not in the library
        ("training.checkpoint", "import pickle", "uses pickle"),
        ("training.checkpoint", "from pickle import loads", "uses pickle"),
        ("training.checkpoint", "np.load(path, allow_pickle=True)", "uses pickle"),
        ("prompts", "AutoTokenizer.from_pretrained(name, trust_remote_code=True)", "trust_remote_code"),
        ("prompts", "f(**{'trust_remote_code': True})", "trust_remote_code"),
        ("pipeline", "print(1)", "prints"),
        ("eval.nll", "print(1)", "prints"),
        ("bench.pass_pieces", "print(1)", "prints"),
        ("eval.features", "import pickle", "uses pickle"),
        ("eval.unpickle", "import dill", "uses dill"),
        ("eval.unpickle", "from pickle import loads", "uses pickle"),
        ("pipeline", "jax.config.update('jax_enable_x64', True)", "sets jax.config"),
        ("pipeline", "jax.config.jax_enable_x64 = True", "sets jax.config"),
        ("pipeline", "from jax import config", "imports jax.config"),
    ],
)
def test_checker_catches(module, source, expected):
    assert any(expected in fault for fault in faults(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sequence.masks", "import jax\nfrom ssd_jax.sequence import layout, cache\nfrom .dims import B"),
        (
            "models.transformer",
            "from . import layers\nfrom .config import NONE\nfrom ..sequence.masks import causal",
        ),
        (
            "decode.raster",
            "from . import state\nfrom ssd_jax.sampling import noise\nfrom ssd_jax.sequence import layout",
        ),
        ("decode.engine", "from ssd_jax.models import transformer\nfrom .raster import decode"),
        (
            "training.loop",
            "from ssd_jax.decode.engine import generate\nfrom . import checkpoint\nfrom ssd_jax import parallel, viz",
        ),
        ("weights.load", "from ssd_jax.errors import UserError"),
        ("weights.load", "from ssd_jax.backbones import PUBLISHED\nfrom ..backbones.hf_config import from_hf"),
        ("backbones.emu3", "from ssd_jax.backbones.base import Token\nfrom . import fields\nNAME = 'emu3'"),
        ("models.movq", "'''As in Emu3.'''\nx = 1\n'''Emu3 has 1.'''"),
        ("bench.transformers_models", "FAMILIES = {'janus': 1}"),
        ("recipes.emoji", "from ssd_jax.backbones.emoji import EmojiPrompts"),
        ("cli.entry", "from ssd_jax.errors import UserError\njax.config.update('a', 1)\nprint(1)"),
        (
            "weights.load",
            "from ssd_jax.models.config import NONE\nfrom . import mapping\nfrom ..parallel.mesh import place",
        ),
        ("pipeline", "from . import decode, weights\nconfig.update(dict(a=1))  # an ml_collections config"),
        ("cli.bench", "from ssd_jax.pipeline.loading import load\njax.config.update('a', 1)\nprint(1)"),
        ("bench.__main__", "from ssd_jax.cli.bench import main"),
        ("eval.nll", "def main():\n    print(1)\nif __name__ == '__main__':\n    main()"),
        ("eval.__main__", "print(1)"),
        ("eval.unpickle", "import pickle"),
        ("training.checkpoint", "np.load(path, allow_pickle=False)\nlog.info('print(1)')"),
    ],
)
def test_checker_allows(module, source):
    assert faults(module, source) == []


def test_checker_resolves_relative_imports_in_a_package():
    source = "from .pipeline import load\nfrom . import viz"
    assert faults("", source, is_package=True) == []
    assert len(faults("decode", "from ..pipeline import load\nfrom .engine import generate", is_package=True)) == 1


def test_the_library_keeps_the_rules():
    files = sorted(PACKAGE.rglob("*.py"))
    assert files
    found = []
    for path in files:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        found += faults(module, path.read_text(encoding="utf-8"), is_package)
    assert not found, "\n".join(found)


def rooms(path: Path) -> str:
    """The folder, or loose module, of the package that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Names in a circle of those that need each other, and all that need one of these; empty without circles."""
    left = dict(graph)
    while free := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_a_circle_is_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def test_no_room_imports_itself_through_another():
    """Also inside a layer, whose rooms may use each other: a circle of rooms is one room with walls in the way."""
    graph: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "__init__.py" or path.name == "__main__.py":
            continue
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        names = imported_names(ast.parse(path.read_text(encoding="utf-8")), module, path.name == "__init__.py")
        needed = {name.split(".")[1] for _, name in names if name.startswith("ssd_jax.")} & RANK.keys()
        graph.setdefault(rooms(path), set()).update(needed - {rooms(path)})
    assert cycle(graph) == []


def test_a_file_is_read_in_one_sitting():
    long = {path.name: lines for path in PACKAGE.rglob("*.py") if (lines := len(path.read_text().splitlines())) > 250}
    assert not long
