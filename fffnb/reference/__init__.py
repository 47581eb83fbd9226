"""The truth: dense, slow, obvious NumPy in float64, which tests and benchmarks compare with."""
