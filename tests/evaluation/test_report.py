import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lumigraph.evaluation.chart import Curve, psnr_chart, ticks
from lumigraph.evaluation.report import (
    Comparison,
    Figure,
    Movie,
    Picture,
    Report,
    Table,
    error_colours,
    error_picture,
    page,
    write_report,
)
from lumigraph.rendering.movies import write_movie

VOID = {"meta", "img", "line", "path", "input"}


class Balanced(HTMLParser):
    """Fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture
def full(tmp_path: Path) -> Report:
    movie = tmp_path / "orbit.gif"
    imageio.imwrite(movie, np.zeros((2, 8, 8, 3), np.uint8))
    grey = np.full((4, 6, 3), 128, np.uint8)
    return Report(
        title="A <page>",
        lead="Lead & more",
        figures=[Figure(label="Teacher", value="30 dB", note="held out")],
        comparisons=[
            Comparison(title="view 0", pictures=[Picture(label="Photo", rgb=grey, caption='"quoted"')])
        ],
        error_ceiling=0.2,
        curves=[Curve(label="teacher", minutes=[0.1, 0.5], psnr=[20.0, 25.0])],
        table=Table(header=["", "size"], rows=[["Teacher", "1 MB"]]),
        movie=Movie(path=movie, caption="An orbit"),
        commands=["lumigraph demo > x"],
        notes=["A note"],
        footer="end",
    )


def test_page_is_whole_escaped_and_needs_no_network(full: Report) -> None:
    html = page(full)
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    assert "A &lt;page&gt;" in html
    assert "lumigraph demo &gt; x" in html
    assert "<script" not in html
    assert "default-src 'none'" in html
    sources = re.findall(r'(?:src|href)="([^"]{0,20})', html)
    assert len(sources) == 3  # the photo, the movie, and the still picture over it
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.findall(r"https?://|url\(|@import", html)


def test_written_page_is_the_page(full: Report, tmp_path: Path) -> None:
    write_report(tmp_path / "index.html", full)
    assert (tmp_path / "index.html").read_text("utf-8") == page(full)


def test_what_is_empty_is_left_out() -> None:
    html = page(Report(title="t", lead="l"))
    assert "<h2>" not in html
    assert "<figure" not in html
    assert "<dl" not in html


@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_movies_stop_without_a_script_and_have_nothing_over_them(tmp_path: Path, ending: str) -> None:
    frames = [np.full((16, 32, 3), value, np.uint8) for value in (250, 10)]
    write_movie(tmp_path / f"orbit.{ending}", iter(frames), 10)
    html = page(
        Report(title="t", lead="l", movie=Movie(path=tmp_path / f"orbit.{ending}", caption="An orbit"))
    )
    Balanced().feed(html)
    assert "controls" not in html
    assert html.count('width="32" height="16"') == 2
    assert '<input type="checkbox" id="stop"' in html and '<label for="stop"' in html
    still = base64.b64decode(html.split('class="still"><img src="data:image/png;base64,')[1].split('"')[0])
    assert abs(int(np.median(np.asarray(Image.open(io.BytesIO(still))))) - 250) < 6


def test_error_pictures_grow_brighter_and_stop_at_the_ceiling() -> None:
    truth = np.zeros((1, 4, 3), np.float32)
    image = np.array([0.0, 0.1, 0.2, 0.9], np.float32)[None, :, None].repeat(3, axis=2)
    levels = error_picture(image, truth, ceiling=0.2).astype(int).sum(-1)[0]
    assert levels[0] < levels[1] < levels[2] == levels[3]
    assert error_colours(np.array([-1.0, 2.0])).tolist() == [[0, 0, 4], [252, 255, 164]]


@given(st.floats(-1e4, 1e4), st.floats(0, 1e4))
def test_ticks_enclose_the_values_evenly(low: float, span: float) -> None:
    found = ticks(low, low + span)
    slack = 1e-6 * max(1.0, abs(low) + span)
    assert found[0] <= low + slack
    assert found[-1] >= low + span - slack
    assert 2 <= len(found) <= 8
    steps = np.diff(found)
    assert np.allclose(steps, steps[0])


def test_chart_leaves_out_what_is_not_finite() -> None:
    assert (
        psnr_chart(
            [Curve(label="x", minutes=[1.0], psnr=[float("inf")]), Curve(label="y", minutes=[], psnr=[])]
        )
        == ""
    )
    html = psnr_chart([Curve(label="x", minutes=[0.0, 1.0, 2.0], psnr=[20.0, float("nan"), 30.0])])
    assert "x: 30.0 dB" in html
    assert "nan" not in html
    assert "x ends with the weights after 2.0 minutes, at 30.0 dB" in html
    assert "ring" not in html


def test_chart_marks_the_weights_that_were_kept() -> None:
    minutes, psnr = [0.0, 1.0, 2.0, 4.0], [20.0, 30.0, float("nan"), 25.0]
    html = psnr_chart([Curve(label="x", minutes=minutes, psnr=psnr, kept=1)])
    assert "x: 30.0 dB kept" in html
    assert re.findall(r'<em class="ring" style="left: ([\d.]+)%; top: ([\d.]+)%', html) == [("25.00", "0.00")]
    paths = re.findall(r'<path( class="after")? d="([^"]*)"', html)
    assert paths == [("", "M0.00 100.00L25.00 0.00"), (' class="after"', "M25.00 0.00L100.00 50.00")]
    start = psnr_chart([Curve(label="x", minutes=minutes, psnr=psnr, kept=0)])
    assert start.count("<path ") == 1 and start.count('class="after"') == 1
