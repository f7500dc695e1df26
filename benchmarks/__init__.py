"""Benchmarks: ratios measured side by side, interleaved, medians. Run with `python -m benchmarks.NAME`."""
