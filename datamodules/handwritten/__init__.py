"""The miniature world: visual reasoning questions about pictures of real handwritten digits.

It exists so that the whole recipe runs on a laptop in minutes through the same readers, prompts and models that the
full data takes. Everything is written to disk in the released file formats (see :mod:`datamodules.handwritten.world`).
"""
