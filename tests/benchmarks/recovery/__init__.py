"""Speed and memory of `recover`."""
