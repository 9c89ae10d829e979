"""Reading and writing of files, archives, pictures and untyped fields; errors name their place.

Here: code that is independent of benchmarks, rows and models, also the worker processes that share such work.
"""
