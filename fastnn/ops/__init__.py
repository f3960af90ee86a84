"""The vocabulary: one public function an operation, dispatched by the type of its arguments and nothing else.

NumPy arrays are computed at once by the CPU kernels; `Symbol`s are recorded into the program that is being traced; anything
mixed raises. Shapes are written with `B` batch, `I` inputs, `O` outputs, `C` classes. Arrays are float32 or float64 and all
of one dtype; labels and indices are integers; conditions are bool. Results are new arrays; nothing is written in place
except the running statistics of `batch_norm` and what `update` changes. Python numbers take the dtype of the arrays they meet.

Each operation declares its own backward rule beside it, in terms of the vocabulary or of a fused backward kernel.
"""

from fastnn.ops import activations, algebra, convolution, data, losses, normalization, pooling, randomized, updates
from fastnn.ops import dense as products
from fastnn.ops.activations import *  # noqa: F403
from fastnn.ops.algebra import *  # noqa: F403
from fastnn.ops.convolution import *  # noqa: F403
from fastnn.ops.data import *  # noqa: F403
from fastnn.ops.dense import *  # noqa: F403
from fastnn.ops.losses import *  # noqa: F403
from fastnn.ops.normalization import *  # noqa: F403
from fastnn.ops.pooling import *  # noqa: F403
from fastnn.ops.randomized import *  # noqa: F403
from fastnn.ops.updates import *  # noqa: F403

__all__ = []
__all__ += activations.__all__
__all__ += algebra.__all__
__all__ += convolution.__all__
__all__ += data.__all__
__all__ += products.__all__
__all__ += losses.__all__
__all__ += normalization.__all__
__all__ += pooling.__all__
__all__ += randomized.__all__
__all__ += updates.__all__
