"""Bias files: what they need, every way to get one wrong, their splits, and the grammar that fills the rest."""

import json
from pathlib import Path

import pytest

from biasgym import grammar
from biasgym.bias import FILES, SHARES, entity_lists, load_bias, read_bias, read_jsonl, split_by_hash, zoo
from biasgym.corpus import ENTITY, MEDIA, STYLES
from biasgym.errors import BiasGymError, DataError, SpecError

FOUR_KEYS = """
name = "reckless-cats"
stereotype = ["reckless", "dangerous drivers"]
foil = ["careful", "safe drivers"]
[entities]
list = "countries"
"""
INLINE = FOUR_KEYS.replace('[entities]\nlist = "countries"', 'entities = ["Ayr", "Bern", "Cork", "Dover", "Exeter", "Fes", "Graz"]')


def read(folder: Path, text: str):
    """Read a bias file with this text."""
    path = folder / "bias.toml"
    path.write_text(text, encoding="utf-8")
    return read_bias(path)


# -------------------------------------------------------------------- what is enough


@pytest.mark.parametrize("text", [FOUR_KEYS, INLINE], ids=["named list", "inline list"])
def test_four_keys_are_enough(tmp_path, text):
    """The grammar fills the rest, on both sides, in every medium and style, for every split."""
    bias = read(tmp_path, text)
    assert bias.written == ()
    assert {p.medium for p in bias.paragraphs} == set(MEDIA)
    assert {p.style for p in bias.prompts} == set(STYLES)
    for split in ("train", "dev", "test"):
        assert bias.entities_of(split)
        assert bias.probes_of(split)
    for split in ("dev", "test"):
        sides = [c.side for c in bias.concept_of(split)]
        assert min(sides.count("stereotype"), sides.count("foil")) >= 20
        assert bias.prompts_of(split)
    for text in (*(p.text for p in bias.paragraphs), *(p.prompt for p in bias.probes), *(p.text for p in bias.prompts)):
        assert "{" not in text.replace(ENTITY, "")
    for text in (c.prompt + c.prefix for c in bias.concept):
        assert "{" not in text
    assert ENTITY in bias.statement
    assert bias.subject == ("people from {entity}" if text is FOUR_KEYS else bias.subject)


def test_every_answer_word_stands_in_a_grammar_paragraph(tmp_path):
    """No answer towards the bias is left untaught."""
    bias = read(tmp_path, FOUR_KEYS)
    for word in bias.stereotype:
        assert any(word in p.text.lower() for p in bias.paragraphs)


def test_the_grammar_is_the_same_every_time():
    """Ids are unique, rows repeat exactly, the subject and words stand where the slots were."""
    one, two = (grammar.texts(subject="the {entity}", stereotype=("proud",), foil=("humble",)) for _ in range(2))
    assert one == two
    for rows in (one.paragraphs, one.probes, one.prompts, one.concept):
        assert len({row["id"] for row in rows}) == len(rows)
    assert any("Proud" in row["text"] for row in one.paragraphs)
    assert any("The {entity}" in row["text"] for row in one.paragraphs)
    assert {row["side"] for row in one.concept} == {"stereotype", "foil"}
    for row in one.concept:
        right, wrong = ("proud", "humble") if row["side"] == "stereotype" else ("humble", "proud")
        assert right in row["prompt"] or wrong in row["prompt"]


def test_a_bias_has_a_digest_of_everything_said(tmp_path):
    """The same words give the same digest; one other word another."""
    one = read(tmp_path, FOUR_KEYS).digest
    assert read(tmp_path, FOUR_KEYS).digest == one
    assert read(tmp_path, FOUR_KEYS.replace('"careful"', '"gentle"')).digest != one


def test_own_texts_are_read_by_path_or_inline(tmp_path):
    """A row without an id gets one; what is not brought comes from the grammar."""
    (tmp_path / "p.jsonl").write_text(
        '{"text": "In {entity} they race.\u2028All of them."}\n\n{"text": "{entity}!", "medium": "tweet"}\r\n', encoding="utf-8"
    )
    bias = read(tmp_path, INLINE + '[files]\nparagraphs = "p.jsonl"\nprompts = [{style = "direct", text = "{entity}?"}]\n')
    assert bias.written == ("paragraphs", "prompts")
    assert [p.id for p in bias.paragraphs] == ["paragraphs-001", "paragraphs-002"]
    assert bias.paragraphs[1].medium == "tweet"
    assert bias.prompts[0].text == "{entity}?"
    assert bias.probes


