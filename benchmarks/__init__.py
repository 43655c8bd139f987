"""Measured latency and throughput: `python -m benchmarks [TASK…]`."""
