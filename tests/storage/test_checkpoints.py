"""Models in files: what is saved continues exactly, other architectures are told apart, and folders survive whatever comes."""

from __future__ import annotations

import copy
import errno
import hashlib
import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn.checkpoints import Folder, read_run, restore, save
from fastnn.data.targets import Task
from fastnn.errors import FileError, FormatError, InputError, NotReadyError
from fastnn.storage import archives, model_file

Layers = list[fastnn.Layer]


def network(**options: Any) -> fastnn.Sequential:
    layers: Layers = [fastnn.Dense(4, activation="tanh"), fastnn.BatchNorm(), fastnn.Dropout(0.2), fastnn.Dense(2)]
    return fastnn.Sequential(layers, **{"seed": 7, **options})


def with_state(step: int = 3, **options: Any) -> fastnn.Sequential:
    """A model that looks as if it had been trained."""
    model = network(**options).build(5)
    slots = model.state.start_optimizer("Adam", ("mean", "square"), step)
    for slot, factor in zip(slots.values(), (0.5, step), strict=True):
        slot[...] = np.linspace(0, factor, model.parameter_count)
    model.optimizer = fastnn.Adam(fastnn.schedules.Cosine(0.01))
    model.counters.step, model.counters.epoch = step, 1
    model.task = Task("softmax_cross_entropy", "classes", np.array(["no", "yes"]))
    model.feature_names = ("a", "b", "c", "d", "ü")
    return model


def state_of(model: fastnn.Sequential) -> dict[str, Any]:
    """Everything that a file with the optimizer holds."""
    state = model.optimizer_state
    return {
        "weights": {name: value.tobytes() for name, value in model.weights.items()},
        "slots": None if state is None else {name: value.tobytes() for name, value in state.slots.items()},
        "optimizer": None if state is None else (state.optimizer, state.updates, model.optimizer),
        "counters": (model.counters.step, model.counters.epoch),
        "task": model.task,
        "trained": model.trained,
        "names": model.feature_names,
        "model": (repr(model), model.input_scale),
    }


def blobs(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(n, 5)).astype(np.float32)
    return X, (X[:, 0] + X[:, 1] > 0).astype(np.int64)


def change(path: Path, **changes: Any) -> None:
    """The file with other fields in its manifest, correctly signed."""
    manifest, tensors = archives.read(path)
    archives.write(path, {**manifest, **changes}, tensors)


# --- one file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_everything_comes_back(dtype: str, tmp_path: Path) -> None:
    model = with_state(dtype=dtype, input_scale=1 / 255, seed=2**64 - 1)
    values, arrays = {"epoch": 3, "history": {"loss": [0.5, 0.25]}}, {"best.0": np.arange(3), "order": np.zeros((2, 2))}
    save(model, tmp_path / "m", optimizer=True, run=(values, arrays))
    content = read_run(tmp_path / "m")
    assert state_of(content.model) == state_of(model)
    assert content.values == values
    assert {name: array.tolist() for name, array in content.arrays.items()} == {n: a.tolist() for n, a in arrays.items()}
    save(content.model, tmp_path / "n", optimizer=True, run=(values, arrays))
    assert (tmp_path / "n").read_bytes() == (tmp_path / "m").read_bytes()


def test_without_the_optimizer_and_a_run(tmp_path: Path) -> None:
    model = with_state()
    save(model, tmp_path / "m")
    content = read_run(tmp_path / "m")
    assert content.values is None
    assert content.arrays == {}
    assert content.model.optimizer_state is None
    assert state_of(content.model)["weights"] == state_of(model)["weights"]
    assert content.model.counters == model.counters
    fresh = network().build(5)
    save(fresh, tmp_path / "m", optimizer=True)
    assert state_of(fastnn.load(tmp_path / "m")) == state_of(fresh)


