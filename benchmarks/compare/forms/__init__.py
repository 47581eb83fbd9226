"""``python -m benchmarks.compare forms``: the other forms of fffnb beside the same, plainly."""
