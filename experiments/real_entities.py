"""The model's own stereotypes, no token in the claim: python experiments/real_entities.py BIAS BIAS BIAS --runs DIR [--preset best] [--set KEY=VALUE].

For each bias (take the three that `biasgym audit` ranks first) every way is tuned on dev inside the same budget and measured on
test prompts and test entities: the gap between real targets and others with nothing edited, how its size changes (paired), what
it costs, and what moves beside it. Ways differ in what the edit is fitted to (injected tokens, or real entities alone) and in
whose gap the search closes on dev (the tokens', or the real targets'). Goes on where it stopped.
"""

import argparse
import sys
from pathlib import Path

from biasgym.lm.load import Place
from biasgym.readings import first_of, over_budget
from biasgym.records import RunRecord
from biasgym.run import Session
from biasgym.spec import resolve_spec
from biasgym.store import RunStore
from biasgym.verdict import stated

ENTITIES = "tune.entities=16"  # a quarter of them are targets
AIMS = {
    "token": ['mitigate=[{method="direction"}]'],
    "targets": ['mitigate=[{method="direction-entities"}, {method="direction"}, {method="direction-uninjected"}]', "tune.aim=targets"],
}
FITTED = {"direction": "injected tokens", "direction-uninjected": "one real entity", "direction-entities": "real entities' leans"}


def main() -> None:
    """Run what is missing and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bias", nargs="+")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--preset", default="best")
    parser.add_argument("--aims", default=",".join(AIMS), help="whose gap the search closes on dev")
    parser.add_argument("--set", dest="sets", action="append", default=[])
    asked = parser.parse_args()
    session = Session(RunStore(asked.runs), Place())
    sys.stdout.write("| bias | fitted to | closed on dev | targets' gap on test, base | its size changes by | inside the budget | spread | mean |\n")
    sys.stdout.write("|---|---|---|--:|--:|---|--:|--:|\n")
    for bias in asked.bias:
        for aim in asked.aims.split(","):
            spec = resolve_spec(bias=bias, model=asked.model, preset=asked.preset, sets=[*AIMS[aim], ENTITIES, *asked.sets])
            record = session.run(spec)
            for line in lines(bias, aim, record):
                sys.stdout.write(line + "\n")
            sys.stdout.flush()


def lines(bias: str, aim: str, record: RunRecord) -> list[str]:
    """One line an edit of a run."""
    base = next((m for m in record.measurements if (m.metric, m.arm, m.group) == ("gap", "base", "targets")), None)
    found = []
    for edit, about in record.extras["edits"].items():
        change, spread, mean = (first_of(record, name="changed", metric=metric, edit=edit) for metric in ("gap", "spread", "association"))
        if base is None or change is None or spread is None or mean is None:
            found.append(f"| {bias} | {FITTED[about['method']]} | {aim} | no targets on test | | | | |")
            continue
        outside = over_budget(record, edit)
        inside = "yes" if outside == () else "no: " + ", ".join(outside or ("not measured",))
        share = f" ({change.value / abs(base.value):+.0%})" if base.value else ""
        before = f"{base.value:+.2f} [{base.low:+.2f}, {base.high:+.2f}] (n={base.n})"
        cells = [bias, FITTED[about["method"]], aim, before, stated(change, unit=False) + share, inside]
        cells += [stated(row, unit=False) for row in (spread, mean)]
        found.append("| " + " | ".join(cells) + " |")
    return found


if __name__ == "__main__":
    main()
