"""Cells as Triton kernels, for CUDA devices. Importing this package does not import triton; running a cell does."""

from nas.backends.triton.backend import TritonBackend as TritonBackend
