"""Feed mutated files to the readers until the time is over: python tests/storage/fuzz_archives.py SECONDS (needs atheris).

Whatever is in a file, `load` returns a model or raises one of this library's errors for files, in little memory. Half of the
files get the right checksums, so that what lies behind them is reached.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fastnn.storage.archives", "fastnn.storage.model_file", "fastnn.checkpoints"]):
    from fastnn import checkpoints
    from fastnn.storage import archives
import fastnn
from fastnn.errors import FileError

MEMORY = 300 << 20
FOLDER = Path(tempfile.mkdtemp())
TARGET = FOLDER / "target"
counts = {"files": 0, "models": 0}


def corpus() -> Path:
    """Small files of several models."""
    folder = FOLDER / "corpus"
    folder.mkdir()
    dense = fastnn.Dense(2, activation="tanh")
    models = [
        fastnn.Sequential([dense], seed=0),
        fastnn.Sequential([dense, fastnn.BatchNorm(), fastnn.Dropout(0.5), fastnn.Dense(1)], seed=1, dtype="float64"),
        fastnn.Sequential([fastnn.Flatten(), fastnn.Dense(1), fastnn.Activation("elu", alpha=0.5)], seed=2),
    ]
    for index, model in enumerate(models):
        checkpoints.save(
            model.build(3), folder / str(index), run=({"a": [1, None]}, {"b": model.build(3).weights.popitem()[1]})
        )
    return folder


def signed(content: bytes) -> bytes:
    """The same with the right checksums, as far as it can be read."""
    try:
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        manifest = json.loads(header["__metadata__"]["fastnn"])
        manifest["sha256"] = {}
        for name, entry in header.items():
            if name != "__metadata__":
                begin, stop = entry["data_offsets"]
                described = f"{entry['dtype']} {entry['shape']} ".encode()
                manifest["sha256"][name] = hashlib.sha256(described + content[end + begin : end + stop]).hexdigest()
        text = json.dumps(manifest)
        header["__metadata__"] = {"fastnn": text, "fastnn.sha256": hashlib.sha256(text.encode()).hexdigest()}
        made = json.dumps(header).encode()
        return len(made).to_bytes(8, "little") + made + content[end:]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError):
        return content


def one(content: bytes) -> None:
    counts["files"] += 1
    TARGET.write_bytes(signed(content) if counts["files"] % 2 else content)
    for read in (archives.read, checkpoints.load):
        try:
            read(TARGET)
            counts["models"] += read is checkpoints.load
        except FileError as error:
            if "\n" in str(error):
                raise AssertionError(f"more than one line: {error}") from error
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > start_memory + MEMORY:
        raise AssertionError("too much memory")
    if time.monotonic() > deadline:
        print(counts, "peak growth", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10) - (start_memory >> 20), "MiB")
        sys.stdout.flush()
        shutil.rmtree(FOLDER)
        os._exit(0)


if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    atheris.Setup([sys.argv[0], "-max_len=8192", "-verbosity=0", f"-artifact_prefix={FOLDER}/", str(corpus())], one)
    start_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    deadline = time.monotonic() + seconds
    atheris.Fuzz()
