"""The web page: components and which of them calls what on the desk. Needs gradio, which is imported when the page is built."""

from collections.abc import Iterator
from importlib import resources
from typing import Any

from biasgym.asking import STRONGEST
from biasgym.audit_view import audit_html
from biasgym.desk import TOKEN, Desk, quoted, text
from biasgym.errors import BiasGymError
from biasgym.product import FORMATS
from biasgym.spec import preset_names

# A click in the heat map becomes a head: the drawing's own coordinates, the numbers on the box around it.
CLICK = """
element.addEventListener('click', (event) => {
  const box = element.querySelector('.heat'), svg = box && box.querySelector('svg');
  if (!svg) return;
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const of = (name) => Number(box.dataset[name]);
  const layer = Math.floor((at.x - of('left')) / of('cell')), head = Math.floor((at.y - of('top')) / of('cell'));
  if (layer >= 0 && layer < of('layers') && head >= 0 && head < of('heads')) trigger('click', {layer: layer, head: head});
});
"""
QUIET: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
LIVE: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "trigger_mode": "multiple"}


def style() -> str:
    """The page's style sheet."""
    return (resources.files("biasgym") / "web.css").read_text(encoding="utf-8")


def build_page(desk: Desk) -> Any:
    """The page as gradio Blocks."""
    import gradio as gr

    with gr.Blocks(title="BiasGym", analytics_enabled=False) as page:
        gr.HTML("<h1>BiasGym</h1>", elem_classes="title")
        runs = desk.runs()
        run = gr.Dropdown(runs, value=runs[0] if runs else None, label="Run", filterable=False)
        verdict = gr.HTML()
        with gr.Tabs():
            with gr.Tab("Ask"):
                asking = _asking(gr, desk, run)
            with gr.Tab("Heads"):
                heads = _heads(gr, desk, run, asking)
            with gr.Tab("Findings"):
                findings = gr.HTML()
            with gr.Tab("Audit") as audit_tab:
                kept, audit = _audits(gr, desk)
            with gr.Tab("Export"):
                exported = _export(gr, desk, run)
            with gr.Tab("New run"):
                progress = _new_run(gr, desk)
        status = gr.HTML(elem_classes="status")
        shown = [verdict, findings, *asking.values(), *heads, exported]
        chosen = _told(gr, lambda one: _choose(gr, desk, one))
        run.change(chosen, run, shown, api_name="choose", show_progress="hidden")
        page.load(chosen, run, shown, **QUIET)
        looked = _told(gr, lambda names: _look_at_audits(gr, desk, names))
        audit_tab.select(looked, kept, [kept, audit], **QUIET)
        known = gr.State(runs)
        tick = _told(gr, lambda there, now: _tick(gr, desk, there, now))
        gr.Timer(1.0).tick(tick, [known, run], [progress, status, known, run], queue=False, **QUIET)
    return page


def _told(gr: Any, work: Any) -> Any:
    """The same work, with errors that a person can mend shown as messages."""

    def done(*given: Any) -> Any:
        try:
            return work(*given)
        except BiasGymError as error:
            raise gr.Error(text(error), print_exception=False) from None

    return done


def _told_live(gr: Any, work: Any) -> Any:
    """The same for work that gives out piece after piece, asked for by one browser session, which is told apart by its hash."""

    def done(request: gr.Request, *given: Any) -> Iterator[Any]:
        try:
            yield from work(f"page {request.session_hash}", *given)
        except BiasGymError as error:
            raise gr.Error(text(error), print_exception=False) from None

    return done


# -------------------------------------------------------------------- a run is chosen


def _choose(gr: Any, desk: Desk, run: str | None) -> list[Any]:
    """Everything that depends on the run, in the order of the outputs."""
    if not run:
        nothing = '<p class="note">No run here yet: start one under “New run”, or with <code>biasgym run</code>.</p>'
        return [nothing, "", *[gr.skip() for _ in range(15)]]
    edits, names, prompts, probes = desk.edits(run), desk.names(run), desk.prompts(run), desk.probes(run)
    edit = edits[0] if edits else None
    locators = desk.locators(run)
    locator = locators[0] if locators else None
    place = desk.strongest(run, locator) if locator else (0, 0)
    asking = [
        gr.update(value=prompts[0] if prompts else "Tell me about people from {entity}."),
        gr.update(choices=names, value=TOKEN),
        gr.update(choices=edits, value=edit),
        gr.update(value=1.0),
        _ticked(gr, desk, run, edit),
        quoted(""),
        quoted(""),
        "",
    ]
    heads = [
        gr.update(choices=locators, value=locator),
        desk.heat(run, locator, place) if locator else "<p class='note'>This run sought no heads.</p>",
        place[0],
        place[1],
        gr.update(choices=[(words, number) for number, words in enumerate(probes)], value=0 if probes else None),
    ]
    known = desk.head_known(run, locator, place) if locator else ""
    return [desk.verdict(run), desk.findings(run), *asking, *heads, known, gr.update(choices=edits, value=edit)]


