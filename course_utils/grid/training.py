"""One task as one compiled call: scan over batches, all repeats at once, and the weights at every log point.

`train_task` is a pure function of one repeat. `over_repeats` runs such a function for all of them: vmapped or mapped,
spread over devices, compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from course_utils.grid import data
from course_utils.grid.config import GridConfig, GridError
from course_utils.grid.network import READOUT, Network, Params, flatten, unflatten
from course_utils.grid.rules import find, perturb, replay, unsupervised

ORDER, REPLAY, PERTURB, EXPERT = range(4)  # what a key of a task is for
AXIS = "repeat"  # name of the mesh axis


@dataclass(frozen=True)
class Program:
    """What decides the compiled code of a task. Equal programs share it: plain SL and its expert do."""

    network: Network
    rule: str
    steps: int
    batch_size: int
    log_frequency: int
    momentum: float = 0.0
    l2: float = 0.0
    reset_head: bool = False
    replayed: int = 0  # images replayed in a step
    shrink: float = 0.0
    perturb: float = 0.0
    perturb_every: str = ""  # "task", "step" or never
    ul_lr: float | None = None

    @classmethod
    def of(cls, config: GridConfig, network: Network) -> Program:
        """The continual learner's."""
        chosen: dict[str, Any] = {"momentum": config.momentum, "l2": config.l2, "reset_head": config.head == "reset"}
        if config.er:
            chosen |= {"replayed": config.replay_batch_size}
        if config.pl:
            chosen |= {"shrink": config.shrink, "perturb": config.perturb, "perturb_every": config.perturb_every}
        if config.ul:
            chosen |= {"ul_lr": config.ul_lr}
        return cls(network, config.rule, config.steps_per_task, config.batch_size, config.log_frequency, **chosen)

    @classmethod
    def expert(cls, config: GridConfig, network: Network) -> Program:
        """The expert's: plain SGD by backpropagation, whatever the learner does."""
        return cls(network, "SL", config.steps_per_task, config.batch_size, config.log_frequency)


class TaskLog(NamedTuple):
    """What one repeat leaves of one task; `over_repeats` puts the axis R in front."""

    weights: jax.Array  # (L, D) at the log points
    train_loss: jax.Array  # (L,), mean over the steps since the log point before
    train_accuracy: jax.Array  # (L,)
    final: jax.Array  # (D,) after the last step


def train_task(
    program: Program,
    vector: jax.Array,
    fresh: jax.Array,
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    pairs: jax.Array,
    memory: jax.Array,
    task: jax.Array,
    rates: jax.Array,
) -> TaskLog:
    """Train one repeat on one task.

    vector: weights (D,). fresh: those of a fresh network, for shrink and perturb per task; elsewhere they are not looked
    at. key: of this repeat and task. x, y: (N, 28, 28) uint8 and (N,). pairs: of this repeat, (T, 2).
    memory: (classes, images, 28, 28), for replay. task: its number, scalar. rates: learning rates of the features and
    of the read-out, (2,). Every random number comes from `key`, the optimiser starts anew, and nothing else is carried
    from task to task, so the weights are all there is to save.
    """
    network = program.network
    params = _start(program, unflatten(vector, network.layout), unflatten(fresh, network.layout), task)
    optimizer = _optimizer(program, rates)
    rule = find(program.rule)
    replay_key, step_key = jax.random.fold_in(key, REPLAY), jax.random.fold_in(key, PERTURB)

    def step(state: tuple[Params, Any], batch: tuple[jax.Array, jax.Array]) -> tuple[tuple[Params, Any], jax.Array]:
        params, momentum = state
        number, rows = batch
        images, labels, weights = x[rows], y[rows], jnp.ones(len(rows))
        if program.replayed:
            sampled = replay.sample(jax.random.fold_in(replay_key, number), memory, pairs, task, program.replayed)
            images, labels, weights = (
                jnp.concatenate(both) for both in zip((images, labels, weights), sampled, strict=True)
            )
        gradient, loss, accuracy = rule(network, params, images, labels, weights)
        if program.ul_lr is not None:
            gradient = unsupervised.first_layer(params, gradient, images)
        updates, momentum = optimizer.update(gradient, momentum, params)
        params = optax.apply_updates(params, updates)
        if program.perturb_every == "step":
            noise = perturb.noise(params, jax.random.fold_in(step_key, number))
            params = perturb.shrink_and_perturb(params, noise, program.shrink, program.perturb)
        return (params, momentum), jnp.stack([loss, accuracy])

    def block(state: tuple[Params, Any], many: Any) -> tuple[tuple[Params, Any], tuple[jax.Array, jax.Array]]:
        state, measured = jax.lax.scan(step, state, many)
        return state, (flatten(state[0]), measured.mean(axis=0))

    order = data.batches(jax.random.fold_in(key, ORDER), len(x), program.batch_size, program.steps)
    logs = program.steps // program.log_frequency
    logged = logs * program.log_frequency
    steps = (jnp.arange(program.steps), order)
    blocks = jax.tree.map(lambda a: a[:logged].reshape(logs, program.log_frequency, *a.shape[1:]), steps)
    state, (weights, measured) = jax.lax.scan(block, (params, optimizer.init(params)), blocks)
    if logged < program.steps:  # after the last log point; a loop over nothing would be compiled all the same
        state, _ = jax.lax.scan(step, state, jax.tree.map(lambda a: a[logged:], steps))
    return TaskLog(weights, measured[:, 0], measured[:, 1], flatten(state[0]))


