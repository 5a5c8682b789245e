"""The pictures and pages of a reading: one scale, names of any length and script, settings as they were given."""

from __future__ import annotations

import json
import re
import subprocess
import warnings
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from test_probe import prefix_of, read_page

from prefixtune.cli import main
from prefixtune.probe import lengths, page, picture, report
from prefixtune.probe.reading import Group, Reading, SiteGates

LONG = "a_label_without_a_space_" * 6 + "b"
SHAPES = {"encoder": 1.0, "decoder": 0.4, "cross": -0.1}


def group(name: str, sites: dict[str, float], count: int = 1234) -> Group:
    """Two layers of three positions a site, open up to the given number."""
    gate = torch.tensor([[0.2, 0.6, 1.0], [0.1, 0.3, 0.5]], dtype=torch.float64)
    found = {
        site: SiteGates((0, 1), (3, 3), most * torch.tensor([1.5, 0.5]), most * gate) for site, most in sites.items()
    }
    return Group(name, count, "examples", found)


def reading(labels: list[str], sites: dict[str, float] | None = None) -> Reading:
    sites = sites or {"encoder": 1.0}
    return Reading(group("(all)", sites), "label" if labels else None, [group(label, sites) for label in labels])


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that become pictures, as they are laid out."""
    pytest.importorskip("matplotlib")
    drawn: list[Any] = []

    def png(figure: Any) -> bytes:
        figure.canvas.draw()
        drawn.append(figure)
        return b""

    monkeypatch.setattr(picture, "png", png)
    return drawn


def box(text: Any) -> Any:
    """Where a text or an axes stands, in inches."""
    figure = text.get_figure()
    return text.get_window_extent().transformed(figure.dpi_scale_trans.inverted())


def test_all_sites_share_one_scale_of_colours_and_one_of_bars(figures: list[Any]) -> None:
    report.pictures(reading([], SHAPES), "run")
    (figure,) = figures
    heats = [axes.images[0] for axes in figure.axes if axes.images and axes.get_title(loc="left") in SHAPES]
    assert [(heat.get_cmap().name, heat.get_clim()) for heat in heats] == [("RdBu", (-1.0, 1.0))] * 3
    bars = [axes for axes in figure.axes if axes.get_title(loc="left") == "layer gate"]
    assert len(bars) == 3 and len({axes.get_xlim() for axes in bars}) == 1
    left, right = bars[0].get_xlim()
    assert left < -0.15 and right > 1.5


def test_bars_of_a_page_are_in_proportion_to_the_largest_of_all_sites() -> None:
    found = report.gates(reading([], SHAPES), {"gates.png": b""}, None)
    widths = [float(width) for width in re.findall(r'style="width:([\d.]+)%"', found)]
    assert widths == [100.0, 50.0, 40.0, 20.0, 10.0, 5.0]


@pytest.mark.parametrize("labels", [["x" * 38] * 3, [LONG, "short", "W" * 40, LONG], [LONG], ["漢字" * 30, "b"]])
def test_the_names_of_groups_stand_over_their_own_panels(figures: list[Any], labels: list[str]) -> None:
    report.pictures(reading(labels), Path("run"))
    figure = figures[1]
    heats = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert len(heats) == len(labels)
    for axes, label in zip(heats, labels, strict=True):
        title, panel = box(axes._left_title), box(axes)
        assert panel.width > 1.5 and title.x1 <= panel.x1 + 0.1
        assert axes.get_title(loc="left").endswith("(1,234 examples)") and axes.get_title(loc="left")[0] == label[0]
    assert "short" not in labels or heats[1].get_title(loc="left") == "short (1,234 examples)"
    assert box(figure._suptitle).x1 <= figure.get_figwidth()


def test_a_name_that_is_written_from_the_right_keeps_its_count_behind_it(figures: list[Any]) -> None:
    """The marks keep the count out of the name's run; what a drawn text looks like was looked at."""
    report.pictures(reading(["\u05e9\u05dc\u05d5\u05dd", "plain"]), Path("run"))
    titles = [axes.get_title(loc="left") for axes in figures[1].axes if axes.get_title(loc="left")]
    assert titles == ["\u200e\u05e9\u05dc\u05d5\u05dd\u200e (1,234 examples)", "plain (1,234 examples)"]


