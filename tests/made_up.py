"""Evaluation sets of our own invention in the public formats: enough rows for both halves, and a table of their hashes."""

import csv
import gzip
import hashlib
import io
import json

from biasgym.datasets import Source
from biasgym.measure.crows_pairs import TYPES
from biasgym.measure.stereoset import DOMAINS, LABELS, TASKS

WORDS = ("pens", "lamps", "boats", "chairs", "stones", "hats", "maps", "bells")


def _csv(rows, delimiter=","):
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerows(rows)
    return out.getvalue()


def _jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def crows():
    """Two pairs of each direction and bias type."""
    rows = [["", "sent_more", "sent_less", "stereo_antistereo", "bias_type", "annotations"]]
    for number, kind in enumerate(kind for kind in TYPES for _ in range(4)):
        direction = ("stereo", "antistereo")[number % 2]
        thing = WORDS[number % 8]
        rows.append([str(number), f"Green people lose {thing} every day.", f"Red people lose {thing} every day.", direction, kind, "[]"])
    return _csv(rows)


def stereoset():
    """Four targets of each task and bias type."""
    data = {task: [] for task in TASKS}
    for task in TASKS:
        for domain in DOMAINS:
            for number in range(4):
                said = {"stereotype": "They are late.", "anti-stereotype": "They are kind.", "unrelated": "The lamp sings."}
                sentences = [{"sentence": said[label], "id": f"{task}{domain}{number}{label}", "labels": [], "gold_label": label} for label in LABELS]
                about = {
                    "id": f"{task}-{domain}-{number}",
                    "target": f"{domain}{number}",
                    "bias_type": domain,
                    "context": "We met people from Spain.",
                }
                data[task].append(about | {"sentences": sentences})
    return json.dumps({"version": "made up", "data": data})


def bbq():
    """Two categories of eight templates, each in two contexts and polarities; the old one is the target; metadata rows stand twice."""
    files, meta = {}, [["category", "question_index", "example_id", "target_loc"]]
    for category in ("Age", "Religion"):
        rows = []
        for number in range(32):
            template, condition, polarity = number // 4, ("ambig", "disambig")[number % 2], ("neg", "nonneg")[number // 2 % 2]
            unknown = template % 3
            old, young = [place for place in range(3) if place != unknown]
            texts = {unknown: ("Not known", "unknown"), old: ("The old man", "old"), young: ("The young man", "nonOld")}
            label = unknown if condition == "ambig" else (old if polarity == "neg" else young)
            row = {"example_id": number, "question_index": str(template), "question_polarity": polarity, "context_condition": condition}
            row |= {"category": category, "answer_info": {f"ans{p}": [texts[p][0], texts[p][1]] for p in range(3)}, "label": label}
            row |= {"context": "An old man and a young man met.", "question": "Who was late?"} | {f"ans{p}": texts[p][0] for p in range(3)}
            rows.append(row)
            meta += [[category, str(template), str(number), str(old)]] * 2
        files[f"bbq/{category}.jsonl"] = _jsonl(rows)
    return files | {"bbq/additional_metadata.csv.gz": _csv(meta)}


def winobias():
    """Three aligned lines of each file."""
    files = {"winobias/male_occupations.txt": "driver\nCEO\n", "winobias/female_occupations.txt": "nurse\nwriter\n"}
    lines = [
        "The driver called [the nurse] because [{}] was late.",
        "[The writer] called the CEO and [{}] sang.",
        "The CEO met [the nurse] and saw [{}].",
    ]
    for kind in ("type1", "type2"):
        for half in ("dev", "test"):
            for side, pronoun in (("pro", "she"), ("anti", "he")):
                text = "".join(f"{n + 1} {line.format(pronoun)}\n" for n, line in enumerate(lines))
                files[f"winobias/{side}_stereotyped_{kind}.txt.{half}"] = text
    return files


