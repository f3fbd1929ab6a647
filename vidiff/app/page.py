"""The page itself (Gradio): a run, what it is told, and a tab for each way to draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
import numpy as np

from vidiff.app.desk import MOST_MADE, MOST_STEPS, SHOWN, Asked, Desk, Made

Upload = str | None  # the file in which it lies; None for none
BAR = gr.Progress(track_tqdm=True)
Outcome = tuple[str, list[str]]  # a video to be shown, and the files to be had


def build_page(desk: Desk) -> gr.Blocks:
    """The page of a desk. Nothing on it asks another server for anything."""

    def tell(work: Callable[[], Made]) -> Outcome:
        with told():
            made = work()
        return str(made.video), [str(made.video), str(made.settings)]

    # What is told above the tabs comes after what a tab gives; Gradio fills in the last, and shows the sampler's bar.
    def generate(
        run: str, frames: float, label: Any, text: Any, seed: Any, scale: Any, steps: Any, bar: Any = BAR
    ) -> Outcome:
        return tell(lambda: desk.generate(run, asked(label, text, seed, scale, steps), int(frames)))

    def extend(
        run: str, clip: Upload, frames: float, label: Any, text: Any, seed: Any, scale: Any, steps: Any, bar: Any = BAR
    ) -> Outcome:
        return tell(lambda: desk.extend(run, asked(label, text, seed, scale, steps), wanted(clip, "clip"), int(frames)))

    def inpaint(
        run: str, clip: Upload, editor: Any, label: Any, text: Any, seed: Any, scale: Any, steps: Any, bar: Any = BAR
    ) -> Outcome:
        how = asked(label, text, seed, scale, steps)
        return tell(lambda: desk.inpaint(run, how, wanted(clip, "clip"), painted(editor)))

    def animate(
        run: str, seen: Upload, frames: float, label: Any, text: Any, seed: Any, scale: Any, steps: Any, bar: Any = BAR
    ) -> Outcome:
        how = asked(label, text, seed, scale, steps)
        return tell(lambda: desk.animate(run, how, wanted(seen, "picture"), int(frames)))

    def show_frame(run: str, clip: Upload) -> dict[str, Any] | None:
        if clip is None:
            return None
        with told():
            frame = desk.first_frame(run, clip)
        return {"background": frame, "layers": [], "composite": frame}

    def choose(run: str) -> list[Any]:
        """What the controls offer for a run."""
        with told():
            pipeline = desk.open(run)
        labels, text, window = list(pipeline.labels), pipeline.text is not None, pipeline.frames
        says = f"{window} frames of {pipeline.size} px at once, {pipeline.fps:g} a second; "
        says += f"{len(labels)} labels" if labels else "no labels"
        return [
            says + (", text" if text else ""),
            gr.Dropdown(choices=[("any", ""), *labels], value=labels[0] if labels else "", visible=bool(labels)),
            gr.Textbox(visible=text, value=""),
            gr.Number(value=pipeline.sampling.guidance),
            gr.Number(value=pipeline.sampling.steps),
            *[gr.Slider(value=window)] * 3,
        ]

    with gr.Blocks(title="vidiff", analytics_enabled=False, delete_cache=(3600, 86_400)) as page:
        with gr.Row():
            run = gr.Dropdown(desk.names, value=desk.names[0], label="Run", elem_id="run")
            facts = gr.Textbox(label="It makes", interactive=False, elem_id="facts")
        with gr.Row():
            label = gr.Dropdown([("any", "")], value="", label="Label", elem_id="label", visible=False)
            text = gr.Textbox(label="Text", elem_id="text", visible=False, max_length=1_000)
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed")
            guidance = gr.Number(1, label="Guidance", minimum=0, elem_id="guidance")
            steps = gr.Number(1, label="Steps", precision=0, minimum=1, maximum=MOST_STEPS, elem_id="steps")
        how = [label, text, seed, guidance, steps]
        tabs = {name: _tab(name) for name in ("Generate", "Extend", "Inpaint", "Animate")}
        ways: dict[str, Callable[..., Outcome]] = {
            "Generate": generate, "Extend": extend, "Inpaint": inpaint, "Animate": animate
        }  # fmt: skip
        for name, (given, button, results) in tabs.items():
            button.click(
                ways[name],
                [run, *given, *how],
                results,
                concurrency_limit=1,
                concurrency_id="draw",
                api_visibility="private",
            )
        clip, editor = tabs["Inpaint"][0]
        clip.change(show_frame, [run, clip], editor, api_visibility="private")
        counts = [tabs[name][0][-1] for name in ("Generate", "Extend", "Animate")]
        for event in (page.load, run.change):
            event(choose, run, [facts, label, text, guidance, steps, *counts], api_visibility="private")
    return page


def _tab(name: str) -> tuple[list[Any], gr.Button, list[Any]]:
    """A tab: what is given, the button, and where results go."""
    key = name.lower()
    says = {
        "Generate": "A new clip, of the label or text above.",
        "Extend": "A clip of yours comes first, frame for frame; new ones follow.",
        "Inpaint": "Paint over what is to be new, in every frame; every other pixel stays.",
        "Animate": "A picture of yours is the first frame.",
    }
    with gr.Tab(name, id=key, elem_id=f"tab-{key}"):
        gr.Markdown(says[name])
        with gr.Row():
            with gr.Column():
                given: list[Any] = []
                if name in ("Extend", "Inpaint"):
                    given.append(gr.Video(label="Clip", sources=["upload"], elem_id=f"{key}-clip", height=220))
                if name == "Animate":
                    picture = gr.Image(
                        label="Picture", elem_id="animate-picture", type="filepath", sources=["upload"], height=260
                    )
                    given.append(picture)
                if name == "Inpaint":
                    given.append(_editor())
                else:
                    title = "New frames" if name == "Extend" else "Frames"
                    given.append(gr.Slider(1, MOST_MADE, 16, step=1, label=title, elem_id=f"{key}-frames"))
                button = gr.Button(name, variant="primary", elem_id=f"{key}-go")
            with gr.Column():
                shown = gr.Video(
                    label="Result", autoplay=True, loop=True, elem_id=f"{key}-result", height=400, interactive=False
                )
                files = gr.File(
                    label="The clip, and how it was made",
                    file_count="multiple",
                    elem_id=f"{key}-files",
                    interactive=False,
                )
    return given, button, [shown, files]


def _editor() -> gr.ImageEditor:
    brush = gr.Brush(default_size=64, colors=["#ffffff"], default_color="#ffffff", color_mode="fixed")
    return gr.ImageEditor(
        label="What is to be new",
        elem_id="inpaint-mask",
        sources=[],
        transforms=[],
        layers=False,
        brush=brush,
        canvas_size=(SHOWN, SHOWN),
        format="png",
    )


@contextmanager
def told() -> Iterator[None]:
    """What a user can mend is told on the page, in one line."""
    try:
        yield
    except (ValueError, OverflowError, OSError) as error:
        raise gr.Error(" ".join(str(error).split()), duration=None, print_exception=False) from None


def asked(label: str | None, text: str, seed: float | None, guidance: float | None, steps: float | None) -> Asked:
    """What the controls above the tabs say; a field of a number that was emptied says nothing."""
    return Asked(label or None, text.strip() or None, int(seed or 0), guidance, None if steps is None else int(steps))


def wanted(upload: Upload, what: str) -> str:
    """An upload that is there. Raises ValueError for none."""
    if upload is None:
        raise ValueError(f"give a {what} first")
    return upload


def painted(editor: dict[str, Any] | None) -> np.ndarray:
    """Where something was painted, of what the editor gives: `(h, w)`, above 0 there."""
    layers = (editor or {}).get("layers") or []
    if not layers:
        return np.zeros((1, 1))
    return np.max([layer[..., 3] for layer in layers], axis=0)
