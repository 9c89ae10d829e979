"""Engines that sample text from a policy."""