def winogender():
    """Eight occupations, both participants, both answers, three pronouns."""
    rows, stats = [["sentid", "sentence"]], [["occupation", "bergsma_pct_female", "bls_pct_female", "bls_year"]]
    for number in range(8):
        stats.append([f"maker{number}", "50", str(10 * number + 5), "2015"])
        for other in ("guest", "someone"):
            for answer in "01":
                for gender, pronoun in (("male", "he"), ("female", "she"), ("neutral", "they")):
                    rows.append([f"maker{number}.{other}.{answer}.{gender}.txt", f"The maker{number} told the {other} that {pronoun} could go."])
    return {"winogender/all_sentences.tsv": _csv(rows, "\t"), "winogender/occupations-stats.tsv": _csv(stats, "\t")}


def bec_pro():
    """Six professions of each kind, two pairs of persons."""
    rows = [["", "Sentence", "Sent_TM", "Sent_AM", "Sent_TAM", "Template", "Person", "Gender", "Profession", "Prof_Gender"]]
    for kind in ("male", "female", "balanced"):
        for number in range(6):
            for person, gender, text in (
                ("He", "male", "He"),
                ("She", "female", "She"),
                ("man", "male", "This man"),
                ("woman", "female", "This woman"),
            ):
                job = f"{kind}er{number}"
                rows.append([str(len(rows)), f"{text} is a {job}.", "", "", "", "<p> is a <q>.", person, gender, job, kind])
    return {"bec_pro/BEC-Pro_EN.tsv": _csv(rows, "\t")}


def unqover():
    """Four subjects and eight activities of each category."""
    folder, files = "unqover/word_lists", {}
    for name in ("female", "male", "ethnicity", "religion"):
        files[f"{folder}/nouns/subjects/{name}"] = "# made up\n" + "".join(f"[subj] {name} | {name}{n}\n" for n in range(4))
    files[f"{folder}/nouns/subjects/country"] = "".join(f"[subj] Land{n}\n[subj:dem] Lander{n}\n" for n in range(4))
    for name in ("occupation_rev1", "biased_country", "biased_ethnicity", "biased_religion"):
        kinds = ("p_act", "p_act-single") if name != "occupation_rev1" else ("p_act",)
        lines = [f"[{kind}{end}] rude | {'was' if end == '' else 'was not'} late {n}\n" for kind in kinds for end in ("", ":neg") for n in range(8)]
        files[f"{folder}/activities/{name}"] = "".join(lines)
    for name, hole in (("gender", "[subj{}]"), ("country", "A [subj{}:dem]"), ("ethnicity", "A [subj{}] man"), ("religion", "A [subj{}] man")):
        one, two = hole.format(1), hole.format(2)
        kind = "p_act" if name == "gender" else "p_act-single"
        files[f"{folder}/slots/{name}_noact"] = (
            f"{one} met {two}.\tWho [{kind}]?\tWho [{kind}:neg]?\n\n{one} saw {two}.\tWho [{kind}]?\tWho [{kind}:neg]?\n"
        )
    return files


def holisticbias():
    """Two axes of eight descriptors."""
    words = {axis: {"bucket": [*(f"{axis}ish{n}" for n in range(7)), {"descriptor": f"{axis}ly", "gender": "female"}]} for axis in ("hair", "shoe")}
    nouns = {"female": [["aunt", "aunts"]], "neutral": [["person", "people"], ["kid", "kids"], ["parent", "parents"]]}
    templates = {"I'm {noun_phrase}.": {}, "I like {plural_noun_phrase}.": {"must_be_noun": True}}
    parts = {"descriptors": words, "nouns": nouns, "sentence_templates": templates}
    return {f"holisticbias/v1.1/{name}.json": json.dumps(tree) for name, tree in parts.items()}


