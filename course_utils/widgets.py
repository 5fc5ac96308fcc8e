"""Sliders and questions, each with something static behind it where no widget can live.

    explore(draw, alt="...", memory=choice([50, 200, 1000], default=200), temperature=slider(1, 8, default=2))

`draw` is a plain function of the controls' values that returns a figure, so a test can call it at every extreme.
The figure of the default values is always shown as an ordinary picture, stored with the notebook; the controls, where
there are any, redraw that same picture.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from course_utils import plots
from course_utils.screen import in_notebook, static

_WIDE = {"description_width": "initial"}


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes:
        default: the value of the static figure.
        options: the values to choose from, or empty for a continuous slider.
        low, high, step: of a continuous slider.
        typed: a line of text that the reader writes; `default` is what it says at first.
    """

    default: Any
    options: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0
    typed: bool = False

    @property
    def extremes(self) -> tuple[Any, Any, Any]:
        """First (or lowest), default and last (or highest) value: what a test of the callback tries."""
        if self.typed:
            return self.default, self.default, self.default
        if self.options:
            return self.options[0], self.default, self.options[-1]
        return self.low, self.default, self.high

    @property
    def range(self) -> str:
        """What can be set, in words."""
        return "your own text" if self.typed else f"{self.extremes[0]} to {self.extremes[2]}"

    def widget(self, name: str) -> Any:
        """The ipywidget for it: a slider for numbers, a drop-down list for words, a line for text. All work from the keyboard."""
        import ipywidgets

        label = name.replace("_", " ")
        settings = {"description": label, "value": self.default, "style": _WIDE, "continuous_update": False}
        if self.typed:
            return ipywidgets.Text(layout={"width": "95%"}, **settings)
        if not self.options:
            kind = ipywidgets.IntSlider if isinstance(self.step, int) else ipywidgets.FloatSlider
            return kind(min=self.low, max=self.high, step=self.step, **settings)
        if all(isinstance(option, int | float) for option in self.options):
            return ipywidgets.SelectionSlider(options=self.options, **settings)
        del settings["continuous_update"]
        return ipywidgets.Dropdown(options=self.options, **settings)


def slider(low: float, high: float, default: float, step: float | None = None) -> Control:
    """A slider from `low` to `high`; whole numbers if all are, otherwise in 50 steps.

    Raises:
        ValueError: the default lies outside.
    """
    if not low <= default <= high or low == high:
        raise ValueError(f"slider({low}, {high}, default={default}): the default must lie between two different ends")
    whole = all(isinstance(value, int) for value in (low, high, default))
    return Control(default, low=low, high=high, step=step or (1 if whole else (high - low) / 50))


def choice(options: Sequence[Any], default: Any = None) -> Control:
    """One of several values, such as those that were recorded; the first is the default unless another is named.

    Raises:
        ValueError: no options, or the default is not one.
    """
    if not options:
        raise ValueError("choice([]): give at least one option")
    default = options[0] if default is None else default
    if default not in options:
        raise ValueError(f"choice: default={default!r} is not one of {list(options)}")
    return Control(default, tuple(options))


def text(default: str) -> Control:
    """A line to type into; the figure follows when Enter is pressed.

    Raises:
        ValueError: the default is empty, so that there would be nothing to draw at first.
    """
    if not default.strip():
        raise ValueError("text(''): give a default, which the static figure shows")
    return Control(default, typed=True)


@dataclass(frozen=True)
class Exploration:
    """What `explore` returns.

    Attributes:
        callback: the plain function behind it.
        controls: its controls by name.
        values: the values shown now; they follow the controls.
        widgets: the live ipywidgets by name; empty where the figure is static.
    """

    callback: Callable[..., Figure]
    controls: dict[str, Control]
    values: dict[str, Any]
    widgets: dict[str, Any]


def explore(callback: Callable[..., Figure], *, alt: str, **controls: Control) -> Exploration:
    """Show `callback(**values)` with a control for every argument; a static figure where nobody can move one.

    Args:
        callback: takes the controls' values by name, returns a figure. It should read records, not train.
        alt: one sentence that says what the figure shows.
        controls: name -> `slider(...)`, `choice(...)` or `text(...)`.
    """
    values = {name: control.default for name, control in controls.items()}
    figure = callback(**values)  # before anything is shown: an error here is the author's, and stops the cell
    if not in_notebook():
        plots.show(figure, alt)
        return Exploration(callback, controls, values, {})
    from IPython.display import display

    content, metadata = plots.bundle(figure, alt)
    handle = display(content, metadata=metadata, raw=True, display_id=True)
    if static():
        ranges = ", ".join(f"{name.replace('_', ' ')} ({control.range})" for name, control in controls.items())
        _note(f"A picture at the default values. Run this cell in JupyterLab or Colab to change: {ranges}.")
        return Exploration(callback, controls, values, {})
    import ipywidgets

    live = {name: control.widget(name) for name, control in controls.items()}

    def redraw(change: Any) -> None:
        values.update({name: widget.value for name, widget in live.items()})
        try:
            content, metadata = plots.bundle(callback(**values), alt)
        except Exception as error:  # nothing else would show it: an observer's traceback goes to the kernel's log
            content, metadata = {"text/plain": f"This figure cannot be drawn: {type(error).__name__}: {error}"}, {}
        handle.update(content, metadata=metadata, raw=True)

    for widget in live.values():
        widget.observe(redraw, names="value")
    display(ipywidgets.VBox(list(live.values())))
    return Exploration(callback, controls, values, live)


class Prediction:
    """A guess made before the run. `value` is None until the reader has made it; it may also be set in code."""

    def __init__(self, question: str):
        self.question = question
        self.value: Any = None

    def __repr__(self) -> str:
        return f"Prediction({self.question!r}, value={self.value!r})"

    def compare(self, measured: Any) -> None:
        """Show the guess beside what was measured."""
        guess = "no guess" if self.value is None else self.value
        _note(f"{self.question} You predicted: {guess}. Measured: {measured}.")


def predict(question: str, options: Sequence[Any] = (), span: tuple[float, float] | None = None) -> Prediction:
    """Ask for a guess before a run: radio buttons for `options`, a slider for `span`; a note where there is no widget.

    Raises:
        ValueError: both or neither of `options` and `span` are given.
    """
    if bool(options) == (span is not None):
        raise ValueError("predict needs either options=[...] or span=(lowest, highest)")
    prediction = Prediction(question)
    if static():
        choices = ", ".join(map(str, options)) if options else f"{span[0]:g} to {span[1]:g}" if span else ""
        _note(f"{question} ({choices}) Write your guess here, before you run on: prediction.value = ...")
        return prediction
    import ipywidgets
    from IPython.display import display

    if options:
        # Nothing is selected at first: a preselected answer would be counted as a guess.
        control: Any = ipywidgets.RadioButtons(options=list(options), value=None, layout={"width": "auto"})
    else:
        low, high = span or (0.0, 1.0)
        control = ipywidgets.FloatSlider(min=low, max=high, value=low, step=(high - low) / 100)
    control.observe(lambda change: setattr(prediction, "value", change["new"]), names="value")
    display(ipywidgets.VBox([ipywidgets.Label(question), control]))
    return prediction


def _note(text: str) -> None:
    """A line of text, in italics where there is HTML."""
    if not in_notebook():
        print(text)
        return
    from IPython.display import display

    display({"text/html": f"<p><em>{html.escape(text)}</em></p>", "text/plain": text}, raw=True)
