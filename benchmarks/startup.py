"""How long a person waits before anything happens: `biasgym --help`, and importing what reads results.

Each in a process of its own, the first of each thrown away (files come from the disk then); seconds by the clock.
"""

import subprocess
import sys
import time
from typing import Any

import numpy as np

COMMANDS = {
    "cli-help-seconds": "import sys; sys.argv = ['biasgym', '--help']; from biasgym.cli import app; app(standalone_mode=False)",
    "import-seconds": "import biasgym",
    "import-results-seconds": "import biasgym.records, biasgym.stats, biasgym.store, biasgym.verdict",
}


def rows(rounds: int = 5) -> list[dict[str, Any]]:
    """One row a command: median, least and most seconds; nothing to compare with."""
    found = []
    for name, code in COMMANDS.items():
        seconds = [_seconds(code) for _ in range(rounds + 1)][1:]
        found.append(
            {"name": name, "ours": round(float(np.median(seconds)), 3), "unit": "s", "low": round(min(seconds), 3), "high": round(max(seconds), 3)}
        )
    return found


def _seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start
