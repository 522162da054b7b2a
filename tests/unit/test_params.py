"""params.yaml is read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdpipe.errors import CardError
from kdpipe.params import Params, TrainParams, load_params


def test_the_projects_own_file_loads() -> None:
    params = load_params(Path(__file__).parents[2] / "params.yaml")

    assert params.fit_of(params.teachers[0]).steps > 0
    assert set(params.students) <= set(params.distill)


def test_a_missing_or_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# all of it is a comment\n")

    assert load_params(tmp_path / "params.yaml") == load_params(tmp_path / "empty.yaml") == Params()


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)

    for path in (tmp_path, loop):
        with pytest.raises(CardError, match="cannot be read"):
            load_params(path)


def test_a_network_that_is_not_named_takes_the_defaults() -> None:
    assert Params().distill_of("any") == TrainParams()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: zero", "seeds: found 'zero', expected a list"),
        ("seeds: [a]", "found 'a', expected a whole number"),
        ("data: []", "data is empty, expected at least one"),
        ("teachers: []", "teachers is empty"),
        ("seed: [0]", "unknown key 'seed'"),
        ("distill: {toy: {steps: many}}", r"distill\.toy: steps: found 'many'"),
        ("distill: {toy: {steps: 0}}", "steps must be in"),
        ("distill: {toy: {height: 100}}", "height must be a multiple of 16"),
        ("distill: {toy: {precision: fp8}}", "precision must be fp32, bf16 or fp16"),
        ("distill: {toy: {accumulate: 0}}", r"accumulate must be in"),
        ("distill: {toy: {accumulate: 1.5}}", "accumulate: found 1.5, expected a whole number"),
        ("distill: {toy: {ema: 1}}", r"ema must be in"),
        ("distill: {toy: {ema: most}}", "ema: found 'most'"),
        ("distill: {toy: {compile: 3}}", "compile: found 3"),
        ("distill: {toy: {scale: [0.0, 1.0]}}", r"two rising zooms in \[0\.1, 10\], got \[0\.0"),
        ("distill: {toy: {scale: [2.0, 1.0]}}", "two rising zooms"),
        ("distill: {toy: {flip: 3}}", r"flip must be in \[0, 1\], got 3"),
        ("distill: {toy: {colour: 5}}", "colour must be in"),
        ("distill: {toy: {learning_rate: .nan}}", "learning_rate must be in .* got nan"),
        ("store: {max_relative_error: 0.5}", "max_relative_error must be in"),
        ("[1, 2]", "expected keys and values"),
        ("fit: {a: b", "is no YAML"),
        ("seeds: [0]\nseeds: [1]", "key 'seeds' stands twice"),
        ("seeds: [0, -1]", "seeds must be in"),
        ("distill: {toy: {learning_rate: .inf}}", "learning_rate must be in .* got inf"),
        ("store: {root: 's3://'}", "store.root must be s3://bucket/prefix"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)

    with pytest.raises(CardError, match=message) as caught:
        load_params(path)

    assert "\n" not in str(caught.value)
