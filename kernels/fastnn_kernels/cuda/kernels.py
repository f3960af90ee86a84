"""Kernels made of bodies: the text that NVRTC compiles.

A kernel is a row of *sections*, bodies that do not depend on each other; its blocks are dealt out to the sections in order. Its
arguments are, for every section, the number of its blocks and then the body's own. The text depends on functions and types
only, not on sizes: programs for other numbers of rows share what was compiled.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastnn_kernels.cuda.lowering import THREADS, Body

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Section:
    """A body without its sizes: what decides the text of a kernel."""

    family: str
    function: str
    types: tuple[str, ...]
    """Declared types of its arguments."""
    source: str = ""


@dataclass(frozen=True)
class Kernel:
    """A row of sections that become one kernel."""

    sections: tuple[Section, ...]

    @property
    def name(self) -> str:
        """A readable name that no other row of sections has."""
        digest = hashlib.sha256(repr(self.sections).encode()).hexdigest()[:12]
        readable = "_".join(re.match(r"\w+", section.function)[0] for section in self.sections)[:60]  # type: ignore[index]
        return f"{readable}_{digest}"

    @property
    def types(self) -> tuple[str, ...]:
        """Declared types of all its arguments."""
        return tuple(type for section in self.sections for type in ("i64", *section.types))

    def text(self) -> str:
        """The definition of the kernel."""
        parameters = ", ".join(f"{type} a{index}" for index, type in enumerate(self.types))
        lines = [
            f'extern "C" __global__ void __launch_bounds__({THREADS}) {self.name}({parameters}) {{',
            "  DYNAMIC_SHARED(shared);",
            "  i64 block = blockIdx.x;",
        ]
        first = 0
        for section in self.sections:
            arguments = "".join(f", a{first + 1 + index}" for index in range(len(section.types)))
            lines.append(f"  if (block < a{first}) return {section.function}(Grid{{block, a{first}, shared}}{arguments});")
            lines.append(f"  block -= a{first};")
            first += 1 + len(section.types)
        return "\n".join([*lines, "}", ""])


def section(body: Body) -> Section:
    return Section(body.family, body.function, tuple(argument.c_type for argument in body.arguments), body.source)


def kernel(bodies: Iterable[Body]) -> Kernel:
    """The kernel in which these bodies run side by side."""
    return Kernel(tuple(section(body) for body in bodies))


def unit(kernels: Sequence[Kernel]) -> str:
    """The whole text of some kernels: what their families include and what was written for them, then the kernels."""
    families = dict.fromkeys(section.family for kernel in kernels for section in kernel.sections)
    seen: set[str] = set()
    parts = [_resolve_includes("common.cuh", seen)]
    parts += [_resolve_includes(f"{family}.cu", seen) for family in families]
    parts += dict.fromkeys(section.source for kernel in kernels for section in kernel.sections if section.source)
    parts += dict.fromkeys(kernel.text() for kernel in kernels)
    return "\n".join(parts)


@functools.cache
def _file(name: str) -> str:
    return (FOLDER / ("include" if name.endswith(".cuh") else "families") / name).read_text(encoding="utf-8")


def _resolve_includes(name: str, seen: set[str]) -> str:
    """The text of a file with what it includes put in its place, each file once."""
    if name in seen:
        return ""
    seen.add(name)
    lines = []
    for line in _file(name).splitlines():
        include = re.fullmatch(r'#include "([\w.]+)"', line.strip())
        lines.append(_resolve_includes(include[1], seen) if include else line)
    return "\n".join(lines)
