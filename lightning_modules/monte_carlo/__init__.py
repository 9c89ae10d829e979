"""Monte Carlo scores of solution steps: what is drawn, when a step has enough, and the rows that come of it."""
