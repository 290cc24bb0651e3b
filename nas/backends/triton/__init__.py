"""Cells as Triton kernels, for CUDA devices. `nas.backends` registers it; only running a cell imports triton."""