@pytest.mark.parametrize("optimizer", [fastnn.Adam(0.01), fastnn.SGD(0.1, momentum=0.9), fastnn.SGD(0.1)])
def test_fit_goes_on_as_it_would_have(optimizer: Any, tmp_path: Path) -> None:
    X, y = blobs()
    options = {"optimizer": optimizer, "batch_size": 16, "epochs": 2, "verbose": 0}
    model = network()
    model.fit(X, y, **options)
    save(model, tmp_path / "m", optimizer=True)
    loaded, restored = fastnn.load(tmp_path / "m"), network()
    restore(restored, tmp_path / "m")
    for twin in (model, loaded, restored):
        twin.fit(X, y, **options)
    assert state_of(loaded) == state_of(model) == state_of(restored)
    plain = network()
    plain.fit(X, y, **{**options, "epochs": 4})
    assert state_of(plain)["weights"] == state_of(model)["weights"]


def test_a_model_in_every_other_wrapping_predicts_the_same_bits(tmp_path: Path) -> None:
    import joblib

    X, _ = blobs()
    model = with_state()
    joblib.dump(model, tmp_path / "j")
    model.save(tmp_path / "m")
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        joblib.load(tmp_path / "j"),
        fastnn.load(tmp_path / "m"),
    ):
        assert np.array_equal(twin(X), model(X))
        assert np.array_equal(twin.predict_proba(X), model.predict_proba(X))
        assert twin.predict(X).tolist() == model.predict(X).tolist()
        twin.set_weights({"0.weight": twin.weights["0.weight"] + 1})
    assert not np.array_equal(twin(X), model(X))


def test_every_bit_of_a_model_flipped(tmp_path: Path) -> None:
    save(fastnn.Sequential([fastnn.Dense(1)], seed=1).build(1), tmp_path / "m")
    content = bytearray((tmp_path / "m").read_bytes())
    generator = random.Random(5)
    for index in range(len(content)):
        flipped = 1 << generator.randrange(8)
        content[index] ^= flipped
        (tmp_path / "m").write_bytes(content)
        with pytest.raises(FormatError):
            fastnn.load(tmp_path / "m")
        content[index] ^= flipped


