"""``python -m benchmarks.compare``: fffnb beside plain trees and dense layers, on CPU or GPU."""
