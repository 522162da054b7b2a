"""`kdpipe export`: a student as ONNX."""

from __future__ import annotations

from typing import Annotated

import typer

from kdpipe_stages.output import Json, Manifests, say


def export(
    run: Annotated[
        str, typer.Option(help="A folder of artifacts/students, as `distill` named it, or a path.")
    ],
    int8: Annotated[
        bool, typer.Option("--int8", help="Also 8-bit integers, and what they cost in accuracy.")
    ] = False,
    data: Annotated[
        str | None, typer.Option(help="With --int8: whose images; default: the run's own.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the timing; default: as many as PyTorch takes.")
    ] = None,
    manifests: Manifests = None,
    json: Json = False,
) -> None:
    """Write RUN's student as ONNX of any size, checked against PyTorch, and time both."""
    from dataclasses import asdict

    from kdpipe import export as library

    if data is not None and not int8:
        raise typer.BadParameter("it goes with --int8", param_hint="--data")
    done = library.run(run, int8=int8, data=data, threads=threads, manifests=manifests)
    worst = max(one.max_relative for one in done.deviations)
    lines = [f"one image of {done.size[0]}x{done.size[1]}, threads: {done.threads}"]
    lines += [
        f"  {name:26}{one.median_ms:9.2f} ms (median of {one.repeats})"
        for name, one in done.latencies.items()
    ]
    if (loss := done.loss) is not None:
        lines.append(
            f"8 bits on {loss.images} images of {loss.data} {loss.split}: deviation "
            f"{loss.mean_deviation:.2%} (one pixel of a hundred over {loss.p99_deviation:.2%})"
        )
        if loss.abs_rel_float is not None:
            lines.append(
                f"  abs_rel {loss.abs_rel_float:.4f}, with 8 bits {loss.abs_rel_int8:.4f} "
                f"({loss.labelled} images, protocol {loss.protocol})"
            )
    lines.append(
        f"within {worst:.1e} of PyTorch at {len(done.deviations)} sizes, "
        f"{sum(done.bytes.values()) / 1e6:.1f} MB: {done.path}"
    )
    values = {
        "path": str(done.path),
        "bytes": done.bytes,
        "max_deviation": worst,
        "size": done.size,
        "threads": done.threads,
        "latency": {name: asdict(one) for name, one in done.latencies.items()},
        "int8": None if loss is None else asdict(loss),
    }
    say("\n".join(lines), values, json=json)