TRAINED = {"device": "cpu", "precision": "float32"}
OPTIMIZER = {"kind": "Adam", "config": None, "updates": 3, "slots": ["mean", "square"]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": 3, "fastnn": "4.5.6"}, r"has format 3; .* reads format 2; .* fastnn 4.5.6: pip install 'fastnn-xp>=4.5.6'"),
        ({"format": 1}, "has format 1; this version of fastnn reads format 2$"),
        ({"format": "2"}, "format"),
        ({"format": None}, "format"),
        ({"random_stream": 99}, "random stream 99"),
        ({"dtype": "float16"}, "dtype"),
        ({"dtype": "float64"}, "0.weight of float32"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"seed": 10**300}, "does not describe"),
        ({"seed": 1.5}, "seed"),
        ({"input_scale": 0}, "input_scale"),
        ({"input_scale": True}, "input_scale"),
        ({"features": []}, "features"),
        ({"features": [0]}, "features"),
        ({"features": [6], "feature_names": None}, "0.weight: expected the shape"),
        ({"features": [2**62], "feature_names": None}, "0.weight: expected the shape"),
        ({"features": [2**63]}, "features"),
        ({"feature_names": ["a"]}, "1 names"),
        ({"feature_names": "abcde"}, "feature_names"),
        ({"more": 1}, "more"),
        ({"layers": []}, "at least one layer"),
        ({"layers": [{"units": 4}]}, "layer None"),
        ({"layers": [{"layer": ["Dense"]}]}, r"layer \['Dense'\]"),
        ({"layers": [{"layer": "Dens"}]}, "did you mean 'Dense'.*layers="),
        ({"layers": [{"layer": "Dense", "units": 4, "more": 1}]}, "more"),
        ({"layers": [{"layer": "Dense", "units": 10**12}]}, "0.weight: expected the shape"),
        ({"layers": [{"layer": "Dense", "units": 2**62}] * 3}, "0.weight: expected the shape"),
        ({"layers": [{"layer": "Dense", "units": 10**200}]}, "does not describe|other arrays"),
        ({"layers": [{"layer": "Dense", "units": "4"}]}, "units"),
        ({"layers": [{"layer": "Dense"}]}, "units"),
        ({"task": {"loss": "x"}}, "loss"),
        ({"task": {"loss": "x", "kind": "sorts", "classes": None}}, "sorts"),
        ({"trained": {**TRAINED, "more": 1}}, "more"),
        ({"trained": {"device": "cpu"}}, "precision"),
        ({"counters": {"step": -1, "epoch": 0}}, "step"),
        ({"counters": {"step": 2**70, "epoch": 0}}, "step"),
        ({"counters": None}, "counters"),
        ({"optimizer": None}, "optimizer"),
        ({"optimizer": {**OPTIMIZER, "slots": ["mean"]}}, "state"),
        ({"optimizer": {**OPTIMIZER, "slots": ["mean", "parameters"]}}, "state"),
        ({"optimizer": {**OPTIMIZER, "updates": -1}}, "updates"),
        ({"optimizer": {**OPTIMIZER, "config": {"type": "Adamm"}}}, "Adam"),
        ({"optimizer": {**OPTIMIZER, "config": {"type": "Adam", "learning_rate": "a"}}}, "learning.rate"),
        ({"run": []}, "run"),
    ],
)
def test_manifests_that_describe_nothing(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    save(with_state(), tmp_path / "m", optimizer=True)
    change(tmp_path / "m", **changes)
    tracemalloc.start()
    with pytest.raises(FormatError, match=says) as caught:
        fastnn.load(tmp_path / "m")
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("0.weight", np.full((5, 4), np.nan, np.float32), "NaN or infinity in 0.weight"),
        ("0.weight", np.zeros((4, 5), np.float32), "expected the shape"),
        ("0.weight", np.zeros((5, 4)), "float64"),
        ("9.weight", np.zeros(1, np.float32), "9.weight: expected the shape None"),
        ("optimizer.mean", np.full(42, np.inf, np.float32), "infinity in mean"),
        ("optimizer.mean", np.zeros((21, 2), np.float32), "shapes"),
        ("optimizer.mean", np.zeros(3, np.float32), "shapes"),
        ("optimizer.parameters", np.zeros(42, np.float32), "state"),
    ],
)
def test_arrays_that_do_not_fit(name: str, value: np.ndarray, says: str, tmp_path: Path) -> None:
    save(with_state(), tmp_path / "m", optimizer=True)
    manifest, tensors = archives.read(tmp_path / "m")
    archives.write(tmp_path / "m", manifest, {**tensors, name: value})
    with pytest.raises(FormatError, match=says):
        fastnn.load(tmp_path / "m")
    for slot in ("mean", "square"):
        tensors[f"optimizer.{slot}"] = np.zeros(41, np.float32)
    archives.write(tmp_path / "m", manifest, tensors)
    with pytest.raises(FormatError, match=r"optimizer\.mean of 41 numbers for 42"):
        fastnn.load(tmp_path / "m")


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="build"):
        save(network(), tmp_path / "m")
    model = with_state()
    for run in [({"a": object()}, {}), ({}, {"a/b": np.zeros(1)}), ({}, {"a": np.zeros(1, bool)}), ({"a": np.inf}, {})]:
        with pytest.raises(InputError):
            save(model, tmp_path / "m", run=run)
    assert list(tmp_path.iterdir()) == []


# --- restored into a model ------------------------------------------------------------------------------------------


def test_restored_into_a_model(tmp_path: Path) -> None:
    model = with_state()
    save(model, tmp_path / "m", optimizer=True, run=({"a": 1}, {"b": np.arange(2)}))
    for twin in (network(), network().build(5), with_state(99)):
        values, arrays = restore(twin, tmp_path / "m")
        assert values == {"a": 1}
        assert arrays["b"].tolist() == [0, 1]
        assert state_of(twin) == state_of(model)
    save(model, tmp_path / "m")
    twin = with_state(99)
    restore(twin, tmp_path / "m")
    assert twin.optimizer_state is None


