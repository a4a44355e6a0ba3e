"""Results by group: who among real entities moved most under an edit, and whether an edit pushed a gap past zero."""

from typing import Any

from biasgym import stats
from biasgym.grade import NONE, Grader, figures_of, target_statistic
from biasgym.seeds import over_correction, worst_group
from biasgym.stats import Estimate


def groups_of(grader: Grader) -> dict[str, Any]:
    """By edit: `moved` (the entity whose association changed most), `changes` by group, `over_correction` by whose gap.

    All in nats, after − before, paired probe by probe. The interval of `moved` is widened for having been picked out of
    `entities` (Bonferroni); `over_correction` has the answers of `seeds.over_correction`. A part that was not asked is left out.
    """
    return {edit: _of(grader, edit) for edit in grader.edits}


def _of(grader: Grader, edit: str) -> dict[str, Any]:
    found: dict[str, Any] = {"over_correction": {}}
    if grader.table.rows("association", (NONE, edit, 0)):
        found |= _moved(grader, edit)
        if grader.has_targets(edit, 0):
            found["over_correction"]["targets"] = over_correction(*_target_gaps(grader, edit))
    seed = grader.spec.test_seed
    if grader.table.rows("association", ("trained", edit, seed)) and grader.table.rows("association", ("trained", NONE, seed)):
        before, after, size = grader.gaps(("trained", NONE, seed), ("trained", edit, seed))
        estimates = [stats.estimate(statistic, *size, draws=grader.spec.measure.draws) for statistic in (before, after)]
        found["over_correction"]["token"] = over_correction(*estimates)
    return found


def _moved(grader: Grader, edit: str) -> dict[str, Any]:
    _probes, entities, before, after = grader.both(edit)
    by_entity = {name: _mean(grader, after[:, place] - before[:, place]) for place, name in enumerate(entities)}
    name, worst = worst_group(by_entity)
    groups = ("targets", "others") if grader.has_targets(edit, 0) else ("others",)
    return {
        "moved": {"entity": name, "entities": len(entities), **figures_of(worst)},
        "changes": {group: figures_of(_group_change(grader, edit, group)) for group in groups},
    }


def _mean(grader: Grader, differences: Any) -> Estimate:
    return stats.mean(differences, draws=grader.spec.measure.draws)


def _group_change(grader: Grader, edit: str, group: str) -> Estimate:
    probes, entities, before, after = grader.both(edit, group)
    difference = after - before
    return stats.estimate(lambda d: stats.crossed(difference, d), len(probes), len(entities), difference.size, draws=grader.spec.measure.draws)


def _target_gaps(grader: Grader, edit: str) -> tuple[Estimate, Estimate]:
    """The targets' signed gap without and with the edit, on the entities that were asked about under it."""
    probes, targets, t_before, t_after = grader.both(edit, "targets")
    _, others, o_before, o_after = grader.both(edit, "others")
    size = (len(probes), len(targets) + len(others), t_before.size + o_before.size)
    before, after = (
        stats.estimate(target_statistic(t, o), *size, draws=grader.spec.measure.draws) for t, o in ((t_before, o_before), (t_after, o_after))
    )
    return before, after
