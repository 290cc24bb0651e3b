"""Generated C: cells over time in float32 on the CPU."""

from nas.backends.c.backend import C as C
