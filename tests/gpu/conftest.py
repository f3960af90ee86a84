"""The GPUs that the tests of this folder run on: the first real one, and simulated ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import simulated_cupy

from fastnn import engines
from fastnn.engines.cuda import CudaEngine
from fastnn.errors import DeviceError

REAL = "real"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the fixture `gpu` is one for the real GPU, marked `gpu`, and one for each order of a simulated one's work.

    Those are slow, unless the test is marked `simulated(everyday=True)`; `simulated(skip="why")`: it cannot run on them.
    """
    if "gpu" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("simulated")
    options = {} if mark is None else mark.kwargs
    marks = [] if options.get("everyday") else [pytest.mark.slow]
    if "skip" in options:
        marks.append(pytest.mark.skip(reason=f"not on a simulated GPU: {options['skip']}"))
    simulated = [pytest.param(order, marks=marks) for order in simulated_cupy.ORDERS]
    metafunc.parametrize("gpu", [pytest.param(REAL, marks=pytest.mark.gpu), *simulated], indirect=True)


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> Iterator[CudaEngine]:
    """The engine of a GPU."""
    if request.param == REAL:
        try:
            real = engine()
        except DeviceError as error:
            pytest.skip(f"no GPU here: {error}")
        yield real
    else:
        with simulated_cupy.install(request.param):
            yield engine()


def engine() -> CudaEngine:
    chosen, _ = engines.choose("cuda")
    assert isinstance(chosen, CudaEngine)
    return chosen
