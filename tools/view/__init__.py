"""The page of a run: pictures, questions, and solutions whose steps are coloured by score."""
