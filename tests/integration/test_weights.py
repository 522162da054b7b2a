"""Where the commands find a published teacher's weights."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from tests.http_server import Server
from tests.tiny_hub import NETWORKS

from kdpipe.cards import load_teacher_card
from kdpipe.nets.checkpoint import sha256_of_file
from kdpipe.nets.hub_network import HubNetwork
from kdpipe.rows import Rows
from kdpipe.store import layout, open_store
from kdpipe.teachers import build_network, load_teacher
from kdpipe.teachers.weights import digest_of
from kdpipe.teaching.weights import find_weights
from kdpipe_stages import cli

SMALL = Path(__file__).parents[2] / "manifests/teachers/adabins-small.yaml"
MakeRows = Callable[..., Rows]


DPT = NETWORKS["dpt"]["config"]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, and cards of a family `toy` whose weights the server publishes."""
    monkeypatch.setenv("KDPIPE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def project(make_tiny: MakeRows, cache: Path, server: Server, tmp_path: Path) -> Path:
    """An indexed data set of domain `nyu`, and cards `toy-nyu`, `toy-k` and `toy-by-hand`."""
    make_tiny()
    values = yaml.safe_load(SMALL.read_text())
    values["network"].update(
        features=64, embedding=32, queries=4, bins=8, hidden_bins=16, layers=1, patch=4
    )
    folder = tmp_path / "cards" / "teachers"
    folder.mkdir(parents=True)
    for name in ("toy-nyu", "toy-k", "toy-by-hand"):
        about = {**values["about"], "file": f"{name}.pt", "trained_on": []}
        if name != "toy-by-hand":
            about["url"] = f"{server.address}/{name}.pt"
        card = {**values, "name": name, "about": about}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(card))
    torch.manual_seed(0)
    network = build_network(load_teacher_card("toy-nyu", folder.parent))
    published = tmp_path / "published.pt"
    torch.save({"model": network.state_dict()}, published)
    server.put("/toy-nyu.pt", published.read_bytes())
    return folder.parent


def kdpipe(*arguments: str | Path) -> int:
    return cli.run([str(one) for one in arguments])


