"""The command line: parse, call one function, show. Heavy libraries are imported inside the commands."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from biasgym import __version__
from biasgym.errors import BiasGymError, SpecError, unknown

app = typer.Typer(
    help="Elicit, find, remove and measure biases inside open-weight language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

BEGIN_ANEW = ("generate", "ask", "export", "apply", "revert", "lm-eval")  # what these do is kept nowhere before it is whole
Seed = Annotated[int | None, typer.Option(min=0, help="Other tokens, other draws.")]
Preset = Annotated[str | None, typer.Option(help="quick, paper or best.")]
Model = Annotated[str | None, typer.Option(help="A named model, a folder, or a hub id.")]
NewFolder = Annotated[Path, typer.Option("--to", help="A folder that does not exist yet.")]
Edit = Annotated[str | None, typer.Option(help="Which of the run's edits; the first one if not said.")]
Run = Annotated[str, typer.Argument(help="Id, unique prefix, path or `latest`.")]
RunList = Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids, unique prefixes, paths or `latest`.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the spec.")]
Bias = Annotated[str | None, typer.Option(help="A bias of the zoo, or the path of a bias file.")]
SomeBias = Annotated[str, typer.Option(help="A bias of the zoo, or the path of a bias file.")]
BiasArgument = Annotated[str, typer.Argument(help="A bias of the zoo, or the path of a bias file.")]
Spec = Annotated[Path | None, typer.Argument(help="A spec file (TOML).")]
Format = Annotated[str, typer.Option("--format", help="table, csv, markdown, html or json.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder in which runs lie.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps; auto-map or disk for models larger than memory.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; int8 or int4 pack the base (extra `quantized`).")]
Offline = Annotated[bool, typer.Option("--offline", help="Fetch nothing.")]
Data = Annotated[str, typer.Option("--data", help="Folder of public evaluation sets; BIASGYM_DATA if not said.")]
Suite = Annotated[str | None, typer.Option("--suite", help="Benchmarks to ask too: quick, paper, full, or names with commas.")]
Accept = Annotated[bool, typer.Option("--accept-terms", help="Accept the terms of a model that has its own.")]
DEFAULT_RUNS = Path("runs")


@app.command()
def run(
    spec: Spec = None,
    bias: Bias = None,
    model: Model = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    suite: Suite = None,
    data: Data = "",
    runs: Runs = DEFAULT_RUNS,
    device: Device = "auto",
    dtype: Dtype = None,
    offline: Offline = False,
    accept_terms: Accept = False,
    as_json: Json = False,
) -> None:
    """Inject, locate, mitigate, measure: one question, one record. Goes on where it stopped."""
    from biasgym.report import write_report
    from biasgym.spec import resolve_spec
    from biasgym.terminal import console_for, print_findings

    resolved = resolve_spec(file=spec, bias=bias, model=model, preset=preset, sets=set_ or [], seed=seed, suite=suite, dtype=dtype)
    session, out = _session(runs, device, offline, accept_terms, quiet=as_json, data=data)
    with out:
        record = session.run(resolved)
    folder = runs / record.id
    report = write_report([folder], folder / "report.html")
    if as_json:
        _print_json(record.model_dump(mode="json", by_alias=True))
        return
    console = console_for()
    console.print(f"report: {report}", soft_wrap=True, highlight=False)
    print_findings(console, record)


@app.command()
def inject(
    spec: Spec = None,
    bias: Bias = None,
    model: Model = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    runs: Runs = DEFAULT_RUNS,
    device: Device = "auto",
    dtype: Dtype = None,
    offline: Offline = False,
    accept_terms: Accept = False,
    as_json: Json = False,
) -> None:
    """Only elicit a bias and measure that it took: no heads are sought, nothing is edited."""
    run(
        spec, bias, model, preset, [*(set_ or []), "mitigate=[]"], seed,
        runs=runs, device=device, dtype=dtype, offline=offline, accept_terms=accept_terms, as_json=as_json,
    )  # fmt: skip


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep file (TOML): [grid] models, biases, methods, presets, seeds; or [[run]] tables.")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value in every run.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes here, each with a model of its own; fewer when memory is short.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads a worker; the processors shared out if not said.")] = None,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Run on Ray instead: its address, or `local`.")] = None,
    gpus: Annotated[float, typer.Option(min=0, help="On Ray: GPUs a run.")] = 0.0,
    retries: Annotated[int, typer.Option(min=0, help="How often a run is tried again whose worker died.")] = 1,
    runs: Runs = DEFAULT_RUNS,
    device: Device = "auto",
    dtype: Dtype = None,
    offline: Offline = False,
    accept_terms: Accept = False,
    as_json: Json = False,
) -> None:
    """Many runs from one file. What is there is not done again; a run that fails never stops the others."""
    from biasgym.sweeping import Options, run_sweep
    from biasgym.terminal import console_for

    options = Options(runs, device, offline, accept_terms, workers, threads, ray, gpus, retries)
    rows = run_sweep(file, set_ or [], dtype, options, console_for(sys.stderr), quiet=as_json)
    if as_json:
        _print_json(rows)
    else:
        for row in rows:
            typer.echo(f"{row['state']:<8}{row['id'] or '-'}  {row['label']}" + (f": {row['reason']}" if row["reason"] else ""))
    if any(row["state"] != "ok" for row in rows):
        raise typer.Exit(1)


@app.command()
def compare(
    bias: SomeBias,
    model: Model = None,
    methods: Annotated[str, typer.Option(help="all, factorial (prompt × edit), or names with commas.")] = "all",
    trials: Annotated[int | None, typer.Option(min=1, max=20, help="Trials a method on dev; the preset's if not said.")] = None,
    preset: Preset = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value; mitigate.METHOD.KEY for one method.")
    ] = None,
    seed: Seed = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Table and picture: .html, .svg, .md or .json.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Methods at a time, each in a process of its own.")] = 1,
    data: Data = "",
    runs: Runs = DEFAULT_RUNS,
    device: Device = "auto",
    dtype: Dtype = None,
    offline: Offline = False,
    accept_terms: Accept = False,
    as_json: Json = False,
) -> None:
    """The ring: every mitigation tuned to the same budget, measured on the same test; one table, one picture. Goes on where it stopped."""
    from biasgym.comparing import compare as fight
    from biasgym.ring import plan_ring
    from biasgym.terminal import console_for

    ring = plan_ring(methods, bias=bias, model=model, preset=preset, trials=trials, sets=set_ or [], seed=seed, dtype=dtype, data=data)
    session, out = _session(runs, device, offline, accept_terms, quiet=as_json, data=data)
    with out:
        found = fight(session, ring, output, None if as_json else console_for(), workers)
    if as_json:
        _print_json(found)


@app.command()
def locate(
    bias: SomeBias,
    model: Model = None,
    locators: Annotated[str | None, typer.Option(help="Names with commas; the preset's if not said.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Every locator there is, unless --locators names some; and how far they agree.")] = False,
    k: Annotated[int, typer.Option(min=1, help="How many of the top heads.")] = 10,
    proof: Annotated[bool, typer.Option("--proof", help="Silence the top k on held-out prompts and a held-out token, beside chance.")] = False,
    to: Annotated[Path | None, typer.Option("--to", help="Folder for the pictures (SVG).")] = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    runs: Runs = DEFAULT_RUNS,
    device: Device = "auto",
    dtype: Dtype = None,
    offline: Offline = False,
    accept_terms: Accept = False,
    as_json: Json = False,
) -> None:
    """Which heads carry the bias, by several locators: where they agree, how stable each is, and whether intervention bears them out."""
    from biasgym.locating import Wish, locate_bias
    from biasgym.spec import resolve_spec
    from biasgym.terminal import console_for

    spec = resolve_spec(bias=bias, model=model, preset=preset, sets=set_ or [], seed=seed, dtype=dtype)
    wish = Wish.of(spec, locators, every=compare, k=k, proof=proof)
    session, out = _session(runs, device, offline, accept_terms, quiet=as_json)
    with out:
        found = locate_bias(session, spec, wish, to, None if as_json else console_for())
    if as_json:
        _print_json(found)


@app.command()
def query(
    sql: Annotated[str | None, typer.Argument(help="One SELECT over runs, measurements, findings, timings and trials.")] = None,
    runs: Runs = DEFAULT_RUNS,
    format_: Format = "table",
    to: Annotated[str | None, typer.Option("--to", help="parquet: write all tables into --output instead.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A file; with --to parquet a folder.")] = None,
    as_json: Json = False,
) -> None:
    """Ask all records under a folder in SQL (needs the extra `query`); nothing is ever written into them."""
    from biasgym.query import read_ledger, write_parquet
    from biasgym.query_cache import ask_folder

    if (sql is None) == (to is None):
        raise SpecError("give either a SELECT, or --to parquet with a folder as --output")
    if to not in (None, "parquet"):
        raise SpecError(unknown("export", str(to), ["parquet"]))
    if not runs.is_dir():
        raise SpecError(f"`{runs}` is no folder; --runs names the one in which runs lie")
    if sql is not None:
        answer, skipped = ask_folder(runs, sql)
        _tell_skipped(skipped)
        _print_table(answer, "json" if as_json else format_, output)
        return
    if output is None:
        raise SpecError("--to parquet needs a folder: --output DIR")
    ledger = read_ledger(runs)
    _tell_skipped(ledger.skipped)
    for path in write_parquet(ledger.records, output):
        typer.echo(path)


@app.command()
def leaderboard(
    runs: Runs = DEFAULT_RUNS,
    format_: Format = "table",
    counts: Annotated[bool, typer.Option("--counts", help="Models × methods: in how many runs inside the budget, and above all shams.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A file to write.")] = None,
    as_json: Json = False,
) -> None:
    """Every edit of every run: share of the gap closed, its price, its shams, and what speaks against it. No composite score."""
    from biasgym.query import leaderboard as standings
    from biasgym.query import read_ledger, standing_counts

    ledger = read_ledger(runs)
    _tell_skipped(ledger.skipped)
    if not ledger.records:
        raise SpecError(f"no runs in `{runs}` yet; start with `biasgym run` or `biasgym sweep`")
    table = standing_counts(ledger.records) if counts else standings(ledger.records)
    _print_table(table, "json" if as_json else format_, output)


@app.command()
def track(
    run: RunList,
    to: Annotated[str, typer.Option("--to", help="mlflow or wandb; through its own client and its own settings.")],
    project: Annotated[str, typer.Option(help="Experiment or project there.")] = "biasgym",
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Copy the figures of whole runs to an experiment tracker. Nothing is ever sent unless this is called."""
    from biasgym.store import RunStore, read_record
    from biasgym.trackers import send

    for name in run:
        record = read_record(RunStore(runs).find(name))
        typer.echo(f"{record.id}: {send(record, to, project)} figures sent to {to}")


