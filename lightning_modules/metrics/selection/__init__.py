"""Ways to choose one of N candidate answers, and how often they are right: one entry of METHODS a way.

Scoring the candidates does not belong here, nor do intervals and tables (``metrics/best_of_n*.py``).
"""
