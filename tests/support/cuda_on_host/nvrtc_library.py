"""NVRTC of any version, from a library file and not by way of CuPy, which knows one of them a process."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VARIABLE = "FASTNN_NVRTC"
"""Names a folder with a folder of libraries for each version."""


def named() -> dict[str, Path]:
    """The libraries in the folder that the environment names, by the names of their folders there."""
    folder = os.environ.get(VARIABLE)
    found = sorted(Path(folder).rglob("libnvrtc.so.*[0-9]")) if folder else []
    return {library.relative_to(folder).parts[0]: library for library in found}


class NvrtcError(Exception):
    """A call was refused."""


class Nvrtc:
    """One library, with the functions of `cupy.cuda.nvrtc` that are used. Handles are those of the library."""

    NVRTCError = NvrtcError

    def __init__(self, path: Path) -> None:
        for builtins in path.parent.glob("libnvrtc-builtins.so*"):
            ctypes.CDLL(str(builtins))  # looked up by its name when something is compiled
        self._library = ctypes.CDLL(str(path))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, f"nvrtc{name}")(*arguments)
        if code:
            raise NvrtcError(f"nvrtc{name}: error {code}")

    def _content(self, name: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"Get{name}Size", program, ctypes.byref(size))
        content = ctypes.create_string_buffer(size.value)
        self._call(f"Get{name}", program, content)
        return content.raw[: max(0, size.value - 1)]

    def getVersion(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("Version", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def getSupportedArchs(self) -> list[int]:
        count = ctypes.c_int()
        self._call("GetNumSupportedArchs", ctypes.byref(count))
        found = (ctypes.c_int * count.value)()
        self._call("GetSupportedArchs", found)
        return list(found)

    def createProgram(self, source: str, name: str, headers: Sequence[str], includes: Sequence[str]) -> ctypes.c_void_p:
        assert not headers
        assert not includes
        program = ctypes.c_void_p()
        self._call("CreateProgram", ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        return program

    def compileProgram(self, program: ctypes.c_void_p, options: Sequence[str]) -> None:
        self._call("CompileProgram", program, len(options), (ctypes.c_char_p * len(options))(*(o.encode() for o in options)))

    def getProgramLog(self, program: ctypes.c_void_p) -> str:
        return self._content("ProgramLog", program).decode()

    def getCUBIN(self, program: ctypes.c_void_p) -> bytes:
        return self._content("CUBIN", program)

    def getPTX(self, program: ctypes.c_void_p) -> bytes:
        return self._content("PTX", program)

    def destroyProgram(self, program: ctypes.c_void_p) -> None:
        self._call("DestroyProgram", ctypes.byref(program))