_WORDS = ["plain", "a b", "a\nb", "it's\n", "\\x\t", "\u00a0=>", "\u0085\x7f", "\U000e0001", "\u00e9\u2028", "\x1b[0m"]


@pytest.mark.parametrize("word", [*_WORDS, ""])
def test_a_command_is_one_line_that_a_shell_reads_as_the_words(word: str) -> None:
    line = lengths.shell_line(["printf", "%s", word])
    assert len(line.splitlines()) == 1
    assert subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout.decode() == word


def test_the_title_of_a_picture_ends_before_its_edge(figures: list[Any]) -> None:
    report.pictures(reading([]), "run-" * 23)
    report.pictures(reading([]), "run")
    long, short = (figure._suptitle for figure in figures)
    assert box(long).x1 <= 9.0
    assert long.get_text().startswith("The gates of run-run-") and long.get_text().endswith("layer gate × token gate")
    assert short.get_text() == "The gates of run: layer gate × token gate"


def test_characters_that_the_font_lacks_are_told_once_and_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("matplotlib")
    drawn = report.pictures(reading(["\U0001f4a9", "b"], SHAPES), "\U0001f4a9")
    assert len(drawn) == 4 and all(png.startswith(b"\x89PNG") for png in drawn.values())
    (line,) = caplog.messages
    assert "lacks characters" in line and "tables" in line and "\n" not in line
    caplog.clear()
    report.pictures(reading(["a", "b"], SHAPES), "run")
    assert not caplog.messages


def test_other_warnings_of_a_drawing_are_still_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")

    def png(figure: Any) -> bytes:
        warnings.warn("something else", UserWarning, stacklevel=1)
        return b""

    monkeypatch.setattr(picture, "png", png)
    with pytest.warns(UserWarning, match="something else"):
        report.pictures(reading([]), Path("run"))


def test_a_column_of_names_is_never_squeezed_to_single_letters() -> None:
    rules = dict(re.findall(r"^([^{}\n]+?) \{ ([^{}]*)\}", page._STYLE, re.MULTILINE))
    assert float(rules[".wide td:not([class]):first-child"].removeprefix("min-width: ").split("em")[0]) >= 10
    assert "min-width" in rules[".wide td:not([class])"] and "overflow-x: auto" in rules[".wide"]
    rows = [("entailment", 0.5, 0.25)]
    assert '<td>entailment</td><td class="num">' in page.table(("label", "layer 0", "layer 1"), rows)


def test_a_page_in_the_folder_of_the_prefix_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = prefix_of(tmp_path, "bert", "classification", count=4)
    monkeypatch.chdir(folder)
    data = ["--data", str(tmp_path / "data.jsonl")]
    assert main(["probe", "--prefix", ".", *data, "--output", str(tmp_path / "out")]) == 0
    command = json.loads((tmp_path / "out" / "lengths.json").read_text())["command"]
    assert command[-1] == f"{folder}-variable"
    assert "Prefix prefix: what its gates open" in read_page(tmp_path / "out" / "report.html")
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert main(["evaluate", "--prefix", "..", *data, "--report", str(tmp_path / "page.html")]) == 0
    assert "Prefix prefix " in read_page(tmp_path / "page.html")


def test_a_folder_that_has_a_name_is_left_as_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "latest").symlink_to("run")
    for given in (tmp_path / "run", tmp_path / "latest"):
        assert report.named(str(given)) == given


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (" ## ", '" ## "'),
        ("## ", '"## "'),
        ("a  b", '"a  b"'),
        ("a\u00a0b", r'"a\u00a0b"'),
        ("\n", r'"\n"'),
        ("", '""'),
        ("a b", "a b"),
        ("漢字", "漢字"),
        (["漢 ", 1], '["漢 ", 1]'),
        (None, "–"),
    ],
)
def test_a_setting_shows_its_spaces(value: Any, shown: str) -> None:
    found = page.facts({"separator": value})
    assert unescape(found.split("separator</td><td>")[1].split("</td>")[0]) == shown


def test_a_browser_leaves_the_spaces_of_a_setting() -> None:
    assert ".two td + td { white-space: pre-wrap; }" in page._STYLE


def test_the_help_of_eval_says_what_stops_early() -> None:
    from prefixtune.cli import _app

    arguments = _app([])["train"].assemble_argument_collection(parse_docstring=True)
    told = {argument.name: argument.parameter.help for argument in arguments if argument.show}
    assert "--patience" in told["--eval"]