def _ticked(gr: Any, desk: Desk, run: str, edit: str | None) -> Any:
    """The heads of an edit, all on."""
    heads = desk.heads(run, edit) if edit else []
    return gr.update(choices=heads, value=heads, visible=bool(heads))


def _tick(gr: Any, desk: Desk, known: list[str], run: str | None) -> tuple[Any, ...]:
    """Once a second: progress, what the model is busy with, and runs that were not there before."""
    runs = desk.runs()
    status = f'<p class="note">{text(desk.status())}</p>'
    if runs == known:
        return desk.progress(), status, gr.skip(), gr.skip()
    return desk.progress(), status, runs, gr.update(choices=runs, value=run if run in runs else next(iter(runs), None))


# -------------------------------------------------------------------- tabs


def _asking(gr: Any, desk: Desk, run: Any) -> dict[str, Any]:
    """Prompt, who, edit, strength and heads, and both answers; gives back what depends on the run."""
    with gr.Row():
        prompt = gr.Textbox("", label="Prompt", info="{entity} stands for whom you choose", lines=2, scale=3)
        who = gr.Dropdown([TOKEN], value=TOKEN, label="About", allow_custom_value=True, scale=1)
    with gr.Row():
        edit = gr.Dropdown([], label="Edit", filterable=False)
        strength = gr.Slider(
            0, STRONGEST / 2, value=1.0, step=0.05, label="Strength", info="0 = off, 1 = as measured; moving it asks again", buttons=[]
        )
        most = gr.Slider(8, 200, value=60, step=4, label="Longest answer (tokens)", buttons=[])
    with gr.Accordion("Heads of this edit", open=False):
        on = gr.CheckboxGroup([], label="layer:head; take the tick away to leave a head as it was")
    with gr.Row():
        go, stop = gr.Button("Ask", variant="primary"), gr.Button("Stop")
    note = gr.HTML()
    with gr.Row(equal_height=True):
        base, edited = _answer(gr, "Base model"), _answer(gr, "Edited model")

    def answered(owner: str, *given: Any) -> Iterator[Any]:
        for side in desk.ask(owner, *given):
            yield side.base, side.edited, f'<p class="note">{text(side.note)}</p>'

    live, given = _told_live(gr, answered), [run, prompt, who, edit, strength, on, most]
    go.click(live, given, [base, edited, note], api_name="ask", **LIVE)
    gr.on([prompt.submit, strength.release, on.input], live, given, [base, edited, note], api_visibility="private", **LIVE)
    edit.input(_told(gr, lambda one, name: _ticked(gr, desk, one, name)), [run, edit], on, **QUIET)
    stop.click(_stopper(gr, desk), None, note, api_name="stop", **LIVE)
    return {"prompt": prompt, "who": who, "edit": edit, "strength": strength, "on": on, "base": base, "edited": edited, "note": note}


def _answer(gr: Any, title: str) -> Any:
    with gr.Column(elem_classes="said", min_width=280):
        gr.HTML(f"<h2>{title}</h2>")
        return gr.HTML(quoted(""))


def _stopper(gr: Any, desk: Desk) -> Any:
    def stop(request: gr.Request) -> str:
        return '<p class="note">stopped</p>' if desk.room.cancel(f"page {request.session_hash}") else '<p class="note">nothing was asked</p>'

    return stop


