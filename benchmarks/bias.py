"""Where a teacher and its students are too near or too far, and how rough its maps are.

Run in a project of `benchmarks/matrix.py`, in one of its `rate-…` folders: the mean of
ln(prediction / truth) over the test images, of all pixels and of near ones; how many units of a
student's decoder give 0 at every pixel of every image; the variance of the
teacher's depth in windows of 11 pixels, which SSIM's constants stand beside; and how far the mean
of TIE-KD's published target is from the depth that it is made of.

    python benchmarks/bias.py --data rooms --teacher adabins-small
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from kdpipe.datasets import read_image, read_truth
from kdpipe.datasets.indexed import rows_of, rows_with_truth
from kdpipe.losses import dpm_target
from kdpipe.store import layout, open_store
from kdpipe.students import load_student
from kdpipe.students.base import BINS

NEAR = 2.0
"""[m]"""


def main() -> None:
    """Prints a line for the teacher and one for each student of the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="rooms")
    parser.add_argument("--teacher", default="adabins-small")
    parser.add_argument("--size", type=int, nargs=2, default=[144, 192], help="of the windows' map")
    asked = parser.parse_args()
    rows = rows_of(asked.data)
    store = open_store(layout.store_path(asked.data, asked.teacher))
    numbers = rows_with_truth(rows, "test")
    truths = [read_truth(rows, number) for number in numbers]

    def say(name: str, depths: Iterable[np.ndarray]) -> None:
        whole, near = [], []
        for depth, truth in zip(depths, truths, strict=True):
            known = (truth > 0) & (depth > 0)
            error = np.log(depth[known] / truth[known])
            whole.append(error.mean())
            near.append(
                error[truth[known] < NEAR].mean() if (truth[known] < NEAR).any() else np.nan
            )
        print(
            f"{name}: {np.mean(whole):+.3f}, below {NEAR:g} m {np.nanmean(near):+.3f}", flush=True
        )

    say(asked.teacher, (store.depth(number) for number in numbers))
    for folder in sorted(Path("artifacts/students").glob("[!.]*")):
        student = load_student(folder)
        alive = watch(student.network)
        say(
            folder.name,
            (np.asarray(student.predict(read_image(rows, n)[None]))[0] for n in numbers),
        )
        units = torch.cat(list(alive.values())) if alive else torch.ones(0, dtype=torch.bool)
        print(f"  dead: {int((~units).sum())} of {len(units)} units of the decoder", flush=True)
    say_windows([store.depth(n) for n in rows_with_truth(rows, "train")[:80]], tuple(asked.size))
    depths = torch.tensor([1.0, 3.0])
    target = dpm_target(depths.view(1, 1, -1), BINS["nyu"].centers(), sigma=0.5)
    means = (target * BINS["nyu"].centers().view(1, -1, 1, 1)).sum(1)[0, 0]
    print("published target, mean less depth at 1 m and 3 m:", (means - depths).tolist())


def watch(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Which units (C,) of each convolution of the decoder were above 0, as images go by."""
    alive: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Callable[[object, object, torch.Tensor], None]:
        def see(_module: object, _inputs: object, output: torch.Tensor) -> None:
            now = (output > 0).flatten(2).any(dim=2).any(dim=0)
            alive[name] = alive.get(name, now) | now

        return see

    for name, module in network.named_modules():
        if name.endswith(("convA", "convB")):
            module.register_forward_hook(hook(name))
    return alive


def say_windows(maps: list[np.ndarray], size: tuple[int, int]) -> None:
    """Prints the median and the largest variance of all of SSIM's windows: 11 pixels, sigma 1.5."""
    found = []
    for one in maps:
        small = F.interpolate(torch.from_numpy(one)[None, None].double(), size, mode="area")
        depth = small[0, 0].numpy()
        mean, square = (gaussian_filter(each, 1.5, radius=5) for each in (depth, depth**2))
        found.append((square - mean**2).ravel())
    variance = np.concatenate(found)
    print(
        f"variance of windows: median {np.median(variance):.2g}, largest {variance.max():.2g} m^2"
    )


if __name__ == "__main__":
    main()
