"""The Gradio page: two tabs of inputs, one report, and the push to the Hub."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Literal

from converter.app.workspace import Finished, Job, SourceInput, StoppedError, Workspace
from converter.errors import ConverterError, UsageError, resource_error
from converter.option_declaration import COMPOSITION, OUTPUT, TOKENS, Option, options_of
from converter.options import ComposeOptions, ConvertOptions
from converter.report.terminal_text import count, size
from converter.report.write_result import describe_plan, describe_result
from converter.text import printable

TITLE = "converter"
_INTRODUCTION = """# converter
Join an encoder and a decoder into one model, or convert a checkpoint between PyTorch, TensorFlow
and Flax. The plan shows where every tensor comes from before anything is written."""
_LOCAL = "Hub id org/name[@revision], folder, weight file or URL"
_CLOSED = "Hub id org/name[@revision]"
_LABELS = {
    "to": "Frameworks",
    "dtype": "Data type",
    "pytorch_format": "PyTorch file format",
    "init": "Initialization of cross-attention",
}
"""Labels of options whose names alone do not say what they are."""
_HELP = {"overwrite": "Replace an existing checkpoint in the folder to write."}
"""Help of options where that of the command line names an argument."""
_FLAG = re.compile(r"--([a-z]+(?:-[a-z]+)*)")
_ALWAYS_SHOWN = ("to", "dtype")

STYLE = """
.report pre { overflow: auto; max-height: 32rem; padding: .8rem; border: 1px solid #8884;
  font-family: ui-monospace, monospace; font-size: .8rem; line-height: 1.35; white-space: pre; }
.report .error, .report .warnings { border-left: 4px solid #c33; padding: .2rem .8rem;
  margin: .6rem 0; overflow-wrap: anywhere; }
