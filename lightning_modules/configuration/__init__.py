"""How the `visualprm` command reads its configuration: interpolation, the name of a run, old names of keys and classes.

What the keys mean belongs to the classes that they configure, and values to the files under ``experiments/``.
"""
