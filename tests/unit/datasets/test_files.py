"""Plain files: every kind of image becomes upright RGB8, and nothing torn or coarse passes."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdpipe.cards import DataCard
from kdpipe.datasets import files
from kdpipe.errors import DataError
from kdpipe.rows import Row, Rows, make_rows

RED = (255, 0, 0)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def rows_of(root: Path, truth: str, scale: float = 1.0) -> tuple[Rows, Row]:
    card = DataCard(name="toy", family="folder", domain="any")
    row = Row(
        id="a",
        split="train",
        image="a.png",
        truth=truth,
        truth_scale=scale,
        image_height=2,
        image_width=3,
        height=2,
        width=3,
    )
    return make_rows(card, root, [row]), row


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        pytest.param(Image.new("RGB", (3, 2), RED), RED, id="rgb"),
        pytest.param(Image.new("RGBA", (3, 2), (*RED, 128)), RED, id="transparent"),
        pytest.param(Image.new("L", (3, 2), 77), (77, 77, 77), id="grey"),
        pytest.param(Image.new("LA", (3, 2), (77, 9)), (77, 77, 77), id="grey-transparent"),
        pytest.param(Image.new("1", (3, 2), 1), (255, 255, 255), id="one-bit"),
        pytest.param(Image.new("RGB", (3, 2), RED).convert("P"), RED, id="palette"),
        pytest.param(
            Image.fromarray(np.full((2, 3), 0x4D02, np.uint16)), (77, 77, 77), id="16-bit-grey"
        ),
    ],
)
def test_every_kind_of_image_becomes_rgb8(
    picture: Image.Image, expected: tuple[int, int, int]
) -> None:
    image = files.decode_image(encoded(picture), "a.png")

    assert image.dtype == np.uint8
    assert image.shape == (2, 3, 3)
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, np.broadcast_to(expected, (2, 3, 3)))


def test_cmyk_becomes_rgb8() -> None:
    cmyk = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)

    image = files.decode_image(cmyk, "a.jpg")

    np.testing.assert_allclose(image[8, 8], RED, atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(orientation: int) -> None:
    upright = np.zeros((2, 3, 3), np.uint8)
    upright[0, 0] = RED  # top left
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))

    image = files.decode_image(encoded(stored, exif=exif), "a.png")

    np.testing.assert_array_equal(image, upright)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_truncated_image_is_found_by_its_pixels(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), kind)

    with pytest.raises(DataError, match=r"^a\.x is no whole image \(.+; \d+ bytes\): fetch it"):
        files.decode_image(whole[: len(whole) * 3 // 4], "a.x")


def test_a_header_that_asks_for_gigabytes_is_refused_unread() -> None:
    small = encoded(Image.new("L", (8, 8)), "PNG")
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + small[24:29]
    bomb = small[:12] + header + zlib.crc32(header).to_bytes(4, "big") + small[33:]

    with pytest.raises(DataError, match=r"a\.png says that it has more pixels .*3600000000 pixels"):
        files.decode_image(bomb, "a.png")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"<html>404</html>", id="web-page"),
        pytest.param(b"\xff\xd8\xff\xe0", id="only-a-jpeg-header"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(40), id="only-a-png-header"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(DataError, match=r"a\.jpg is no whole image") as caught:
        files.decode_image(data, "a.jpg")
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


def test_floating_point_images_have_no_known_range() -> None:
    with pytest.raises(DataError, match="floating point"):
        files.decode_image(encoded(Image.new("F", (3, 2), 0.5), "TIFF"), "a.tif")


def test_a_16_bit_png_is_metres_by_the_row_s_scale(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, 2], [1000, 2500, 65535]], np.uint16)).save(tmp_path / "d.png")

    depth = files.read_truth(*rows_of(tmp_path, "d.png", 1e-3))

    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [[0, 0.001, 0.002], [1, 2.5, 65.535]], rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1)])
@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "uint16"])
def test_an_npy_is_metres(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    np.save(tmp_path / "d.npy", np.arange(6, dtype=kind).reshape(shape))

    depth = files.read_truth(*rows_of(tmp_path, "d.npy"))

    np.testing.assert_array_equal(depth, np.arange(6, dtype=np.float32).reshape(2, 3))


def test_an_archive_of_arrays_is_no_npy(tmp_path: Path) -> None:
    with (tmp_path / "d.npy").open("wb") as file:
        np.savez(file, depth=np.ones((2, 3)))

    with pytest.raises(DataError, match=r"d\.npy is an archive of arrays, expected one"):
        files.read_truth(*rows_of(tmp_path, "d.npy"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 1e300])
def test_an_npy_with_what_is_no_depth_is_refused(tmp_path: Path, value: float) -> None:
    np.save(tmp_path / "d.npy", np.array([[1, value, 1]], np.float64))

    with pytest.raises(DataError, match=r"d\.npy holds 1 negative or not finite values"):
        files.read_truth(*rows_of(tmp_path, "d.npy"))


def test_an_npy_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.array([[{"a": 1}]], dtype=object), allow_pickle=True)

    with pytest.raises(DataError, match="no whole NPY file"):
        files.read_truth(*rows_of(tmp_path, "d.npy"))


def test_a_cut_off_npy_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.ones((8, 8), np.float32))
    whole = (tmp_path / "d.npy").read_bytes()
    (tmp_path / "d.npy").write_bytes(whole[:-9])

    with pytest.raises(DataError, match="no whole NPY file"):
        files.read_truth(*rows_of(tmp_path, "d.npy"))


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_an_8_bit_depth_png_is_refused(tmp_path: Path, mode: str) -> None:
    Image.new("L", (3, 2), 7).convert(mode).save(tmp_path / "d.png")

    with pytest.raises(DataError, match=r"d\.png is a 8-bit picture: depth needs a 16-bit"):
        files.read_truth(*rows_of(tmp_path, "d.png"))


def test_missing_empty_and_folder_are_said(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    for name, said in (("gone.png", "is missing"), ("empty.png", "is empty"), ("", "cannot be")):
        with pytest.raises(DataError, match=said):
            files.read_bytes(tmp_path / name)


def test_labels_beyond_the_classes_are_refused() -> None:
    data = encoded(Image.new("L", (3, 2), 14))

    assert files.decode_labels(data, "l.png", 14).max() == 14
    with pytest.raises(DataError, match="found class 14, expected an 8-bit map of classes"):
        files.decode_labels(data, "l.png", 13)


def test_depth_of_another_size_than_was_indexed_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.ones((2, 3), np.float32))
    rows, row = rows_of(tmp_path, "d.npy")
    indexed = replace(row, truth_bytes=(tmp_path / "d.npy").stat().st_size)
    files.read_truth(rows, indexed)
    np.save(tmp_path / "d.npy", np.ones((2, 3), np.float64))

    with pytest.raises(DataError, match=r"d\.npy has 176 bytes, 152 when it was indexed"):
        files.read_truth(rows, indexed)
