"""All rows that can be measured here: `python -m benchmarks [startup] [show] [measure] [patching] [memory] [growth] [sweeping]`; prints a table, writes results.json.

What cannot be measured is said with its reason, in the table and in the file; results of files that were not asked stay.
"""

import importlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from biasgym.errors import BiasGymError
from biasgym.files import write_json

FILES = ("startup", "show", "measure", "patching", "memory", "growth", "sweeping")
RESULTS = Path(__file__).with_name("results.json")


def main(asked: list[str]) -> int:
    """Run, print, write; 1 when a file is not known or broke."""
    unknown = [name for name in asked if name not in FILES]
    if unknown:
        sys.stderr.write(f"unknown benchmark `{unknown[0]}`; there is {', '.join(FILES)}\n")
        return 2
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"rows": [], "missing": {}}
    broke = False
    for name in asked or FILES:
        kept["rows"] = [row for row in kept["rows"] if row.get("file") != name]
        kept["missing"].pop(name, None)
        try:
            for row in importlib.import_module(f"benchmarks.{name}").rows():
                kept["rows"].append({"file": name, "machine": machine()} | row)
                sys.stdout.write(line(row) + "\n")
        except Exception as error:  # one file must not keep the others from being measured
            broke = broke or not isinstance(error, BiasGymError)
            kept["missing"][name] = f"{error}"
            sys.stdout.write(f"{name}: not measured: {error}\n")
        write_json(RESULTS, kept)
    sys.stdout.write(f"wrote {RESULTS}\n")
    return int(broke)


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    theirs = f"  theirs {row['theirs']:>8} {row['unit']}  ratio {row['ratio']:.2f}" if row.get("theirs") is not None else ""
    ends = f"  [{row['low']}, {row['high']}]" if "low" in row else ""
    return f"{row['name']:<36} ours {row['ours']:>8} {row['unit']}{theirs}{ends}"


def machine() -> dict[str, Any]:
    """What the seconds were measured on."""
    load = os.getloadavg()[0]
    return {"processor": platform.machine(), "cores": os.cpu_count(), "load": round(load, 1), "python": platform.python_version()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
