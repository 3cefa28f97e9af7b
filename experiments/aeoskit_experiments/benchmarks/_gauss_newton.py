"""`aeoskit bench gauss-newton`: the closed form of the output Hessian against differentiation."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from aeoskit.objective import AbstractOutputLoss, Objective, SoftmaxCrossEntropy
from aeoskit_experiments._errors import UserError

HEADS = ("tied", "untied")


def run_gauss_newton_benchmark(
    *,
    vocabulary: int = 50_000,
    width: int = 64,
    examples: int = 8,
    tokens: int = 32,
    microbatch: int = 2,
    repeats: int = 7,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Measure memory and time of a Gauss-Newton product whose logits are by far the largest array.

    The model embeds tokens, has one hidden layer and a head over the vocabulary, which is the
    embedding (tied) or its own (untied). The closed form of the softmax's Hessian stands against
    differentiating `log_softmax` twice, in a product that runs the primal pass again (recompute)
    and in one that has it stored (linearize), whole and in microbatches. With no softmax at all
    (none), only the model's own two passes remain. Bytes are those that the compiler reports; a
    time is the smallest of the interleaved repeats.

    Args:
        vocabulary: Classes of the softmax.
        width: Width of the embedding.
        examples: Number of sequences.
        tokens: Tokens in a sequence.
        microbatch: Sequences in a microbatch.
        repeats: Number of timings.
        progress: Called with the name of each part as it begins.

    Returns:
        `{"rows"}`, one per head, reuse, microbatch and softmax: `bytes_temporary` of the compiled
        product, `bytes_residuals` that a linearization holds between products, `buffers` (both
        together, in units of the logits of all examples), `product_seconds`, and `memory_ratio` and
        `time_ratio`, those of differentiation divided by the row's own.

    Raises:
        UserError: If a microbatch is larger than the data.
    """
    if microbatch > examples:
        raise UserError(
            f"bench gauss-newton: microbatch is {microbatch}, but there are only {examples} "
            f"examples: give at most {examples}"
        )
    sequences = jax.random.randint(jax.random.key(0), (examples, tokens + 1), 0, vocabulary)
    data = (sequences[:, :-1], sequences[:, 1:])
    logits = examples * tokens * vocabulary * 4
    sizes = (None, microbatch) if microbatch < examples else (None,)
    rows = []
    for head in HEADS:
        for reuse in ("recompute", "linearize"):
            for size in sizes:
                progress(f"{head}, {reuse}, microbatch {size}")
                params = _params(head, vocabulary, width)
                made = {
                    name: _case(loss, data, params, reuse, size) for name, loss in _LOSSES.items()
                }
                seconds = _least_seconds(
                    {name: case["run"] for name, case in made.items()}, repeats
                )
                bytes_held = {
                    name: case["bytes_temporary"] + case["bytes_residuals"]
                    for name, case in made.items()
                }
                for name, case in made.items():
                    rows.append(
                        {
                            "head": head,
                            "reuse": reuse,
                            "microbatch": size,
                            "softmax": name,
                            "bytes_temporary": case["bytes_temporary"],
                            "bytes_residuals": case["bytes_residuals"],
                            "buffers": bytes_held[name] / logits,
                            "product_seconds": seconds[name],
                            "memory_ratio": bytes_held["differentiated"] / bytes_held[name],
                            "time_ratio": seconds["differentiated"] / seconds[name],
                        }
                    )
    return {"rows": rows}


def _differentiated(
    outputs: Float[Array, "n tokens vocabulary"], targets: Int[Array, "n tokens"]
) -> tuple[Array, Array]:
    """A user's loss, without a closed form of its Hessian."""
    log_p = jax.nn.log_softmax(outputs, axis=-1)
    losses = -jnp.take_along_axis(log_p, targets[..., None], axis=-1)
    return jnp.sum(losses), jnp.asarray(losses.size, losses.dtype)


class _Identity(AbstractOutputLoss):
    """The lower bound: the model's own two passes, with nothing between them."""

    def __call__(self, outputs: Array, targets: Array) -> tuple[Array, Array]:
        return jnp.sum(outputs), jnp.asarray(targets.size, outputs.dtype)

    def hessian_product(self, outputs: Array, targets: Array, vector: Array) -> Array:
        return vector


_LOSSES = {
    "closed form": SoftmaxCrossEntropy(),
    "differentiated": _differentiated,
    "none": _Identity(),
}


def _model(params: PyTree, inputs: Int[Array, "n tokens"]) -> Float[Array, "n tokens vocabulary"]:
    hidden = jnp.tanh(params["embedding"][inputs] @ params["hidden"])
    return hidden @ params.get("head", params["embedding"]).T


def _params(head: str, vocabulary: int, width: int) -> dict[str, Array]:
    keys = jax.random.split(jax.random.key(1), 3)
    params = {
        "embedding": jax.random.normal(keys[0], (vocabulary, width)),
        "hidden": jax.random.normal(keys[1], (width, width)) / np.sqrt(width),
    }
    if head == "untied":
        params["head"] = jax.random.normal(keys[2], (vocabulary, width)) / np.sqrt(width)
    return params


def _product(operator: lx.AbstractLinearOperator, vector: PyTree) -> PyTree:
    return operator.mv(vector)


def _case(
    loss: Callable[..., Any], data: PyTree, params: PyTree, reuse: Any, microbatch: int | None
) -> dict[str, Any]:
    objective = Objective.from_model(
        _model, loss, data, microbatch=microbatch, reuse=reuse, residual_budget=0
    )
    operator = lx.linearise(objective.gauss_newton(params))
    vector = jax.tree.map(jnp.ones_like, params)
    compiled = jax.jit(_product).lower(operator, vector).compile()
    stated = compiled.memory_analysis()
    assert stated is not None  # every backend that jax ships has it
    residuals = 0 if reuse == "recompute" else sum(x.nbytes for x in jax.tree.leaves(operator))
    return {
        "bytes_temporary": int(stated.temp_size_in_bytes),
        "bytes_residuals": residuals,
        "run": lambda: compiled(operator, vector),
    }


def _least_seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    for run in runs.values():
        jax.block_until_ready(run())
    seconds = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            begin = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name] = min(seconds[name], time.perf_counter() - begin)
    return seconds
