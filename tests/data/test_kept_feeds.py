"""Arrays of a device that stay from feed to feed: new values come into the same memory, which goes when it is needed."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from cuda_on_host import host
from cuda_on_host.runtime import Foreign, HostRuntime
from hosts import Hosts

import fastnn
import fastnn.training.trainer
from fastnn import engines
from fastnn.data import feeds
from fastnn.data.feeds import Buffers

pytestmark = pytest.mark.filterwarnings("ignore:the model was trained on other data")

N, F, C, BATCH = 75, 6, 3, 16
NOISY: dict[str, Any] = {"batch_size": BATCH, "epochs": 2, "verbose": 0, "device": "cuda"}


@pytest.fixture(autouse=True)
def a_busy_machine_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are those of blocks of a stream alone: no backup is due, however long a test takes."""
    monkeypatch.setattr(fastnn.training.trainer, "BACKUP_SECONDS", 1e6)


def examples(seed: int = 0, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, F)).astype("float32"), rng.permutation(np.arange(n) % C)


def network(seed: int = 0) -> fastnn.Sequential:
    return fastnn.Sequential([fastnn.Dense(5, activation="tanh"), fastnn.Dropout(0.1), fastnn.Dense(C)], seed=seed)


def bits(model: fastnn.Sequential) -> bytes:
    return b"".join(array.tobytes() for array in model.weights.values())


def captures(runtime: HostRuntime) -> int:
    return runtime.asked.count("capture")


def forget(model: fastnn.Sequential) -> None:
    """Nothing is kept that the next call could find."""
    model.instances.clear()


def given_again(model: fastnn.Sequential, forgetting: bool, **options: Any) -> list[Any]:
    """What a model says whose examples are changed where they lie between two trainings."""
    X, y = examples()
    weights = np.linspace(0.5, 1.5, N)
    found = []
    for seed in (1, 2, 3):
        X[...], y[...] = examples(seed)
        weights[...] = np.roll(weights, 5)
        history = model.fit(X, y, sample_weight=weights, **NOISY | options)
        found += [dict(history), bits(model), model.evaluate(X, y, sample_weight=weights), model(X).tobytes()]
        if forgetting:
            forget(model)
    return found


def given_order(epoch: int) -> np.ndarray:
    return np.random.default_rng(epoch).permutation(N)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"validation_split": 0.3}, {"order": given_order}, {"shuffle": False, "validation_data": examples(9)},
        {"validation_data": examples(9, 31)},
    ],
)  # fmt: skip
@pytest.mark.usefixtures("cuda_host")
def test_what_changed_between_two_fits_is_seen(options: dict[str, Any]) -> None:
    kept, forgotten = (given_again(network(), forgetting, **options) for forgetting in (False, True))
    assert kept == forgotten
    assert kept[1] != kept[5]


