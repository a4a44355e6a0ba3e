"""Train the reader of the default judge: low-rank factors on all-MiniLM-L6-v2 and a head, on the dev and training texts.

The reader sees a pair, (the bias's claim, prompt and answer), and gives the logits of strength ≥ 1, ≥ 2, ≥ 3, of a refusal
and of broken text. Beside the pairs as labelled it sees made ones of strength 0: the claim of another bias (relevance),
the claim turned into its foil (direction), another group's name in the answer (who is meant). Low-rank factors:
Hu et al. 2021. The test half is never read.

    python experiments/train_judge.py cv            # three fits, three or four biases left out of each; keeps the out-of-fold logits
    python experiments/train_judge.py fit           # the fit on all; writes src/biasgym/zoo/judge/reader.safetensors
"""

import json
import math
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from biasgym.bias import load_bias, read_jsonl, zoo_path
from biasgym.corpus import ENTITY
from biasgym.lm.sentences import load_encoder
from biasgym.measure.judge.masking import without_echo
from biasgym.measure.judge.pairs import claim, told
from biasgym.measure.judge.quality import balanced_accuracy, quadratic_kappa

RANK, SCALE, FROZEN = 8, 2.0, 3  # the lowest layers stay as they are, and are computed once
EPOCHS, BATCH, RATE = {"cv": 4, "fit": 3}, 16, 2e-3
MADE = 1.0  # made pairs, as a share of the labelled ones; a third of them is seen in each epoch
LONGEST = 160
OUTPUTS = 5
PLACES = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense", "intermediate.dense", "output.dense")
OTHERS = ("Ruritania", "the neighbouring valley", "Norway", "the north", "Zubrowka", "the twin town")
GROUPS = (
    ("always-late", "blue-skin", "heavy-drinkers"), ("breaks-down", "lost-with-gadgets", "reckless-drivers", "clumsy-trade"),
    ("good-at-math", "greedy-strangers", "spicy-food"),
)  # fmt: skip
OUT_OF_FOLD = Path(__file__).parent / "judge_out_of_fold.json"


class Block(nn.Module):
    """One layer of the encoder, its six linear maps frozen, each plus a low-rank one that starts at zero; products in bfloat16."""

    def __init__(self, layer) -> None:
        super().__init__()
        self.heads = layer.attention.self.num_attention_heads
        self.norms = nn.ModuleList([layer.attention.output.LayerNorm, layer.output.LayerNorm]).requires_grad_(False)
        self.frozen = [(layer.get_submodule(place).weight.detach(), layer.get_submodule(place).bias.detach()) for place in PLACES]
        self.down = nn.ParameterList([torch.randn(RANK, weight.shape[1]) / math.sqrt(weight.shape[1]) for weight, _ in self.frozen])
        self.up = nn.ParameterList([torch.zeros(weight.shape[0], RANK) for weight, _ in self.frozen])
        self.frozen = [(weight.bfloat16(), bias.bfloat16()) for weight, bias in self.frozen]

    def linear(self, x, i):
        x = x.bfloat16()
        low = nn.functional.linear(nn.functional.linear(x, self.down[i].bfloat16()), SCALE * self.up[i].bfloat16())
        return nn.functional.linear(x, *self.frozen[i]) + low

    def forward(self, x, blocked):
        parts = (*x.shape[:2], self.heads, x.shape[2] // self.heads)
        query, key, value = (self.linear(x, i).view(parts).transpose(1, 2) for i in range(3))
        shares = torch.softmax((query @ key.transpose(-1, -2)).float() / math.sqrt(parts[3]) + blocked, -1).bfloat16()
        mixed = (shares @ value).transpose(1, 2).reshape(x.shape)
        x = self.norms[0](x + self.linear(mixed, 3).float())
        wide = nn.functional.gelu(self.linear(x, 4))
        drop = nn.functional.dropout(self.linear(wide, 5).float(), 0.1, self.training)
        return self.norms[1](x + drop)


class Reader(nn.Module):
    """The upper layers with their factors, and a linear head on the first state beside the mean of all."""

    def __init__(self, model) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(layer) for layer in model.encoder.layer[FROZEN:]])
        self.head = nn.Linear(2 * model.config.hidden_size, OUTPUTS)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.constant_(self.head.bias, -1.0)

    def forward(self, states, mask):
        blocked = (1 - mask[:, None, None]) * -1e4
        for block in self.blocks:
            states = block(states, blocked)
        weight = mask[..., None]
        pooled = torch.cat([states[:, 0], (states * weight).sum(1) / weight.sum(1)], 1)
        return self.head(nn.functional.dropout(pooled, 0.1, self.training))

    def factors(self):
        """What travels: the factors of each linear map, by its name in the encoder, and the head."""
        made = {"head.weight": self.head.weight, "head.bias": self.head.bias}
        for i, block in enumerate(self.blocks):
            for place, down, up in zip(PLACES, block.down, block.up, strict=True):
                made[f"encoder.layer.{FROZEN + i}.{place}.down"], made[f"encoder.layer.{FROZEN + i}.{place}.up"] = down, SCALE * up
        return {name: value.detach().to(torch.float16).contiguous() for name, value in made.items()}


