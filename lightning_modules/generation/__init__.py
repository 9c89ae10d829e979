"""Engines that sample text from a policy: their interface, the one in this process, and the one of servers.

`server_engine` is the engine, `server_flight` its requests under way, `server_requests` what a request holds.

Not here: what is sampled and why (:mod:`lightning_modules.policy`, :mod:`lightning_modules.annotation`).
"""
