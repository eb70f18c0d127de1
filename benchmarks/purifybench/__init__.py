"""What the benchmarks share: tasks (data), methods, backbones, the run loop, the results store and its reports."""
