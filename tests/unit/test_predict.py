"""Predict: which images it takes, what it writes of each, and what it never overwrites."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file
from tests.unit.conftest import ToyProject

from kdpipe import predict
from kdpipe.errors import CheckpointError, DataError, UnknownNameError
from kdpipe.predict import find_images, name_outputs, units_per_metre
from kdpipe.store import layout
from kdpipe.students import load_student

if TYPE_CHECKING:
    from kdpipe.types import Depth, Image

RUN = ToyProject.run.name


@pytest.fixture
def toy(toy: ToyProject) -> ToyProject:
    """With a student whose depth follows the image."""
    toy.add_student(toy.run, vivid=True)
    return toy


def picture(height: int = 40, width: int = 50, seed: int = 0) -> Image:
    """Blocks of colour (H, W, 3)."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.array(Pillow.fromarray(blocks).resize((width, height), Pillow.Resampling.NEAREST))


def expected(image: Image, *, mirror: bool = False) -> Depth:
    """What `Student.predict`, and so `evaluate`, says."""
    student = load_student(layout.student_dir(RUN))
    depth: Depth = np.asarray(student.predict(image[None], mirror=mirror))[0]
    return depth


def test_an_image_becomes_millimetres_metres_and_colours(toy: ToyProject) -> None:
    Pillow.fromarray(picture()).save("a.png")

    done = predict.run([Path("a.png")], run=RUN, output=Path("out"))

    depth = np.load("out/a_depth.npy")
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, expected(picture()), rtol=1e-6)
    assert np.ptp(depth) > 0.5, "the student must see something"
    with Pillow.open("out/a_depth.png") as opened:
        assert opened.info["Description"] == "depth: metres = value / 1000; 0 is unknown"
        numbers = np.asarray(opened)
    assert numbers.dtype == np.uint16
    np.testing.assert_allclose(numbers / 1000, depth, atol=0.5e-3 + 1e-6)
    with Pillow.open("out/a_colour.png") as opened:
        assert (opened.mode, opened.size) == ("RGB", (50, 40))
    assert done.names == {str(Path("a.png").resolve()): "a"}
    assert not done.failed


def test_the_summary_says_who_what_and_in_which_unit(toy: ToyProject) -> None:
    Pillow.fromarray(picture()).save("a.png")

    predict.run([Path("a.png")], run=RUN, output=Path("out"), mirror=True, colour_max=4)

    said = json.loads(Path("out/predict.json").read_text())
    (one,) = said["images"].values()
    depth = expected(picture(), mirror=True)
    assert (said["run"], said["mirror"], said["student_sees"]) == (RUN, True, [32, 48])
    assert said["files"]["_depth.png"] == "16-bit PNG: metres = value / 1000"
    assert "0 m (bright) to 4 m (dark)" in said["files"]["_colour.png"]
    assert (one["name"], one["height"], one["width"]) == ("a", 40, 50)
    assert [one["min"], one["median"], one["max"]] == pytest.approx(
        [depth.min(), np.median(depth), depth.max()], rel=1e-6
    )


def test_the_colours_of_a_depth_do_not_depend_on_the_image(toy: ToyProject) -> None:
    for seed in (1, 2):
        Pillow.fromarray(picture(seed=seed)).save(f"{seed}.png")

    predict.run([Path("1.png"), Path("2.png")], run=RUN, output=Path("out"))

    pairs = []
    for seed in (1, 2):
        with Pillow.open(f"out/{seed}_colour.png") as opened:
            pixels = np.asarray(opened).reshape(-1, 3)
        steps = (np.load(f"out/{seed}_depth.npy").ravel() / 10 * 255).astype(int)
        pairs.append({step: tuple(pixel) for step, pixel in zip(steps, pixels, strict=True)})
    shared = pairs[0].keys() & pairs[1].keys()
    assert len(shared) > 20
    assert all(pairs[0][step] == pairs[1][step] for step in shared)
    assert len(set(pairs[0].values())) > 20


@pytest.mark.parametrize(
    ("far", "units"),
    [(10.0, 1000), (65.535, 1000), (65.6, 256), (80.0, 256), (255.9, 256), (300.0, 100)],
)
def test_the_finest_unit_that_reaches_far_enough_is_taken(far: float, units: int) -> None:
    assert units_per_metre(far) == units


def test_a_student_of_80_m_has_the_unit_of_kitti(toy: ToyProject) -> None:
    toy.add_student(toy.baseline, vivid=True, bins="kitti")
    Pillow.fromarray(picture()).save("a.png")

    done = predict.run([Path("a.png")], run=toy.baseline.name, output=Path("out"))

    assert (done.units_per_metre, done.colour_max) == (256, 80.0)
    depth = np.load("out/a_depth.npy")
    with Pillow.open("out/a_depth.png") as opened:
        np.testing.assert_allclose(np.asarray(opened) / 256, depth, atol=0.5 / 256 + 1e-5)
        assert "value / 256" in opened.info["Description"]
    assert depth.max() > 11


