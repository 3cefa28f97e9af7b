"""`aeoskit doctor`: the installation, and the placement of a run on a mesh."""

from typing import Annotated, Any

import typer

from aeoskit_cli._generate import parameter_of
from aeoskit_cli._options import KEPT, OUTPUT
from aeoskit_cli._print import print_json, print_rows, print_table
from aeoskit_cli._subject import Given, subject_app
from aeoskit_experiments import UserError
from aeoskit_experiments.options import Option, coerce_all
from aeoskit_experiments.pipelines import Pipeline
from aeoskit_experiments.recipes import make_recipe

_PLACE = (
    Option("mesh", "text", nullable=True, many=False, help="Axes of devices: data=4,model=2"),
    Option(
        "params",
        "text",
        default="replicated",
        choices=("replicated", "sharded"),
        many=False,
        help="Whether each device of the mesh holds all parameters, or a part",
    ),
)
_CLEAR = typer.Option(
    "--clear-cache", help="Delete the compiled programs that earlier commands have kept"
)


def make_doctor_app() -> typer.Typer:
    """A new instance of the command."""
    return subject_app(
        _lay_out,
        make_recipe,
        {
            **{option.name: parameter_of(option) for option in _PLACE},
            "json": OUTPUT["json"],
            **KEPT,
        },
        command="doctor --mesh data=4",
        summary="Show the installation, and test that its numbers are right; or, with a mesh, the "
        "placement of a run (adam-edge, if none is named) on its devices, and how much memory "
        "each needs, before anything runs. The devices may be absent.",
        example="data digits model mlp loss mse optimizer adam --lr 1e-3 train --steps 100",
        leading={"clear_cache": (Annotated[bool, _CLEAR], False)},
        alone=_without_run,
    )


def _without_run(given: Given) -> int:
    if "clear_cache" in given:
        return _clear(given)
    if given.keys() - {"json"}:
        return _lay_out(make_recipe("adam-edge"), given)
    return _examine(**given)


def _lay_out(pipeline: Pipeline, given: Given) -> int:
    if "clear_cache" in given:
        raise UserError(
            f"doctor --clear-cache takes no other argument but --json: leave {pipeline.name} out"
        )
    json = given.pop("json", False)
    place: dict[str, Any] = dict(coerce_all(_PLACE, given, where="doctor"))
    if place.get("mesh") is None:
        raise UserError(
            "doctor got no mesh to place a run on: give one, as in "
            "`aeoskit doctor --mesh data=4 adam-edge`"
        )
    from aeoskit_experiments.planning import layout

    found = layout(pipeline, **place)
    if json:
        import msgspec

        print_json(msgspec.to_builtins(found))
    else:
        _print_layout(found, pipeline.name)
    return 0


def _print_layout(found: Any, name: str) -> None:
    axes = ", ".join(f"{axis}={size}" for axis, size in found.mesh.items())
    left = f", one more on the first {found.tail}" if found.tail else ""
    print_table(
        "",
        {
            "run": name,
            "mesh": f"{axes}: {found.devices} devices ({found.present} here)",
            "data": f"{found.examples:,} examples, {found.rows_per_shard} a shard{left}",
            "model": f"{found.parameters:,} parameters",
        },
    )
    print()
    print_rows(
        [
            {
                "what": share.what,
                "placed": share.placed,
                "bytes_all": share.bytes,
                "bytes_a_device": share.bytes_device,
            }
            for share in found.shares
        ]
    )
    print(found.sentence)


def _clear(given: Given) -> int:
    json = given.pop("json", False)
    if other := sorted(given.keys() - {"clear_cache"}):
        raise UserError(
            f"doctor --clear-cache takes no other argument but --json: leave --{other[0]} out"
        )
    from aeoskit_experiments.cache import cache_state, clear_cache

    if cache_state()["folder"] is None:
        raise UserError(
            "doctor --clear-cache: the cache of compiled programs is off, so there is no folder to "
            "clear: leave --no-cache out, or AEOSKIT_CACHE=off"
        )
    freed = clear_cache()
    if json:
        print_json({"freed_bytes": freed})
    else:
        print(f"compiled programs deleted: {freed / 2**20:.1f} MiB")
    return 0


def _examine(*, json: bool = False) -> int:
    from aeoskit_experiments import examine

    report = examine()
    if json:
        print_json(report)
    else:
        where = report["environment"]
        print_table("versions", {"python": where["python"], **where["versions"]})
        print()
        print_table(
            "devices",
            {
                "backend": where["backend"],
                "devices": ", ".join(where["devices"]),
                "cores": where["cpu_count"],
                "float": "float64" if where["x64"] else "float32",
                "products": f"{where['matmul_precision']} precision",
            },
        )
        print()
        print_table("compiled programs", _cache_rows(report["cache"]))
        print()
        print_table(
            f"self-test ({report['seconds']:.1f} s)",
            {
                test["name"]: f"{'ok' if test['ok'] else 'WRONG'}  off by {test['error']:.1e}, "
                f"at most {test['bound']:.0e}"
                for test in report["tests"]
            },
        )
    return 0 if report["ok"] else 1


def _cache_rows(cache: dict[str, Any]) -> dict[str, str]:
    if cache["folder"] is None:
        return {"kept": "no (AEOSKIT_CACHE is off, --no-cache was given, or there is no home)"}
    return {
        "kept in": cache["folder"],
        "size": f"{cache['bytes'] / 2**20:.1f} MiB ({cache['programs']} programs), at most "
        f"{cache['limit'] / 2**20:.0f} MiB a number of threads",
    }
