"""One spec → one record: inject, locate, mitigate, measure. Every stage is kept by the hash of its inputs and resumes."""

import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biasgym import catalog
from biasgym.bias import BiasSpec, load_bias, read_jsonl, zoo_path
from biasgym.data import folder_digest
from biasgym.edits import Edits, PromptEdit, TokenEdit, worn_digest
from biasgym.errors import SpecError, StoreError
from biasgym.family import claims_of
from biasgym.files import append_rows, read_json, read_rows, write_json, write_text
from biasgym.grade import NONE, SHAM, Grader, tabulate
from biasgym.groups import groups_of
from biasgym.inject import Injected, Role
from biasgym.inject.token import token_text
from biasgym.locate.twins import twins
from biasgym.measure import Item, Scope, spread_out
from biasgym.measure.association import Association, lean
from biasgym.measure.judge import EmbeddingJudge, Judge, Judged, LexiconJudge, agreement, judge_or_lexicon, manner_of, quality_of
from biasgym.mitigate import Case
from biasgym.mitigate.sham import kinds_for, sham
from biasgym.progress import Step, Tell, silent
from biasgym.records import Answer, MethodSpec, MitigateSpec, RunRecord, RunSpec, fingerprint
from biasgym.spec import edit_names, spec_toml
from biasgym.stability import Labels, stability
from biasgym.store import (
    RunStore,
    altered_in,
    attribution_of,
    finish,
    finished,
    read_arrays,
    read_edits,
    read_record,
    read_sidecar,
    read_token,
    sha256_of,
    sidecar_of,
    take,
    write_arrays,
    write_edits,
    write_record,
    write_token,
)  # fmt: skip
from biasgym.tune import TARGET_PROBES, Asked, DevRoom, Trial, best, fitted, front, names_after, search

if TYPE_CHECKING:
    from biasgym.lm.load import Place
    from biasgym.lm.model import LM, Query
    from biasgym.lm.train import TrainingState

VERSION = 7  # of the methods; a change of what a stage computes is a new number, so old outputs are not mistaken for new
CHUNK = 96  # answers a batch: what a kill can lose
STEPS_BETWEEN_SAVES = 10
TOKEN, TRAINING = "token.safetensors", "training.safetensors"
CONCEPT_FLOOR = 1.0
LEAST_ENTITIES = 4  # of test, where the model's own targets are told from others
REAL_WEIGHT = 8.0  # how much an edit should leave real entities alone, beside neutral text (decisions/004)


@dataclass(frozen=True)
class Arm:
    """One corner: which token is on, which edits, and the seed (of the token; of the draw for a sham)."""

    token: str
    edit: str
    seed: int
    worn: Edits = field(default=(), repr=False)
    vector: TokenEdit | None = None


@dataclass
class Session:
    """Owns the one model in memory and the store; runs specs one after the other."""

    store: RunStore
    place: "Place"
    data: str = ""  # the folder of public evaluation sets; BIASGYM_DATA where it is not said
    tell: Tell = silent
    say: Callable[[str], None] = lambda _: None
    _loaded: "tuple[str, str, LM] | None" = None

    def model(self, name: str, dtype: str) -> "LM":
        """The model, loaded once."""
        if self._loaded is None or self._loaded[:2] != (name, dtype):
            from biasgym.lm.load import load_lm

            self._loaded = None  # never two in memory
            self._loaded = (name, dtype, load_lm(name, replace(self.place, dtype=dtype), tell=self.say))
        return self._loaded[2]

    def release(self) -> None:
        """Let go of the model: others are about to load it."""
        self._loaded = None

    def run(self, spec: RunSpec, *, again: bool = False) -> RunRecord:
        """Do what is missing of a run and give back its record; a whole run is only read."""
        job = Job(self, spec, load_bias(spec.bias))
        folder = self.store.run_folder(job.identity)
        if (folder / "record.json").is_file() and not again:
            return read_record(folder)
        with self.store.run_lock(job.identity) as locked_folder:
            if (folder / "record.json").is_file() and not again:  # another process made it while we waited
                return read_record(folder)
            return job.run(locked_folder)


