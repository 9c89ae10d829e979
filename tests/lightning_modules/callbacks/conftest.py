import sys
from pathlib import Path

# tiny_evaluation.py is also run as a program of its own, by two processes.
sys.path.insert(0, str(Path(__file__).parent))
