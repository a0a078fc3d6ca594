import sys
from pathlib import Path

# The scripts are run from their folder, and import each other as they do then.
sys.path.insert(0, str(Path(__file__).parents[2] / "data_scripts"))