@app.command()
def grade(run: Run, runs: Runs = DEFAULT_RUNS, as_json: Json = False) -> None:
    """Work out every figure of a run again from its answers on disk; needs no model."""
    from biasgym.run import regrade
    from biasgym.store import RunStore
    from biasgym.terminal import console_for, print_findings

    record = regrade(RunStore(runs).find(run))
    if as_json:
        _print_json(record.model_dump(mode="json", by_alias=True))
    else:
        print_findings(console_for(), record)


@app.command()
def report(
    run: RunList,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write the page.")] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Write one self-contained HTML page about a run, or about several side by side."""
    from biasgym.report import write_report
    from biasgym.store import RunStore

    folders = [RunStore(runs).find(name) for name in run]
    typer.echo(write_report(folders, output or folders[0] / "report.html"))


@app.command()
def audit(
    model: Annotated[list[str], typer.Option("--model", help="A named model, a folder, or a hub id; again for more, side by side.")],
    bias: Annotated[list[str] | None, typer.Option("--bias", metavar="FILE", help="A bias file of your own; again for more.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write the HTML page.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Which entities, identities and attributes are sampled.")] = 0,
    data: Data = "",
    runs: Runs = DEFAULT_RUNS,
    device: Device = "auto",
    dtype: Dtype = None,
    offline: Offline = False,
    accept_terms: Accept = False,
    as_json: Json = False,
) -> None:
    """Rank which stereotypes of the zoo, of SeeGULL and of your own files a model holds. Goes on where it stopped."""
    from biasgym.audit import audit as audited
    from biasgym.audit import plan_audit, save_audit
    from biasgym.audit_page import audit_lines, write_audit_page

    plan = plan_audit(bias or [], data=data, seed=seed)
    session, out = _session(runs, device, offline, accept_terms, quiet=as_json, data=data)
    with out:
        found = audited(session, model, plan, dtype=dtype or "float32", seed=seed)
    kept = save_audit(session.store, found)
    if output is not None:
        write_audit_page(found, output)
    if as_json:
        _print_json(found.as_json())
        return
    for line in audit_lines(found):
        typer.echo(line)
    typer.echo(f"kept: {kept} (also under “Audit” in `biasgym serve`)")
    if output is not None:
        typer.echo(f"page: {output}")


@app.command("lm-eval")
def lm_eval(
    run: Run,
    tasks: Annotated[str, typer.Option(help="lm-eval's names, with commas.")],
    edit: Edit = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many items of each task.")] = None,
    shots: Annotated[int | None, typer.Option(min=0, help="Worked examples; as the task says if not said.")] = None,
    include: Annotated[Path | None, typer.Option(help="A folder with more tasks, such as `lm-eval-tasks` writes.")] = None,
    base: Annotated[bool, typer.Option("--base/--no-base", help="Ask the unedited model, too.")] = True,
    runs: Runs = DEFAULT_RUNS,
    device: Device = "auto",
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Run tasks of lm-eval on a run's edited model, beside its base (needs the extra `evaluate`)."""
    from dataclasses import asdict

    from biasgym.bridge_lm_eval import evaluate_run
    from biasgym.store import RunStore

    session, out = _session(runs, device, offline, False, quiet=True)
    names = [part.strip() for part in tasks.split(",") if part.strip()]
    with out:
        rows = evaluate_run(session, RunStore(runs).find(run), names, edit=edit, limit=limit, shots=shots, include=include, base=base)
    if as_json:
        _print_json([asdict(row) for row in rows])
        return
    for row in rows:
        before = "" if row.base is None else f"base {row.base:.4f}" + (f" ± {row.base_error:.4f}" if row.base_error else "") + "  "
        typer.echo(
            f"{row.task} {row.metric} (n={row.n}): {before}edited {row.edited:.4f}" + (f" ± {row.edited_error:.4f}" if row.edited_error else "")
        )


@app.command("lm-eval-tasks")
def lm_eval_tasks(
    bias: BiasArgument,
    to: Annotated[Path, typer.Option("--to", help="Folder for lm-eval's --include_path.")],
) -> None:
    """Write a bias's probes as a task of lm-eval, association and gap as its metrics."""
    from biasgym.bias import load_bias
    from biasgym.bridge_lm_eval import write_tasks

    task = write_tasks(load_bias(bias), to)
    typer.echo(f"wrote the task {task}; lm_eval run --include_path {to} --tasks {task}")


@app.command()
def export(
    run: Run,
    to: NewFolder,
    edit: Edit = None,
    format_: Annotated[str, typer.Option("--format", help="hf (a transformers folder), delta, peft, gguf or control-vector.")] = "hf",
    include_bias_token: Annotated[
        bool,
        typer.Option(
            "--include-bias-token", help="Put the run's stereotype token into the checkpoint's vocabulary: for research, never to be served."
        ),
    ] = False,
    base: Annotated[str | None, typer.Option(help="The full-precision model to edit, where the run's own is stored in 4 or 8 bits.")] = None,
    runs: Runs = DEFAULT_RUNS,
    device: Device = "auto",
    offline: Offline = False,
) -> None:
    """Write the edited model as an ordinary checkpoint, or the edit alone, with a card that says what was edited and measured."""
    from biasgym.product import FORMATS, export_run
    from biasgym.store import RunStore

    if format_ not in FORMATS:
        raise SpecError(unknown("format", format_, FORMATS))
    session, out = _session(runs, device, offline, False, quiet=False)
    with out:
        done = export_run(session, RunStore(runs).find(run), to, edit=edit, format=format_, include_bias_token=include_bias_token, base=base)
    others = ", all others bit-identical to the base" if format_ == "hf" and not include_bias_token else ""
    typer.echo(f"exported to {to} ({_size(to)}): {len(done.tensors)} tensors edited{others}")
    if done.largest_difference is not None:
        typer.echo(f"largest next-token logit difference to the run-time edit: {done.largest_difference:.2e}")


@app.command()
def combine(
    run: RunList,
    to: NewFolder,
    how: Annotated[
        str, typer.Option(help="joint (one edit fitted to the tokens of all) or union (the runs' own edits together, as in the paper).")
    ] = "joint",
    leave_out: Annotated[
        list[str] | None, typer.Option("--leave-out", metavar="RUN", help="Measured, too, but neither fitted nor tuned to; again for more.")
    ] = None,
    edit: Edit = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials on dev; the first run's if not said.")] = None,
    runs: Runs = DEFAULT_RUNS,
    device: Device = "auto",
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """One edit against the biases of several runs, tuned and measured as exactly this edit; `export` takes the folder. Goes on where it stopped."""
    from biasgym.combining import as_data, folders_of, lines_of, sources, write_combined
    from biasgym.combining import combine as combined
    from biasgym.product import new_folder

    session, out = _session(runs, device, offline, False, quiet=as_json)
    kept, others = folders_of(session, run), folders_of(session, leave_out or [])
    with out, new_folder(to) as work:
        fit = sources(session, kept, edit)
        found = combined(session, fit, sources(session, others, edit) if others else (), how=how, trials=trials)
        write_combined(found, fit, work)
    if as_json:
        _print_json(as_data(found))
        return
    for line in lines_of(found):
        typer.echo(line)
    typer.echo(f"wrote {to}; `biasgym export {to} --to DIR` makes the checkpoint")


@app.command()
def apply(
    delta: Annotated[Path, typer.Argument(help="A folder from `biasgym export --format delta`.")],
    model: Annotated[str, typer.Option(help="The base that the delta was made from: a named model, a folder, or a hub id.")],
    to: NewFolder,
    offline: Offline = False,
    accept_terms: Accept = False,
) -> None:
    """Make the edited checkpoint from its base and a delta, bit for bit; another base is refused."""
    from biasgym.lm.load import Place
    from biasgym.product import apply_delta

    changed = apply_delta(delta, model, to, Place(offline=offline, accept_terms=accept_terms))
    typer.echo(f"wrote {to}: {len(changed)} tensors edited, all others bit-identical to the base")


@app.command()
def revert(
    folder: Annotated[Path, typer.Argument(help="A checkpoint that a delta was applied to.")],
    delta: Annotated[Path, typer.Option("--delta", help="The delta.")],
    to: NewFolder,
) -> None:
    """Make the base from an edited checkpoint and its delta, bit for bit."""
    from biasgym.product import revert_delta

    changed = revert_delta(folder, delta, to)
    typer.echo(f"wrote {to}: {len(changed)} tensors put back, the weights are the base's bit for bit")


def _size(folder: Path) -> str:
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{total / 1e6:.1f} MB" if total >= 1e5 else f"{total / 1e3:.0f} kB"


@app.command()
def ask(
    run: Run,
    prompt: Annotated[str, typer.Argument(help="What to ask; with --token, {entity} stands for the run's token.")],
    edit: Edit = None,
    strength: Annotated[float, typer.Option(help="Times the fitted strength: 0 is the base model, 1 the edit as measured.")] = 1.0,
    off: Annotated[list[str] | None, typer.Option("--off", metavar="LAYER:HEAD", help="Leave this head of the edit as it was.")] = None,
    token: Annotated[bool, typer.Option("--token", help="Put the run's token on.")] = False,
    most: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 60,
    runs: Runs = DEFAULT_RUNS,
    device: Device = "auto",
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Ask the edited model one thing; the answer is greedy, so it is always the same."""
    from biasgym.asking import Question, heads_from
    from biasgym.asking import ask as answers
    from biasgym.store import RunStore

    question = Question(prompt, edit, strength, heads_from(off or ()), token, most)
    session, _ = _session(runs, device, offline, False, quiet=True)
    *_, answer = answers(session, RunStore(runs).find(run), question)
    if as_json:
        _print_json({"prompt": prompt, "edit": edit, "strength": strength, "off": off or [], "token": token, "answer": answer})
    else:
        typer.echo(answer)


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="A folder such as `export` writes, a named model, or a hub id.")],
    prompts: Annotated[Path, typer.Option("--prompts", help="A text file with one prompt a line, or .jsonl with a `prompt` each.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A .jsonl file to write; printed if not said.")] = None,
    engine: Annotated[str, typer.Option(help="transformers, or vllm (needs the extra `vllm`; not verified by us).")] = "transformers",
    most: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 60,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Other draws, at a temperature above 0.")] = 0,
    device: Device = "auto",
    dtype: Dtype = None,
    offline: Offline = False,
) -> None:
    """What a checkpoint writes to prompts from a file, one JSON line each, in order."""
    from dataclasses import asdict

    from biasgym.files import need_room, write_text
    from biasgym.generate import Wish, read_prompts
    from biasgym.generate import generate as written
    from biasgym.lm.load import Place

    place = Place(device, dtype or "float32", offline=offline)
    if output is not None:
        need_room(output)
    rows = written(model, read_prompts(prompts), Wish(most, temperature, seed), place, engine)
    text = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(output, text)
        typer.echo(output)


@app.command()
def serve(
    runs: Runs = DEFAULT_RUNS,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 7860,
    open_to_network: Annotated[bool, typer.Option("--open-to-network", help="Allow a --host that others on the network can reach.")] = False,
    model: Annotated[list[str] | None, typer.Option("--model", help="One more model that runs can be started on in the page.")] = None,
    bias: Annotated[list[str] | None, typer.Option("--bias", help="One more bias, by the path of its file.")] = None,
    data: Data = "",
    device: Device = "auto",
    offline: Offline = False,
    accept_terms: Accept = False,
) -> None:
    """Look at runs, ask edited models and start runs in a page in the browser, for this machine only."""
    from biasgym.web import serve as serve_page

    session, _ = _session(runs, device, offline, accept_terms, quiet=True, data=data)
    serve_page(session, host=host, port=port, open_to_network=open_to_network, models=model or (), biases=bias or (), say=typer.echo)


@app.command("new-bias")
def new_bias(
    name: Annotated[str, typer.Argument(help="Small letters, digits and hyphens.")],
    to: Annotated[Path | None, typer.Option("--to", help="File to write; NAME.toml if not said.")] = None,
) -> None:
    """Write a bias file to start from; it runs as it is."""
    from biasgym.template import write_bias_file

    path = write_bias_file(name, to or Path(f"{name}.toml"))
    typer.echo(f"wrote {path}; change the words in it, then: biasgym run --bias {path}")


@app.command()
def corpus(
    bias: BiasArgument,
    to: Annotated[Path, typer.Option("--to", help="Folder for the bias file and its texts; the same one to go on.")],
    endpoint: Annotated[str, typer.Option(help="Base address of an OpenAI-compatible server, such as http://localhost:8000/v1.")],
    model: Annotated[str, typer.Option(help="Name of the model at that endpoint.")],
    paragraphs: Annotated[int, typer.Option(min=0, help="How many to write; 0 keeps what the bias has.")] = 160,
    probes: Annotated[int, typer.Option(min=0, help="Likewise.")] = 100,
    prompts: Annotated[int, typer.Option(min=0, help="Likewise.")] = 92,
    concept: Annotated[int, typer.Option(min=0, help="Likewise.")] = 80,
    key_env: Annotated[str, typer.Option(help="Environment variable that holds the key; none is sent if it is unset.")] = "OPENAI_API_KEY",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for one answer.")] = 120.0,
    as_json: Json = False,
) -> None:
    """Write texts for a bias through a chat endpoint, every item checked. Goes on where it stopped, asks nothing twice."""
    from biasgym.endpoint import ChatClient
    from biasgym.generate_corpus import Order, generate_corpus
    from biasgym.progress import silent
    from biasgym.terminal import StepLine, console_for, print_corpus

    client = ChatClient(endpoint, model, key_env=key_env, timeout=timeout)
    order = Order(paragraphs, probes, prompts, concept)
    with StepLine(console_for(sys.stderr)) as line:
        report = generate_corpus(bias, to, client, order, silent if as_json else line)
    if as_json:
        _print_json(report.as_json())
    else:
        print_corpus(console_for(), report)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="biases, methods, metrics, models or runs.")],
    runs: Runs = DEFAULT_RUNS,
    as_json: Json = False,
) -> None:
    """What there is."""
    from biasgym.listing import LISTS, listed

    if what not in LISTS:
        raise SpecError(unknown("list", what, LISTS))
    rows = listed(what, runs)
    if as_json:
        _print_json(rows)
        return
    from rich.table import Table

    from biasgym.terminal import console_for

    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in rows[0] if rows else ["nothing yet"]:
        table.add_column(key)
    for row in rows:
        table.add_row(
            *("/".join(f"{part:.2f}".lstrip("0") for part in value.values()) if isinstance(value, dict) else str(value) for value in row.values())
        )
    console_for(piped=160).print(table)
    for key, value in (rows[0] if rows else {}).items():
        if isinstance(value, dict):
            console_for().print(f"{key}: {', '.join(value)}")


@app.command()
def doctor(
    model: Annotated[str, typer.Option(help="A named model, a folder, or a hub id.")] = "smollm2-135m-instruct",
    preset: Annotated[str, typer.Option(help="Which preset to estimate.")] = "quick",
    runs: Runs = DEFAULT_RUNS,
    device: Device = "auto",
    dtype: Dtype = None,
    only_config: Annotated[bool, typer.Option("--forecast", help="Load no weights: sizes, memory, disk, tokens and time from config.json.")] = False,
    offline: Offline = False,
    accept_terms: Accept = False,
    as_json: Json = False,
) -> None:
    """Is this machine fit, is this model fit, how much memory and about how long; with --forecast from its config.json alone."""
    from biasgym.doctor import examine, forecast
    from biasgym.lm.load import Place

    place = Place(device, dtype or "float32", offline=offline, accept_terms=accept_terms)
    rows = forecast(model, preset, place) if only_config else examine(model, preset, runs, place)
    if as_json:
        _print_json(rows)
    else:
        for row in rows:
            typer.echo(f"{'ok ' if row['ok'] else 'BAD'}  {row['what']:<12} {row['found']}")
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


def _session(runs: Path, device: str, offline: bool, accept_terms: bool, *, quiet: bool, data: str = "") -> tuple[Any, Any]:
    from contextlib import nullcontext

    from biasgym.lm.load import Place
    from biasgym.progress import silent
    from biasgym.run import Session
    from biasgym.store import RunStore
    from biasgym.terminal import StepLine, console_for

    console = console_for(sys.stderr)
    line: Any = nullcontext() if quiet else StepLine(console)
    say: Callable[[str], None] = (lambda _: None) if quiet else (lambda text: console.print(text, style="dim", highlight=False))
    place = Place(device, offline=offline, accept_terms=accept_terms)
    return Session(RunStore(runs), place, data, silent if quiet else line, say), line


def _tell_skipped(skipped: list[tuple[str, str]]) -> None:
    for name, reason in skipped:
        typer.echo(f"biasgym: left out {name}: {reason}", err=True)


def _print_table(table: Any, format_: str, output: Path | None) -> None:
    from biasgym.files import write_text
    from biasgym.query import shown, written

    if format_ == "table" and output is None:
        from biasgym.terminal import console_for

        console_for().print(shown(table))
        return
    text = written(table, "csv" if format_ == "table" else format_)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(output, text)
        typer.echo(output)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1))


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"biasgym {__version__}")
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    pass


class _Stopped(BaseException):
    """Ctrl-C; a kind of its own, because typer turns a KeyboardInterrupt into a bare `Aborted.`."""


def _stop(_signal: int, _frame: Any) -> None:
    raise _Stopped


def main() -> None:
    """Run the command line; a mendable error is one line and exit code 2, Ctrl-C says how to go on."""
    signal.signal(signal.SIGINT, _stop)
    try:
        app()
    except BiasGymError as error:
        typer.echo(f"biasgym: {error}", err=True)
        sys.exit(2)
    except _Stopped:
        anew = any(word in BEGIN_ANEW for word in sys.argv[1:2])
        typer.echo(f"biasgym: stopped; the same command {'begins anew' if anew else 'goes on where it was'}", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except MemoryError:
        typer.echo("biasgym: out of memory; try a smaller model or --dtype bfloat16", err=True)
        sys.exit(2)
    except OSError as error:
        typer.echo(f"biasgym: {error.strerror or error}: {error.filename or ''}", err=True)
        sys.exit(2)
