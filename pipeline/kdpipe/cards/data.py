"""A data set's card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kdpipe.errors import CardError


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCard:
    """What a data set is: where its files are, and how its depth is judged."""

    name: str
    """Also the card's file name, and the name of its rows and stores."""

    family: str
    """The file that knows the layout: datasets/<family>.py."""

    domain: Literal["rooms", "nyu", "kitti", "any"]
    """Decides a teacher family's card and a student's bins; `any`: images of any scene."""

    root: str | None = None
    """Folder of the files, relative to the working folder; None: `--root`, or the environment
    variable <DOMAIN>_DIR (NYU_DIR, KITTI_DIR)."""

    lists: Mapping[str, str] = field(default_factory=dict)
    """Split -> list file, relative to `root`, where the family reads lists."""

    min_depth: float = 1e-3
    """Smallest depth that counts [m]."""

    max_depth: float = 10.0
    """Largest depth that counts [m]."""

    protocol: str = "none"
    """The evaluation protocol of metrics/protocols.py."""

    crop: Literal["none", "kitti-benchmark"] = "none"
    """The frame inside the image: `kitti-benchmark` is the 352x1216 KB crop."""

    options: Mapping[str, object] = field(default_factory=dict)
    """What only this family knows, e.g. the number of rendered rooms; checked by the family."""

    about: Mapping[str, object] = field(default_factory=dict)
    """Source, licence, paper: for people and the report."""

    def __post_init__(self) -> None:
        if not 0 < self.min_depth < self.max_depth:
            raise CardError(
                f"data/{self.name}: 0 < min_depth < max_depth expected, "
                f"got {self.min_depth} and {self.max_depth}"
            )
