import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit.record import create_run, load_checkpoint, read_run


class Carry(eqx.Module):
    params: dict
    key: jax.Array
    count: jax.Array
    empty: jax.Array
    host: np.ndarray
    rule: object


def carry(seed):
    key = jax.random.key(seed)
    return Carry(
        params={"w": jax.random.normal(key, (3, 2)), "b": jnp.array([jnp.nan, -0.0])},
        key=jax.random.split(key, 2),
        count=jnp.array(seed, jnp.int32),
        empty=jnp.zeros((0, 2)),
        host=np.arange(3, dtype=np.float32) * seed,
        rule=jax.nn.relu,
    )


def bits(tree):
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_array_like))
    leaves = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in leaves
    ]
    return [(str(x.dtype), x.shape, np.asarray(x).tobytes()) for x in leaves]


@pytest.fixture
def writer(tmp_path):
    return create_run(tmp_path, "try", pipeline={}, environment={})


def test_a_round_trip_is_bit_for_bit_and_silent(writer, capfd):
    saved = carry(3)
    path = writer.checkpoint("main", 10, saved)
    loaded = load_checkpoint(read_run(writer.path), "main", 10, like=carry(0))
    assert path == writer.path / "checkpoints" / "main" / "10"
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    assert bits(loaded) == bits(saved)
    assert jax.random.key_impl(loaded.key) == jax.random.key_impl(saved.key)
    assert capfd.readouterr() == ("", "")


def test_shapes_are_enough_to_load(writer):
    arrays = eqx.filter(carry(3), eqx.is_array)
    writer.checkpoint("main", 1, arrays)
    like = eqx.filter_eval_shape(lambda: arrays)
    loaded = load_checkpoint(writer.path, "main", 1, like)
    np.testing.assert_array_equal(loaded.params["w"], arrays.params["w"])
    np.testing.assert_array_equal(jax.random.key_data(loaded.key), jax.random.key_data(arrays.key))


def test_missing_and_unfitting_leaves_are_named(writer):
    writer.checkpoint("main", 10, carry(3))
    with pytest.raises(ValueError, match="there are main/10"):
        load_checkpoint(writer.path, "main", 11, carry(0))
    with pytest.raises(ValueError, match="exists already"):
        writer.checkpoint("main", 10, carry(3))
    with pytest.raises(ValueError, match="has 5 arrays, but `like` has 1"):
        load_checkpoint(writer.path, "main", 10, {"w": jnp.zeros(3)})
    other = eqx.tree_at(lambda c: c.params["w"], carry(0), jnp.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"shape \(3, 2\)"):
        load_checkpoint(writer.path, "main", 10, other)


def test_arrays_come_back_where_and_what_they_were(writer, cpu_devices):
    mesh = jax.sharding.Mesh(np.array(cpu_devices), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    saved = {"x": jax.device_put(jnp.arange(8.0), sharding), "host": np.arange(3.0)}
    writer.checkpoint("main", 1, saved)
    loaded = load_checkpoint(writer.path, "main", 1, saved)
    assert loaded["x"].sharding == sharding
    assert type(loaded["host"]) is np.ndarray
    assert bits(loaded) == bits(saved)


@pytest.mark.parametrize("branch", ["..", "a/b", ""])
def test_a_branch_that_is_no_folder_name_is_refused(writer, branch):
    with pytest.raises(ValueError, match="names a folder"):
        writer.checkpoint(branch, 1, carry(0))
