"""``python -m benchmarks.crossover``: where fffnb overtakes dense layers, and where it does not."""