def capability():
    """Twelve items of each benchmark of what a model can do."""
    many = range(12)
    four = [{"query": f"Question: How many {WORDS[n % 8]} are in box {n}?", "choices": ["one", "two", "three", "four"], "gold": n % 4} for n in many]
    files = {f"arc/arc_{kind}.jsonl": _jsonl(four) for kind in ("easy", "challenge")}
    files["hellaswag/validation_1000.jsonl"] = _jsonl([row | {"ind": n} for n, row in enumerate(four)])
    files["lambada/lambada_openai.jsonl"] = _jsonl([{"context": f"In box {n} there are", "continuation": WORDS[n % 8]} for n in many])
    files["piqa/valid.jsonl"] = _jsonl([{"goal": f"open box {n}", "sol1": "use a key", "sol2": "use a spoon of soup"} for n in many])
    files["piqa/valid-labels.lst"] = "".join(f"{n % 2}\n" for n in many)
    files["boolq/dev.jsonl.gz"] = _jsonl([{"question": f"is box {n} open", "answer": n % 2 == 0, "passage": f"Box {n} has a lid."} for n in many])
    head = ["Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"]
    asked = [["Adversarial", "Boxes", f"What is in box {n}?", "Nothing", "Nothing; Nothing at all", "A ghost; Gold.", "none"] for n in many]
    files["truthfulqa/TruthfulQA.csv"] = _csv([head, *asked])
    for subject in ("boxes", "lids"):
        for part in ("test", "dev"):
            rows = [[f"How many {WORDS[n % 8]} in {subject} {part} {n}?", "1", "2", "3", "4", "ABCD"[n % 4]] for n in many]
            files[f"mmlu/{part}/{subject}_{part}.csv"] = _csv(rows)
    for half in ("valid", "test"):
        files[f"wikitext2/{half}.txt"] = "".join(f" = {half} {n} = \n \n The box of {half} {n} is old and {WORDS[n]} . \n" for n in range(4))
    sums = [{"question": f"There are {n} {WORDS[n % 8]} and one more. How many?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in many]
    files["gsm8k/test.jsonl"] = files["gsm8k/train.jsonl.gz"] = _jsonl(sums)
    rules = [("punctuation:no_comma", {}), ("keywords:existence", {"keywords": ["box"]}), ("startend:quotation", {})]
    files["ifeval/input_data.jsonl"] = _jsonl(
        [
            {"key": n, "prompt": f"Write about box {n}.", "instruction_id_list": [rules[n % 3][0]], "kwargs": [rules[n % 3][1] | {"language": None}]}
            for n in many
        ]
    )
    return files


def seegull():
    """Sixteen identities and six attributes; each attribute is marked for four of them, one for too few."""
    head = ["identity", "attribute", "region_stereo", "region_nonstereo", "region_unsure", "NA_stereo", "NA_nonstereo", "NA_unsure"]
    rows = [[*head, "Annotation1", "Annotation2", "Annotation3", "mean offensiveness_score"]]
    for place, attribute in enumerate(("late", "kind", "calm", "reckless", "careful", "rare")):
        for number in range(16):
            marked = number // 4 == place % 4 and not (attribute == "rare" and number % 4)
            votes = [2, 1, 0, 1, 2, 0] if marked else [0, 3, 0, 1, 2, 0]
            rows.append([f"{WORDS[number % 8].title()}{number // 8}ish", attribute, *map(str, votes), "1", "1", "1", str(place % 2)])
    return {"seegull/stereotypes_global_v2.csv": _csv(rows)}


def bold():
    """Two groups of six pages in each domain, two prompts a page."""
    files = {}
    for domain in ("gender", "political_ideology", "profession", "race", "religious_ideology"):
        tree = {f"{domain}-{side}": {f"Page {side}{n}": [f"Page {side}{n} of {domain} is ", f"{domain} {n} was "] for n in range(6)} for side in "ab"}
        files[f"bold/prompts/{domain}_prompt.json"] = json.dumps(tree)
    return files


def realtoxicityprompts():
    """Twelve prompts of each kind, one without a score."""
    rows = []
    for number in range(25):
        value = None if number == 24 else (0.9, 0.1)[number % 2]
        text = f"{'The rotten' if number % 2 == 0 else 'The kind'} {WORDS[number % 8]} in box {number}"
        side = {"text": text, "toxicity": value}
        rows.append(
            {"filename": f"f{number}", "begin": 0, "end": 9, "challenging": False, "prompt": side, "continuation": side | {"text": f" {text}"}}
        )
    return {"realtoxicityprompts/val.jsonl.gz": _jsonl(rows)}


def honest():
    """Twelve identities of both categories, one row that stands there twice."""
    head = ["template_masked", "raw", "identity", "number", "category", "type"]
    files = {}
    for part, kinds in (("binary", ("female", "male")), ("queer_nonqueer", ("queer", "nonqueer"))):
        rows = [
            [f"the {k} {n} works as a [M].", "[I] works as a [M]", f"the {k} {n}", "singular", k, ("occupation", "descriptive_verb")[n % 2]]
            for k in kinds
            for n in range(12)
        ]
        rows = [head, *rows, rows[0]]
        for language in ("en", "es", "fr", "it", "pt", "ro") if part == "binary" else ("en",):
            files[f"honest/{part}/{language}_template.tsv"] = _csv(rows, "\t")
    return files


RUDE, KIND = ("rotten", "lousy", "foul"), ("kind", "calm", "bright")


def davidson():
    """Four hundred short texts of made-up abuse and of none, all different."""
    rows = [["", "count", "hate_speech", "offensive_language", "neither", "class", "tweet"]]
    for number in range(400):
        kind = number % 4  # half is harmless
        word = RUDE[kind] if kind < 2 else KIND[number % 3]
        text = f"you {word} {WORDS[number % 8]} of {WORDS[number // 8 % 8]} number {'abcdefghij'[number // 40]}{'klmnopqrst'[number % 10]}"
        rows.append([str(number), "3", "0", "0", "0", str(min(kind, 2)), text])
    return {"davidson_hate_speech/labeled_data.csv.gz": _csv(rows)}


def hatecheck():
    """Four cases of one functionality of every class; rude ones are the hateful ones."""
    head = ["", "functionality", "case_id", "test_case", "label_gold", "target_ident", "templ_id"]
    names = ("derog_dehum_h", "threat_dir_h", "slur_h", "slur_reclaimed_nh", "profanity_h", "profanity_nh", "ref_subs_sent_h", "negate_neg_nh",
             "phrase_question_h", "ident_pos_nh", "counter_ref_nh", "target_obj_nh", "spell_leet_h")  # fmt: skip
    rows = [head]
    for name in names:
        hateful = name.endswith("_h")
        for number in range(4):
            text = f"they are {(RUDE if hateful else KIND)[number % 3]} {WORDS[number]}"
            rows.append([str(len(rows)), name, str(len(rows)), text, "hateful" if hateful else "non-hateful", "boxes", f"{name}{number // 2}"])
    return {"hatecheck/test_suite_cases.csv": _csv(rows)}


def write_sets(folder):
    """Write every set below a folder; gives the table of their sources and hashes. SHADES has no hash: it is the user's own."""
    files = {"crows_pairs/crows_pairs_anonymized.csv": crows(), "stereoset/dev.json.gz": stereoset()}
    files |= bbq() | winobias() | winogender() | bec_pro() | unqover() | holisticbias() | capability() | seegull()
    files |= bold() | realtoxicityprompts() | honest() | davidson() | hatecheck()
    table = {}
    for path, text in files.items():
        table.setdefault(path.split("/")[0], {})[path] = put(folder, path, text)
    shades = [
        ["index", "biased", "contrast", "bias_type"],
        *([str(n), f"Green people are {w}.", f"Red people are {w}.", "colour"] for n, w in enumerate(WORDS)),
    ]
    put(folder, "shades/shades.csv", _csv(shades))
    put(folder, "text/text.txt", "\n\n".join(f"Our box number {n} is old.\nIt holds {w}." for n, w in enumerate(WORDS * 2)))
    return {name: Source("made up", "CC0", "nowhere", "nobody", hashes) for name, hashes in table.items()}


def put(folder, path, text):
    """Write one file, packed where its name says so; gives its sha256."""
    raw = gzip.compress(text.encode(), mtime=0) if path.endswith(".gz") else text.encode()
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()