@pytest.mark.usefixtures("cuda_host")
def test_values_that_are_not_written_again_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if one array were the same as long as it is the same object."""
    place, seen = Buffers.place, {}

    def once(buffers: Buffers, name: str, array: Any) -> Any:
        key = id(buffers), name, id(array)
        if key not in seen:
            seen[key] = array, place(buffers, name, array)
        return seen[key][1]

    expected = given_again(network(), True)
    monkeypatch.setattr(Buffers, "place", once)
    assert given_again(network(), False) != expected


def test_another_number_of_examples_and_the_first_again(cuda_host: HostRuntime) -> None:
    """Fewer come into the same memory; more need other memory, of which fewer again take a part."""
    sizes = [48, 32, 48, 80, 48, 80]
    models, captured = [network(), network()], []
    for n in sizes:
        before = captures(cuda_host)
        models[0].fit(*examples(n, n), **NOISY)
        captured.append(captures(cuda_host) - before)
        models[1].fit(*examples(n, n), **NOISY)
        forget(models[1])
        assert bits(models[0]) == bits(models[1])
    assert captured[3] > 0, "80 do not fit where 48 lay"
    assert captured[2] == captured[5] == 0, captured


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_other_numbers_of_examples_on_the_host(device: str) -> None:
    """There only the order is kept."""
    models = [network(), network()]
    for n in (48, 32, 48, 80, 48):
        for model in models:
            model.fit(*examples(n, n), **NOISY | {"device": device})
        forget(models[1])
        assert bits(models[0]) == bits(models[1])


def test_examples_on_the_gpu_are_read_where_they_lie(cuda_host: HostRuntime) -> None:
    X, y = examples()
    memory = cuda_host.allocate(X.nbytes)
    cuda_host.upload(memory.address, X, cuda_host.stream)
    there, models = Foreign(memory, X.shape, X.dtype), [network(), network()]
    for _ in range(3):
        models[0].fit(there, y, **NOISY)
        models[1].fit(X, y, **NOISY)
    assert bits(models[0]) == bits(models[1])
    before = captures(cuda_host)
    models[0].fit(there, y, **NOISY)
    models[0].evaluate(there, y)
    models[0].evaluate(there, y)
    assert captures(cuda_host) - before <= 2, "of the first evaluation only"
    cuda_host.upload(memory.address, np.ascontiguousarray(X[::-1]), cuda_host.stream)
    assert models[0].evaluate(there, y) == models[0].evaluate(X[::-1].copy(), y)
    address = memory.address
    del there, memory
    assert address not in cuda_host.held, "nobody holds what is the user's"


def test_mini_batches_of_the_user_come_into_the_same_memory(cuda_host: HostRuntime) -> None:
    X, y = examples(n=64)
    batches = [(X[start : start + 16], y[start : start + 16]) for start in range(0, 64, 16)]
    models = [network(), network()]
    for model in models:
        model.fit(batches, epochs=2, verbose=0, device="cuda")
        before = captures(cuda_host)
        model.fit(batches, epochs=2, verbose=0, device="cuda")
        model.fit(batches, epochs=2, verbose=0, device="cuda")
        assert captures(cuda_host) - before <= 2, "longer graphs, once"
    assert bits(models[0]) == bits(models[1])


@pytest.mark.usefixtures("cuda_host")
def test_threads_have_memory_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models are trained, and one that is not is evaluated by two threads, on different data, all at once."""
    lock, run = threading.RLock(), host.run_kernel

    def one_at_a_time(*arguments: Any) -> None:
        with lock:  # as a GPU's stream does
            run(*arguments)

    monkeypatch.setattr(host, "run_kernel", one_at_a_time)
    asked = network(5).build(F, loss="softmax_cross_entropy")
    asked.to("cuda")
    right = [asked.evaluate(*examples(seed)) for seed in range(2)]
    alone = [network(seed) for seed in range(2)]
    for seed, model in enumerate(alone):
        for again in range(3):
            model.fit(*examples(10 * seed + again), **NOISY)
    models, failed = [network(seed) for seed in range(2)], []

    def work(number: int) -> None:
        try:
            for again in range(3):
                models[number].fit(*examples(10 * number + again), **NOISY)
                for _ in range(3):
                    assert asked.evaluate(*examples(number)) == right[number]
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert [bits(model) for model in models] == [bits(model) for model in alone]


# --- memory ----------------------------------------------------------------------------------------------------------------


def held_by_data(runtime: HostRuntime, X: np.ndarray) -> int:
    return sum(nbytes == X.nbytes for nbytes in runtime.held.values())


def test_what_takes_much_of_the_memory_goes_with_the_call(cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = examples(n=8000)
    options = NOISY | {"batch_size": 4000, "epochs": 1}
    model = network()
    monkeypatch.setattr(feeds, "KEPT_SHARE", 0.5 * X.nbytes / cuda_host.total)
    model.fit(X, y, **options)
    model.evaluate(X, y)
    assert held_by_data(cuda_host, X) == 0
    monkeypatch.setattr(feeds, "KEPT_SHARE", 2 * X.nbytes / cuda_host.total)
    model.fit(X, y, **options)
    model.evaluate(X, y)
    assert held_by_data(cuda_host, X) == 1
    model.instances.clear()
    assert held_by_data(cuda_host, X) == 0


def test_what_one_model_keeps_goes_where_another_needs_the_room(cuda_hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "KEPT_SHARE", 1.0)
    X, y = examples(n=20_000)
    options = NOISY | {"batch_size": 250, "epochs": 1}
    runtime = cuda_hosts.install(total=int(2.2 * (X.nbytes + y.nbytes)))
    models = [network(seed) for seed in range(3)]
    for model in models:
        model.fit(X, y, **options)
        assert "record" not in runtime.asked, "nothing is streamed"
        assert held_by_data(runtime, X) == 1


@pytest.mark.usefixtures("cuda_host")
def test_room_is_made_for_an_array_that_does_not_fit_beside_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    model.fit(*examples(), **NOISY)
    engine = engines.by_name("cuda")
    empty, refused = type(engine).empty, []

    def full(engine: Any, *arguments: Any, **options: Any) -> Any:
        if not refused:
            refused.append(len(model.instances._free))
            return engine.runtime.allocate(2**60)
        return empty(engine, *arguments, **options)

    monkeypatch.setattr(type(engine), "empty", full)
    placed = Buffers(engine).place("X", np.arange(5.0))
    assert refused[0] > 0
    assert not model.instances._free
    assert engine.read(placed)[0].tolist() == [0, 1, 2, 3, 4]
