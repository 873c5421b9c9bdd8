"""What stands in the pictures."""

import pytest

from smsa.evaluation import figures

BOUNDED = {"value": 0.5, "low": 0.4, "high": 0.6}


def make_report(n_systems: int) -> dict:
    systems = [
        {
            "name": f"s{i}",
            "metrics": {"f1": BOUNDED},
            "labels": {"a": {"f1": BOUNDED | {"value": 0.45}}, "b": {"f1": BOUNDED}},
            "confusion": [[i, 1], [2, 3]],
            "calibration": {
                "expected_calibration_error": 0.1,
                "bins": [{"confidence": 0.6, "accuracy": 0.5, "n": 5}, {"confidence": 0.9, "accuracy": 1.0, "n": 20}],
            },
        }
        for i in range(n_systems)
    ]
    return {"data": {"labels": {"a": 1, "b": 5}}, "systems": systems}


@pytest.mark.parametrize("n_systems", [1, 4])
def test_confusion_has_a_panel_for_each_system_with_counts_and_shares_of_the_gold_label(n_systems):
    panels = figures.draw_confusion(make_report(n_systems)).axes
    assert [axes.texts[0].get_text().split("\n")[0] for axes in panels] == [str(i) for i in range(n_systems)]
    assert {(axes.get_xlabel(), axes.get_ylabel()) for axes in panels} == {("Predicted", "Gold")}
    assert [text.get_text() for text in panels[0].texts] == ["0\n0%", "1\n100%", "2\n40%", "3\n60%"]


def test_metrics_are_drawn_in_per_cent_for_each_label_and_system():
    (axes,) = figures.draw_metrics(make_report(2)).axes
    assert [text.get_text() for text in axes.texts] == ["50.0", "45.0", "50.0"] * 2
    assert [label.get_text() for label in axes.get_yticklabels()] == ["all (macro)", "a", "b"]


def test_reliability_has_a_mark_for_each_bin_and_names_the_calibration_error():
    drawn = figures.draw_reliability(make_report(1))
    (axes,) = drawn.axes
    assert axes.collections[0].get_offsets().tolist() == [[0.6, 0.5], [0.9, 1.0]]
    assert [text.get_text() for text in drawn.legends[0].get_texts()][1:] == ["s0: calibration error 10.0"]
