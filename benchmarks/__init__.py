"""Benchmarks: `suite` is what asv runs, the other modules are commands."""