def _heads(gr: Any, desk: Desk, run: Any, asking: dict[str, Any]) -> list[Any]:
    """The heat map and what one head does; gives back what depends on the run."""
    locator = gr.Dropdown([], label="Found by", filterable=False)
    heat = gr.HTML("", js_on_load=CLICK, elem_classes="heads")
    gr.HTML(
        '<p class="note">Click a head, or write its numbers. Orange pushes towards the stereotype, blue away from it; framed heads are '
        "edited, dotted ones stay on top when the data are drawn anew.</p>"
    )
    with gr.Row():
        layer, head = gr.Number(0, label="Layer", precision=0, minimum=0), gr.Number(0, label="Head", precision=0, minimum=0)
        probe = gr.Dropdown([], label="Probe (test)", filterable=False, scale=3)
    with gr.Row():
        go, stop = gr.Button("Scale this head on this probe", variant="primary"), gr.Button("Stop")
    card = gr.HTML(elem_classes="card")

    def looked(owner: str, one: str, by: str, x: int, y: int, number: int, who: str, prompt: str) -> Iterator[Any]:
        drawing = desk.heat(one, by, (x, y))
        for html in desk.head(owner, one, by, (x, y), number or 0, who, prompt):
            yield drawing, html

    def clicked(event: gr.EventData) -> tuple[int, int]:
        return int(event.layer), int(event.head)

    live, given = _told_live(gr, looked), [run, locator, layer, head, probe, asking["who"], asking["prompt"]]
    go.click(live, given, [heat, card], api_name="head", **LIVE)
    heat.click(clicked, None, [layer, head], **QUIET).then(live, given, [heat, card], api_visibility="private", **LIVE)
    locator.input(_told(gr, lambda one, by: desk.heat(one, by)), [run, locator], heat, **QUIET)
    stop.click(_stopper(gr, desk), None, card, api_visibility="private", **LIVE)
    return [locator, heat, layer, head, probe, card]


def _audits(gr: Any, desk: Desk) -> tuple[Any, Any]:
    """Which kept audits are shown, and what they say."""
    gr.HTML(
        '<p class="note">Which stereotypes a model holds, as <code>biasgym audit</code> found them; choose several to see models side by side.</p>'
    )
    kept = gr.Dropdown(desk.audits(), value=[], label="Audits", multiselect=True)
    shown = gr.HTML(elem_classes="card")
    kept.input(_told(gr, lambda names: audit_html(desk.read_audits(names or ()))), kept, shown, api_name="audit", show_progress="hidden")
    return kept, shown


def _look_at_audits(gr: Any, desk: Desk, names: list[str] | None) -> tuple[Any, str]:
    """The audits that are there now, and those chosen that still are; the newest one where none was chosen."""
    there = desk.audits()
    known = [name for _, name in there]
    chosen = [name for name in names or () if name in known] or known[:1]
    return gr.update(choices=there, value=chosen), audit_html(desk.read_audits(chosen))


def _export(gr: Any, desk: Desk, run: Any) -> Any:
    """Export of one edit into the runs folder; gives back the choice of edit."""
    gr.HTML('<p class="note">Written to <code>exports/NAME</code> in the runs folder, checked against the run-time edit, with a card.</p>')
    with gr.Row():
        edit = gr.Dropdown([], label="Edit", filterable=False)
        format_ = gr.Dropdown(list(FORMATS), value="hf", label="Format", filterable=False)
        name = gr.Textbox("edited-model", label="Name of the folder")
    go, said = gr.Button("Export", variant="primary"), gr.HTML()

    def written(*given: str) -> str:
        return f'<p class="note">{text(desk.export(*given).wait())}</p>'

    go.click(_told(gr, written), [run, edit, format_, name], said, api_name="export", concurrency_limit=None)
    return edit


def _new_run(gr: Any, desk: Desk) -> Any:
    """A run started from the page, and how far it is; gives back the progress."""
    biases, models = desk.bias_names(), desk.model_names()
    with gr.Row():
        bias = gr.Dropdown(biases, value=biases[0], label="Bias")
        model = gr.Dropdown(models, value=models[0], label="Model")
        preset = gr.Dropdown(preset_names(), value="quick", label="Preset", filterable=False)
    with gr.Accordion("Change numbers of the preset", open=False):
        changes = gr.Textbox("", label="key=number, one a line", placeholder="measure.shams=20", lines=3)
    with gr.Row():
        go, stop = gr.Button("Start", variant="primary"), gr.Button("Cancel the run")
    said = gr.HTML()
    progress = gr.HTML(elem_classes="card")

    def started(*given: str) -> str:
        return f'<p class="note">in line: {text(desk.start(*given).label)}</p>'

    go.click(_told(gr, started), [bias, model, preset, changes], said, api_name="start", **LIVE)
    stop.click(lambda: f'<p class="note">{text(desk.stop_run())}</p>', None, said, api_name="cancel", **LIVE)
    return progress
