"""What makes a process that is started run the sidecar that this one imports: interpreted, or compiled as in the image.

A process of its own would otherwise take the checkout's, whatever its parent has been told to test.
"""

from __future__ import annotations

import os
from pathlib import Path

import sidecar

ROOT = Path(__file__).parents[2]
_PLACES = (str(Path(sidecar.__file__).parents[1]), str(ROOT))
SAME_SIDECAR = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(_PLACES)), "PYTHONSAFEPATH": "1"}
"""Variables of its environment. PYTHONSAFEPATH because `-m` would look into the working directory first."""
