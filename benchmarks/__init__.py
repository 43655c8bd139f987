"""Measured latency and throughput: `python -m benchmarks SCENARIO [TASK…]`, `python -m benchmarks compare A B`."""