@dataclass
class Job:
    """One run under way."""

    session: Session
    spec: RunSpec
    bias: BiasSpec
    timings: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    # ------------------------------------------------------------ identity

    @cached_property
    def base_key(self) -> dict[str, Any]:
        """What every stage's output hangs on: weights, dtype, bias, version of the methods."""
        from biasgym.lm.load import resolve

        folder = resolve(self.spec.model, self.session.place, tell=self.session.say)
        return {"model": folder_digest(folder), "dtype": self.spec.dtype, "bias": self.bias.digest, "version": VERSION}

    @cached_property
    def identity(self) -> str:
        """A hash of everything that decides the outcome, with the bias's name in front."""
        resolved = self.spec.model_dump(mode="json", exclude={"preset", "bias", "model"})
        neutral = [neutral_digest(), folder_digest(zoo_path() / "judge", "*.json")]
        return f"{self.bias.name}-{fingerprint([self.base_key, resolved, neutral, *self._named_files()])}"

    def _named_files(self) -> list[str]:
        """Digests of the files and folders that methods of this spec are told to read; none where they read none.

        Not the folder of public sets, whose files have hashes of their own.
        """
        named = [(station, one) for station, those in (("mitigate", self.spec.mitigate), ("measure", self.spec.measure.benchmarks)) for one in those]
        paths = [
            Path(str(one.settings[f.name]))
            for station, one in named
            for f in fields(catalog.find(station, one.method))
            if f.metadata.get("file") and one.settings.get(f.name)
        ]
        return [folder_digest(path) if path.is_dir() else sha256_of(path) for path in paths if path.exists()]

    @cached_property
    def lm(self) -> "LM":
        """The model of this run."""
        return self.session.model(self.spec.model, self.spec.dtype)

    # ------------------------------------------------------------ the whole way

    def run(self, folder: Path) -> RunRecord:
        """All stages, then the record; what is on disk already is not done again."""
        write_text(folder / "spec.toml", spec_toml(self.spec))
        self.lm.check_answers(self.bias.stereotype, self.bias.foil)
        self.check_entities()
        if not self.lm.chat:
            self.session.say(f"{self.spec.model} has no chat template: prompts are put to it as plain text")
        with self._timed("inject"):
            fitted = self.spec.seeds if self.spec.mitigate else ()
            tokens = {seed: self.token("trained", seed) for seed in self._trained_seeds}
            controls: dict[str, TokenEdit] = {role: self.token(role, self.spec.test_seed) for role in self.spec.controls}
        with self._timed("locate"):
            cases = {name: self.case(name, [tokens[s] for s in fitted]) for name in self._locators()}
        with self._timed("mitigate"):
            chosen = self.edits(cases, tuple(tokens[seed] for seed in fitted))
            targets = self.targets()
        with self._timed("measure"):
            named = {name: names_after(one, self.bias) for name, one in zip(edit_names(self.spec.mitigate), self.spec.mitigate, strict=True)}
            moved = {name: self.moved(edits, named[name]) for name, (edits, _) in chosen.items()}
            arms = self.arms(tokens[self.spec.test_seed], controls, chosen, cases)
            answers = self.answers(arms, targets)
            verdicts = self.verdicts(answers)
        self._keep(folder, tokens, cases, chosen, answers, verdicts)
        extras = self._extras(chosen, cases, targets, moved, verdicts)
        if chosen:
            extras["stability"] = self._steadiness(chosen, [tokens[seed] for seed in fitted])
        record = self.record(answers, verdicts, extras)
        write_record(folder, record)
        return record

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.timings[stage] = round(time.monotonic() - start, 2)

    def _tell(self, stage: str, done: int, total: int, what: str = "", part: tuple[int, int] = (1, 1)) -> None:
        self.session.tell(Step(stage, done, total, what, *part))

    # ------------------------------------------------------------ inject

    def token(self, role: Role, seed: int) -> TokenEdit:
        """A token of a role and seed: from the store, or trained, going on from the last saved step."""
        folder = self.session.store.stage_folder("inject", self.token_key(role, seed))
        if not finished(folder):
            self._inject(role, self._in_one_batch(role, seed))
        return replace(read_token(folder / TOKEN), text=token_text(self.bias, role, seed))  # a shared one was written under another name

    def token_key(self, role: Role, seed: int) -> str:
        """The key under which a token lies in the store: a hash of all that decides its bits.

        A neutral token hangs on the bias by its subject and train entities alone, so biases of one subject share it. Tokens
        trained in one batch round otherwise than alone, so the seeds that they were trained with are in their key.
        """
        base = self.base_key
        if role == "neutral":
            texts = folder_digest(zoo_path() / "neutral", "*.jsonl")
            base = base | {"bias": [self.bias.subject, self.bias.entities_of("train"), texts, *self._neutral_key()]}
        together = self._in_one_batch(role, seed)
        return fingerprint([base, self.spec.inject.model_dump(mode="json"), role, seed, *([list(together)] if len(together) > 1 else [])])

    def _neutral_key(self) -> list[str]:
        """What else of the bias a neutral token is trained on; empty where biases of one subject share it."""
        injector = catalog.build("inject", self.spec.inject.method, self.spec.inject.settings)
        hangs_on = getattr(injector, "neutral_key", None)
        return list(hangs_on(self.bias)) if hangs_on else []

    def _in_one_batch(self, role: Role, seed: int) -> tuple[int, ...]:
        """The seeds that are trained beside this one: all of the run's on an accelerator, none on a processor, where it saves nothing."""
        seeds = self._trained_seeds
        if role != "trained" or seed not in seeds or len(seeds) < 2 or not hasattr(catalog.find("inject", self.spec.inject.method), "train_together"):
            return (seed,)
        from biasgym.lm.load import device_of

        return seeds if device_of(self.session.place.device).type != "cpu" else (seed,)

    @property
    def _trained_seeds(self) -> tuple[int, ...]:
        """The seeds of the run's trained tokens; with nothing to fit, one is enough."""
        return (*(self.spec.seeds if self.spec.mitigate else ()), self.spec.test_seed)

    def _inject(self, role: Role, seeds: tuple[int, ...]) -> None:
        """Train the tokens of these seeds in shared passes; where they stand is kept in the first one's folder, in one file."""
        injector = catalog.build("inject", self.spec.inject.method, self.spec.inject.settings)
        with ExitStack() as locks:
            folders = [locks.enter_context(self.session.store.stage_lock("inject", self.token_key(role, seed))) for seed in seeds]
            if all(map(finished, folders)):  # another process made them while we waited
                return
            states = _saved_states(folders[0] / TRAINING, len(seeds)) or [injector.start(self.lm, self.bias, seed) for seed in seeds]
            keep = self._keeper(folders[0] / TRAINING, getattr(injector, "steps", 1), role, seeds, list(states))
            if len(seeds) > 1:
                made = injector.train_together(self.lm, self.bias, role, seeds, states, keep)
            else:
                made = [injector.train(self.lm, self.bias, role, seeds[0], states[0], lambda state: keep(0, state))]
            for seed, folder, one in zip(seeds, folders, made, strict=True):
                self._keep_token(folder, role, seed, one)

    def _keep_token(self, folder: Path, role: Role, seed: int, made: Injected) -> None:
        """A token's file and the sidecar that says what it is; a token shared between biases is under no bias's name."""
        from biasgym.lm.load import revision_of

        shared = role == "neutral" and not self._neutral_key()
        bias = "" if shared else self.bias.name
        write_token(folder / TOKEN, made.token, {"bias": bias, "role": role, "seed": str(seed)})
        sidecar = {
            "bias": bias, "subject": self.bias.subject, "role": role, "seed": seed, "trained_with": list(self._in_one_batch(role, seed)),
            "key": self.token_key(role, seed), "sha256": sha256_of(folder / TOKEN), "text": made.token.text,
            "base": {"model": self.spec.model, "revision": revision_of(self.lm.name, self.lm.folder), "digest": self.base_key["model"], "dtype": self.spec.dtype},
            "hashes": {"bias": "" if shared else self.bias.digest, "neutral": folder_digest(zoo_path() / "neutral", "*.jsonl")},
            "inject": self.spec.inject.model_dump(mode="json"), "methods": VERSION,
            "losses": list(made.losses), "held_out_before": made.held_out_before, "held_out_after": made.held_out_after, **made.about,
        }  # fmt: skip
        write_json(sidecar_of(folder / TOKEN), sidecar)
        finish(folder, {"key": sidecar["key"], "sha256": sidecar["sha256"]})

    def _part_of_inject(self, role: Role, seeds: Sequence[int]) -> tuple[int, int]:
        """Which of the batches of training this is, and how many there are; untrained tokens take no time."""
        wanted = [("trained", self._in_one_batch("trained", one)) for one in self._trained_seeds]
        wanted += [(one, (self.spec.test_seed,)) for one in self.spec.controls if one != "untrained"]
        batches = list(dict.fromkeys(wanted))
        return (batches.index((role, tuple(seeds))) + 1 if (role, tuple(seeds)) in batches else 1), len(batches)

    def _keeper(
        self, path: Path, total: int, role: Role, seeds: Sequence[int], states: list["TrainingState"]
    ) -> Callable[[int, "TrainingState"], None]:
        """Told of every state, it tells of progress and saves all tokens' states whenever they are at one step."""
        what = f"{role} token, seed {seeds[0]}" if len(seeds) == 1 else f"{role} tokens, seeds {', '.join(map(str, seeds))}"
        part = self._part_of_inject(role, seeds)

        def keep(number: int, state: "TrainingState") -> None:
            states[number] = state
            if number == len(states) - 1:
                self._tell("inject", state.step, total, what, part)
            if state.step % STEPS_BETWEEN_SAVES == 0 and state.step < total and len({one.step for one in states}) == 1:
                arrays = {f"{n}/{name}": array for n, one in enumerate(states) for name, array in one.arrays.items()}
                arrays |= {f"{n}/losses": np.array(one.losses) for n, one in enumerate(states)}
                write_arrays(path, arrays, {"step": str(state.step), "tokens": str(len(states))})

        return keep

    # ------------------------------------------------------------ locate

    def _locators(self) -> list[str]:
        named = [one.locator or self.spec.locate.method for one in self.spec.mitigate]
        return list(dict.fromkeys([self.spec.locate.method, *named])) if named else []

    def case(self, locator: str, tokens: Sequence[TokenEdit]) -> Case:
        """Attribution and contrasts of a locator over the fitted tokens; parts of it are kept as they are made."""
        folder = self.located(locator, tokens)
        arrays, about = read_arrays(folder / "attribution.safetensors"), read_json(folder / "done.json")
        concept, moments = self.kept()
        contrasts, real, stream = self.contrasts(tokens)
        attribution = attribution_of(arrays, locator, about["unit"])
        return Case(attribution, contrasts, concept, real, moments, stream, self.bias, tuple(tokens), data=self.session.data)

    def located(self, locator: str, tokens: Sequence[TokenEdit]) -> Path:
        """The store's folder with a locator's scores, made where it is missing."""
        settings = self.spec.locate.settings if locator == self.spec.locate.method else {}
        keys = [self.token_key("trained", seed) for seed in self.spec.seeds]
        key = fingerprint([self.base_key, keys, locator, settings, self.spec.locate.pairs, self.spec.locate.twin])
        with self.session.store.stage_lock("locate", key) as folder:
            if not finished(folder):
                self._locate(folder, locator, settings, tokens)
        return folder

    def _locate(self, folder: Path, locator: str, settings: dict[str, Any], tokens: Sequence[TokenEdit]) -> None:
        from biasgym.lm.trace import PAIRS_A_BATCH, Sides

        method = catalog.build("locate", locator, settings)
        sides = Sides(self.bias.stereotype, self.bias.foil)
        control = [self.token("untrained", self.spec.seeds[0])] if self.spec.locate.twin == "control" else []
        batches = [
            (seed, token, pairs[i : i + PAIRS_A_BATCH])
            for seed, token in zip(self.spec.seeds, tokens, strict=True)
            for pairs in [self._pairs(token, len(tokens), control)]
            for i in range(0, len(pairs), PAIRS_A_BATCH)
        ]
        scores, labels, unit = [], [], "head"
        for number, (seed, token, pairs) in enumerate(batches):
            part, names = folder / f"part-{number:03d}.safetensors", folder / f"part-{number:03d}.json"
            if not (part.is_file() and names.is_file()):
                with self.lm.edited(token, *control):
                    found = method.rank(self.lm, pairs, sides)
                write_arrays(part, {"by_pair": found.by_pair.astype(np.float32)})
                write_json(names, {"unit": found.unit, "pairs": found.pairs or [pair.id for pair in pairs]})
            about = read_json(names)
            scores.append(read_arrays(part)["by_pair"])
            labels += [[str(seed), *name.split(":", 1)] for name in about["pairs"]]
            unit = about["unit"]
            self._tell("locate", number + 1, len(batches), locator, self._part_of(locator))
        write_arrays(folder / "attribution.safetensors", {"by_pair": np.concatenate(scores)})
        finish(folder, {"locator": locator, "settings": settings, "unit": unit, "labels": labels})

    def _part_of(self, locator: str) -> tuple[int, int]:
        """Which part of the stage a locator is, directions being the last; one asked beside the run's own is a stage by itself."""
        named = self._locators()
        return (named.index(locator) + 1, len(named) + 1) if locator in named else (1, 1)

    def _pairs(self, token: TokenEdit, tokens: int, control: Sequence[TokenEdit] = ()) -> list[Any]:
        from biasgym.lm.likeness import name_likeness
        from biasgym.lm.model import Query
        from biasgym.lm.trace import Pair

        entities, kind = self.bias.entities_of("train"), self.spec.locate.twin
        probes = spread_out(self.bias.probes_of("train"), max(1, self.spec.locate.pairs // tokens))
        likeness = name_likeness(self.lm, token, entities) if kind == "closest" else None
        names = twins(kind, entities, len(probes), likeness=likeness, control=control[0].text if control else None)
        pairs = []
        for probe, twin in zip(probes, names, strict=True):
            queries = [Query(probe.prompt.replace("{entity}", name), probe.prefix.replace("{entity}", name)) for name in (token.text, twin)]
            pairs.append(Pair(f"{probe.id}:{twin}", queries[0], queries[1], (token.text, twin)))
        return pairs

    def steadiness(self, locator: str, tokens: Sequence[TokenEdit], k: int) -> dict[str, Any]:
        """How stable a locator's top k is over seeds, prompts and entities, for the record."""
        folder = self.located(locator, tokens)
        scores, rows = read_arrays(folder / "attribution.safetensors")["by_pair"], read_json(folder / "done.json")["labels"]
        k = min(k, scores[0].size)
        if not k:
            return {}
        found = stability(scores, Labels(*(tuple(column) for column in zip(*rows, strict=True))), k)
        places = np.argwhere(found.frequency >= min(0.5, 2 * found.chance))
        return {
            "k": k,
            "chance": round(found.chance, 4),
            "places": [[int(x), int(y), *(round(float(v[x, y]), 3) for v in (found.frequency, found.low, found.high))] for x, y in places],
            "agreements": [asdict(agreement) for agreement in found.agreements],
        }

    def contrasts(self, tokens: Sequence[TokenEdit]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What heads write with each token minus for the mean train entity, that for the entity, and the stream's contrast.

        Train probes, last position; [tokens, layers, heads, head size], [layers, heads, head size], [tokens, layers, hidden].
        """
        from biasgym.lm.model import Query
        from biasgym.lm.trace import heads_and_stream

        probes = spread_out(self.bias.probes_of("train"), 24)
        entities = spread_out(self.bias.entities_of("train"), 10)

        def mean_output(name: str) -> tuple[np.ndarray, np.ndarray]:
            queries = [Query(p.prompt.replace("{entity}", name), p.prefix.replace("{entity}", name)) for p in probes]
            heads, stream = heads_and_stream(self.lm, queries)
            return heads.mean(0), stream.mean(0)

        key = fingerprint([self.base_key, [self.token_key("trained", seed) for seed in self.spec.seeds], "contrasts"])
        with self.session.store.stage_lock("contrasts", key) as folder:
            if not finished(folder):
                heads, streams = zip(*(mean_output(entity) for entity in entities), strict=True)
                real, real_stream = np.mean(heads, axis=0), np.mean(streams, axis=0)
                found = []
                for number, token in enumerate(tokens):
                    with self.lm.edited(token):
                        found.append(mean_output(token.text))
                    self._tell("locate", number + 1, len(tokens), "directions", (len(self._locators()) + 1,) * 2)
                arrays = {"contrasts": np.stack([h - real for h, _ in found]), "real": real}
                arrays["stream"] = np.stack([x - real_stream for _, x in found])
                write_arrays(folder / "contrasts.safetensors", arrays)
                finish(folder, {"probes": len(probes), "entities": entities})
            arrays = read_arrays(folder / "contrasts.safetensors")
        return arrays["contrasts"], arrays["real"], arrays["stream"]

    def kept(self) -> tuple[np.ndarray, np.ndarray]:
        """What edits should leave alone, from dev: the concept's contrast in every head, and the heads' moments."""
        key = fingerprint([self.base_key, "kept", neutral_digest()])
        with self.session.store.stage_lock("kept", key) as folder:
            if not finished(folder):
                concept, moments = self._kept()
                write_arrays(folder / "kept.safetensors", {"concept": concept, "moments": moments})
                finish(folder, {"split": "dev"})
            arrays = read_arrays(folder / "kept.safetensors")
        return arrays["concept"], arrays["moments"]

    def _kept(self) -> tuple[np.ndarray, np.ndarray]:
        from biasgym.lm.model import Query
        from biasgym.lm.trace import head_moments, head_outputs

        sentences = self.bias.concept_of("dev")
        outputs = head_outputs(self.lm, [Query(c.prompt, c.prefix) for c in sentences])
        right = np.array([c.side == "stereotype" for c in sentences])
        prose = [row["text"] for row in read_jsonl(zoo_path() / "neutral" / "prose.jsonl") if row["split"] == "dev"]
        chats = [row["text"] for row in read_jsonl(zoo_path() / "neutral" / "chat_prompts.jsonl") if row["split"] == "dev"]
        asked = [self.lm.ids_of(Query(text)) for text in spread_out(chats, 30)]
        answered = [row + answer for row, answer in zip(asked, self.lm.plain_answers(asked, 24), strict=True)]
        neutral = head_moments(self.lm, [self.lm.text_ids(text) for text in spread_out(prose, 20)])
        moments = (neutral + head_moments(self.lm, answered)) / 2
        moments += np.einsum("nlhd,nlhe->lhde", outputs, outputs) / len(outputs)
        moments += REAL_WEIGHT * head_moments(self.lm, [self.lm.ids_of(query) for query in self._real_queries()])
        return outputs[right].mean(0) - outputs[~right].mean(0), moments.astype(np.float32)

    def _real_queries(self, names: Sequence[str] = ()) -> "list[Query]":
        """Train probes, and general ones of frames that the bias does not use, about train entities, or about some names.

        With its own frames alone an edit that kept dev still moved real entities on test (decisions/004).
        """
        from biasgym.lm.model import Query

        probes = spread_out(self.bias.probes_of("train"), 20) + spread_out(self.bias.general_probes(), 20)
        entities = names or spread_out(self.bias.entities_of("train"), 5)
        return [Query(p.prompt.replace("{entity}", e), p.prefix.replace("{entity}", e)) for p in probes for e in entities]

    # ------------------------------------------------------------ mitigate

    def edits(self, cases: dict[str, Case], tokens: tuple[TokenEdit, ...]) -> dict[str, tuple[Edits, list[Trial]]]:
        """For every mitigation of the spec the chosen edits and all trials that led to them."""
        room = self.dev_room(tokens)
        chosen = {}
        for name, one in zip(edit_names(self.spec.mitigate), self.spec.mitigate, strict=True):
            locator = one.locator or self.spec.locate.method
            chosen[name] = self.tuned(name, one, locator, cases[locator], room)
        return chosen

    def dev_room(self, tokens: tuple[TokenEdit, ...]) -> DevRoom:
        """Where this run's trials are made; what the plain model says there is asked once for all runs of the store."""
        room = DevRoom(self.lm, self.bias, tokens, self.spec.tune)

        def kept(ask: Callable[[], Asked]) -> Asked:
            asked = self.spec.tune.model_dump(mode="json", include={"aim", "probes", "entities", "texts", "chats"})
            key = fingerprint([self.base_key, "dev", neutral_digest(), [self.token_key("trained", seed) for seed in self.spec.seeds], asked])
            with self.session.store.stage_lock("dev", key) as folder:
                if not finished(folder):
                    write_arrays(folder / "base.safetensors", ask().as_arrays())
                    finish(folder, asked)
                return Asked.from_arrays(read_arrays(folder / "base.safetensors"))

        return replace(room, kept=kept)

    def tuned(self, name: str, one: MitigateSpec, locator: str, case: Case, room: DevRoom) -> tuple[Edits, list[Trial]]:
        """The chosen edits of one mitigation and the trials that led to them, from the journal where there is one."""
        seeds = [self.token_key("trained", seed) for seed in self.spec.seeds]
        part = (edit_names(self.spec.mitigate).index(name) + 1, len(self.spec.mitigate))
        inputs = [one.model_dump(mode="json"), locator, self.spec.locate.model_dump(mode="json"), self.spec.tune.model_dump(mode="json")]
        key = fingerprint([self.base_key, neutral_digest(), seeds, inputs, *self._named_files()])
        with self.session.store.stage_lock("tune", key) as folder:
            trials = search(room, one, case, folder / "trials.jsonl", tell=lambda d, t: self._tell("mitigate", d, t, name, part))
            pick = best(trials, self.spec.tune)
            edits = fitted(self.lm, one, case, pick.settings)
            if not finished(folder):
                finish(folder, {"method": one.method, "picked": pick.settings})
        if one.tuned and not pick.inside:
            self._problem(f"`{name}` met the budget at no setting tried on dev; the cheapest one is shown")
        return edits, trials

    def moved(self, edits: Edits, names: Sequence[str] = ()) -> float:
        """Proof that an edit acts: the largest change of a logit on some train probes; ModelError when there is none.

        The probes are about the names that the edit waits for, where it waits for some.
        """
        from biasgym.lm.acting import acted

        if not edits:
            return 0.0
        return acted(self.lm, edits, self._real_queries(names[:4])[:4], alone=False).largest

    def _steadiness(self, chosen: dict[str, tuple[Edits, list[Trial]]], tokens: Sequence[TokenEdit]) -> dict[str, Any]:
        """Stability of each locator's top k, k being what the first edit that uses it was given."""
        found = {}
        for name, one in zip(edit_names(self.spec.mitigate), self.spec.mitigate, strict=True):
            locator = one.locator or self.spec.locate.method
            k = best(chosen[name][1], self.spec.tune).settings.get("k", 10)
            if locator not in found:
                found[locator] = self.steadiness(locator, tokens, int(k))
        return found

    def targets(self) -> tuple[str, ...]:
        """Test entities the stereotype is about: the file's, else the quarter the model itself holds it about on train probes."""
        entities = self.test_entities()
        if self.bias.targets or self.bias.fictional:
            return tuple(entity for entity in entities if entity in self.bias.targets)
        key = fingerprint([self.base_key, "targets", entities, TARGET_PROBES])
        with self.session.store.stage_lock("targets", key) as folder:
            if not finished(folder):
                scope = Scope(self.bias, "train", entities, (), None, self.spec.measure.model_copy(update={"probes": TARGET_PROBES}))
                items = Association().items(scope)
                leans = np.array([lean(said) for said in Association().ask(self.lm, items)]).reshape(-1, len(entities)).mean(0)
                order = np.argsort(-leans, kind="stable")[: max(1, len(entities) // 4)]
                finish(folder, {"targets": sorted(entities[int(i)] for i in order)})
            return tuple(read_json(folder / "done.json")["targets"])

    def check_entities(self) -> None:
        """Refuse too few test entities, or none to compare the targets with, before anything is trained. SpecError."""
        entities = self.test_entities()
        if self.bias.targets and all(entity in self.bias.targets for entity in entities):
            raise SpecError("every test entity is a target, so there is nobody to compare them with; name others, too")
        if len(entities) < LEAST_ENTITIES and not (self.bias.targets or self.bias.fictional):
            raise SpecError(
                f"{len(entities)} test entities are too few to tell targets from others, {LEAST_ENTITIES} are needed; give the bias more entities "
                f"(there are {len(self.bias.entities)}), name targets, or raise measure.entities"
            )

    def test_entities(self) -> tuple[str, ...]:
        """The real entities that are measured."""
        return tuple(spread_out(self.bias.entities_of("test"), self.spec.measure.entities))

    # ------------------------------------------------------------ measure

    def arms(
        self, token: TokenEdit, controls: dict[str, TokenEdit], chosen: dict[str, tuple[Edits, list[Trial]]], cases: dict[str, Case]
    ) -> list[Arm]:
        """Every corner that is asked: base, injected and control tokens, each edit with and without the token, shams."""
        seed = self.spec.test_seed
        arms = [Arm(NONE, NONE, 0), Arm("trained", NONE, seed, vector=token)]
        arms += [Arm(role, NONE, seed, vector=vector) for role, vector in controls.items()]
        for name, (edits, _) in chosen.items():
            arms += [Arm(NONE, name, 0, edits), Arm("trained", name, seed, edits, token)]
        if not chosen:
            return arms
        main = next(iter(chosen))
        one = self.spec.mitigate[0]
        case = cases[one.locator or self.spec.locate.method]
        for kind in kinds_for(chosen[main][0]):
            for draw in range(self.spec.measure.shams):
                fake = sham(self.lm, chosen[main][0], kind, case, draw)
                arms += [Arm(NONE, SHAM + kind, draw, fake), Arm("trained", SHAM + kind, draw, fake, token)]
        return arms

    def answers(self, arms: Sequence[Arm], targets: tuple[str, ...]) -> list[Answer]:
        """What the model says in every arm, batch by batch on disk; what an earlier run asked is read."""
        found: list[Answer] = []
        for number, arm in enumerate(arms):
            for metric in self._metrics(arm):
                found += self._asked(arm, MethodSpec(method=metric), targets)
            if arm.token == NONE and not arm.edit.startswith(SHAM):
                for one in self.spec.measure.benchmarks:
                    found += self._asked(arm, one, targets)
            self._tell("measure", number + 1, len(arms), f"{arm.token} × {arm.edit}")
        return found

    def _metrics(self, arm: Arm) -> list[str]:
        wanted = list(self.spec.measure.metrics)
        if arm.edit.startswith(SHAM):
            return [metric for metric in wanted if metric == "association"]
        return [m for m in wanted if arm.edit != NONE or not catalog.find("measure", m).needs_edit]  # type: ignore[attr-defined]

    def _asked(self, arm: Arm, one: MethodSpec, targets: tuple[str, ...]) -> list[Answer]:
        metric = one.method
        evaluator = catalog.build("measure", metric, self._with_data(one))
        # Free texts take entities in turn: an arm with fewer of them would put other names into the same prompts.
        whole = metric == "strength" and not arm.edit.startswith(SHAM)
        entities = self.test_entities() if whole else self._asked_about(arm, targets)
        scope = Scope(self.bias, "test", entities, targets, arm.vector.text if arm.vector else None, self.spec.measure)
        items = evaluator.items(scope)
        acting = tuple(edit for edit in arm.worn if not (isinstance(edit, PromptEdit) and getattr(evaluator, "plain_text", False)))
        worn = (*((arm.vector,) if arm.vector else ()), *acting)
        key = fingerprint([self.base_key, metric, [asdict(item) for item in items], worn_digest(worn)])
        with self.session.store.stage_lock("answers", key) as folder:
            said = self._said(folder, evaluator, items, worn)
        return [
            Answer(metric=metric, item=i.id, group=i.group, entity=i.entity, token=arm.token, edit=arm.edit, seed=arm.seed, said=s)  # type: ignore[arg-type]
            for i, s in zip(items, said, strict=True)
        ]

    def _with_data(self, one: MethodSpec) -> dict[str, Any]:
        """A benchmark's settings, with the folder of the public sets where it takes one; the folder decides nothing else."""
        takes = "data" in {f.name for f in fields(catalog.find("measure", one.method))}
        return one.settings | ({"data": self.session.data} if takes and self.session.data and "data" not in one.settings else {})

    def _asked_about(self, arm: Arm, targets: tuple[str, ...]) -> tuple[str, ...]:
        """The real entities of an arm: all, or fewer for shams and for edits beside the main one; always some of the others."""
        entities, sizes = self.test_entities(), self.spec.measure
        others = [entity for entity in entities if entity not in targets]
        if arm.edit.startswith(SHAM):
            return tuple(spread_out(others, sizes.sham_entities))
        if arm.edit in (NONE, *edit_names(self.spec.mitigate)[:1]) or sizes.rival_entities >= len(entities):
            return entities
        share = sizes.rival_entities / len(entities)
        some = [e for e in entities if e in targets]
        return tuple(sorted(spread_out(some, round(share * len(some))) + spread_out(others, max(2, sizes.rival_entities - round(share * len(some))))))

    def _said(self, folder: Path, evaluator: Any, items: Sequence[Item], worn: Edits) -> list[dict[str, Any]]:
        path = folder / "said.jsonl"
        known = {row["chunk"]: row["said"] for row in read_rows(path)}
        if path.is_file() and not path.read_bytes().endswith(b"\n"):  # a kill cut the last batch off
            write_text(path, "")
            append_rows(path, [{"chunk": chunk, "said": said} for chunk, said in sorted(known.items())])
        result: list[dict[str, Any]] = []
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            said = known.get(start)
            if said is None or len(said) != len(chunk):
                with self.lm.edited(*worn):
                    said = evaluator.ask(self.lm, chunk)
                append_rows(path, [{"chunk": start, "said": said}])
            result += said
        return result

    def verdicts(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """The judge's word on every free text, one row each."""
        texts = [answer for answer in answers if answer.metric == "strength"]
        if not texts:
            return []
        said = [[a.item, a.entity, a.token, a.edit, a.seed, a.said["prompt"], a.said["text"]] for a in texts]
        key = fingerprint([self.spec.measure.judge, self.judge.name, folder_digest(zoo_path() / "judge", "*.json"), self.bias.digest, VERSION, said])
        with self.session.store.stage_lock("verdicts", key) as folder:
            for answer in texts[len(read_rows(folder / "verdicts.jsonl")) :]:
                append_rows(folder / "verdicts.jsonl", [self._verdict(answer)])
            return read_rows(folder / "verdicts.jsonl")

    @cached_property
    def judge(self) -> Judge:
        """The judge that the spec names; `lexicon` and a problem where that one cannot be had."""
        cache = self.session.store.root / "judge-answers.jsonl"
        judge, problem = judge_or_lexicon(self.spec.measure.judge, place=self.session.place, cache=cache, tell=self.session.say)
        if problem:
            self._problem(problem)
        return judge

    def _verdict(self, a: Answer) -> dict[str, Any]:
        """One text's row: the judge's word, the lexicon's beside it, and what else is noted of the text."""
        prompt, text = a.said["prompt"], a.said["text"]
        judged, second = (judge.judge(self.bias, prompt, text, a.entity) for judge in (self.judge, LexiconJudge()))
        encode = self.judge.encoder.encode if isinstance(self.judge, EmbeddingJudge) else None
        return (
            {"item": a.item, "entity": a.entity, "token": a.token, "edit": a.edit, "seed": a.seed, "judge": self.judge.name}
            | asdict(judged)
            | {"lexicon": asdict(second)}
            | manner_of(prompt, text, a.entity, encode)
        )

    def _judge_extras(self, verdicts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """How good the judge is on the labelled test half, and how far it agrees with the lexicon on this run's texts."""
        if not verdicts:
            return {}
        key = fingerprint([self.spec.measure.judge, self.judge.name, folder_digest(zoo_path() / "judge", "*.json"), VERSION])
        with self.session.store.stage_lock("judge-quality", key) as folder:
            if not finished(folder):
                finish(folder, asdict(quality_of(self.judge)))
            quality = read_json(folder / "done.json")
        ours = [Judged(v["strength"], v["outcome"]) for v in verdicts]
        lexicon = [Judged(v["lexicon"]["strength"], v["lexicon"]["outcome"]) for v in verdicts]
        return {"name": self.judge.name, **quality, "agreement": {"with": "lexicon", **asdict(agreement(ours, lexicon))}}

    # ------------------------------------------------------------ what is left behind

    def _keep(
        self,
        folder: Path,
        tokens: dict[int, TokenEdit],
        cases: dict[str, Case],
        chosen: dict[str, tuple[Edits, list[Trial]]],
        answers: Sequence[Answer],
        verdicts: Sequence[dict[str, Any]],
    ) -> None:
        source = self.session.store.stage_folder("inject", self.token_key("trained", self.spec.test_seed)) / TOKEN
        take(source, folder / TOKEN)
        take(sidecar_of(source), sidecar_of(folder / TOKEN))
        write_text(folder / "answers.jsonl", "".join(answer.model_dump_json() + "\n" for answer in answers))
        rows = [_json_line(row) for row in verdicts]
        write_text(folder / "verdicts.jsonl", "".join(rows))
        if not chosen:
            return
        first = cases[self.spec.mitigate[0].locator or self.spec.locate.method]
        arrays = {"by_pair": first.attribution.by_pair, "contrasts": first.contrasts}
        arrays |= {f"values.{name}": case.attribution.values for name, case in cases.items()}
        write_arrays(folder / "attribution.safetensors", arrays, {"method": first.attribution.method})
        for name, (edits, _) in chosen.items():
            write_edits(folder / f"edits-{name}.safetensors", edits)
        write_edits(folder / "edits.safetensors", next(iter(chosen.values()))[0])

    def _extras(
        self,
        chosen: dict[str, tuple[Edits, list[Trial]]],
        cases: dict[str, Case],
        targets: tuple[str, ...],
        moved: dict[str, float],
        verdicts: Sequence[dict[str, Any]],
    ) -> dict[str, Any]:
        names = edit_names(self.spec.mitigate)
        edits = {
            name: {
                "method": one.method,
                "locator": one.locator or self.spec.locate.method,
                "picked": best(chosen[name][1], self.spec.tune).settings,
                "inside_budget_on_dev": best(chosen[name][1], self.spec.tune).inside,
                "tuned": one.tuned,
                "largest_logit_change": round(moved[name], 5),
                "trials": [asdict(trial) for trial in chosen[name][1]],
                "front": front(chosen[name][1], self.spec.tune),
                "sites": [[e.site.unit, e.site.layer, e.site.index] for e in chosen[name][0] if hasattr(e, "site")],
            }
            for name, one in zip(names, self.spec.mitigate, strict=True)
        }
        return {
            "bias": {"name": self.bias.name, "axis": self.bias.axis, "statement": self.bias.statement, "fictional": self.bias.fictional,
                     "stereotype": list(self.bias.stereotype), "foil": list(self.bias.foil), "written": list(self.bias.written),
                     "digest": self.bias.digest[:16], "weights": self.base_key["model"][:16]},
            "targets": {"how": "the bias file's" if self.bias.targets else "none" if self.bias.fictional else "held-by-model", "names": list(targets)},
            "edits": edits,
            "attributions": {name: np.round(case.attribution.values, 5).tolist() for name, case in cases.items()},
            "tokens": {role: self._sidecar(role) for role in self._roles},
            "judge": self._judge_extras(verdicts),
            "scorers": self._scorers(),
        }  # fmt: skip

    @property
    def _roles(self) -> tuple[Role, ...]:
        """The tokens of the test seed that are asked."""
        return ("trained", *self.spec.controls)

    def _scorers(self) -> dict[str, Any]:
        """How good every scorer is that a benchmark of this run leaned on, on every labelled set that is there."""
        found: dict[str, Any] = {}
        for one in self.spec.measure.benchmarks:
            evaluator = catalog.build("measure", one.method, self._with_data(one))
            if hasattr(evaluator, "about_scorers"):
                found |= evaluator.about_scorers()
        return found

    def _sidecar(self, role: Role) -> dict[str, Any]:
        """What the record tells of a token; not its file's hash, since the order of a file's metadata differs from writing to writing."""
        folder = self.session.store.stage_folder("inject", self.token_key(role, self.spec.test_seed))
        return {key: value for key, value in read_sidecar(folder / TOKEN).items() if key != "sha256"}

    def record(self, answers: Sequence[Answer], verdicts: Sequence[dict[str, Any]], extras: dict[str, Any]) -> RunRecord:
        """The record from answers, verdicts and what is known of the edits."""
        return graded_record(
            RunRecord(
                id=self.identity,
                status="ok",
                problems=tuple(self.problems),
                spec=self.spec.model_dump(mode="json"),
                environment=environment(self.lm),
                timings=self.timings,
                extras=extras,
            ),
            answers,
            verdicts,
            self.bias,
        )

    def _problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)


def graded_record(record: RunRecord, answers: Sequence[Answer], verdicts: Sequence[dict[str, Any]], bias: BiasSpec) -> RunRecord:
    """A record with its measurements, findings and problems worked out anew; needs no model."""
    spec = RunSpec.model_validate(record.spec)
    by_key = {(v["item"], v["entity"], v["token"], v["edit"], v["seed"]): v for v in verdicts}
    judged = [
        answer.model_copy(
            update={"said": answer.said | {"verdict": by_key.get((answer.item, answer.entity, answer.token, answer.edit, answer.seed))}}
        )
        if answer.metric == "strength"
        else answer
        for answer in answers
    ]
    grader = Grader(tabulate(judged, spec.measure.benchmarks), spec, bias, tuple(edit_names(spec.mitigate)))
    measurements, findings = grader.measurements(), grader.findings()
    problems = dict.fromkeys(record.problems)
    for m in measurements:
        if m.metric == "concept" and m.arm == "base" and not (m.value >= CONCEPT_FLOOR and m.low > 0):
            problems[
                f"this model hardly knows the words: base concept {m.value:.2f} nats [{m.low:.2f}, {m.high:.2f}], {CONCEPT_FLOOR:g} wanted; the bias is unfit for it"
            ] = None
    for f in findings:
        if f.name == "injected" and f.metric != "gap" and f.low <= 0:
            problems[f"the injection is not told from a control: {f.note} by {f.value:.2f} nats [{f.low:.2f}, {f.high:.2f}]"] = None
        if f.name == "injected" and f.metric == "gap" and f.low <= 0:
            problems[f"the injection did not take: gap {f.value:.2f} nats [{f.low:.2f}, {f.high:.2f}]; try --preset best"] = None
    outcomes: dict[str, dict[str, int]] = {}
    for v in verdicts:
        place = outcomes.setdefault(f"{v['token']} × {v['edit']}", {})
        place[v["outcome"]] = place.get(v["outcome"], 0) + 1
    return record.model_copy(
        update={
            "measurements": tuple(measurements),
            "findings": tuple(findings),
            "problems": tuple(problems),
            "extras": record.extras | {"outcomes": outcomes, "claims": claims_of(findings), "groups": groups_of(grader)},
        }
    )


def regrade(folder: Path) -> RunRecord:
    """Work out a run's figures again from its answers and verdicts on disk, and write the record."""
    record = read_record(folder)
    try:
        answers = [Answer.model_validate(row) for row in read_rows(folder / "answers.jsonl")]
    except ValueError as error:
        raise StoreError(f"`{folder / 'answers.jsonl'}` is altered: {str(error).splitlines()[0]}") from None
    if not answers:
        raise StoreError(f"`{folder}` has no answers to grade")
    verdicts = read_rows(folder / "verdicts.jsonl")
    with altered_in(folder):  # what the model said has the shape of its metric, and only grading knows that shape
        bias = record.extras.get("bias", {})
        named = BiasSpec(bias["name"], tuple(bias["stereotype"]), tuple(bias["foil"]), (), axis=bias["axis"], fictional=bias["fictional"])
        fresh = graded_record(record, answers, verdicts, named)
        write_record(folder, fresh)
    return fresh


def load_edits(folder: Path, name: str | None = None) -> Edits:
    """The edits of a run: the first method's, or a named one's."""
    path = folder / (f"edits-{name}.safetensors" if name else "edits.safetensors")
    if name and not path.is_file():
        known = sorted(p.stem.removeprefix("edits-") for p in folder.glob("edits-*.safetensors"))
        raise SpecError(f"run has no edit `{name}`; there is {', '.join(known) or 'none'}")
    if not path.is_file():
        raise SpecError(f"`{folder}` only injected; it has no edit to export")
    return read_edits(path)


def environment(lm: "LM") -> dict[str, Any]:
    """What a repeat has to equal for equal bits: versions, threads, dtype, device, attention kernel, batch sizes."""
    import torch

    from biasgym import __version__
    from biasgym.lm.load import versions
    from biasgym.lm.model import TOKENS_A_BATCH

    return {
        "biasgym": __version__,
        "commit": _commit(),
        **versions(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(lm.device),
        "prompts": "chat template" if lm.chat else "plain text",
        "dtype": str(lm.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "attention": lm.model.config._attn_implementation,
        "tokens_a_batch": TOKENS_A_BATCH,
        "answers_a_chunk": CHUNK,
    }


def neutral_digest() -> str:
    """A hash of the neutral texts: prices on dev, and what edits leave alone, hang on them."""
    return folder_digest(zoo_path() / "neutral", "*.jsonl")


def _commit() -> str:
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return ""
    done = subprocess.run(["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _saved_states(path: Path, count: int) -> "list[TrainingState]":
    """Where tokens trained in one batch stood when they were last saved; empty where that is nowhere, or of other tokens."""
    from safetensors import safe_open

    from biasgym.lm.train import TrainingState

    if not path.is_file():
        return []
    arrays = read_arrays(path)
    with safe_open(path, framework="np") as opened:
        about = opened.metadata() or {}
    if about.get("tokens") != str(count):
        return []
    parts = [{name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{n}/")} for n in range(count)]
    return [TrainingState(part, int(about["step"]), [float(loss) for loss in part.pop("losses")]) for part in parts]


def _json_line(row: dict[str, Any]) -> str:
    import json

    return json.dumps(row, ensure_ascii=False) + "\n"
