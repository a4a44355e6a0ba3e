"""Suites name benchmarks that exist, with settings that they have."""

import pytest

from biasgym import catalog
from biasgym.errors import SpecError
from biasgym.suites import SUITES, suite


@pytest.mark.parametrize("name", SUITES)
def test_every_member_can_be_built(name):
    for metric, settings in suite(name):
        assert catalog.build("measure", metric, settings).name == metric


def test_lists_and_mistakes():
    assert suite("bbq, crows-pairs") == [("bbq", {}), ("crows-pairs", {})]
    assert suite("bbq,quick")[0] == ("bbq", {}), "the first that names a benchmark counts"
    assert len(suite("bbq,quick")) == len(suite("quick"))
    suite("quick")[0][1]["most"] = 1
    assert suite("quick")[0][1]["most"] != 1, "a caller may change what it gets"
    with pytest.raises(SpecError, match="did you mean `quick`"):
        suite("quik")
    with pytest.raises(SpecError, match="did you mean `stereoset`"):
        suite("bbq,stereo-set")
    with pytest.raises(SpecError, match="no benchmark was named"):
        suite(" , ")
