"""`avatar bench`: the rasterizers side by side in one run, on scenes that anyone can repeat."""

from avatar.bench.run import BACKENDS, bench, print_bench

__all__ = ["BACKENDS", "bench", "print_bench"]
