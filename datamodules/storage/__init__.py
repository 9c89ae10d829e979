"""Files, archives, pictures and untyped fields, read with a place for every error and written whole or not at all.

Here: what knows nothing of benchmarks, rows or models.
"""