def grey16() -> Pillow.Image:
    return Pillow.fromarray(picture()[:, :, 0].astype(np.uint16) * 257)


def with_alpha(mode: str) -> Pillow.Image:
    opened = Pillow.fromarray(picture()).convert(mode)
    opened.putalpha(Pillow.fromarray(picture(seed=9)[:, :, 0]))
    return opened


def palette() -> Pillow.Image:
    opened = Pillow.fromarray(picture()).quantize(64)
    opened.info["transparency"] = bytes(range(64))
    return opened


GREY = np.repeat(picture()[:, :, :1], 3, axis=2)


@pytest.mark.parametrize(
    ("make", "seen"),
    [
        pytest.param(lambda: Pillow.fromarray(picture()), picture(), id="rgb"),
        pytest.param(lambda: Pillow.fromarray(picture()[:, :, 0]), GREY, id="grey"),
        pytest.param(grey16, GREY, id="grey-16-bit"),
        pytest.param(lambda: with_alpha("RGB"), picture(), id="alpha"),
        pytest.param(palette, picture(), id="palette-with-transparency"),
        pytest.param(
            lambda: Pillow.fromarray(picture()[:, :, 0] > 127),
            np.where(GREY > 127, 255, 0).astype(np.uint8),
            id="1-bit",
        ),
        pytest.param(lambda: Pillow.fromarray(picture(1, 1)), picture(1, 1), id="one-pixel"),
        pytest.param(lambda: Pillow.fromarray(picture(9, 400)), picture(9, 400), id="wide"),
    ],
)
def test_every_kind_of_image_is_seen_as_rgb(toy: ToyProject, make: Any, seen: Image) -> None:
    make().save("a.png")

    done = predict.run([Path("a.png")], run=RUN, output=Path("out"))

    assert not done.failed
    np.testing.assert_allclose(np.load("out/a_depth.npy"), expected(seen), rtol=1e-6)


def test_depth_is_upright_where_exif_turns_the_image(toy: ToyProject) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn it clockwise
    Pillow.fromarray(np.rot90(picture())).save("turned.png", exif=exif)

    predict.run([Path("turned.png")], run=RUN, output=Path("out"))

    np.testing.assert_allclose(np.load("out/turned_depth.npy"), expected(picture()), rtol=1e-6)


def test_what_cannot_be_read_is_named_and_the_rest_is_done(toy: ToyProject) -> None:
    Path("torn.png").write_bytes(Path("toy/0.png").read_bytes()[:200])
    Path("text.jpg").write_text("no image")
    given = [Path(name) for name in ("torn.png", "text.jpg", "gone.png", "toy/1.png")]

    done = predict.run(given, run=RUN, output=Path("out"))

    assert [Path(path).name for path in done.failed] == ["torn.png", "text.jpg", "gone.png"]
    assert [Path(path).name for path in done.names] == ["1.png"]
    assert "missing" in done.failed[str(Path("gone.png").resolve())]
    assert sorted(path.name for path in Path("out").rglob("*") if path.is_file()) == [
        "1_colour.png",
        "1_depth.npy",
        "1_depth.png",
        "predict.json",
    ]


