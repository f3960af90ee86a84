"""What a model is after its GPU has failed: at a whole step, whichever call it was; and what is said where there is no GPU."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_on_host.runtime import HostRuntime
from hosts import Hosts

import fastnn
import fastnn.training.chunks
import fastnn.training.step
import fastnn.training.trainer
from fastnn import engines, errors
from fastnn.callbacks import Callback
from fastnn.data import feeds
from fastnn.engines import cuda
from fastnn_kernels.cuda import device
from fastnn_kernels.cuda.runtime import CudaError, CudaLost, CudaOutOfMemory, CudaUnavailable

N, FEATURES, CLASSES, BATCH, EPOCHS = 20, 5, 3, 8, 2
PER_EPOCH = 3
EVERY = 90
"""Of so many calls to the GPU one fails in the everyday tests, another one for each fault; in the slow ones each does,
or each second one."""


@dataclass(frozen=True)
class Fault:
    """What a call raises, and what the user sees of it."""

    make: Callable[[], BaseException]
    seen: type[BaseException]
    lost: bool = False


FAULTS = {
    "memory": Fault(lambda: CudaOutOfMemory(2**20, 2**10, 2**30), errors.DeviceMemoryError),
    "error": Fault(lambda: CudaError("cuda:0: the launch failed"), errors.DeviceError),
    "lost": Fault(lambda: CudaLost("cuda:0 failed and cannot be used again"), errors.DeviceLostError, lost=True),
    "Ctrl-C": Fault(KeyboardInterrupt, KeyboardInterrupt),
}
SETTINGS = {"resident": {}, "streamed": {"RESIDENT_SHARE": 0.0, "BLOCK_BYTES": BATCH * (4 * FEATURES + 8)}}


def examples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.standard_normal((N, FEATURES)).astype("float32"), rng.integers(0, CLASSES, N)


def network() -> fastnn.Sequential:
    return fastnn.Sequential([fastnn.Dense(6, activation="relu"), fastnn.Dropout(0.2), fastnn.Dense(CLASSES)], seed=2)


def fit(model: fastnn.Sequential, where: str = "cuda", **options: Any) -> None:
    X, y = examples()
    given = {"batch_size": BATCH, "epochs": EPOCHS, "validation_data": (X[:9], y[:9]), "verbose": 0, **options}
    model.fit(X, y, device=where, optimizer=fastnn.SGD(0.1, momentum=0.9), **given)


def bits(model: fastnn.Sequential) -> bytes:
    return b"".join(value.tobytes() for value in model.weights.values())


class Steps(Callback):
    """The weights after every chunk, by the number of steps."""

    def __init__(self) -> None:
        self.found: dict[int, bytes] = {}

    def begin(self, run: Any) -> None:
        self.found[run.model.counters.step] = bits(run.model)

    def chunk_end(self, run: Any, losses: np.ndarray) -> None:
        self.found[run.model.counters.step] = bits(run.model)


@pytest.fixture
def undisturbed(cuda_hosts: Hosts) -> dict[int, bytes]:
    """Weights by the number of steps, 0 included, of three times the fit that is disturbed."""
    cuda_hosts.install()
    steps = Steps()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastnn.training.chunks, "LOG_ROWS", 1)
        fit(network(), epochs=3 * EPOCHS, callbacks=[steps])
    assert sorted(steps.found) == list(range(3 * EPOCHS * PER_EPOCH + 1))
    return steps.found


def raised_by(action: Callable[[], Any]) -> tuple[type[BaseException], str] | None:
    """The kind and the message of what an action raises; nothing of its frames is kept."""
    try:
        action()
    except (Exception, KeyboardInterrupt) as error:
        return type(error), str(error)
    return None


@pytest.fixture(autouse=True)
def a_busy_machine_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit asks as often there as on an idle one: no time decides how long chunks are, or when a copy is fetched."""
    monkeypatch.setattr(fastnn.training.chunks, "CHUNK_SECONDS", 1e6)
    monkeypatch.setattr(fastnn.training.trainer, "BACKUP_SECONDS", 1e6)


def emptied(runtime: HostRuntime, known: dict[int, int] | None = None) -> dict[int, int]:
    """What the GPU still holds when nobody uses it. Garbage is looked for where that is not what is `known`: an `ExitStack` in
    which an error comes keeps it."""
    if runtime.held != known:
        gc.collect()
    return dict(runtime.held)


