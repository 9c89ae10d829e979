"""The miniature world: visual reasoning questions about pictures of real handwritten digits.

With it the whole recipe runs on a laptop in minutes, through the same readers, prompts and models as the full data.
Everything is written in the released file formats (see :mod:`datamodules.handwritten.world`).
"""
