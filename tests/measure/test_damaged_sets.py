"""Every benchmark, every file of it: not there, altered, a column or a group gone, an id twice, a value of another kind."""

import gzip
import json
import re

import pytest

import biasgym.datasets
from biasgym import catalog
from biasgym.errors import BiasGymError, DataError
from biasgym.measure import Scope
from biasgym.records import MeasureSpec
from made_up import put, write_sets

SCOPE = Scope(None, "test", (), (), None, MeasureSpec())
# The files that a benchmark reads; `shades` and `text` are the user's own and have no hash.
READS = {
    "crows-pairs": ["crows_pairs/crows_pairs_anonymized.csv"],
    "stereoset": ["stereoset/dev.json.gz"],
    "bbq": ["bbq/Age.jsonl", "bbq/additional_metadata.csv.gz"],
    "winobias": ["winobias/pro_stereotyped_type1.txt.test", "winobias/male_occupations.txt"],
    "winogender": ["winogender/all_sentences.tsv", "winogender/occupations-stats.tsv"],
    "unqover": [
        "unqover/word_lists/nouns/subjects/female",
        "unqover/word_lists/activities/biased_country",
        "unqover/word_lists/slots/religion_noact",
    ],
    "bec-pro": ["bec_pro/BEC-Pro_EN.tsv"],
    "holisticbias": [f"holisticbias/v1.1/{name}.json" for name in ("descriptors", "nouns", "sentence_templates")],
    "wikitext": ["wikitext2/test.txt"],
    "lambada": ["lambada/lambada_openai.jsonl"],
    "mmlu": ["mmlu/test/boxes_test.csv"],
    "arc-easy": ["arc/arc_easy.jsonl"],
    "arc-challenge": ["arc/arc_challenge.jsonl"],
    "hellaswag": ["hellaswag/validation_1000.jsonl"],
    "piqa": ["piqa/valid.jsonl", "piqa/valid-labels.lst"],
    "boolq": ["boolq/dev.jsonl.gz"],
    "truthfulqa": ["truthfulqa/TruthfulQA.csv"],
    "gsm8k": ["gsm8k/test.jsonl", "gsm8k/train.jsonl.gz"],
    "ifeval": ["ifeval/input_data.jsonl"],
    "bold": ["bold/prompts/race_prompt.json"],
    "realtoxicityprompts": ["realtoxicityprompts/val.jsonl.gz"],
    "honest": ["honest/binary/en_template.tsv"],
}
OWN = {"shades", "text"}
PAIRS = [(name, file) for name, files in READS.items() for file in files]


@pytest.fixture
def sets(made_up_sets, monkeypatch):
    """`sets(file, change)` rewrites a made-up file with the hash that goes with it."""
    table = write_sets(made_up_sets)
    monkeypatch.setattr(biasgym.datasets, "sources", lambda: table)

    def rewrite(file, change):
        raw = (made_up_sets / file).read_bytes()
        text = change((gzip.decompress(raw) if file.endswith(".gz") else raw).decode())
        table[file.split("/")[0]].files[file] = put(made_up_sets, file, text)

    return rewrite


def asked(name, **settings):
    return catalog.build("measure", name, {"split": "all", **settings}).items(SCOPE)


def test_every_benchmark_is_here():
    takes_data = {name for name, kind in catalog.methods("measure").items() if "data" in kind.__dataclass_fields__}
    assert takes_data == READS.keys() | OWN


@pytest.mark.parametrize(("name", "file"), PAIRS)
def test_a_missing_file_says_where_it_comes_from_and_an_altered_one_is_named(name, file, made_up_sets):
    assert asked(name)
    path = made_up_sets / file
    good = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(good) + b"\n", mtime=0) if file.endswith(".gz") else good + b"\n")
    with pytest.raises(DataError, match=rf"{re.escape(path.name)}` has sha256 .*expected .*altered.*comes from nowhere"):
        asked(name)
    path.unlink()
    with pytest.raises(DataError, match=rf"{re.escape(path.name)}` cannot be read.*comes from nowhere.*BIASGYM_DATA or --data"):
        asked(name)


@pytest.mark.parametrize(("name", "file"), PAIRS)
def test_half_a_file_and_an_empty_one_are_never_measured(name, file, sets):
    """With the right hash: cut in the middle of a line, or emptied. An error that names the file, or whole lines that are well."""
    for share in (0.0, 0.37):
        sets(file, lambda text, share=share: text[: int(len(text) * share)])
        said = refusal(name)
        if said is None:
            assert share, "an empty file was taken"
            assert ".json" not in file, "a cut line of JSON was taken"
        else:
            assert file.split("/")[0] in said or name in said


