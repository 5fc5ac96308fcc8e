"""Figures say what they should: values, axes, bounds, text alternatives. Widgets work at their extremes."""

from __future__ import annotations

import ast
import inspect

import numpy as np
import pytest
from matplotlib.figure import Figure

from course_utils import plots, widgets
from course_utils.plots import style

R = np.array([[0.9, np.nan, np.nan], [0.5, 0.8, np.nan], [0.2, 0.4, 0.95]])
CURVES = {
    "fine-tuning": [[0.9, 0.5, 0.3], [0.9, 0.4, 0.2]],
    "replay": [[0.9, 0.8, 0.7], [0.9, 0.7, 0.6]],
    "joint": [0.9, 0.9, 0.9],
}


def lines(figure: Figure) -> dict[str, np.ndarray]:
    """The y values of every line in a legend, by label."""
    return {line.get_label(): np.asarray(line.get_ydata()) for line in figure.axes[0].lines}


def every_figure() -> dict[str, Figure]:
    grid = np.linspace(-1, 1, 12)
    x, y = np.meshgrid(grid, grid)
    return {
        "heat map": plots.accuracy_heatmap(R, "Digits"),
        "curves": plots.accuracy_curves(CURVES, "Digits", floor="fine-tuning", ceiling="joint"),
        "sweep": plots.sweep(
            [50, 200], {"replay": [0.5, 0.7]}, "Digits", xlabel="memory (images)", floor=0.2, log=True
        ),
        "bars": plots.bars({"replay": [0.5, 0.6], "joint": 0.9}, "Digits", ceiling="joint"),
        "confusion": plots.confusion_matrix(np.eye(4), "Digits", boundaries=[2]),
        "landscape": plots.landscape(grid, grid, x**2 + y**2, (x - 1) ** 2, "Two tasks", minima={"A": (0, 0)}),
        "time": plots.training_time({"replay": [1.0, 1.1]}, "Digits"),
    }


@pytest.mark.parametrize("name", every_figure())
def test_every_figure_has_named_axes_a_title_and_can_be_drawn_twice_alike(name):
    figure = every_figure()[name]
    axes = figure.axes[0]
    assert axes.get_xlabel()
    assert axes.get_ylabel() or name == "bars"
    assert axes.get_title()
    assert plots.png(figure) == plots.png(every_figure()[name])
    assert len(plots.png(figure)) < 100_000


def test_quantities_have_units():
    for name, unit in {"curves": "(%)", "time": "(s)", "sweep": "(%)"}.items():
        assert unit in every_figure()[name].axes[0].get_ylabel()
    assert "(%)" in every_figure()["bars"].axes[0].get_xlabel()


def test_heatmap_writes_measured_values_only():
    texts = [text.get_text() for text in plots.accuracy_heatmap(R, "Digits").axes[0].texts]
    assert texts == ["90", "50", "80", "20", "40", "95"]


def test_heatmap_refuses_several_seeds():
    with pytest.raises(ValueError, match="pass their mean"):
        plots.accuracy_heatmap(np.stack([R, R]), "Digits")


def test_curves_draw_means_ranges_floor_and_ceiling():
    figure = plots.accuracy_curves(CURVES, "Digits", floor="fine-tuning", ceiling="joint")
    drawn = lines(figure)
    assert set(drawn) == {"fine-tuning (floor)", "replay", "joint (ceiling)"}
    np.testing.assert_allclose(drawn["replay"], [90, 75, 65])
    assert len(figure.axes[0].collections) == 2  # a band for the two methods with two seeds, none for joint
    band = figure.axes[0].collections[1].get_paths()[0].vertices
    assert set(band[band[:, 0] == 3, 1].round(6)) == {60, 70}  # both seeds after the third task


def test_curves_name_an_unknown_floor():
    with pytest.raises(ValueError, match=r"floor='finetuning' is not one of fine-tuning, replay, joint"):
        plots.accuracy_curves(CURVES, "Digits", floor="finetuning")


def test_curves_differ_in_more_than_colour():
    styles = [style.numbered(index) for index in range(len(plots.PALETTE))]
    for part in ("color", "linestyle", "marker"):
        assert len({str(entry[part]) for entry in styles}) == len(styles)


def test_a_method_keeps_its_colour_from_figure_to_figure():
    curves = plots.accuracy_curves(CURVES, "Digits", floor="fine-tuning", ceiling="joint").axes[0]
    colours = {line.get_label().split(" (")[0]: line.get_color() for line in curves.lines}
    times = plots.training_time(CURVES, "Digits", floor="fine-tuning", ceiling="joint").axes[0]
    assert {line.get_label(): line.get_color() for line in times.lines} == colours