def _start(program: Program, params: Params, fresh: Params, task: jax.Array) -> Params:
    """The weights with which a task begins."""
    if program.perturb_every == "task":
        moved = perturb.shrink_and_perturb(params, fresh, program.shrink, program.perturb)
        params = jax.tree.map(lambda new, old: jnp.where(task > 0, new, old), moved, params)
    if program.reset_head:
        params = {**params, READOUT: jax.tree.map(jnp.zeros_like, params[READOUT])}
    return params


def _optimizer(program: Program, rates: jax.Array) -> optax.GradientTransformation:
    """SGD with one learning rate for the features and one for the read-out."""
    groups = {
        "features": optax.sgd(rates[0], program.momentum or None),
        "readout": optax.sgd(rates[1], program.momentum or None),
    }
    if program.ul_lr is not None:
        groups["unsupervised"] = optax.sgd(program.ul_lr)

    def labels(params: Params) -> dict[str, Any]:
        group = {name: "readout" if name == READOUT else "features" for name in params}
        if program.ul_lr is not None:
            group["conv1"] = "unsupervised"
        return {name: jax.tree.map(lambda _, which=group[name]: which, layer) for name, layer in params.items()}

    sgd = optax.partition(groups, labels)
    return optax.chain(optax.add_decayed_weights(program.l2), sgd) if program.l2 else sgd


def evaluate_task(
    network: Network, vectors: jax.Array, x: jax.Array, y: jax.Array, rows: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Test one repeat on one task at every log point.

    vectors: weights (L, D). x, y: test images (N, 28, 28) and labels (N,). rows: whose representations to give, (S,).
    Returns loss (L,), accuracy (L,) and representations (L, S, hidden).
    """

    def measure(vector: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        hidden, logits = network.apply(unflatten(vector, network.layout), x)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return loss, (logits.argmax(-1) == y).mean(dtype=jnp.float32), hidden[rows]

    return jax.lax.map(measure, vectors)


@dataclass(frozen=True)
class Layout:
    """How the repeats are computed: over which devices, and in what manner on each."""

    devices: int = 1
    repeat_axis: str = "vmap"  # or "map"
    chunk: int = 1

    @classmethod
    def of(cls, config: GridConfig) -> Layout:
        """What `auto` becomes here: on a CPU one repeat after the other on each device, because a repeat's batch fits
        its cache and 32 of them do not; elsewhere all at once. Measured in benchmarks/grid.py."""
        axis = config.repeat_axis
        if axis == "auto":
            axis = "map" if jax.default_backend() == "cpu" else "vmap"
        return cls(config.devices, axis, config.repeat_chunk)

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The first `devices` local devices in a row. Raises GridError where there are fewer."""
        found = jax.local_devices()
        if len(found) < self.devices:
            raise GridError(
                f"devices={self.devices}, but jax sees {len(found)} ({found[0].device_kind}); use devices={len(found)}, "
                "or, on a CPU, call course_utils.grid.use_devices(n) before anything else uses jax"
            )
        return Mesh(found[: self.devices], (AXIS,))

    def put(self, array: Any, axis: int | None = 0) -> jax.Array:
        """An array on the devices, its repeats (along `axis`) shared out; None: the same on every device."""
        spec = PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)
        return jax.device_put(array, NamedSharding(self.mesh, spec))


def over_repeats(function: Callable[..., Any], axes: tuple[int | None, ...], layout: Layout) -> Callable[..., Any]:
    """`function` of one repeat, compiled for all: arguments have the repeats along `axes` (None: shared), results in front.

    Each device has its own repeats and never talks to another: `jax.shard_map` keeps the program free of collectives.
    """
    if layout.repeat_axis == "vmap":
        several = jax.vmap(function, in_axes=axes)
    else:

        def several(*arguments: Any) -> Any:
            own = [jnp.moveaxis(a, axis, 0) for a, axis in zip(arguments, axes, strict=True) if axis is not None]

            def one(own: list[Any]) -> Any:
                left = iter(own)
                return function(*(a if axis is None else next(left) for a, axis in zip(arguments, axes, strict=True)))

            return jax.lax.map(one, own, batch_size=layout.chunk if layout.chunk > 1 else None)

    specs = tuple(PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS) for axis in axes)
    # check_vma would have us mark every constant of the scan as varying over repeats; there is nothing it could find.
    sharded = jax.shard_map(several, mesh=layout.mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False)
    return jax.jit(sharded)


@functools.lru_cache(maxsize=16)
def trainer(program: Program, layout: Layout) -> Callable[..., TaskLog]:
    """`train_task` compiled for all repeats: (vector (R, D), fresh (R, D), key (R,), x (N, R, 28, 28), y (N, R), pairs (R, T, 2),
    memory, task, rates) -> TaskLog with R in front. Equal programs get the same function, so it is compiled once."""
    return over_repeats(functools.partial(train_task, program), (0, 0, 0, 1, 1, 0, None, None, None), layout)


@functools.lru_cache(maxsize=16)
def evaluator(network: Network, layout: Layout) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """`evaluate_task` compiled for all repeats: (vectors (R, L, D), x (N, R, 28, 28), y (N, R), rows (S, R)) -> loss
    and accuracy (R, L), representations (R, L, S, hidden)."""
    return over_repeats(functools.partial(evaluate_task, network), (0, 1, 1, 1), layout)


@functools.lru_cache(maxsize=16)
def starter(network: Network) -> Callable[[jax.Array], jax.Array]:
    """Keys (R,) -> fresh weights (R, D), compiled."""
    return jax.jit(jax.vmap(lambda key: flatten(network.init(key))))