def calls_of(runtime: HostRuntime, model: fastnn.Sequential, use: Callable[[fastnn.Sequential], Any]) -> int:
    """How often the GPU is asked for something when a model is used."""
    runtime.asked.clear()
    use(model)
    return len(runtime.asked)


def check_raised(found: tuple[type[BaseException], str] | None, kind: str) -> None:
    """An error of the right class with one line; memory may be found by letting go of programs that are not in use."""
    if found is None:
        assert kind == "memory"
    else:
        assert found[0] is FAULTS[kind].seen
        assert "\n" not in found[1]


def check_whole(model: fastnn.Sequential, undisturbed: dict[int, bytes]) -> None:
    """The model is as it was after some step of the undisturbed run, and knows after which."""
    step = model.counters.step
    assert model.counters.epoch in (step // PER_EPOCH, max(0, step - 1) // PER_EPOCH)
    state = model.optimizer_state
    assert (0 if state is None else state.updates) == step
    if model.built:
        assert bits(model) == undisturbed[step]
    else:
        assert step == 0


# Where faults come at every call, the model goes on after a third of them, other ones for each kind.
every = pytest.mark.parametrize("stride", [EVERY, pytest.param(1, marks=pytest.mark.slow)])


@every
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_in_fit_leaves_a_whole_step(
    kind: str, setting: str, stride: int, undisturbed: dict[int, bytes], cuda_hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second of two fits: some values are on the GPU alone, programs are there already, others are not."""
    for name, value in SETTINGS[setting].items():
        monkeypatch.setattr(feeds, name, value)
    if setting == "streamed":  # which takes four times as long: each call has two of the four kinds
        stride = max(stride, 2)
    monkeypatch.setattr(fastnn.training.chunks, "LOG_ROWS", 2)  # several chunks an epoch
    fault, runtime = FAULTS[kind], cuda_hosts.install()

    def first() -> fastnn.Sequential:
        model = network()
        fit(model, validation_data=None)
        return model

    calls = calls_of(runtime, first(), fit)
    before = emptied(runtime)
    reached = set()
    for n in range(7 * list(FAULTS).index(kind) % stride, calls, stride):
        model = first()
        runtime.fail_at(n, fault.make())  # type: ignore[arg-type]
        found = raised_by(lambda model=model: fit(model))
        check_raised(found, kind)
        if not fault.lost:
            runtime.fail_at(None)
        check_whole(model, undisturbed)
        reached.add(model.counters.step)
        if stride > 1 or (n + list(FAULTS).index(kind)) % 3 == 0:
            goes_on(model, undisturbed, "cpu" if fault.lost else "cuda")
        runtime.fail_at(None)
        del model
        assert emptied(runtime, before) == before, n
    if stride < EVERY and not fault.lost:
        assert len(reached) > EPOCHS * PER_EPOCH // 2, "faults came at many a step"


def goes_on(model: fastnn.Sequential, undisturbed: dict[int, bytes], where: str) -> None:
    """The model can be trained and asked, as if nothing had been; where no epoch was broken off, with the same bits."""
    step, epoch = model.counters.step, model.counters.epoch
    fit(model, where, epochs=1)
    assert model.counters.step == step + PER_EPOCH
    assert np.isfinite(np.frombuffer(bits(model), np.float32)).all()
    if epoch * PER_EPOCH == step:
        expected = np.frombuffer(undisturbed[step + PER_EPOCH], np.float32)
        assert np.allclose(np.frombuffer(bits(model), np.float32), expected, atol=0 if where == "cuda" else 1e-6)
    X, _ = examples()
    outputs = model.to("cpu")(X)
    assert np.isfinite(outputs).all()
    if where == "cuda":
        assert np.allclose(model.to("cuda")(X), outputs, atol=1e-5)


@every
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_in_a_first_fit_leaves_a_whole_step(
    kind: str, stride: int, undisturbed: dict[int, bytes], cuda_hosts: Hosts
) -> None:
    fault, runtime = FAULTS[kind], cuda_hosts.install()
    fit(network())
    calls = calls_of(runtime, network(), fit)
    before = emptied(runtime)
    for n in range(7 * list(FAULTS).index(kind) % stride, calls, stride):
        model = network()
        runtime.fail_at(n, fault.make())  # type: ignore[arg-type]
        asked = len(runtime.asked)
        found = raised_by(lambda model=model: fit(model))
        if found is None and len(runtime.asked) - asked <= n:
            assert n >= calls - 2, "the counted call had to prepare what is there now, for arrays that begin elsewhere"
            runtime.fail_at(None)
            continue
        check_raised(found, kind)
        if not fault.lost:
            runtime.fail_at(None)
        check_whole(model, undisturbed)
        if stride > 1 or (n + list(FAULTS).index(kind)) % 3 == 0:
            goes_on(model, undisturbed, "cpu" if fault.lost else "cuda")
        runtime.fail_at(None)
        del model
        assert emptied(runtime, before) == before, n


@pytest.mark.parametrize("stride", [24, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_in_a_single_step_leaves_the_step_before(
    kind: str, stride: int, cuda_hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a GPU that is lost the model is back at what the host has seen last: it took less than the time of a backup."""
    monkeypatch.setattr(fastnn.training.step, "LONGEST", 4)
    monkeypatch.setattr(fastnn.training.step, "BACKUP_SECONDS", 1e6)
    fault, runtime = FAULTS[kind], cuda_hosts.install()
    X, y = examples()
    steps = 7

    def train(model: fastnn.Sequential, last: int = steps, seen: list[bytes] | None = None, where: str = "cuda") -> None:
        step = model.training_step(optimizer=fastnn.SGD(0.1, momentum=0.9), batch_size=BATCH, device=where)
        for index in range(model.counters.step, last):
            step(X[index : index + BATCH], y[index : index + BATCH])
            if seen is not None:
                seen.append(bits(model))

    expected = [bits(network().build(FEATURES))]
    train(network().build(FEATURES), seen=expected)
    calls = calls_of(runtime, network().build(FEATURES), train)
    before = emptied(runtime)
    reached = set()
    for n in range(5 * list(FAULTS).index(kind) % stride, calls, stride):
        model = network().build(FEATURES)
        runtime.fail_at(n, fault.make())  # type: ignore[arg-type]
        found = raised_by(lambda model=model: train(model))
        if found is None and len(runtime.asked) <= n:
            assert n >= calls - 2, "the counted call had to prepare what is there now"
            runtime.fail_at(None)
            continue
        check_raised(found, kind)
        if not fault.lost:
            runtime.fail_at(None)
        made = model.counters.step
        reached.add(made)
        assert bits(model) == expected[made], n
        assert model.device == "cpu" or not fault.lost
        runtime.fail_at(None)
        if not fault.lost:
            train(model)
            assert (model.counters.step, bits(model)) == (steps, expected[steps]), n
        del model
        assert emptied(runtime, before) == before, n
    assert reached == {0} if fault.lost else len(reached) > (1 if stride > 1 else steps // 2)


USES: dict[str, Callable[[fastnn.Sequential, np.ndarray, np.ndarray], Any]] = {
    "predict": lambda model, X, y: model.predict(X),
    "evaluate": lambda model, X, y: model.evaluate(X, y),
    "weights": lambda model, X, y: model.weights,
    "snapshot": lambda model, X, y: model.restore(model.snapshot()),
}


@pytest.mark.parametrize("stride", [32, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_while_a_model_is_asked_changes_nothing(
    kind: str, use: str, stride: int, undisturbed: dict[int, bytes], cuda_hosts: Hosts
) -> None:
    """Of a GPU that is lost the model is back at what the host has seen last: both fits took less than the time of a backup."""
    fault, runtime = FAULTS[kind], cuda_hosts.install()
    X, y = examples()

    def asked(model: fastnn.Sequential) -> Any:
        return USES[use](model, X, y)

    def trained() -> fastnn.Sequential:
        model = network()
        fit(model)
        fit(model)
        return model

    last = 2 * EPOCHS * PER_EPOCH
    model = trained()
    calls = calls_of(runtime, model, asked)
    assert calls > 0
    expected = model.predict(X).tobytes()
    del model
    before = emptied(runtime)
    for n in range(list(FAULTS).index(kind) % min(stride, calls), calls, stride):
        model = trained()
        runtime.fail_at(n, fault.make())  # type: ignore[arg-type]
        found = raised_by(lambda model=model: asked(model))
        check_raised(found, kind)
        if fault.lost:
            assert model.device == "cpu"
            check_whole(model, undisturbed)
            assert model.counters.step in (0, last)
            goes_on(model, undisturbed, "cpu")
        else:
            runtime.fail_at(None)
            check_whole(model, undisturbed)
            assert model.counters.step == last
            assert model.predict(X).tobytes() == expected
        runtime.fail_at(None)
        del model
        assert emptied(runtime, before) == before, n


def test_what_the_host_has_fetched_survives_a_lost_gpu(
    undisturbed: dict[int, bytes], cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backups of a long training that were seen to come, and the weights that a callback has looked at."""
    monkeypatch.setattr(fastnn.training.chunks, "LOG_ROWS", 1)

    class Look(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            if epoch == 0:
                assert bits(run.model) == undisturbed[PER_EPOCH]

    class Lose(Callback):
        left = PER_EPOCH + 2

        def chunk_end(self, run: Any, losses: np.ndarray) -> None:
            self.left -= 1
            if not self.left:
                cuda_host.fail_at(0, CudaLost("lost"))

    for seconds, callbacks, step in ((1e9, [], 0), (1e9, [Look()], PER_EPOCH), (0.0, [], PER_EPOCH + 1)):
        monkeypatch.setattr(fastnn.training.trainer, "BACKUP_SECONDS", seconds)
        model = network()
        with pytest.raises(errors.DeviceLostError):
            fit(model, callbacks=[*callbacks, Lose()])
        assert model.counters.step == step
        assert model.device == "cpu"
        check_whole(model, undisturbed)
        cuda_host.fail_at(None)


@every
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_while_a_model_is_backed_up_leaves_a_whole_step(
    kind: str, stride: int, undisturbed: dict[int, bytes], cuda_hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup after each step; of a GPU that is lost the model is at one of the last two steps."""
    monkeypatch.setattr(fastnn.training.trainer, "BACKUP_SECONDS", 0.0)
    monkeypatch.setattr(fastnn.training.chunks, "LOG_ROWS", 1)
    fault, runtime = FAULTS[kind], cuda_hosts.install()
    made: list[int] = []

    class Note(Callback):
        def chunk_end(self, run: Any, losses: np.ndarray) -> None:
            made.append(run.step)

    fit(network(), callbacks=[Note()])
    calls = calls_of(runtime, network(), fit)
    before = emptied(runtime)
    for n in range(7 * list(FAULTS).index(kind) % stride, calls, stride):
        model = network()
        made.clear()
        runtime.fail_at(n, fault.make())  # type: ignore[arg-type]
        found = raised_by(lambda model=model: fit(model, callbacks=[Note()]))
        if found is not None or len(runtime.asked) > n:
            check_raised(found, kind)
        else:
            assert n >= calls - 4, "the counted call had to prepare what is there now"
            runtime.fail_at(None)
        if not fault.lost:
            runtime.fail_at(None)
        check_whole(model, undisturbed)
        if fault.lost:
            assert model.counters.step >= max(made, default=0) - 2
        runtime.fail_at(None)
        del model
        assert emptied(runtime, before) == before, n


def test_backups_wait_for_nothing(cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastnn.training.chunks, "LOG_ROWS", 1)
    model, counts = network(), []
    fit(model)
    for seconds in (1e6, 0.0):
        monkeypatch.setattr(fastnn.training.trainer, "BACKUP_SECONDS", seconds)
        cuda_host.asked.clear()
        fit(model)
        counts.append([cuda_host.asked.count(what) for what in ("synchronize", "download")])
    (waits, downloads), (waits_with, downloads_with) = counts
    assert waits_with == waits
    assert downloads_with > downloads


def test_a_model_that_has_no_room_for_a_backup_is_fetched(cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastnn.training.trainer, "BACKUP_SECONDS", 0.0)
    expected, model = network(), network()
    fit(expected)
    begin = cuda.CudaEngine.begin_read
    asked: list[bool] = []

    def refuse(engine: cuda.CudaEngine, arrays: Any) -> Any:
        asked.append(True)
        if len(asked) % 2:
            cuda_host.allocate(2**60)
        return begin(engine, arrays)

    monkeypatch.setattr(cuda.CudaEngine, "begin_read", refuse)
    fit(model)
    assert asked
    assert bits(model) == bits(expected)


def test_a_lost_gpu_stays_lost(cuda_host: HostRuntime) -> None:
    model = network()
    fit(model)
    cuda_host.fail_at(0, CudaLost("lost"))
    for _ in range(2):
        with pytest.raises(errors.DeviceLostError):
            fit(model)
    fit(model, "cpu")


def test_an_order_that_cannot_be_used_leaves_the_epochs_before_it(cuda_host: HostRuntime) -> None:
    for where in ("cuda", "cpu"):
        model, fresh = network(), network()
        with pytest.raises(errors.InputError, match="indices"):
            fit(model, where, order=lambda epoch: np.array([0, 1, 2, N]))
        assert (model.built, model.counters.step, model.counters.epoch) == (False, 0, 0), "as if it had not been called"
        with pytest.raises(errors.InputError, match="indices"):
            fit(model, where, order=lambda epoch: np.array([0, 1, 2, N * epoch]))
        fit(fresh, where, order=lambda epoch: np.array([0, 1, 2, 0]), epochs=1)
        assert model.counters == fresh.counters
        assert bits(model) == bits(fresh)


@pytest.mark.parametrize("length", [1, 4096])
def test_a_divergence_is_told_as_on_the_cpu(length: int, cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastnn.training.chunks, "LOG_ROWS", length)
    X, y = examples()
    said, models = {}, {}
    for where in ("cuda", "cpu"):
        model = models[where] = network()
        fit(model, where, epochs=1)
        with pytest.raises(fastnn.DivergenceError) as raised, pytest.warns(UserWarning, match="trained on other data"):
            model.fit(1e3 * X, y, optimizer=fastnn.SGD(1e15, momentum=0.9), batch_size=BATCH, verbose=0, device=where)
        said[where] = str(raised.value)
        assert np.isfinite(np.frombuffer(bits(model), np.float32)).all()
        assert model.optimizer_state is not None
        assert model.optimizer_state.updates == model.counters.step >= PER_EPOCH
    assert said["cuda"] == said["cpu"]
    assert " became NaN or infinite" in said["cuda"]
    assert models["cuda"].counters == models["cpu"].counters
    for name, value in models["cuda"].weights.items():
        assert np.allclose(value, models["cpu"].weights[name], rtol=1e-5), name
    assert models["cuda"].predict(X).shape == (N,)


# --- no GPU -------------------------------------------------------------------------------------------------------------


class Driver:
    """The functions of libcuda that are asked. `status`: of cuInit; `version`: what the driver supports."""

    def __init__(self, status: int = 0, count: int = 1, version: int = 13000, name: bytes | None = b"CUDA_ERROR_X") -> None:
        self.status, self.count, self.version, self.name = status, count, version, name
        self.starts = 0

    def cuInit(self, flags: int) -> int:
        self.starts += 1
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.count
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self.version
        return 0

    def cuGetErrorName(self, status: int, name: Any) -> int:
        name._obj.value = self.name
        return 0 if self.name else 1


def fake_cupy(built: int) -> ModuleType:
    module = ModuleType("cupy")
    module.cuda = SimpleNamespace(runtime=SimpleNamespace(runtimeGetVersion=lambda: built))  # type: ignore[attr-defined]
    return module


NOTHING: dict[str, tuple[Driver | None, ModuleType | None, str]] = {
    "no driver": (None, None, 'there is no NVIDIA driver here; install one, or use device="cpu"'),
    "no GPU": (Driver(status=100), None, 'sees no GPU (is CUDA_VISIBLE_DEVICES empty?); use device="cpu"'),
    "an empty list of GPUs": (Driver(count=0), None, 'sees no GPU (is CUDA_VISIBLE_DEVICES empty?); use device="cpu"'),
    "a driver that fails": (Driver(status=999), None, "does not start (CUDA_ERROR_X); reboot, or install it anew"),
    "an unknown failure": (Driver(status=12345, name=None), None, "does not start (error 12345); reboot, or install it anew"),
    "an old driver": (Driver(version=11080), None, "supports CUDA 11.8, and 12.0 is needed; install a newer one"),
    "no CuPy, CUDA 12": (Driver(version=12040), None, 'CuPy is not installed; pip install "fastnn-xp[cuda12]"'),
    "no CuPy, CUDA 13": (Driver(version=13020), None, 'CuPy is not installed; pip install "fastnn-xp[cuda13]"'),
    "CuPy of CUDA 13": (
        Driver(version=12090), fake_cupy(13000),
        "supports CUDA 12.9, and this CuPy is built for 13.0; install a newer driver, or pip uninstall cupy-cuda13x and "
        'pip install "fastnn-xp[cuda12]"',
    ),
}  # fmt: skip


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Driver | None]]:
    """Sets up one of the cases above, as if the process had just begun."""

    def set_up(case: str) -> Driver | None:
        driver, cupy, _ = NOTHING[case]
        if driver is not None:
            driver.starts = 0
        monkeypatch.setattr(device, "_driver", lambda: driver)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        return driver

    monkeypatch.setattr(cuda, "_opened", {})
    monkeypatch.setattr(cuda, "_unusable", [])
    device.open_device.cache_clear()
    yield set_up
    device.open_device.cache_clear()


@pytest.mark.parametrize("case", NOTHING)
def test_what_is_missing_is_said_with_its_cure(case: str, nobody: Callable[[str], Driver | None]) -> None:
    nobody(case)
    with pytest.raises(CudaUnavailable) as raised:
        device.check_driver()
    assert str(raised.value).endswith(NOTHING[case][2])
    with pytest.raises(errors.DeviceError) as translated:
        fit(network(), "cuda")
    assert str(translated.value) == str(raised.value)
    assert "\n" not in str(translated.value)


@pytest.mark.parametrize(
    ("driver", "built"), [(12000, 12090), (13000, 12090), (13020, 13000), (14000, 13000)]
)  # fmt: skip
def test_a_driver_that_is_new_enough_is_taken(
    driver: int, built: int, nobody: Callable[[str], Driver | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody("no driver")
    monkeypatch.setattr(device, "_driver", lambda: Driver(version=driver))
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(built))
    device.check_driver()
    assert device.driver_version() == driver


@pytest.mark.parametrize("case", NOTHING)
def test_auto_falls_back_and_says_why(case: str, nobody: Callable[[str], Driver | None]) -> None:
    """The reason is kept each time; a warning with the cure comes once, where a GPU seems to be here."""
    driver, cure = nobody(case), NOTHING[case][2]
    X, y = examples()
    said, warned = set(), []
    for _ in range(3):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            history = network().fit(X, y, batch_size=BATCH, epochs=1, verbose=0, device="auto")
        assert history.device == "cpu"
        said.add(history.reason)
        warned += [str(warning.message) for warning in caught]
    (reason,) = said
    assert reason.endswith(cure.split(";")[0])
    assert len(warned) == ("device=" not in cure)
    assert all(message.endswith(cure) for message in warned)
    assert driver is None or driver.starts == 1, "asked once a process"
    with pytest.raises(errors.DeviceError, match="needs a GPU"):
        network().fit(X, y, verbose=0, device="auto", precision="tf32")


def test_a_missing_second_gpu_leaves_the_first_one(cuda_host: HostRuntime) -> None:
    for _ in range(2):
        with pytest.raises(errors.DeviceError, match="no cuda:1"):
            fit(network(), "cuda:1")
    fit(network(), "cuda:0")
    fit(network(), "auto")


def test_errors_that_are_no_faults_are_left_as_they_are(cuda_host: HostRuntime) -> None:
    cuda_host.fail_at(3, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else") as raised:
        fit(network())
    assert not isinstance(raised.value, fastnn.FastnnError)


def test_every_fault_is_an_error_of_this_library() -> None:
    for theirs, (ours, builtin) in {
        CudaError("x"): (errors.DeviceError, RuntimeError),
        CudaUnavailable("x"): (errors.DeviceError, RuntimeError),
        CudaOutOfMemory(1, 2, 3): (errors.DeviceMemoryError, MemoryError),
        CudaLost("x"): (errors.DeviceLostError, RuntimeError),
    }.items():
        with pytest.raises(builtin) as raised, engines.translate_errors():
            raise theirs
        assert type(raised.value) is ours
        assert isinstance(raised.value, fastnn.FastnnError)
        assert str(raised.value) == str(theirs)
