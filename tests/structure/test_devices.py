"""What devices there are is known to the engines, and to the tools that measure them: no other code goes by their names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastnn
from fastnn import arrays

LIBRARY = Path(fastnn.__file__).parent
MAY = ("engines", "arrays.py", "benchmarks", "cli", "errors.py")
"""Where devices are named: engines, the row of each in `arrays`, tools, and the list of what others call things."""

NAME = re.compile("cuda|cupy", re.IGNORECASE)


def named(source: str) -> Iterator[tuple[int, str]]:
    """The lines of code, not of docstrings and messages, that name a device: identifiers, imports, and strings of one word."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for child in [] if docstring else ast.iter_child_nodes(node):
            for field in ("id", "attr", "arg", "name", "asname", "module", "value"):
                found = getattr(child, field, None)
                if isinstance(found, bytes):
                    found = found.decode(errors="replace")
                if isinstance(found, str) and len(found.split()) == 1 and NAME.search(found):
                    yield getattr(child, "lineno", 0), found


@pytest.mark.parametrize(
    "line",
    [
        "import cupy",
        "import numpy as cupy",
        "from fastnn.engines.cuda import X",
        "from fastnn.engines import cuda",
        "def f():\n    from fastnn_kernels.cuda import runtime",
        "x = engine.cuda_stream",
        "x = f(cuda=1)",
        "def f(cuda): pass",
        "def to_cuda(): pass",
        "class CudaFeed: pass",
        "if kind == 'cupy': pass",
        "if kind in ('numpy', 'cupy'): pass",
        "x = {'cuda:0': 1}",
        "sys.modules.get('cupy')",
        "if name.startswith(b'cuda:'): pass",
        "match x:\n    case 'cuda': pass",
        "x = f'{prefix}cuda:{n}'",
        "def f(device='cuda'): pass",
        "cast('CudaEngine', engine)",
        "CUDA = 2",
    ],
)
def test_code_that_goes_by_a_name_is_found(line: str) -> None:
    assert list(named(line))


@pytest.mark.parametrize(
    "line",
    [
        '"""Replays CUDA graphs."""',
        'def f():\n    """cuda"""',
        'X = 1\n"""cupy"""',
        "x = 1  # cuda",
        "raise InputTypeError(f'expected NumPy or CuPy arrays, got {x}')",
        "help='auto, cpu, cuda, or cuda:1 for a second GPU.'",
    ],
)
def test_docstrings_comments_and_messages_may_name_devices(line: str) -> None:
    assert not list(named(line))


def test_code_outside_of_engines_goes_by_no_device() -> None:
    paths = [path for path in LIBRARY.rglob("*.py") if path.relative_to(LIBRARY).parts[0] not in MAY]
    assert len(paths) > 100, "the files of the library"
    found = [f"{path.relative_to(LIBRARY)}:{line}: {what}" for path in paths for line, what in named(path.read_text())]
    assert not found


def test_engines_and_arrays_know_a_device_by_its_file_and_its_row() -> None:
    """Beside its own file: the row of `arrays.ELSEWHERE`, and `fastnn.engines.gpu`, which is public."""
    assert [(line, what) for line, what in named((LIBRARY / "arrays.py").read_text())] == [
        (line, what) for what in arrays.ELSEWHERE[2] for line in [_row()]
    ]
    for path in (LIBRARY / "engines").glob("*.py"):
        found = {what for _, what in named(path.read_text())}
        if path.name == "__init__.py":
            assert found == {"fastnn.engines.cuda", "CudaEngine"}
        elif path.name != "cuda.py":
            assert not found, path.name


def _row() -> int:
    lines = (LIBRARY / "arrays.py").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.startswith("ELSEWHERE"))
