"""`aeoskit doctor`: the installation, and the placement of a run on a mesh."""

import inspect
from typing import Any

from aeoskit_cli._generate import CACHE_HELP, JSON_HELP
from aeoskit_cli._print import print_json, print_rows, print_table
from aeoskit_cli._subject import split
from aeoskit_experiments import UserError
from aeoskit_experiments.options import Option

CLEAR = "--clear-cache"
_OPTIONS = (
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


def run_doctor(words: list[str]) -> int:
    """Examine this installation, or compute the placement of a run on a mesh.

    Args:
        words: The arguments of `aeoskit doctor`.

    Returns:
        0; 1 if a self-test failed.

    Raises:
        UserError: For invalid combinations of arguments.
    """
    if words and words[0] in ("-h", "--help"):
        _print_help()
        return 0
    if CLEAR in words:
        return _clear([word for word in words if word != CLEAR])
    values, pipeline, json = split(
        "doctor", words, {option.flag: option for option in _OPTIONS}, "--mesh", alone=(CLEAR,)
    )
    mesh = values.pop("mesh", None)
    if mesh is None:
        if pipeline is not None or values:
            raise UserError(
                "doctor got a run and no mesh: give the mesh, as in "
                "`aeoskit doctor --mesh data=4 adam-edge`"
            )
        return _examine(json)
    if pipeline is None:
        from aeoskit_experiments.recipes import make_recipe

        pipeline = make_recipe("adam-edge")
    from aeoskit_experiments.planning import layout

    found = layout(pipeline, mesh, **values)
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


def _clear(rest: list[str]) -> int:
    if rest and rest != ["--json"]:
        raise UserError(f"doctor {CLEAR} takes no other argument but --json: leave {rest[0]} out")
    from aeoskit_experiments.cache import cache_state, clear_cache

    if cache_state()["folder"] is None:
        raise UserError(
            f"doctor {CLEAR}: the cache of compiled programs is off, so there is no folder to "
            "clear: leave --no-cache out, or AEOSKIT_CACHE=off"
        )
    freed = clear_cache()
    if rest:
        print_json({"freed_bytes": freed})
    else:
        print(f"compiled programs deleted: {freed / 2**20:.1f} MiB")
    return 0


def _examine(json: bool) -> int:
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


def _print_help() -> None:
    print(
        inspect.cleandoc(
            """
            Usage: aeoskit doctor [--json]
                   aeoskit doctor --clear-cache [--json]
                   aeoskit doctor --mesh AXES [--params …] [RECIPE | pipe STAGE …] [--json]

            Show the installation, and test that its numbers are right; or, with a mesh,
            the placement of a run (adam-edge, if none is named) on its devices, and how
            much memory each needs, before anything runs. The devices may be absent.
            """
        )
        + "\n"
    )
    own = {option.flag: option.help for option in _OPTIONS}
    own[CLEAR] = "Delete the compiled programs that earlier commands have kept"
    print_table("options", own | JSON_HELP | CACHE_HELP)