def test_where_nothing_can_be_read_nothing_is_written(toy: ToyProject) -> None:
    done = predict.run([Path("gone.png")], run=RUN, output=Path("out"))

    assert len(done.failed) == 1
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["a/1.jpg"], ["1"]),
        (["a/1.jpg", "a/2.jpg"], ["1", "2"]),
        (["a/1.jpg", "b/1.jpg"], ["a/1", "b/1"]),
        (["a/1.jpg", "a/1.png"], ["1.jpg", "1.png"]),
        (["a/1.jpg", "a/1.jpg", "a/../a/1.jpg"], ["1"]),
        (["a/1.jpg", "a/1.png", "a/1.jpg.png"], ["1.jpg", "1.png", "1.jpg.png"]),
        (["a/x.jpg", "a/X.png"], ["x.jpg", "X.png"]),
        (["a"], ["1", "1.jpg", "deep/2"]),
        (["a", "a/1.jpg"], ["1", "1.jpg", "deep/2"]),
        (["a", "b"], ["a/1", "a/1.jpg", "a/deep/2", "b/1"]),
    ],
)
def test_no_two_images_have_one_name(
    given: list[str], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("a/1.jpg", "a/1.jpg.png", "a/deep/2.webp", "a/.hidden.jpg", "b/1.jpg", "b/x.txt"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()

    found = name_outputs(find_images([Path(one) for one in given]))

    assert sorted(found.values()) == sorted(names)


def test_pictures_of_an_earlier_call_are_no_images(toy: ToyProject) -> None:
    first = predict.run([Path("toy")], run=RUN, output=Path("toy/out"))
    inside = predict.run([Path("toy")], run=RUN, output=Path("toy/out"))
    elsewhere = predict.run([Path("toy")], run=RUN, output=Path("toy/more"))

    assert len(first.names) == 16  # the data set's images and its truth
    assert inside.names == first.names
    assert elsewhere.names == first.names
    assert not elsewhere.failed


def test_a_file_of_somebody_else_is_never_overwritten(toy: ToyProject) -> None:
    Path("toy/7_depth.png").unlink()
    before = {path: path.read_bytes() for path in Path("toy").iterdir()}

    done = predict.run([Path("toy/0.png"), Path("toy/7.png")], run=RUN, output=Path("toy"))

    (reason,) = done.failed.values()
    assert "0_depth.png is there and not from kdpipe predict" in reason
    assert list(done.names.values()) == ["7"]
    assert {path: path.read_bytes() for path in before} == before


def test_a_folder_that_cannot_be_made_is_one_line(toy: ToyProject) -> None:
    with pytest.raises(DataError, match=r"folder /proc/depth cannot be made .*another output"):
        predict.run([Path("toy/7.png")], run=RUN, output=Path("/proc/depth"))

    Path("torn.png").write_bytes(b"torn")
    assert predict.run([Path("torn.png")], run=RUN, output=Path("fresh")).failed
    assert not Path("fresh").exists()


def test_an_npy_of_somebody_else_is_kept_too(toy: ToyProject) -> None:
    Path("7_depth.npy").write_bytes(b"mine")

    done = predict.run([Path("toy/7.png")], run=RUN, output=Path())

    assert len(done.failed) == 1
    assert Path("7_depth.npy").read_bytes() == b"mine"
    assert not Path("7_depth.png").exists()


def test_a_name_that_the_disk_does_not_take_is_one_images_fault(toy: ToyProject) -> None:
    long = "n" * 250 + ".png"
    Pillow.fromarray(picture()).save(long)

    done = predict.run([Path(long), Path("toy/7.png")], run=RUN, output=Path("out"))

    (reason,) = done.failed.values()
    assert "cannot be written" in reason
    assert list(done.names.values()) == ["toy/7"]


def test_a_student_that_gives_no_number_writes_nothing(toy: ToyProject) -> None:
    weights = layout.student_dir(RUN) / "model.safetensors"
    content = load_file(weights)
    for key in content:
        if key.startswith("decode_head") and content[key].is_floating_point():
            content[key] *= 1e20  # finite, but not what is computed from it
    save_file(content, weights)

    done = predict.run([Path("toy/7.png")], run=RUN, output=Path("out"))

    (reason,) = done.failed.values()
    assert "gives no number" in reason
    assert not Path("out").exists()


def test_a_run_may_be_named_by_its_folder(toy: ToyProject) -> None:
    moved = toy.folder / "elsewhere"
    layout.student_dir(RUN).rename(moved)

    done = predict.run([Path("toy/7.png")], run=str(moved), output=Path("out"))

    assert list(done.names.values()) == ["7"]


def test_a_student_trained_in_part_is_said_to_be(
    toy: ToyProject, caplog: pytest.LogCaptureFixture
) -> None:
    (layout.student_dir(RUN) / "metrics.json").write_text('{"finished": false}')

    predict.run([Path("toy/7.png")], run=RUN, output=Path("out"))

    assert "trained in part" in caplog.text


@pytest.mark.parametrize(
    ("wish", "error", "says"),
    [
        pytest.param({"run": "toy_x"}, UnknownNameError, RUN, id="run"),
        pytest.param({"run": "unfinished"}, CheckpointError, "finished run", id="unfinished-run"),
        pytest.param({"images": [Path("empty")]}, DataError, "no image", id="empty-folder"),
        pytest.param({"output": Path("toy/0.png")}, DataError, "is a file", id="output-is-a-file"),
    ],
)
def test_a_wrong_wish_is_one_line_and_writes_nothing(
    toy: ToyProject, wish: dict[str, Any], error: type[Exception], says: str
) -> None:
    Path("unfinished").mkdir()
    Path("empty").mkdir()
    whole: dict[str, Any] = {"images": [Path("toy")], "run": RUN, "output": Path("out"), **wish}

    with pytest.raises(error, match=says) as caught:
        predict.run(whole.pop("images"), **whole)

    assert "\n" not in str(caught.value)
    assert not Path("out").exists()
