"""Released files and real responses, for tests that are skipped where these are not at hand.

They lie in ``../shared/real`` beside the project, or where ``VISUALPRM_REAL_FILES`` says. Nothing of them is part of
the project.
"""

import os
from pathlib import Path

import pytest

REAL = Path(os.environ.get("VISUALPRM_REAL_FILES", Path(__file__).parents[2] / "shared" / "real"))

needs_real_files = pytest.mark.skipif(not REAL.is_dir(), reason=f"released files are not in {REAL}")
