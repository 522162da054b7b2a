"""What a command cannot use is refused, never passed over: in this process, nothing is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdpipe_stages import cli

RUN = ["evaluate", "--run", "rooms_none_s_none_s0"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["distill", "--method", "none", "--seeds", "3"], "--seeds: it goes with --compare"),
        ([*RUN, "--teacher", "adabins-small"], "--teacher: --run says it already"),
        ([*RUN, "--student", "mobilenetv2"], "--student: --run says it already"),
        ([*RUN, "--seed", "0"], "--seed: --run says it already"),
        (["evaluate", "--method", "tie-kd"], "--method: it goes with --student"),
        (["evaluate", "--ratio", "0.5"], "--ratio: it goes with --student"),
        (["evaluate", "--teacher", "adabins-small", "--mirror"], "--mirror: a store is judged as"),
        (["fit", "--checkpoint", "w.pt", "--train"], "--checkpoint: these weights are taken as"),
        (["export", *RUN[1:], "--data", "rooms"], "--data: it goes with --int8"),
        (["predict", "a.png", *RUN[1:], "-o", "d", "--colour-max", "inf"], "equal to 100000"),
    ],
)
def test_an_option_without_effect_is_wrong_usage(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    status = cli.run(arguments)

    assert status == 2
    assert says in " ".join(capfd.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("params", "arguments", "says"),
    [
        (
            "fit: {adabins-smal: {steps: 9}}",
            ["fit"],
            "params.yaml: fit has settings for 'adabins-smal', which is no card. Known: adabins-",
        ),
        (
            "distill: {mobilnetv2: {steps: 9}}",
            ["distill", "--method", "none"],
            "params.yaml: distill has settings for 'mobilnetv2', which is no card. Known: ",
        ),
        (
            "",
            ["distill", "--data", "rooms", "--aux", "pool,rooms", "--method", "none"],
            "rooms is named 2 times among rooms, pool, rooms, and would be learned from as often",
        ),
        (
            "",
            ["distill", "--data", "rooms", "--aux", "pool,", "--method", "none"],
            "'pool,': found an empty name, expected NAME[,NAME]: see the commas",
        ),
        (
            "",
            ["audit", "--data", "rooms", "--teacher", "adabins-small,,bts-small"],
            "'adabins-small,,bts-small': found an empty name, expected NAME[,NAME]",
        ),
        (
            "",
            ["store", "import", ".", "--format", "mm", "--teacher", "adabins-nyu", "--data", "nyy"],
            "manifests/data has nothing called 'nyy'. Known: ",
        ),
    ],
)
def test_a_name_that_would_be_passed_over_is_one_line(
    params: str,
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if params:
        Path("params.yaml").write_text(params)

    status = cli.run(arguments)

    said = capfd.readouterr().err
    assert status == 1
    assert said.startswith(f"kdpipe: {says}")
    assert said.count("\n") == 1