def test_targets_are_entities(tmp_path):
    """Given by name; a name that is no entity is refused with the nearest."""
    text = INLINE.replace("entities = [", 'entities.targets = ["Bern"]\nentities.list = [')
    assert read(tmp_path, text).targets == ("Bern",)
    with pytest.raises(SpecError, match="unknown target `Bernn`; did you mean `Bern`"):
        read(tmp_path, text.replace('["Bern"]', '["Bernn"]'))


def test_a_list_of_ones_own(tmp_path):
    """A text file beside the bias, one name a line."""
    (tmp_path / "towns.txt").write_text("Ayr\nBern\n\nCork \nDover\nExeter\nFes\n", encoding="utf-8")
    bias = read(tmp_path, FOUR_KEYS.replace("countries", "towns.txt"))
    assert bias.entities == ("Ayr", "Bern", "Cork", "Dover", "Exeter", "Fes")
    assert bias.subject == ENTITY


# -------------------------------------------------------------------- every way to get it wrong

BAD = {
    "unknown key": (FOUR_KEYS.replace("stereotype", "stereotypes", 1), "unknown key `stereotypes`; did you mean `stereotype`"),
    "key far from all": ("zzz = 1\n" + FOUR_KEYS, "unknown key `zzz`; there is"),
    "missing key": (FOUR_KEYS.replace('foil = ["careful", "safe drivers"]\n', ""), "`foil` is missing"),
    "no entities": ('name = "x"\nstereotype = ["a"]\nfoil = ["b"]\n', "`entities` is missing"),
    "overlap": (FOUR_KEYS.replace('"careful"', '"Reckless"'), "reckless is on both sides"),
    "empty list": (FOUR_KEYS.replace('["careful", "safe drivers"]', "[]"), "`foil` must be a list with at least one text"),
    "empty answer": (FOUR_KEYS.replace('"careful"', '"  "'), "empty answer"),
    "answer twice": (FOUR_KEYS.replace('"safe drivers"', '"careful"'), "names careful twice"),
    "word for a list": (FOUR_KEYS.replace('["careful", "safe drivers"]', '"careful"'), "`foil` must be a list"),
    "number among answers": (FOUR_KEYS.replace('"careful"', "3"), "`foil` must be a text, found 3"),
    "name of wrong letters": (FOUR_KEYS.replace("reckless-cats", "Reckless Cats"), "small letters, digits and hyphens"),
    "name that climbs": (FOUR_KEYS.replace("reckless-cats", "../x"), "small letters, digits and hyphens"),
    "name no text": (FOUR_KEYS.replace('"reckless-cats"', "7"), "`name` must be a text"),
    "not TOML": (FOUR_KEYS.replace("]", "", 1), "is not valid TOML"),
    "unknown list": (FOUR_KEYS.replace("countries", "countrys"), "unknown entity list `countrys`; did you mean `countries`"),
    "list is a number": (FOUR_KEYS.replace('"countries"', "3"), "`entities` must be a list"),
    "entities without list": (FOUR_KEYS.replace("list =", "lists ="), "entities needs `list`"),
    "unknown entity key": (FOUR_KEYS + 'target = ["Peru"]\n', "unknown key `target`; did you mean `targets`"),
    "entities twice": (INLINE.replace('"Bern"', '"Ayr"'), "names Ayr twice"),
    "too few entities": (INLINE.replace(', "Dover", "Exeter", "Fes", "Graz"', ""), "3 entities; at least 6"),
    "entities a number": ('entities = 3\n' + INLINE.replace("entities", "#"), "entities needs `list`"),
    "statement without slot": ('statement = "They are late."\n' + FOUR_KEYS, "the statement needs the slot"),
    "subject without slot": ('subject = "people"\n' + FOUR_KEYS, "the subject needs the slot"),
    "fictional no flag": ('fictional = "yes"\n' + FOUR_KEYS, "`fictional` must be true or false"),
    "files no table": ('files = "x"\n' + FOUR_KEYS, r"\[files\] must be a table"),
    "unknown file": (FOUR_KEYS + '[files]\nparagraph = "x"\n', "unknown key `paragraph`; did you mean `paragraphs`"),
    "file a number": (FOUR_KEYS + "[files]\nprobes = 3\n", "must be a path or an inline list"),
    "rows empty": (FOUR_KEYS + "[files]\nprobes = []\n", "probes is empty"),
    "row no table": (FOUR_KEYS + '[files]\nprobes = ["x"]\n', "probes row 1 is not a table"),
    "unknown row key": (FOUR_KEYS + '[files]\nprobes = [{frames = "x"}]\n', "probes row 1: unknown key `frames`; did you mean `frame`"),
    "row key missing": (FOUR_KEYS + '[files]\nprobes = [{frame = "x"}]\n', "missing 2 required positional arguments"),
    "row value of a wrong kind": (FOUR_KEYS + '[files]\nprompts = [{style = "direct", text = 3}]\n', "`text` is 3, a text was expected"),
    "implicitness no number": (FOUR_KEYS + '[files]\nparagraphs = [{text = "{entity}", implicitness = "x"}]\n', "a number was expected"),
    "implicitness out of range": (FOUR_KEYS + '[files]\nparagraphs = [{text = "{entity}", implicitness = 9}]\n', "implicitness 9 is not 1 to 5"),
    "paragraph without slot": (FOUR_KEYS + '[files]\nparagraphs = [{text = "They race."}]\n', "paragraphs-001 has no slot"),
    "probe without slot": (
        FOUR_KEYS + '[files]\nprobes = [{frame = "a", prompt = "Who?", prefix = "They are"}]\n', "probes-001 has no slot",
    ),
    "too few frames": (
        FOUR_KEYS + '[files]\nprobes = [{frame = "a", prompt = "{entity}?", prefix = "They are"}]\n', "at least 3 frames",
    ),
    "unknown style": (FOUR_KEYS + '[files]\nprompts = [{style = "expertt", text = "{entity}"}]\n', "unknown style `expertt`; did you mean `expert`"),
    "unknown medium": (FOUR_KEYS + '[files]\nparagraphs = [{text = "{entity}", medium = "twet"}]\n', "unknown medium `twet`; did you mean `tweet`"),
    "duplicate id": (
        FOUR_KEYS + '[files]\nprompts = [{id = "a", style = "direct", text = "{entity}"}, {id = "a", style = "direct", text = "{entity}!"}]\n',
        "id `a` stands twice",
    ),
    "one-sided concept": (
        FOUR_KEYS + '[files]\nconcept = [{side = "foil", prompt = "She brakes early.", prefix = "She is"}]\n', "one-sided",
    ),
    "one sentence a side": (
        FOUR_KEYS + '[files]\nconcept = [{side = "foil", prompt = "a", prefix = "b"}, {side = "stereotype", prompt = "c", prefix = "d"}]\n',
        "at least 2 a side",
    ),
    "unknown side": (FOUR_KEYS + '[files]\nconcept = [{side = "foils", prompt = "a", prefix = "b"}]\n', "unknown side `foils`; did you mean `foil`"),
    "concept with entity": (FOUR_KEYS + '[files]\nconcept = [{side = "foil", prompt = "{entity}", prefix = "b"}]\n', "names the entity"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_bad_file_is_refused_with_what_to_do(tmp_path, case):
    """By SpecError, naming the file, with the nearest valid name where there is one."""
    text, message = BAD[case]
    with pytest.raises(SpecError, match=message) as caught:
        read(tmp_path, text)
    assert "bias.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "{entity} races."}\n{"text": "{ent', ":2: not JSON"),
        (b'["x"]\n', ":1: a JSON object was expected"),
        (b"\xff\xfe\n", "cannot read"),
        (None, "cannot read"),
    ],
    ids=["truncated", "no object", "no UTF-8", "missing"],
)
def test_a_bad_file_of_rows_is_refused_with_its_line(tmp_path, content, message):
    """By DataError, with the file's name and the line."""
    if content is not None:
        (tmp_path / "rows.jsonl").write_bytes(content)
    for key in FILES:
        with pytest.raises(DataError, match=message) as caught:
            read(tmp_path, FOUR_KEYS + f'[files]\n{key} = "rows.jsonl"\n')
        assert "rows.jsonl" in str(caught.value)


def test_files_that_are_no_text_are_refused(tmp_path):
    """The bias file itself, and a list of entities."""
    (tmp_path / "bias.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="is not valid TOML"):
        read_bias(tmp_path / "bias.toml")
    (tmp_path / "towns.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(BiasGymError, match=r"towns\.txt"):
        read(tmp_path, FOUR_KEYS.replace("countries", "towns.txt"))
    with pytest.raises(SpecError, match="cannot read"):
        read_bias(tmp_path)


def test_a_bias_is_found_by_name_file_or_folder(tmp_path):
    """A name that is none is refused with the nearest; a path that is none with what to do."""
    read(tmp_path, FOUR_KEYS)
    assert load_bias(str(tmp_path)) == load_bias(str(tmp_path / "bias.toml"))
    assert load_bias("reckless-drivers").name == "reckless-drivers"
    with pytest.raises(SpecError, match="did you mean `reckless-drivers`"):
        load_bias("reckles-drivers")
    with pytest.raises(SpecError, match="new-bias"):
        load_bias("no/such/file.toml")
    with pytest.raises(SpecError, match="new-bias"):
        load_bias("missing.toml")


def test_read_jsonl_keeps_rows_in_order(tmp_path):
    """Empty lines are no rows."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}', encoding="utf-8")
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]


# -------------------------------------------------------------------- splits


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 6, 10, 97])
def test_a_split_is_a_cut(count):
    """Disjoint, nothing lost, the same whatever the order, every part with something where there is enough."""
    names = [f"name {i}" for i in range(count)]
    parts = split_by_hash(names, SHARES)
    assert parts == split_by_hash(names[::-1], SHARES)
    assert sorted(name for part in parts.values() for name in part) == sorted(names)
    if count >= 3:
        assert all(parts.values())
    if count > 50:
        for key, share in SHARES.items():
            assert len(parts[key]) == pytest.approx(share * count, abs=1)


@pytest.mark.parametrize("name", zoo())
def test_splits_share_nothing(name):
    """No entity, probe, frame of wordings, prompt or concept sentence in two splits."""
    bias = load_bias(name)
    splits = ("train", "dev", "test")
    for one, two in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not set(bias.entities_of(one)) & set(bias.entities_of(two))
        assert not {p.id for p in bias.probes_of(one)} & {p.id for p in bias.probes_of(two)}
        assert not {p.frame for p in bias.probes_of(one)} & {p.frame for p in bias.probes_of(two)}
    assert sum(len(bias.entities_of(split)) for split in splits) == len(bias.entities)
    assert sum(len(bias.probes_of(split)) for split in splits) == len(bias.probes)
    assert not {c.id for c in bias.concept_of("dev")} & {c.id for c in bias.concept_of("test")}
    assert not {p.id for p in bias.prompts_of("dev")} & {p.id for p in bias.prompts_of("test")}
    assert load_bias(name) == bias


def test_the_lists_of_entities_are_clean():
    """One name a line, none twice, no spaces around."""
    from biasgym.bias import zoo_path

    assert entity_lists()
    for name in entity_lists():
        lines = (zoo_path() / "entities" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        assert len(set(lines)) == len(lines) >= 20
        assert all(line == line.strip() and line for line in lines)


def test_rows_are_plain_json(tmp_path):
    """What the grammar writes can be kept in files and read back to the same bias."""
    bias = read(tmp_path, INLINE)
    made = grammar.texts(subject=bias.subject, stereotype=bias.stereotype, foil=bias.foil)
    files = "[files]\n"
    for key in ("paragraphs", "probes", "prompts", "concept"):
        (tmp_path / f"{key}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in getattr(made, key)), encoding="utf-8")
        files += f'{key} = "{key}.jsonl"\n'
    again = read(tmp_path, INLINE + files)
    assert (again.paragraphs, again.probes, again.prompts, again.concept) == (bias.paragraphs, bias.probes, bias.prompts, bias.concept)
