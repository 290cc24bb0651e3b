"""Generated C: cells over time and trees in float32 on the CPU. `nas.backends` registers it."""
