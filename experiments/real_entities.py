"""The model's own stereotypes, no token in the claim: python experiments/real_entities.py BIAS BIAS BIAS --runs DIR [--preset best] [--set KEY=VALUE].

For each bias (take the three that `biasgym audit` ranks first) every way is tuned on dev inside the same budget and measured on
test prompts and test entities: the gap between real targets and others with nothing edited, how its size changes (paired), what
it costs, and what moves beside it. Ways differ in what the edit is fitted to (injected tokens, or real entities alone) and in
whose gap the search closes on dev (the tokens', or the real targets'). Goes on where it stopped.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from biasgym.bias import load_bias
from biasgym.edits import Edits
from biasgym.lm.load import Place
from biasgym.measure import Scope
from biasgym.measure.association import Association, lean
from biasgym.mitigate.sham import kinds_for, sham
from biasgym.readings import first_of, over_budget
from biasgym.records import RunRecord
from biasgym.run import Job, Session, load_edits
from biasgym.spec import check_spec, resolve_spec
from biasgym.store import RunStore
from biasgym.verdict import stated

PROBES = 20  # of each sham
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
    parser.add_argument("--shams", type=int, default=0, help="draws of each kind of sham that are asked about the same gap")
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
            if asked.shams:
                beside(session, record, asked.shams)


def beside(session: Session, record: RunRecord, draws: int) -> None:
    """What shams of the run's first edit do to the same gap on test, on some of the probes: other heads, other directions, same strength."""
    spec = check_spec(record.spec)
    job = Job(session, spec, load_bias(spec.bias))
    case = job.case(spec.locate.method, tuple(job.token("trained", seed) for seed in spec.seeds))
    name = next(iter(record.extras["edits"]))
    edits = load_edits(session.store.run_folder(record.id), name)
    targets = np.array([entity in record.extras["targets"]["names"] for entity in job.test_entities()])
    scope = Scope(job.bias, "test", job.test_entities(), (), None, spec.measure.model_copy(update={"probes": PROBES}))

    def gap(worn: Edits) -> float:
        with job.lm.edited(*worn):
            leans = np.array([lean(said) for said in Association().ask(job.lm, Association().items(scope))]).reshape(-1, len(targets))
        return float(leans[:, targets].mean() - leans[:, ~targets].mean())

    before = gap(())
    said = [f"base {before:+.2f}", f"`{name}` {gap(edits):+.2f}"]
    for kind in kinds_for(edits):
        said.append(f"shams of {kind}: " + ", ".join(f"{gap(sham(job.lm, edits, kind, case, draw)):+.2f}" for draw in range(draws)))
    sys.stdout.write(f"\n{job.bias.name}, targets' gap on {PROBES} test probes: {'; '.join(said)}\n\n")
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
