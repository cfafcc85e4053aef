"""Measures the gateway beside the field: `python -m benchmarks run`."""
