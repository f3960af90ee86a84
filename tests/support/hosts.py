"""GPUs made of the host, instead of those of this process."""

from __future__ import annotations

from typing import Any

from cuda_on_host.runtime import HostRuntime

from fastnn.engines import cuda
from fastnn_kernels.cuda.runtime import CudaUnavailable


class Hosts:
    """GPUs made of the host, by their numbers."""

    def __init__(self) -> None:
        self.installed: dict[int, HostRuntime] = {}

    def install(self, ordinal: int = 0, **options: Any) -> HostRuntime:
        """A fresh one instead of `cuda:<ordinal>`, made with the options of `HostRuntime`."""
        for key in [key for key in cuda._opened if key[0] == ordinal]:
            del cuda._opened[key]
        made = self.installed[ordinal] = HostRuntime(ordinal=ordinal, **options)
        return made

    def runtime(self, ordinal: int = 0) -> HostRuntime:
        if ordinal not in self.installed:
            raise CudaUnavailable(f"there is no cuda:{ordinal}")
        return self.installed[ordinal]
