"""What a student costs, against sums by hand."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from kdpipe.cards import load_student_card
from kdpipe.students.cost import cost_of
from kdpipe_stages.cli import app


def test_the_published_mobilenet_is_nearly_all_decoder() -> None:
    cost = cost_of(load_student_card("mobilenetv2"))

    eighth, pixels = 52 * 68, 416 * 544
    by_hand = eighth * (320 * 2048 + 9 * (2144 * 512 + 512**2 + 544 * 256 + 256**2))
    by_hand += 4 * eighth * 9 * (280 * 128 + 128**2)
    by_hand += pixels * (9 * 2 * 128**2 * 5 // 4 + 128 * 49 + 49)
    assert cost.decoder_macs == by_hand
    assert round(by_hand / 1e9) == 144
    assert cost.parameters == 17_646_465 - 129 * (257 - 49)
    assert cost.macs - cost.decoder_macs < 10e9


def test_the_list_of_students_tells_it() -> None:
    told = json.loads(CliRunner().invoke(app, ["list", "students", "--json"]).stdout)["students"]

    assert told["mobilenetv2"]["GMAC at 416x544"] > 144
    assert told["mobilenetv2"]["of them decoder"] == 143.6
    assert told["hu-mobilenetv2"]["M parameters"] == 1.67
