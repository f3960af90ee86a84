"""The definition: every kernel of the contract in plain NumPy. Written for reading; the oracle of every other set.

Each kernel is a function of its operands in the contract's order (inputs, updated, outputs), which it fills in place, and
of its attributes by keyword. It works in the dtype it is given.
"""

from fastnn_kernels.numpy.augment import *  # noqa: F403
from fastnn_kernels.numpy.batch_norm import *  # noqa: F403
from fastnn_kernels.numpy.chain import *  # noqa: F403
from fastnn_kernels.numpy.convolution import *  # noqa: F403
from fastnn_kernels.numpy.data import *  # noqa: F403
from fastnn_kernels.numpy.dense import *  # noqa: F403
from fastnn_kernels.numpy.elementwise import *  # noqa: F403
from fastnn_kernels.numpy.grouped import *  # noqa: F403
from fastnn_kernels.numpy.layer_norm import *  # noqa: F403
from fastnn_kernels.numpy.losses import *  # noqa: F403
from fastnn_kernels.numpy.moving import *  # noqa: F403
from fastnn_kernels.numpy.pooling import *  # noqa: F403
from fastnn_kernels.numpy.reductions import *  # noqa: F403
from fastnn_kernels.numpy.rows import *  # noqa: F403
from fastnn_kernels.numpy.updates import *  # noqa: F403
