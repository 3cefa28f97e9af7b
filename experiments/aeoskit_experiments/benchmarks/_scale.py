"""`aeoskit bench scale`: memory and communication per device as the number of devices grows."""

import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aeoskit.objective import Objective
from aeoskit.sharding import Placement, make_mesh
from aeoskit_experiments._errors import UserError
from aeoskit_experiments.pipelines import (
    ask_for_devices,
    data,
    loss,
    model,
    optimizer,
    pipe,
    track,
    train,
)
from aeoskit_experiments.planning import PRODUCT, SOLVE, compile_rows

INPUTS, OUTPUTS = 64, 10
_REDUCTIONS = ("all-reduce", "reduce-scatter")


def run_scale_benchmark(
    *,
    devices: int = 8,
    parameters: int = 100_000_000,
    basis: int = 20,
    examples: int = 256,
    width: int = 512,
    repeats: int = 7,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Measure memory, collectives and time of solves and products on 1, 2, 4, … devices.

    The devices are those of the machine, or simulated ones of its CPU. Memory and collectives need
    no run: a solve and a product with a network of `parameters` parameters, its parameters sharded
    and the basis of the solve spread, are compiled from shapes, and the compiler's numbers per
    device are compared with those for a single device. Wall time is that of a Hessian product of a
    smaller network with a number of examples that grows with the devices (weak scaling), on as many
    devices as the machine has cores.

    Args:
        devices: The largest number of devices, a power of two.
        parameters: Approximate number of parameters of the network of the memory table.
        basis: Vectors that the solve holds.
        examples: Number of examples per device, for the network that is timed.
        width: Width of that network's two hidden layers.
        repeats: Number of timings; the smallest counts.
        progress: Called with the name of each part as it begins.

    Returns:
        `rows`, one per number of devices: `devices`, `bytes_solve` and `bytes_product` (arguments
        and temporaries of one device: a product gathers parameters and vector, so that its own do
        not fall), `bytes_held` (what a solve has beside a product: basis, P), `held_share` (of that
        on one device alone, times the number of devices: 1 is perfect), and of a product with
        replicated parameters `reductions` (one per leaf on a CPU) and `bytes_reduced`, which do not
        grow with the data shards; `scaling`, with `devices`, `examples`, `product_seconds` and
        `efficiency` (the time on one device over this one).

    Raises:
        UserError: If the number of devices is not a power of two, or there are fewer.
    """
    if devices < 1 or devices & (devices - 1):
        raise UserError(f"bench scale: devices is {devices}: give a power of two, such as 8")
    found = _devices(devices)
    counts = [2**power for power in range(devices.bit_length())]
    rows: list[dict[str, Any]] = []
    for count in counts:
        progress(f"compiling for {count} devices")
        row = _compiled(found[:count], parameters, basis)
        first = rows[0] if rows else row
        row["held_share"] = count * row["bytes_held"] / first["bytes_held"]
        rows.append(row)
    cores = os.cpu_count() or 1
    scaling = []
    for count in [count for count in counts if count <= cores or found[0].platform != "cpu"]:
        progress(f"timing on {count} devices")
        seconds = _timed(found[:count], count * examples, width, repeats)
        first = scaling[0]["product_seconds"] if scaling else seconds
        scaling.append(
            {
                "devices": count,
                "examples": count * examples,
                "product_seconds": seconds,
                "efficiency": first / seconds,
            }
        )
    return {"rows": rows, "scaling": scaling}


def _devices(count: int) -> list[Any]:
    found = ask_for_devices(count)
    if len(found) < count:
        raise UserError(
            f"bench scale: devices is {count}, but there are {len(found)}: give at most that"
        )
    return found


def _compiled(devices: list[Any], parameters: int, basis: int) -> dict[str, Any]:
    # w inputs, w² weights, w outputs: two layers of width w have about this many parameters.
    wide = max(8, round((parameters + (INPUTS + OUTPUTS) ** 2 / 4) ** 0.5 - (INPUTS + OUTPUTS) / 2))
    wide -= wide % len(devices) if wide > len(devices) else 0
    pipeline = pipe(
        data("digits", examples=512),
        model("mlp", width=wide - wide % 8, depth=2),
        loss("mse"),
        optimizer("adam", lr=1e-3),
        track("preconditioned_sharpness", every=1, basis=basis, solver="lanczos"),
        train(16),
    )
    row: dict[str, Any] = {"devices": len(devices)}
    for found in compile_rows(pipeline, devices, (SOLVE, PRODUCT), params="sharded"):
        row[f"bytes_{found.program}"] = found.argument_bytes + found.temporary_bytes
    row |= {"bytes_held": row["bytes_solve"] - row["bytes_product"], "held_share": None}
    (found,) = compile_rows(pipeline, devices, (PRODUCT,))
    sent = [item for item in found.transfers if item.kind in _REDUCTIONS]
    row["reductions"] = sum(item.count for item in sent)
    row["bytes_reduced"] = sum(item.bytes for item in sent)
    return row


def _timed(devices: list[Any], examples: int, width: int, repeats: int) -> float:
    rng = np.random.default_rng(0)
    shapes = ((INPUTS, width), (width, width), (width, OUTPUTS))
    weights = [rng.normal(size=shape, scale=shape[0] ** -0.5) for shape in shapes]
    inputs = rng.normal(size=(examples, INPUTS)).astype(np.float32)
    targets = rng.normal(size=(examples, OUTPUTS)).astype(np.float32)
    placement = Placement(make_mesh({"data": len(devices)}, devices))
    objective = Objective(_squares, (inputs, targets), placement=placement)
    params = placement.put_params([jnp.asarray(weight, jnp.float32) for weight in weights])
    product = jax.jit(lambda objective, params, v: objective.hessian(params).mv(v))
    vector = product(objective, params, params)  # compiled from here on
    least = float("inf")
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(product(objective, params, vector))
        least = min(least, time.perf_counter() - begun)
    return least


def _squares(params: list[jax.Array], batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    hidden, targets = batch
    for weight in params[:-1]:
        hidden = jnp.tanh(hidden @ weight)
    return 0.5 * jnp.sum((hidden @ params[-1] - targets) ** 2, axis=-1)