.report .warnings { border-color: #c80; }
.report iframe { width: 100%; height: 44rem; border: 1px solid #8884; background: #fff; }
"""


@dataclass(frozen=True)
class Control:
    """An option of a command and what shows it on the page."""

    option: Option
    component: Any

    def value(self, given: Any) -> dict[str, Any]:
        """Return the option as a keyword, or nothing if it is left at its default."""
        if isinstance(given, str):
            given = given.strip()
            if self.option.repeats:
                given = given.split()
        if given is None or given == "" or given == [] or given == self.option.default:
            return {}
        return {self.option.name: int(given) if isinstance(given, float) else given}


def shown_options(declared: type[Any], closed: bool) -> list[Option]:
    """Return the options of a command that the page shows, the most used ones first."""
    options = [
        each
        for each in options_of(declared).values()
        if each.declared.group in (OUTPUT, COMPOSITION, TOKENS)
        and not each.is_argument
        and each.declared.kind not in ("file", "callback")
    ]
    if not closed:
        options.append(options_of(declared)["overwrite"])
    return sorted(options, key=lambda each: each.name not in _ALWAYS_SHOWN)


def label_of(option: str) -> str:
    """Return the label of an option on the page."""
    return _LABELS.get(option, option.replace("_", " ").capitalize())


def build(gr: Any, workspace: Workspace) -> Any:
    """Return the page as a ``gradio.Blocks``."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 7200)) as blocks:
        gr.Markdown(_INTRODUCTION)
        buttons: list[tuple[Any, Callable[..., Any], list[Any]]] = []
        with gr.Tab("Compose"):
            buttons += _tab(gr, workspace, "compose", ComposeOptions)
        with gr.Tab("Convert or rescue"):
            gr.Markdown(
                "To rescue a repository that has only TensorFlow or Flax weights, choose pytorch "
                "below, and open a pull request with the result."
            )
            buttons += _tab(gr, workspace, "convert", ConvertOptions)
        stop = gr.Button("Stop", elem_id="stop")
        report = gr.HTML(elem_classes="report", elem_id="report", min_height=120)
        with gr.Accordion("Push the result to the Hub", open=False, elem_id="pushing"):
            push_inputs, push = _push_section(gr)
        pushed = gr.HTML(elem_classes="report", elem_id="pushed")

        how = {"api_visibility": "private", "concurrency_id": "work", "concurrency_limit": 1}
        for button, function, inputs in buttons:
            button.click(_handler(gr, function), inputs, report, **how)
        push.click(
            _handler(gr, partial(_push, workspace)), push_inputs, [pushed, push_inputs[1]], **how
        )
        free = {"api_visibility": "private", "concurrency_limit": None}
        stop.click(_handler(gr, partial(_stop, gr, workspace)), **free)
        blocks.unload(_handler(gr, lambda session, _: workspace.close(session)))
    return blocks.queue(max_size=20, default_concurrency_limit=1)


def _tab(
    gr: Any, workspace: Workspace, command: Literal["compose", "convert"], declared: type[Any]
) -> list[tuple[Any, Callable[..., Any], list[Any]]]:
    """Add the inputs of a command; return its buttons, what they do, and their inputs."""
    names = [
        each.name for each in options_of(declared).values() if each.declared.kind == "checkpoint"
    ]
    inputs: list[Any] = []
    with gr.Row():
        for name in names:
            with gr.Column():
                inputs += _source(gr, f"{command}-{name}", name, workspace.closed)
    options = shown_options(declared, workspace.closed)
    first = [each for each in options if each.name in _ALWAYS_SHOWN]
    with gr.Row():
        controls = [Control(each, _component(gr, command, each)) for each in first]
    with gr.Accordion("More options", open=False):
        controls += [
            Control(each, _component(gr, command, each)) for each in options if each not in first
        ]
    output = gr.Textbox(
        label="Folder to write",
        info="If empty, the result is temporary: download it or push it.",
        visible=not workspace.closed,
        elem_id=f"{command}-output",
    )
    with gr.Row():
        plan = gr.Button("Show the plan", elem_id=f"{command}-plan")
        run = gr.Button("Run", variant="primary", elem_id=f"{command}-run")

    def job(values: Sequence[Any]) -> Job:
        sources = {
            name: SourceInput(values[2 * n] or "", tuple(map(Path, values[2 * n + 1] or ())))
            for n, name in enumerate(names)
        }
        given = values[2 * len(names) : -1]
        pairs = zip(controls, given, strict=True)
        options = {key: value for each, text in pairs for key, value in each.value(text).items()}
        return Job(command, sources, options, (values[-1] or "").strip())

    all_inputs = [*inputs, *(each.component for each in controls), output]
    return [
        (plan, lambda *call: _plan(workspace, job, *call), all_inputs),
        (run, lambda *call: _run(workspace, job, *call), all_inputs),
    ]


def _source(gr: Any, elem_id: str, name: str, closed: bool) -> list[Any]:
    """Add the two ways to choose a checkpoint."""
    reference = gr.Textbox(
        label="Checkpoint" if name == "source" else name.capitalize(),
        placeholder=_CLOSED if closed else _LOCAL,
        elem_id=elem_id,
    )
    files = gr.File(
        label="or upload config.json, the weight files, and the tokenizer's files",
        file_count="multiple",
        height=170,
        elem_id=f"{elem_id}-files",
    )

    async def only_uploads(path: str) -> str:
        """Return the path of an upload; Gradio would download a URL that a client names here."""
        if "://" in path:
            raise gr.Error("Only uploaded files are accepted.")
        return path

    files.async_move_resource_to_block_cache = only_uploads
    return [reference, files]


def _component(gr: Any, command: str, option: Option) -> Any:
    """Return the component that fits an option's type."""
    how = {
        "label": label_of(option.name),
        "info": _HELP.get(option.name, option.declared.help)
        + (f" Default: {option.declared.absent}." if option.declared.absent else ""),
        "elem_id": f"{command}-{option.name}",
    }
    if option.items == (bool,):
        return gr.Checkbox(value=option.default, **how)
    if option.choices and option.repeats:
        return gr.CheckboxGroup([*option.choices], **how)
    if option.choices:
        none = [("default", "")] if option.default is None else []
        choices = [*none, *((each, each) for each in option.choices)]
        return gr.Dropdown(choices, value=option.default or "", **how)
    if option.items == (int,):
        return gr.Number(value=option.default, precision=0, **how)
    return gr.Textbox(**how)


def _push_section(gr: Any) -> tuple[list[Any], Any]:
    """Add the inputs of the push; return them, the token second, and the button."""
    with gr.Row():
        repo_id = gr.Textbox(label="Repository", placeholder="org/name", elem_id="repo-id")
        token = gr.Textbox(
            label="Hub access token",
            info="Used once, for this push. It is not stored.",
            type="password",
            html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
            elem_id="token",
        )
    create_pr = gr.Checkbox(label="Open a pull request", elem_id="create-pr")
    private = gr.Checkbox(label="Create the repository as private", elem_id="private")
    return [repo_id, token, create_pr, private], gr.Button("Push", elem_id="push")


def _handler(gr: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an event handler: ``function(session, progress, *inputs)``.

    Gradio finds what to pass by annotations and defaults, which must be real classes.
    """

    def handle(request: Any, progress: Any = gr.Progress(), *inputs: Any) -> Any:  # noqa: B008
        return function(str(request.session_hash), progress, *inputs)

    handle.__annotations__ = {"request": gr.Request}
    return handle


def _plan(workspace: Workspace, job: Any, session: str, _: Any, *values: Any) -> Any:
    """Return the report of a plan."""

    def report() -> Iterator[str]:
        result = workspace.plan(session, job(values))
        yield from _warnings(result.warnings)
        yield _text(describe_plan(result), workspace)

    return _reported(workspace, report)


def _run(workspace: Workspace, job: Any, session: str, progress: Any, *values: Any) -> Any:
    """Return the report of a run."""

    def show(done: int, total: int, name: str) -> None:
        text = f"{printable(name, 80)}: {size(done)} of {size(total)}"
        progress(done / max(total, 1), desc=text)

    def report() -> Iterator[str]:
        progress(0.0, desc="Opening the checkpoints")
        yield from _finished(workspace.run(session, job(values), show), workspace)

    return _reported(workspace, report)


def _stop(gr: Any, workspace: Workspace, session: str, _: Any) -> None:
    """Stop the running job, and say so: it may take a moment."""
    workspace.stop(session)
    gr.Info("The running job ends at its next step.", title="Stopping")


def _push(workspace: Workspace, session: str, progress: Any, *values: Any) -> tuple[str, str]:
    """Return the report of a push, and the empty text that replaces the token."""
    repo_id, token, create_pr, private = values
    token = (token or "").strip()

    def report() -> Iterator[str]:
        progress(0.0, desc="Verifying and pushing")
        options = {"create_pr": bool(create_pr), "private": bool(private)}
        pushed = workspace.push(session, (repo_id or "").strip(), token, **options)
        sent = f"{count(len(pushed.sent), 'file')} sent" if pushed.sent else "up to date"
        what = "Pull request" if pushed.pull_request else "Repository"
        yield f'<p>{what}: <a href="{escape(pushed.url)}" target="_blank" rel="noreferrer">'
        yield f"{escape(printable(pushed.url))}</a>, {sent}.</p>"
        yield from _warnings([f"{name}: the repository's own was kept" for name in pushed.kept])

    return _reported(workspace, report, token), ""


def _finished(finished: Finished, workspace: Workspace) -> Iterator[str]:
    """Yield the report of a run."""
    result, verification = finished.result, finished.verification
    yield from _warnings(result.warnings)
    if verification.verified:
        yield "<p><b>Verified:</b> the result is complete and correct.</p>"
    else:
        problems = "".join(
            f"<li>{_words(str(each), workspace)}</li>" for each in verification.problems
        )
        yield '<div class="error" role="alert"><p>The result is not correct:</p>'
        yield f"<ul>{problems}</ul></div>"
    yield f'<p><a id="download" href="result/{finished.key}/checkpoint" download>'
    yield f"Download {escape(finished.directory.name)}.zip</a> · "
    yield f'<a id="open-report" href="result/{finished.key}/report" target="_blank">'
    yield "Open the verification in a page of its own</a></p>"
    yield _text(describe_result(result), workspace)
    yield f'<iframe src="result/{finished.key}/report" title="Verification" sandbox></iframe>'


def _warnings(warnings: Sequence[str]) -> Iterator[str]:
    if warnings:
        items = "".join(f"<li>{escape(printable(each))}</li>" for each in warnings)
        yield f'<div class="warnings"><p><b>Warnings</b></p><ul>{items}</ul></div>'


def _text(text: str, workspace: Workspace) -> str:
    """Return preformatted text, without the paths of the server."""
    return f"<pre>{escape(workspace.without_paths(text))}</pre>"


def _words(text: str, workspace: Workspace) -> str:
    """Return a message as HTML, in the words of the page: labels in place of flags."""

    def label(match: re.Match[str]) -> str:
        name = match[1].replace("-", "_")
        return f"“{label_of(name)}”" if name in _OPTIONS else match[0]

    return escape(printable(_FLAG.sub(label, workspace.without_paths(text))))


_OPTIONS = {each.name for each in shown_options(ComposeOptions, closed=False)}


def _reported(workspace: Workspace, report: Callable[[], Iterator[str]], secret: str = "") -> str:
    """Return the parts of a report joined; a message if it fails, without `secret`."""
    try:
        return "".join(report())
    except StoppedError:
        return '<div class="error" role="alert"><p>Stopped; there is no result.</p></div>'
    except Exception as error:
        failed = error if isinstance(error, ConverterError) else resource_error(error)
        if failed is None:
            trace = "".join(traceback.format_exception(error))
            for each in trace.splitlines():
                text = each.replace(secret, "***") if secret else each
                print(printable(text), file=sys.stderr)
            failed = UsageError(
                "this page has failed", remedy="The server's log has the details. Try again."
            )
        text = "".join(
            [
                f"<p><b>{_words(failed.message, workspace)}</b></p>",
                *(f"<p>• {_words(str(each), workspace)}</p>" for each in failed.problems),
                *(
                    f"<p>{_words(line, workspace)}</p>"
                    for line in (failed.remedy or "").split("\n")
                ),
            ]
        )
        text = text.replace(escape(secret), "***") if secret else text
        return f'<div class="error" role="alert">{text}</div>'