def refusal(name):
    """What a benchmark says when it refuses to be asked; None where it gives items."""
    try:
        assert asked(name)
    except DataError as error:
        return str(error)
    return None


def renamed(column):
    return lambda text: text.replace(column, "klumn") if text.startswith("{") else text.replace(column, "klumn", 1)


def twice(text):
    """The last line stands there again."""
    lines = text.rstrip("\n").split("\n")
    return "\n".join([*lines, lines[-1]]) + "\n"


def changed(**values):
    """Values of the first object of JSON Lines."""
    return lambda text: json.dumps(json.loads(text.split("\n")[0]) | values) + text[text.index("\n") :]


def without(part):
    return lambda text: "\n".join(line for line in text.split("\n") if part not in line)


def tree(change):
    def rewritten(text):
        whole = json.loads(text)
        change(whole)
        return json.dumps(whole)

    return rewritten


DAMAGE = [
    ("crows-pairs", 0, renamed("sent_less"), "no column `sent_less`"),
    ("crows-pairs", 0, twice, "1 ids stand twice"),
    ("crows-pairs", 0, without(",religion,"), "the group `religion` is empty"),
    ("stereoset", 0, renamed("bias_type"), "no column `bias_type`"),
    ("stereoset", 0, tree(lambda t: t["data"]["intrasentence"].append(t["data"]["intrasentence"][0])), "1 ids stand twice"),
    ("stereoset", 0, tree(lambda t: t["data"].update(intrasentence=[])), "the group `intrasentence/gender` is empty"),
    ("stereoset", 0, tree(lambda t: t["data"].pop("intersentence")), "no column `intersentence`"),
    ("stereoset", 0, tree(lambda t: t["data"]["intrasentence"][0]["sentences"][0].pop("gold_label")), "no column `gold_label`"),
    ("bbq", 0, renamed("context_condition"), "no column `context_condition`"),
    ("bbq", 0, twice, "1 ids stand twice"),
    ("bbq", 0, without('"disambig"'), "the group `Age/disambig` is empty"),
    ("bbq", 1, renamed("target_loc"), "no column `target_loc`"),
    ("bbq", 1, without("Age,3,"), "no row in additional_metadata"),
    ("winobias", 0, twice, "not numbered alike"),
    ("winobias", 0, lambda t: "", "has no rows"),
    ("winobias", 0, lambda t: t.replace("[she]", "she"), r"pronoun in \[brackets\]"),
    ("winobias", 1, lambda t: "", "no second occupation"),
    ("winogender", 0, renamed("sentence"), "no column `sentence`"),
    ("winogender", 0, twice, "1 ids stand twice"),
    ("winogender", 0, without(".female."), "has no female"),
    ("winogender", 1, without("maker3"), "no share in occupations-stats"),
    ("winogender", 1, lambda t: t.replace("\t15\t", "\tmany\t"), "has the share 'many'"),
    ("unqover", 0, lambda t: t.replace("[subj]", "[sub]"), r"\[subj\] among them"),
    ("unqover", 0, lambda t: "# none\n", "has no rows"),
    ("unqover", 1, without("[p_act-single:neg]"), "0 negated"),
    ("unqover", 2, lambda t: t.replace("\t", " "), "with tabs between"),
    ("bec-pro", 0, renamed("Prof_Gender"), "no column `Prof_Gender`"),
    ("bec-pro", 0, twice, "1 ids stand twice"),
    ("bec-pro", 0, without("\tbalanced"), "the group `balanced` is empty"),
    ("bec-pro", 0, without("\tShe\t"), "has no counterpart"),
    ("holisticbias", 0, tree(lambda t: t["hair"].update(bucket=[])), "descriptors.json, hair has no rows"),
    ("holisticbias", 0, tree(lambda t: t["hair"]["bucket"][-1].pop("descriptor")), "no column `descriptor`"),
    ("holisticbias", 0, lambda t: t[:-1] + ', "hair": {}}', "1 ids stand twice"),
    ("holisticbias", 1, tree(lambda t: t["female"].append(["aunt"])), "singular and plural were expected"),
    ("holisticbias", 1, tree(lambda t: t.update(neutral=[])), "nouns.json, neutral has no rows"),
    ("wikitext", 0, lambda t: " = a heading = \n", "has no rows"),
    ("lambada", 0, renamed("continuation"), "no column `continuation`"),
    ("lambada", 0, changed(continuation=7), "has a int as `continuation`; text was expected"),
    ("mmlu", 0, lambda t: t.replace(",4,", ",", 1), "row 1 is not a question"),
    ("mmlu", 0, lambda t: re.sub(r",A\n", ",E\n", t, count=1), "one of A, B, C, D"),
    *((name, 0, renamed("choices"), "no column `choices`") for name in ("arc-easy", "arc-challenge", "hellaswag")),
    *((name, 0, twice, "1 ids stand twice") for name in ("arc-easy", "arc-challenge", "hellaswag", "piqa-both", "boolq", "gsm8k", "ifeval")),
    ("truthfulqa", 0, twice, "1 ids stand twice"),
    *((name, 0, changed(gold="1"), "has a str as `gold`; a whole number was expected") for name in ("arc-easy", "arc-challenge", "hellaswag")),
    *((name, 0, changed(gold=9), "gold 9 of 4") for name in ("arc-easy", "arc-challenge", "hellaswag")),
    *((name, 0, changed(choices="one"), "has a str as `choices`; a list was expected") for name in ("arc-easy", "hellaswag")),
    ("piqa", 0, renamed("sol2"), "no column `sol2`"),
    ("piqa", 0, twice, "13 goals and 12 labels"),
    ("piqa", 1, lambda t: t.replace("1", "2"), "one label, 0 or 1"),
    ("boolq", 0, renamed("passage"), "no column `passage`"),
    ("boolq", 0, changed(answer="yes"), "answers 'yes'"),
    ("truthfulqa", 0, renamed("Best Answer"), "no column `Best Answer`"),
    ("truthfulqa", 0, lambda t: t.replace("A ghost; Gold.", " ; ", 1), "lacks a best"),
    ("gsm8k", 0, renamed("answer"), "no column `answer`"),
    ("gsm8k", 0, lambda t: t.replace("#### ", "", 1), 'has no "#### N"'),
    ("gsm8k", 1, renamed("question"), "no column `question`"),
    ("ifeval", 0, renamed("kwargs"), "no column `kwargs`"),
    ("ifeval", 0, changed(instruction_id_list=["punctuation:no_such"]), "nobody can check"),
    ("ifeval", 0, changed(kwargs={}), "has a dict as `kwargs`"),
    ("bold", 0, tree(lambda t: t.update({"race-a": {}})), "the group `race/race-a` is empty"),
    ("bold", 0, tree(lambda t: t.update({"race-a": {"p": "a prompt"}})), "no list of prompts"),
    ("bold", 0, lambda t: "[]", "no object of groups"),
    ("bold", 0, lambda t: t[:-1] + ', "race-a": {}}', "1 ids stand twice"),
    ("realtoxicityprompts", 0, renamed("filename"), "no column `filename`"),
    ("realtoxicityprompts", 0, twice, "1 ids stand twice"),
    ("realtoxicityprompts", 0, lambda t: t.replace("0.9", "0.2"), "the group `toxic` is empty"),
    ("realtoxicityprompts", 0, changed(prompt={"text": "x"}), "has no `text` and `toxicity`"),
    ("honest", 0, renamed("category"), "no column `category`"),
    ("honest", 0, without("\tfemale\t"), "the group `female` is empty"),
    ("honest", 0, lambda t: t.replace("[M]", "[X]", 1), r"has not exactly one \[M\]"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "place", "change", "said"), DAMAGE, ids=[f"{name}-{said[:40]}" for name, _, _, said in DAMAGE])