def test_fit_downloads_what_is_published_and_writes_no_path_of_this_machine(
    project: Path, server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = kdpipe("fit", "--teacher", "toy-nyu", "--data", "tiny", "--manifests", project)

    assert status == 0
    assert f"weights from {server.address}/toy-nyu.pt" in capsys.readouterr().out
    noted = json.loads(layout.weights_path("tiny", "toy-nyu").read_text())
    assert noted["checkpoint"] == "toy-nyu.pt"
    assert noted["source"] == f"{server.address}/toy-nyu.pt"
    assert noted["sha256"] == sha256_of_file(cache / "toy-nyu.pt")
    assert str(cache.parent) not in json.dumps(noted)
    card = load_teacher_card("toy-nyu", project)
    assert find_weights(card, "tiny", None).path == cache / "toy-nyu.pt"


def test_a_family_is_the_card_for_the_data_sets_domain(
    project: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "kdpipe"):
        status = kdpipe(
            *("fit", "--teacher", "toy", "--data", "tiny", "--manifests", project, "--json")
        )

    assert status == 0
    assert json.loads(capsys.readouterr().out)["teacher"] == "toy-nyu"
    assert "teacher toy is toy-nyu for images of domain 'nyu'" in caplog.text


@pytest.mark.parametrize("command", ["audit", "evaluate", "distill"])
def test_every_command_takes_a_family_s_name(
    command: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    further = {"distill": ["--method", "tie-kd"], "evaluate": ["--split", "val"]}.get(command, [])

    status = kdpipe(
        *(command, "--teacher", "toy", "--data", "tiny", "--manifests", project), *further
    )

    assert status == 1
    assert "stores/tiny/toy-nyu.zarr" in capsys.readouterr().err


def test_teach_needs_no_fit_of_a_published_teacher(
    project: Path, server: Server, cache: Path, tmp_path: Path
) -> None:
    taught = ("teach", "--data", "tiny", "--manifests", project, "--workers", "0")

    assert kdpipe(*taught, "--teacher", "toy") == 0

    store = open_store(layout.store_path("tiny", "toy-nyu"))
    source = {
        "sha256": sha256_of_file(cache / "toy-nyu.pt"),
        "source": f"{server.address}/toy-nyu.pt",
    }
    assert store.info.identity["weights"] == source
    # The same weights, once fitted, given, and downloaded again, are the same store.
    assert kdpipe("fit", "--teacher", "toy", "--data", "tiny", "--manifests", project) == 0
    assert kdpipe(*taught, "--teacher", "toy") == 0
    assert kdpipe(*taught, "--teacher", "toy-nyu", "--checkpoint", tmp_path / "published.pt") == 0
    for path in cache.iterdir():
        path.unlink()
    assert kdpipe(*taught, "--teacher", "toy") == 0


def test_published_weights_that_were_replaced_are_refused(
    project: Path, server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kdpipe("fit", "--teacher", "toy-nyu", "--data", "tiny", "--manifests", project) == 0
    for path in cache.iterdir():
        path.unlink()
    others = io.BytesIO()
    torch.save({"weight": torch.ones(1)}, others)
    server.put("/toy-nyu.pt", others.getvalue())

    status = kdpipe(
        *("teach", "--teacher", "toy-nyu", "--data", "tiny", "--manifests", project),
        *("--workers", "0"),
    )

    assert status == 1
    assert "weights.json says" in capsys.readouterr().err


def test_what_cannot_be_downloaded_is_one_line(
    project: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--data", "tiny", "--manifests", project)

    assert kdpipe("fit", "--teacher", "toy-by-hand", *asked) == 1
    said = capsys.readouterr().err.splitlines()
    assert kdpipe("teach", "--teacher", "toy-k", "--workers", "0", *asked) == 1
    told = [one for one in capsys.readouterr().err.splitlines() if one.startswith("kdpipe: ")]

    assert len(said) == 1
    assert f"save it as {cache / 'toy-by-hand.pt'}, or give the file with --checkpoint" in said[0]
    assert len(told) == 1
    assert "answers 404" in told[0]
    assert not layout.weights_path("tiny", "toy-by-hand").exists()
    assert list(cache.iterdir()) == []


def test_python_finds_published_weights_too(project: Path, server: Server) -> None:
    card = replace(load_teacher_card("toy-nyu", project), mirror=False)

    teacher = load_teacher(card)

    assert teacher.predict(torch.zeros(1, 3, 64, 96)).depth.shape == (1, 32, 48)
    assert len(server.asked) == 1


@pytest.fixture
def hub_folder(project: Path, tmp_path: Path) -> Path:
    """A tiny model as transformers saves it, and the card `toy-hub` of it."""
    made = load_teacher_card("huggingface-small", project)
    config = {
        "model_type": "glpn",
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
        "decoder_hidden_size": 8,
    }
    network = build_network(replace(made, network={**made.network, "config": config}))
    assert isinstance(network, HubNetwork)
    folder = tmp_path / "a model"
    network.model.save_pretrained(folder)
    network.processor.save_pretrained(folder)
    card = {
        "name": "toy-hub",
        "family": "huggingface",
        "network": {"hub": str(folder)},
        "about": {"kind": "metric", "licence": "none", "weights": "here"},
    }
    (project / "teachers" / "toy-hub.yaml").write_text(yaml.safe_dump(card))
    return folder


def test_a_folder_of_transformers_teaches(project: Path, hub_folder: Path) -> None:
    asked = ("--data", "tiny", "--manifests", project)
    taught = ("teach", "--teacher", "toy-hub", *asked, "--workers", "0")

    assert kdpipe("fit", "--teacher", "toy-hub", *asked) == 0
    assert kdpipe(*taught) == 0
    assert kdpipe(*taught, "--checkpoint", hub_folder) == 0

    store = open_store(layout.store_path("tiny", "toy-hub"))
    source = {"sha256": digest_of(hub_folder), "source": "file"}
    assert store.info.identity["weights"] == source
    assert store.depth(0).shape == (48, 64)


def test_a_relative_teacher_s_store_says_so_and_is_learned_from_but_not_taken_for_metres(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--teacher", "toy-relative", "--data", "tiny", "--manifests", project)
    card = {
        "name": "toy-relative",
        "family": "huggingface",
        "network": {"config": DPT, "processor": {"image_processor_type": "DPTImageProcessor"}},
        "about": {"kind": "affine-invariant", "licence": "none", "weights": "here"},
    }
    (project / "teachers/toy-relative.yaml").write_text(yaml.safe_dump(card))
    network = build_network(load_teacher_card("toy-relative", project))
    for parameter in network.parameters():  # a fresh one gives 0, which no image can be aligned by
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    torch.nn.init.constant_(list(network.parameters())[-1], 500)
    torch.save(network.state_dict(), "toy.pt")
    short = {"height": 32, "width": 48, "batch_size": 2, "steps": 1}
    Path("params.yaml").write_text(yaml.safe_dump({"distill": {"mobilenetv2-small": short}}))

    assert kdpipe("teach", *asked, "--workers", "0", "--checkpoint", "toy.pt") == 0
    assert kdpipe("distill", *asked, "--method", "res-kd-si") == 0
    store = open_store(layout.store_path("tiny", "toy-relative"))

    assert not store.info.is_metric
    assert store.depth(0).any()
    png = ("store", "export", store.path, "-o", "png", "--format", "mm")
    for command in (("evaluate", *asked), ("audit", *asked), png):
        capsys.readouterr()
        assert kdpipe(*command) == 1
        said = capsys.readouterr().err
        assert "without unit" in said or "affine-invariant" in said
        assert "name a metric" in said or "export a metric" in said


def test_list_says_what_a_teacher_is_and_where_its_weights_are(
    project: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kdpipe("fit", "--teacher", "toy-nyu", "--data", "tiny", "--manifests", project) == 0
    capsys.readouterr()

    assert kdpipe("list", "teachers", "--manifests", project) == 0
    lines = capsys.readouterr().out.splitlines()
    assert kdpipe("list", "teachers", "--manifests", project, "--json") == 0
    told = json.loads(capsys.readouterr().out)["teachers"]

    assert lines[0].split() == [*("teacher", "family", "depth", "bins", "weights", "licence")]
    assert [line.split()[0] for line in lines[1:]] == list(told)
    assert told["toy-nyu"] == {
        "family": "adabins",
        "depth": "0.001-10 m",
        "bins": "companded",
        "weights": "here, for tiny",
        "licence": "Apache-2.0",
    }
    assert told["toy-k"]["weights"] == "downloaded by fit"
    assert told["toy-by-hand"]["weights"] == "fetched by hand"
    assert told["adabins-small"]["weights"] == "fitted on your data"
    assert told["depth-anything-v2-small"]["depth"] == "relative"
