"""Talking to servers that hold a model behind an OpenAI-compatible address, such as vLLM, SGLang and LMDeploy.

Not here: what is asked. Sampling through servers is :mod:`lightning_modules.generation.server_engine`.
"""