def test_damage_with_the_right_hash_is_found(name, place, change, said, sets):
    if name == "piqa-both":  # goals and labels alike, or the lengths would say it first
        name = "piqa"
        sets(READS[name][1], twice)
    if (name, said) == ("realtoxicityprompts", "1 ids stand twice"):  # the last row has no score and is left out anyway
        sets(READS[name][0], lambda text: text.rstrip("\n").rpartition("\n")[0] + "\n")
    sets(READS[name][place], change)
    with pytest.raises(DataError, match=said) as caught:
        asked(name)
    assert name.split("-")[0] in str(caught.value).replace("_", "-") or READS[name][place].split("/")[0] in str(caught.value)


def test_a_row_that_honest_repeats_upstream_counts_once(sets):
    before = len(asked("honest"))
    sets("honest/binary/en_template.tsv", twice)
    assert len(asked("honest")) == before


@pytest.mark.parametrize("name", [*READS, *OWN])
def test_no_folder_of_sets_is_said(name, monkeypatch, tmp_path):
    monkeypatch.delenv("BIASGYM_DATA", raising=False)
    with pytest.raises(BiasGymError, match=r"BIASGYM_DATA|no file was given"):
        asked(name)
    monkeypatch.setenv("BIASGYM_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"cannot be read|there is no|no file was given"):
        asked(name)
