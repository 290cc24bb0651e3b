"""Generated C: cells over time in float32 on the CPU. `nas.backends` registers it."""