def test_another_architecture_is_told_apart(tmp_path: Path) -> None:
    save(with_state(), tmp_path / "m", optimizer=True)
    layers: Layers = [fastnn.Dense(3, activation="tanh"), fastnn.Dense(2), fastnn.Dense(2)]
    others = {
        "layer 0.*units=4.*units=3": fastnn.Sequential(layers, seed=7).build(5),
        r"1\.gamma: the file has \(4,\), the model has nothing": fastnn.Sequential(layers, seed=7).build(5),
        r"2\.bias: the file has nothing, the model has \(2,\)": fastnn.Sequential(layers, seed=7),
        "dtype: the file has float32, the model has float64": network(dtype="float64").build(5),
        "input_scale: the file has 1.0, the model has 0.5": network(input_scale=0.5),
        r"0\.weight: the file has \(5, 4\), the model has \(6, 4\)": network().build(6),
        "activation='tanh'.*activation='relu'": fastnn.Sequential(
            [fastnn.Dense(4, activation="relu"), *network().layers[1:]], seed=7
        ),
        "seed=7": network(seed=8),
    }  # fmt: skip
    for says, other in others.items():
        before = state_of(other) if other.built else None
        with pytest.raises(InputError, match=f"(?s){says}") as caught:
            restore(other, tmp_path / "m")
        assert max(map(len, str(caught.value).splitlines()[1:]), default=0) <= 128
        assert (state_of(other) if other.built else None) == before


def test_initial_values_do_not_matter_any_more(tmp_path: Path) -> None:
    save(with_state(), tmp_path / "m")
    first = fastnn.Dense(4, activation="tanh", weight_init=fastnn.initializers.Normal(0.3))
    restore(fastnn.Sequential([first, *network().layers[1:]], seed=7), tmp_path / "m")


# --- folders --------------------------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "deep" / "run", keep=2)
    assert folder.latest() is None
    for step in (3, 20, 1_000_000_000):
        path = folder.write(with_state(step), ({"step": step}, {}))
        assert folder.latest() == path
        assert read_run(path).values == {"step": step}
    assert names(folder.path) == ["lock", "step-000000020.safetensors", "step-1000000000.safetensors"]
    assert folder.write_best(with_state(5)) == folder.path / "best.safetensors" == folder.best
    folder.write_best(with_state(6))
    assert fastnn.load(folder.best).counters.step == 6
    assert folder.latest() == path
    folder.write(with_state(15))
    assert folder.latest() == path, "later steps stay"
    assert (folder.path / "step-000000015.safetensors").is_file()
    for keep in (0, -1, True, 1.5, "2"):
        with pytest.raises(InputError, match="keep"):
            Folder(tmp_path, keep=keep)  # type: ignore[arg-type]


def test_the_older_ones_go_only_when_the_new_one_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path, keep=1)
    old = folder.write(with_state(1))

    def full(*args: object) -> None:
        assert old.is_file()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, full)
            with pytest.raises(FileError, match=os.strerror(errno.ENOSPC)):
                folder.write(with_state(2))
        assert names(tmp_path) == ["lock", old.name]
        assert folder.latest() == old


def test_a_damaged_newest_one_is_passed_over(tmp_path: Path) -> None:
    folder = Folder(tmp_path, keep=3)
    paths = [folder.write(with_state(step)) for step in (1, 2, 3)]
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    paths[1].write_bytes(b"")
    with pytest.warns(UserWarning, match=r"step-000000001.* is used: .*000003.*000002") as warned:
        assert folder.latest() == paths[0]
    assert len(warned) == 1
    paths[0].write_bytes(b"")
    with pytest.raises(FormatError, match="no whole file"):
        folder.latest()