def test_sweep_marks_floor_and_ceiling_in_per_cent():
    figure = plots.sweep([50, 200], {"replay": [0.5, 0.7]}, "Digits", xlabel="memory", floor=0.2, ceiling=0.9)
    drawn = lines(figure)
    assert drawn["fine-tuning (floor)"][0] == pytest.approx(20)
    assert drawn["joint (ceiling)"][0] == pytest.approx(90)
    with pytest.raises(ValueError, match="3 points, expected 2"):
        plots.sweep([50, 200], {"replay": [0.5, 0.7, 0.8]}, "Digits", xlabel="memory")


def test_bars_show_means_and_every_seed():
    axes = plots.bars({"replay": [0.5, 0.7], "joint": [0.9]}, "Digits", ceiling="joint").axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([60, 90])
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [50, 70])
    axes = plots.bars({"replay": [0.5, 0.7]}, "Digits", percent=False).axes[0]
    assert axes.patches[0].get_width() == pytest.approx(0.6)


def test_confusion_matrix_is_normalised_by_true_class_and_leaves_absent_classes_empty():
    image = plots.confusion_matrix([[3, 1], [0, 0]], "Digits").axes[0].images[0].get_array()
    np.testing.assert_allclose(image[0], [75, 25])
    assert np.ma.getmaskarray(np.ma.masked_invalid(image))[1].all()


def test_a_prediction_is_drawn_in_per_cent_and_no_prediction_is_not():
    figure = plots.accuracy_curves(CURVES, "Digits")
    before = len(figure.axes[0].lines)
    assert len(plots.add_prediction(figure, None).axes[0].lines) == before
    assert plots.add_prediction(figure, 0.4).axes[0].lines[-1].get_ydata()[0] == pytest.approx(40)


def test_a_figure_without_text_alternative_is_refused():
    figure = plots.training_time({"replay": [1.0]}, "Digits")
    with pytest.raises(ValueError, match="alt="):
        plots.show(figure, alt=" ")
    content, metadata = plots.bundle(figure, "One method.")
    assert metadata["image/png"]["alt"] == "One method." and content["text/plain"] == "[figure] One method."


def test_no_remote_style_or_font():
    for module in (plots.style, plots.lines, plots.maps):
        tree = ast.parse(inspect.getsource(module))
        texts = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not any("://" in text for text in texts)


# ---- widgets -----------------------------------------------------------------------------------------------------


def draw(memory: int, temperature: float, policy: str) -> Figure:
    return plots.training_time({policy: [memory, temperature]}, "Digits")


CONTROLS = {
    "memory": widgets.choice([50, 200, 1000], default=200),
    "temperature": widgets.slider(1, 8, default=2, step=0.5),
    "policy": widgets.choice(["reservoir", "class-balanced"]),
}
SENTENCE = widgets.text("a round sign")


def test_explore_shows_the_default_figure_where_there_is_no_notebook(capsys):
    shown = widgets.explore(draw, alt="Seconds.", **CONTROLS)
    assert capsys.readouterr().out == "[figure] Seconds.\n"
    assert shown.values == {"memory": 200, "temperature": 2, "policy": "reservoir"} and not shown.widgets


def test_extremes_are_minimum_default_maximum():
    assert CONTROLS["memory"].extremes == (50, 200, 1000)
    assert CONTROLS["temperature"].extremes == (1, 2, 8)
    assert SENTENCE.extremes == ("a round sign",) * 3 and SENTENCE.range == "your own text"


def test_controls_become_widgets_of_the_right_kind():
    made = {name: type(control.widget(name)).__name__ for name, control in CONTROLS.items()}
    assert made == {"memory": "SelectionSlider", "temperature": "FloatSlider", "policy": "Dropdown"}
    assert type(widgets.slider(1, 8, 2).widget("tasks")).__name__ == "IntSlider"
    assert CONTROLS["temperature"].widget("temperature").value == 2
    line = SENTENCE.widget("sentence")
    assert type(line).__name__ == "Text" and line.value == "a round sign" and not line.continuous_update


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: widgets.slider(1, 8, default=9), "must lie between"),
        (lambda: widgets.choice([]), "at least one option"),
        (lambda: widgets.choice([1, 2], default=3), "not one of"),
        (lambda: widgets.predict("?"), "either options"),
        (lambda: widgets.text(" "), "give a default"),
    ],
)
def test_impossible_controls_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_prediction_without_widgets_says_where_to_write(capsys):
    prediction = widgets.predict("How much is left?", span=(0, 100))
    assert "prediction.value = ..." in capsys.readouterr().out
    prediction.compare(3)
    assert "no guess" in capsys.readouterr().out
    prediction.value = 40
    prediction.compare(3)
    assert "You predicted: 40. Measured: 3." in capsys.readouterr().out