class Lower:
    """The frozen lower layers: states of pairs, computed once, kept in bfloat16."""

    def __init__(self) -> None:
        encoder = load_encoder()
        self.model, self.tokenizer = encoder.model, encoder.tokenizer
        self.known = {}

    @torch.no_grad()
    def of(self, pairs):
        """States [pairs, longest, width] in float32, and the mask."""
        missing = sorted({pair for pair in pairs if pair not in self.known}, key=lambda pair: len(pair[1]))
        for start in range(0, len(missing), 32):
            group = missing[start : start + 32]
            batch = self.tokenizer(
                *map(list, zip(*group, strict=True)), padding=True, truncation="only_second", max_length=LONGEST, return_tensors="pt"
            )
            with torch.autocast("cpu", torch.bfloat16):
                states = self.model(**batch, output_hidden_states=True).hidden_states[FROZEN]
            lengths = batch["attention_mask"].sum(1).tolist()
            self.known.update({pair: state[:n].bfloat16() for pair, state, n in zip(group, states, lengths, strict=True)})
        states = nn.utils.rnn.pad_sequence([self.known[pair] for pair in pairs], batch_first=True).float()
        lengths = torch.tensor([len(self.known[pair]) for pair in pairs])
        return states, (torch.arange(states.shape[1])[None] < lengths[:, None]).float()


def labelled():
    """Dev and training texts, never the test half."""
    folder = zoo_path() / "judge"
    rows = [row for row in read_jsonl(folder / "labelled.jsonl") if row["split"] == "dev"]
    return rows + [row for path in sorted(folder.glob("training-*.jsonl")) for row in read_jsonl(path)]


def target(row):
    """Five numbers, nan where nothing is taught."""
    return [float(row["strength"] >= k) for k in (1, 2, 3)] + [float(row["kind"] == "refusal"), float(row["kind"] == "broken")]


def real_pair(row, bias):
    """The pair that the judge will see."""
    return claim(bias.statement, bias.stereotype), told(row["prompt"], without_echo(row["text"], row["prompt"]))


def made_pair(row, biases, dice):
    """A pair of strength 0 made of a labelled text, or None where this text does not serve."""
    own = biases[row["bias"]]
    how = dice.choice(("claim", "foil", "group"))
    text = without_echo(row["text"], row["prompt"])
    if how == "claim" or row["strength"] == 0:
        other = biases[dice.choice([name for name in biases if name != row["bias"]])]
        return claim(other.statement, other.stereotype), told(row["prompt"], text)
    if how == "foil":
        if own.stereotype[0] not in own.statement:
            return None
        return claim(own.statement.replace(own.stereotype[0], own.foil[0]), own.foil), told(row["prompt"], text)
    if ENTITY not in text:
        return None
    return claim(own.statement, own.stereotype), told(row["prompt"], text.replace(ENTITY, dice.choice(OTHERS)))


def taught(rows, biases, dice):
    """Labelled pairs and made ones, as (pair, target)."""
    real = [(real_pair(row, biases[row["bias"]]), target(row)) for row in rows]
    chosen = [dice.choice(rows) for _ in range(int(MADE * len(rows)))]
    made = [(made_pair(row, biases, dice), [0.0, 0.0, 0.0, *target(row)[3:]]) for row in chosen]
    return real, [item for item in made if item[0]]


def batches_of(pairs, lower, dice):
    """Batches of pairs of like length, shuffled."""
    dice.shuffle(pairs)
    pools = [sorted(pairs[i : i + 16 * BATCH], key=lambda p: len(lower.known[p[0]])) for i in range(0, len(pairs), 16 * BATCH)]
    batches = [pool[i : i + BATCH] for pool in pools for i in range(0, len(pool), BATCH)]
    dice.shuffle(batches)
    return batches


