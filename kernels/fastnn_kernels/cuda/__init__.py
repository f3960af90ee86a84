"""The CUDA kernel set: not written yet.

It will export what `fastnn_kernels.contract` declares, as the `cpu` set does: `lower` for a call's kernel and arguments, and a
player that captures a list of calls into a CUDA graph. `fastnn.engines` is the one place that has to learn of it.
"""
