"""Run as a script: sharded equals unsharded on eight devices, for every kind and placement."""

import sys
from pathlib import Path

import jax

MESHES = [("data=8", {"check_vma": True}), ("data=4,model=2", {"params": "sharded"})]
KINDS = [("known", 19, 2), ("weighted", 11, None), ("mean", 16, None)]


def main() -> None:
    """In a process of its own: how many devices there are is decided once."""
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    import everything as cases

    from aeoskit.sharding import Placement, make_mesh

    for kind, n, microbatch in KINDS:
        case = cases.make_case(kind, n, microbatch, batch=8 if kind == "mean" else 5)
        expected = cases.everything(*case)
        for spec, options in MESHES:
            placement = Placement(make_mesh(spec), **options)
            placed = case.objective.place(placement)
            found = cases.everything(placed, placement.put_params(case.params), *case[2:])
            cases.same(expected, found)
    print("all the same")


if __name__ == "__main__":
    main()