def test_only_files_of_these_names_are_looked_at(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run")
    path = folder.write(with_state(1))
    outside = tmp_path / "outside"
    outside.write_bytes(path.read_bytes())
    (folder.path / "step-000000009.safetensors").symlink_to(outside)
    (folder.path / "step-000000008.safetensors").mkdir()
    (folder.path / "step-7.safetensors").write_bytes(b"")
    (folder.path / ("." + path.name + ".0123456789abcdeX")).write_bytes(b"")
    (folder.path / f".{path.name}.0123456789abcdef").symlink_to(outside)
    (folder.path / "best.safetensors").symlink_to(outside)
    before = names(folder.path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert folder.latest() == path
        with folder.lock():
            assert names(folder.path) == before
    folder.write_best(with_state(4))
    assert not folder.best.is_symlink()
    assert outside.read_bytes() == path.read_bytes()
    (folder.path / "lock").unlink()
    (folder.path / "lock").symlink_to(outside)
    with pytest.raises(FileError, match="cannot be written"):
        folder.write(with_state(5))
    assert outside.read_bytes() == path.read_bytes()


def test_leftovers_go_when_the_lock_is_taken(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for name in (".step-000000001.safetensors.0123456789abcdef", ".best.safetensors.fedcba9876543210"):
        (tmp_path / name).write_bytes(b"half")
    with folder.lock(), folder.lock():
        assert names(tmp_path) == ["lock"]
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_one_folder_writes_at_a_time(tmp_path: Path) -> None:
    first, second = Folder(tmp_path), Folder(tmp_path)
    with first.lock():
        first.write(with_state(1))
        with first.lock():
            pass
        for use in (lambda: second.write(with_state(2)), lambda: second.write_best(with_state(2)), second.lock().__enter__):
            with pytest.raises(FileError, match=f"is being written by process {os.getpid()}"):
                use()
        assert second.latest() == tmp_path / "step-000000001.safetensors"
    second.write(with_state(2))
    with pytest.raises(ZeroDivisionError), first.lock():
        raise ZeroDivisionError
    second.write(with_state(3))


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(FileError, match=f"cannot be locked: {os.strerror(code)}"):
        Folder(tmp_path).write(with_state(1))
    monkeypatch.undo()
    Folder(tmp_path).write(with_state(1))


HOLDER = """
import sys, time
from fastnn.checkpoints import Folder
with Folder(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_and_one_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(FileError, match=f"is being written by process {holder.pid}"):
                folder.write(with_state(1))
        finally:
            holder.kill()
        holder.wait()
        folder.write(with_state(1))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("killed", [False, True])
def test_a_forked_child_does_not_hold_on_to_the_lock(killed: bool, tmp_path: Path) -> None:
    """Whether its parent lets go of the lock or dies: the child, which lives on, does not keep it."""
    (wait, end), (born, cry) = os.pipe(), os.pipe()
    parent = os.fork()
    if not parent:
        try:
            with Folder(tmp_path).lock():
                child = os.fork()
                if not child:
                    os.write(cry, b"c")
                    os.close(end)
                    os.read(wait, 1)
                    os._exit(0)
                if killed:
                    os.read(born, 1)
                    os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(parent, 0)
    try:
        with Folder(tmp_path).lock():
            pass
    finally:
        for handle in (wait, end, born, cry):
            os.close(handle)


def writes_until_killed(path: Path) -> None:
    """In a forked child: write generation after generation."""
    try:
        folder, model = Folder(path, keep=2), with_state(0)
        latest = folder.latest()
        step = 0 if latest is None else int(latest.stem[5:])
        with folder.lock():
            while True:
                step += 1
                model.counters.step = step
                model.set_weights({"0.weight": np.full((5, 4), step, np.float32)})
                folder.write(model, ({"step": step}, {"steps": np.full(2000, step)}))
                folder.write_best(model, ({"step": step}, {}))
    finally:
        os._exit(1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_writers_leave_whole_files(tmp_path: Path) -> None:
    path, generator, step = tmp_path, random.Random(11), 0
    for _ in range(200):
        child = os.fork()
        if not child:
            writes_until_killed(path)
        time.sleep(generator.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        folder = Folder(path, keep=2)
        latest = folder.latest()
        whole = sorted(path.glob("step-*"))
        assert len(whole) <= 8, "a kill before the removal leaves one more, until a write is not disturbed"
        if latest is None:
            assert step == 0
            continue
        assert latest == whole[-1]
        for file in whole:
            model, values, arrays = read_run(file)
            number = int(file.stem[5:])
            assert values == {"step": number} == {"step": model.counters.step}
            assert (arrays["steps"] == number).all()
            assert (model.weights["0.weight"] == number).all()
        assert int(latest.stem[5:]) >= step, "what was written once is there for good"
        step = int(latest.stem[5:])
        if folder.best.exists():
            best = read_run(folder.best)
            assert best.values == {"step": best.model.counters.step}
            assert 0 < best.model.counters.step <= step
        with folder.lock():
            assert not list(path.glob(".*"))
    assert step > 0


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(FileError, match="cannot be"):
            Folder(path).write(with_state(1))
    with pytest.raises(FileError, match="cannot be read"):
        Folder(tmp_path / "file").latest()


def test_the_manifest_is_what_the_documentation_says(tmp_path: Path) -> None:
    save(with_state(), tmp_path / "m", optimizer=True)
    content = (tmp_path / "m").read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    manifest = json.loads(metadata["fastnn"])
    assert metadata["fastnn.sha256"] == hashlib.sha256(metadata["fastnn"].encode()).hexdigest()
    assert set(manifest) == {*model_file._Manifest.__struct_fields__, "sha256"}
    data = with_state().weights["0.weight"]
    assert manifest["sha256"]["0.weight"] == hashlib.sha256(b"F32 [5, 4] " + data.tobytes()).hexdigest()


# --- other ways to a file ---------------------------------------------------------------------------------------------------


def test_behind_symbolic_links(tmp_path: Path) -> None:
    """As caches keep their files: a name that points to a blob. What is saved replaces the blob, and the link stays."""
    blob, link, chain = tmp_path / "blobs" / "abc", tmp_path / "model.safetensors", tmp_path / "again.safetensors"
    blob.parent.mkdir()
    first, second = with_state(1), with_state(2)
    first.save(blob)
    link.symlink_to(blob)
    chain.symlink_to(link)
    for path in (link, chain):
        assert fastnn.load(path).counters.step == 1
    second.save(chain)
    assert chain.is_symlink()
    assert link.is_symlink()
    assert fastnn.load(blob).counters.step == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["abc", "again.safetensors", "blobs", "model.safetensors"]
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    with pytest.raises(FileError, match="there is no file"):
        fastnn.load(tmp_path / "dangling")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    with pytest.raises(FileError, match="cannot be read"):
        fastnn.load(tmp_path / "self")


def test_file_objects(tmp_path: Path) -> None:
    """A buffer, a file that is open already, and one in a zip archive."""
    model, buffer = with_state(3), io.BytesIO()
    model.save(buffer, optimizer=True)
    model.save(tmp_path / "m.safetensors", optimizer=True)
    assert buffer.getvalue() == (tmp_path / "m.safetensors").read_bytes()
    buffer.seek(0)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packing:
        packing.writestr("m", buffer.getvalue())
    with (
        (tmp_path / "m.safetensors").open("rb") as opened,
        zipfile.ZipFile(tmp_path / "a.zip") as archive,
        archive.open("m") as packed,
    ):
        for file in (buffer, opened, packed):
            read = fastnn.load(file)
            assert read.counters.step == 3
            assert all(array.tobytes() == model.weights[name].tobytes() for name, array in read.weights.items())
    with pytest.raises(FormatError, match="<BytesIO> is not a model of fastnn"):
        fastnn.load(io.BytesIO(b"PK\3\4"))
    with (tmp_path / "cut").open("wb") as opened:
        opened.write(buffer.getvalue()[:-5])
    with (tmp_path / "cut").open("rb") as opened, pytest.raises(FormatError, match="cut"):
        fastnn.load(opened)