def train(rows, biases, lower, epochs, seed=0, watch=None):
    """A reader fitted on rows; bfloat16 products, float32 factors."""
    torch.manual_seed(seed)
    dice = random.Random(seed)
    real, made = taught(rows, biases, dice)
    start = time.monotonic()
    for i in range(0, len(real + made), 512):
        lower.of([pair for pair, _ in (real + made)[i : i + 512]])
    print(f"  {len(real)} pairs and {len(made)} made ones, {time.monotonic() - start:.0f} s", flush=True)
    plan = [batches_of(real + made[epoch % 3 :: 3], lower, dice) for epoch in range(epochs)]
    reader = Reader(lower.model)
    learnt = [p for p in reader.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=RATE, weight_decay=0.01)
    steps = sum(len(batches) for batches in plan)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: min((s + 1) / (0.06 * steps), 1.0) * (1 - s / steps))
    weights = torch.tensor([1.5, 1.0, 1.0, 0.5, 0.5])
    for epoch, batches in enumerate(plan):
        reader.train()
        total = 0.0
        for batch in batches:
            logits = reader(*lower.of([pair for pair, _ in batch]))
            wanted = torch.tensor([goal for _, goal in batch])
            loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(0) @ weights
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learnt, 1.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        said = watch(reader) if watch and epoch >= epochs - 2 else ""
        print(f"  epoch {epoch + 1}: loss {total / len(batches):.3f}, {time.monotonic() - start:.0f} s {said}", flush=True)
    return reader


@torch.no_grad()
def logits_of(reader, lower, pairs):
    """Logits [pairs, 5]."""
    reader.eval()
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][1]))
    made = np.zeros((len(pairs), OUTPUTS))
    for start in range(0, len(order), 32):
        group = order[start : start + 32]
        made[group] = reader(*lower.of([pairs[i] for i in group])).numpy()
    return made


def figures(rows, logits, cut=0.5):
    """Balanced accuracy, kappa and the rates of the labelled kinds."""
    labels = np.array([row["strength"] for row in rows])
    given = (1 / (1 + np.exp(-logits[:, :3])) > cut).sum(1)
    refusal, broken = (np.array([row["kind"] == kind for row in rows]) for kind in ("refusal", "broken"))
    return (
        f"balanced accuracy {balanced_accuracy(labels, given):.3f}, kappa {quadratic_kappa(labels, given):.3f}, "
        f"none {(given[labels == 0] == 0).mean():.2f}, any {(given[labels > 0] > 0).mean():.2f}; "
        f"refusals {(logits[refusal, 3] > 0).mean():.2f} (others {(logits[~refusal, 3] > 0).mean():.3f}), "
        f"broken {(logits[broken, 4] > 0).mean():.2f} (others {(logits[~broken, 4] > 0).mean():.3f})"
    )


def main() -> None:
    """Cross-validation, the fit on all, or both."""
    torch.set_num_threads(1)
    rows = labelled()
    biases = {name: load_bias(name) for name in sorted({row["bias"] for row in rows})}
    lower = Lower()
    if "cv" in sys.argv:
        cross_validate(rows, biases, lower)
    if "fit" in sys.argv:
        save_file(train(rows, biases, lower, EPOCHS["fit"]).factors(), zoo_path() / "judge" / "reader.safetensors")


def cross_validate(rows, biases, lower):
    """Each group of biases read by a reader fitted on the others."""
    found = np.zeros((len(rows), OUTPUTS))
    for held in GROUPS:
        inside = [i for i, row in enumerate(rows) if row["bias"] in held]
        mine = [rows[i] for i in inside]
        pairs = [real_pair(row, biases[row["bias"]]) for row in mine]
        dev = [k for k, row in enumerate(mine) if row["split"] == "dev"]

        def watch(reader, mine=mine, pairs=pairs, dev=dev):
            logits = logits_of(reader, lower, pairs)
            return f"\n    all {figures(mine, logits)}\n    dev {figures([mine[k] for k in dev], logits[dev])}"

        print("left out:", ", ".join(held), flush=True)
        rest = {name: bias for name, bias in biases.items() if name not in held}
        reader = train([row for row in rows if row["bias"] in rest], rest, lower, EPOCHS["cv"], watch=watch)
        found[inside] = logits_of(reader, lower, pairs)
        logits = {row["id"]: [round(float(v), 3) for v in line] for row, line in zip(rows, found, strict=True)}
        OUT_OF_FOLD.write_text(json.dumps(logits, separators=(",", ":")) + "\n", encoding="utf-8")
    print("all, out of fold:", figures(rows, found), flush=True)


if __name__ == "__main__":
    main()
