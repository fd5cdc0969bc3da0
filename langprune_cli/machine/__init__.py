"""The machine: processes, memory, threads, precision of products, fast attention."""
