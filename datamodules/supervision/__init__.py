"""Process supervision on disk: annotation files, rows, sources, splits, tables, image roots.

Here: released rows to one table of known types. Not here: what a row becomes in a batch
(:mod:`datamodules.conversation`).
"""
