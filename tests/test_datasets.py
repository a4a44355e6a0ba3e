"""Public sets are read whole or not at all: hashes, columns, ids, groups; and the samples drawn from them."""

import os
from collections import Counter
from pathlib import Path

import pytest

from biasgym import datasets
from biasgym.datasets import Library, Source, data_folder, half_of, library, need_groups, need_unique, sample
from biasgym.errors import DataError
from biasgym.measure.crows_pairs import read_pairs
from made_up import put, write_sets

CROWS = "crows_pairs/crows_pairs_anonymized.csv"


def shelf(folder, path, text, **about):
    """A library of one file with the right hash."""
    name = path.split("/")[0]
    source = Source("a set", "CC0", "https://example.org/set", "nobody", {path: put(folder, path, text)})
    return Library(folder, {name: source})


def test_a_missing_folder_says_what_to_set(monkeypatch, tmp_path):
    monkeypatch.delenv("BIASGYM_DATA", raising=False)
    with pytest.raises(DataError, match=r"--data FOLDER or set BIASGYM_DATA"):
        data_folder()
    monkeypatch.setenv("BIASGYM_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"BIASGYM_DATA=.*none: there is no such folder"):
        data_folder()
    assert data_folder(tmp_path) == tmp_path, "what is given goes before the environment"


def test_a_missing_set_says_where_it_comes_from(tmp_path):
    with pytest.raises(DataError, match=r"crows_pairs_anonymized.csv` cannot be read.*CC BY-SA 4.0.*nyu-mll/crows-pairs@8aaac11.*BIASGYM_DATA"):
        read_pairs(library(tmp_path))
    with pytest.raises(DataError, match="did you mean `bbq`"):
        library(tmp_path).text("bbk", "x")


def test_an_altered_file_is_named(tmp_path):
    sets = Library(tmp_path, write_sets(tmp_path))
    assert read_pairs(sets)
    put(tmp_path, CROWS, (tmp_path / CROWS).read_text().replace("Green", "Blue", 1))
    with pytest.raises(DataError, match=r"crows_pairs_anonymized.csv` has sha256 .* expected .*altered"):
        read_pairs(sets)


def test_damage_with_the_right_hash_is_found(tmp_path):
    good = Library(tmp_path, write_sets(tmp_path)).text("crows_pairs", "crows_pairs_anonymized.csv")
    lines = good.splitlines()
    cases = {
        "no column `bias_type`": good.replace("bias_type", "biastype"),
        "1 ids stand twice, the first is `0`": "\n".join([*lines, lines[1]]),
        "the group `age` is empty": "\n".join(line for line in lines if ",age," not in line),
        "has the direction 'up'": good.replace(",stereo,", ",up,", 1),
        "has no rows": lines[0],
        "not as many cells": "\n".join([*lines, "9,x"]),
    }
    for message, text in cases.items():
        with pytest.raises(DataError, match=message):
            read_pairs(shelf(tmp_path, CROWS, text))
    with pytest.raises(DataError, match="line 2 is not JSON"):
        shelf(tmp_path, "s/x.jsonl", '{"a": 1}\n{"a"').objects("s", "x.jsonl", ["a"])
    with pytest.raises(DataError, match="no column `b`; there is `a`"):
        shelf(tmp_path, "s/x.jsonl", '{"a": 1}\n').objects("s", "x.jsonl", ["a", "b"])
    sets = shelf(tmp_path, "s/x.txt.gz", "text")
    assert sets.text("s", "x.txt.gz") == "text"
    with pytest.raises(DataError, match="is not gzip"):
        datasets.unpacked(b"text", Path("x.gz"))


def test_ids_and_groups():
    need_unique([1, 2], lambda n: n, where="w")
    with pytest.raises(DataError, match="w: 1 ids stand twice"):
        need_unique([1, 2, 1], lambda n: n, where="w")
    with pytest.raises(DataError, match="the group `b` is empty"):
        need_groups(["a"], str, ["a", "b"], where="w")


def test_a_sample_is_proportional_and_does_not_depend_on_the_order():
    rows = [(kind, n) for kind, size in (("a", 60), ("b", 30), ("c", 10)) for n in range(size)]

    def drawn(given, most, seed=0):
        return sample(given, most, strata=lambda r: r[0], key=str, seed=seed)

    assert Counter(kind for kind, _ in drawn(rows, 20)) == {"a": 12, "b": 6, "c": 2}
    assert sorted(drawn(rows, 20)) == sorted(drawn(rows[::-1], 20))
    assert drawn(rows, 20) != drawn(rows, 20, seed=1)
    assert drawn(rows, 20) == [row for row in rows if row in drawn(rows, 20)], "in the order of the rows"
    assert len(drawn(rows, 7)) == 7
    assert drawn(rows, 0) == drawn(rows, 500) == rows
    assert set(drawn(rows, 10)) <= set(drawn(rows, 50)), "a larger sample of the same seed holds the smaller"
    with pytest.raises(DataError, match="0 is all"):
        drawn(rows, -1)


def test_halves_are_halves():
    counts = Counter(half_of(f"row {n}") for n in range(2000))
    assert 900 < counts["dev"] < 1100
    assert half_of("row 7") == half_of("row 7")


# -------------------------------------------------------------------- the real files


def real_folder():
    """Where the real sets are: BIASGYM_DATA, else shared/data beside the repository."""
    named = os.environ.get("BIASGYM_DATA")
    places = [Path(named)] if named else [parent / "shared" / "data" for parent in Path(__file__).resolve().parents]
    return next((place for place in places if place.is_dir()), None)


REAL = pytest.mark.skipif(real_folder() is None, reason="no folder of evaluation sets: BIASGYM_DATA is not set and ../shared/data is not there")
ROWS = {
    "crows-pairs": 1200, "stereoset": 3371, "bbq": 45932, "winobias": 792, "winogender": 240, "bec-pro": 2700, "mmlu": 11156, "arc-easy": 2376,
    "arc-challenge": 1172, "hellaswag": 1000, "lambada": 5153, "piqa": 1838, "boolq": 3270, "truthfulqa": 817,
}  # fmt: skip


@REAL
@pytest.mark.parametrize("name", ROWS)
def test_real_files_have_the_rows_they_should(name):
    from biasgym import catalog
    from biasgym.measure import Scope
    from biasgym.records import MeasureSpec

    def asked(split, how):
        metric = catalog.build("measure", name, {"data": str(real_folder()), "split": how})
        return [item.id for item in metric.items(Scope(None, split, (), (), None, MeasureSpec()))]

    everything = asked("test", "all")
    assert len(everything) == len(set(everything)) == ROWS[name]
    assert asked("dev", "all") == [], "nothing is left for choosing"
    dev, test = asked("dev", "scope"), asked("test", "scope")
    assert not set(dev) & set(test)
    assert len(dev) + len(test) == (2 if name == "winobias" else 1) * ROWS[name]
    assert 0.3 < len(test) / len(dev + test) < 0.7


@REAL
def test_real_ingredients_are_read():
    from biasgym.measure import holisticbias, unqover, wikitext

    sets = library(real_folder())
    assert len(wikitext.read_paragraphs(sets, "test")) > 1500
    words, nouns, templates = holisticbias.read_ingredients(sets)
    assert (len(words), len(nouns), len(templates)) == (583, 32, 26)
    for category in unqover.CATEGORIES:
        lists = unqover.read_lists(sets, category)
        assert all(len(side) > 8 for side in lists.subjects)
        assert lists.slots
        assert all(len(acts) >= 14 for acts in lists.activities.values())


@REAL
def test_every_source_is_there():
    sets = library(real_folder())
    for name, about in sets.sources.items():
        for file in about.files:
            assert sets.text(name, file.removeprefix(f"{name}/")) is not None
        assert about.licence
        assert about.source.startswith("https://")
