"""The exercises of lesson 02: temperature, distillation, a head that grows, two memories, aligned weights, a design."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.lessons.exercise import Changed, Criterion, Exercise, Wrong, close, diagnose, to_array
from course_utils.models.head import ExpandableHead

# ---- 02.1 temperature ----------------------------------------------------------------------------------------------


def soften_reference(logits: Tensor, temperature: float) -> Tensor:
    """Softened probabilities, `(batch, classes)` -> `(batch, classes)`."""
    return F.softmax(logits / temperature, dim=1)


LOGITS = torch.tensor([[4.0, 2.0, 0.0], [1.0, 3.0, -1.0]])


def _softened(soften: Callable[..., Any]) -> None:
    for temperature in (2.0, 5.0):
        expected = F.softmax(LOGITS / temperature, dim=1)
        plain = F.softmax(LOGITS, dim=1)
        diagnose(
            soften(LOGITS, temperature),
            {
                "You multiply the logits by the temperature: that sharpens. A high temperature divides them, so that "
                "they move closer together.": F.softmax(LOGITS * temperature, dim=1),
                "You divide the probabilities after the softmax. They no longer sum to one (and if you normalise them "
                "again you are back where you started): the temperature goes inside, on the logits.": plain
                / temperature,
                "The temperature has no effect: dividing probabilities and normalising again cancels. Divide the "
                "logits before the softmax.": plain,
                "The softmax runs over the batch (dim=0). Each row is one image: its class probabilities (dim=1) "
                "must sum to one.": F.softmax(LOGITS / temperature, dim=0),
            },
            expected=expected,
        )
        close(soften(LOGITS, temperature), expected, "Divide the logits by the temperature, then softmax over classes.")


def _temperature_one(soften: Callable[..., Any]) -> None:
    close(soften(LOGITS, 1.0), F.softmax(LOGITS, dim=1), "At temperature 1 this is the plain softmax.")


# ---- 02.2 distillation ---------------------------------------------------------------------------------------------


def _pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64).unbind()
    return 2 * student, 2 * teacher


def _kl(student: Tensor, teacher: Tensor, t_student: float, t_teacher: float) -> Tensor:
    """KL(teacher || student) averaged over the batch, written out."""
    p, q = F.softmax(teacher / t_teacher, dim=1), F.softmax(student / t_student, dim=1)
    return (p * (p.log() - q.log())).sum(dim=1).mean()


def _kd_value(kd_loss: Callable[..., Any]) -> None:
    student, teacher = _pairs()
    T = 2.0
    expected = T**2 * _kl(student, teacher, T, T)
    p = F.softmax(teacher / T, dim=1)
    cross_entropy = -(p * F.log_softmax(student / T, dim=1)).sum(dim=1).mean()
    plain_student, target = F.softmax(student / T, dim=1), F.softmax(teacher / T, dim=1)
    log_needed = (
        "`F.kl_div` wants the student's *log*-probabilities: use `log_softmax` for the student. With plain probabilities the "
        "result can be negative, and a divergence never is."
    )
    diagnose(
        kd_loss(student, teacher, T),
        {
            log_needed: T**2 * F.kl_div(plain_student, target, reduction="batchmean"),
            log_needed + " (And T² is missing.)": F.kl_div(plain_student, target, reduction="batchmean"),
            "The teacher's side of `F.kl_div` is probabilities, `softmax`, not logarithms (or say `log_target=True`).": T
            ** 2
            * F.kl_div(student.div(T).log_softmax(1), target.log(), reduction="batchmean"),
            "The factor T² is missing. Softening by T makes the gradient about T² smaller, so without it this term "
            "fades at high temperature.": expected / T**2,
            "You multiply by T once. The gradient shrinks by 1/T twice, once in each softened distribution: use T².": expected
            / T,
            'You average over classes as well as over the batch (reduction="mean"). A sum over classes and a mean over '
            'the batch is `reduction="batchmean"`.': expected / student.shape[1],
            'You sum over the batch (reduction="sum"): the loss then grows with the batch size. Use '
            '`reduction="batchmean"`.': expected * len(student),
            "The divergence runs the wrong way: this is KL(student || teacher). `F.kl_div` takes the student's "
            "log-probabilities first and the teacher's probabilities second.": T**2 * _kl(teacher, student, T, T),
            "Only the student is softened. The same temperature belongs to the teacher's logits too.": T**2
            * _kl(student, teacher, T, 1.0),
            "Only the teacher is softened. The same temperature belongs to the student's logits too.": T**2
            * _kl(student, teacher, 1.0, T),
            "This is the cross-entropy with the teacher, not the divergence: it lacks the teacher's entropy, so it is not "
            "zero when the student agrees.": T**2 * cross_entropy,
        },
        expected=expected,
    )
    close(kd_loss(student, teacher, T), expected, "Expected T² · KL(teacher || student), averaged over the batch.")


def _kd_zero(kd_loss: Callable[..., Any]) -> None:
    _, teacher = _pairs()
    student = teacher.clone().requires_grad_()
    loss = kd_loss(student, teacher, 4.0)
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise Wrong(
            "The loss carries no gradient to the student: keep it a tensor; no `.item()`, no `.detach()` on the student."
        )
    close(loss, 0.0, "A student that agrees with its teacher has nothing to learn: the loss is zero.", atol=1e-9)
    (gradient,) = torch.autograd.grad(loss, student)
    close(gradient, torch.zeros_like(gradient), "The gradient is zero when student and teacher agree.", atol=1e-9)


def _kd_temperature(kd_loss: Callable[..., Any]) -> None:
    """Small logits: with T² the gradient hardly depends on T."""
    generator = torch.Generator().manual_seed(5)
    teacher = 0.1 * torch.randn(32, 10, generator=generator)
    norms = []
    for T in (1.0, 8.0):
        student = torch.zeros(32, 10, requires_grad=True)
        (gradient,) = torch.autograd.grad(kd_loss(student, teacher, T), student)
        norms.append(gradient.norm().item())
    if not math.isclose(norms[1], norms[0], rel_tol=0.05):
        raise Wrong(
            f"Going from T=1 to T=8 changes the size of the gradient by a factor {norms[1] / norms[0]:.3f}; with the "
            "factor T² it stays the same for small logits. Is T² there, and T in both softened distributions?"
        )


# ---- 02.3 a head that grows ----------------------------------------------------------------------------------------


def grow_head_reference(
    weight: Tensor, bias: Tensor, num_new: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Old rows first, new ones below. `(n, features)`, `(n,)` -> `(n + num_new, features)`, `(n + num_new,)`."""
    bound = weight.shape[1] ** -0.5
    rows = torch.empty(num_new, weight.shape[1]).uniform_(-bound, bound, generator=generator)
    biases = torch.empty(num_new).uniform_(-bound, bound, generator=generator)
    return torch.cat([weight, rows]), torch.cat([bias, biases])


FEATURES = 400  # b = 1/√400 = 0.05: small rows can be told from rows of ordinary size


def _grown(grow_head: Callable[..., Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weight, bias = torch.randn(4, FEATURES), torch.randn(4)
    result = grow_head(weight.clone(), bias.clone(), 3, torch.Generator().manual_seed(1))
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Wrong("Return two tensors, the new weight and the new bias.")
    return weight, bias, result[0], result[1]


def _grow_shapes(grow_head: Callable[..., Any]) -> None:
    _, _, weight, bias = _grown(grow_head)
    if tuple(weight.shape) == (3, FEATURES):
        raise Wrong("You return only the new rows: the head would lose every class it knew.")
    if tuple(weight.shape) == (4, FEATURES + 3):
        raise Wrong("You added features (columns). A class is a row of the weight: add rows, dim=0.")
    if tuple(weight.shape) != (7, FEATURES):
        raise Wrong(f"From 4 classes to 4 + 3 the weight is (7, {FEATURES}); yours is {tuple(weight.shape)}.")
    if tuple(bias.shape) != (7,):
        raise Wrong(f"The bias needs one entry a class as well, (7,); yours is {tuple(bias.shape)}.")


def _grow_keeps(grow_head: Callable[..., Any]) -> None:
    old_weight, old_bias, weight, bias = _grown(grow_head)
    if torch.equal(weight[-4:], old_weight):
        raise Wrong("The old rows moved to the end, so class 0 now answers for another class. Old rows come first.")
    if not torch.equal(weight[:4], old_weight):
        raise Wrong(
            "The old rows changed: drawing the whole head afresh forgets the old classes before training begins."
        )
    if not torch.equal(bias[:4], old_bias):
        raise Wrong("The old classes' biases changed: copy them as you copy the rows.")


def _grow_new(grow_head: Callable[..., Any]) -> None:
    old, _, weight, bias = _grown(grow_head)
    if torch.equal(weight[-4:], old):
        raise Wrong("The new rows stand in front of the old ones: put them behind first, then this is looked at.")
    new = torch.cat([weight[4:], bias[4:, None]], dim=1)
    if not torch.isfinite(new).all() or new.abs().max() > 100:
        raise Wrong("The new rows are not initialised (torch.empty alone holds whatever was in memory).")
    if any(torch.equal(weight[4 + i], weight[j]) for i in range(3) for j in range(4)):
        raise Wrong("A new row is a copy of an old one: the new class would start out as an old class.")
    if new.abs().max() > 4 * FEATURES**-0.5:
        raise Wrong(
            f"The new rows or biases are large, up to {new.abs().max():.2f}: their logits would drown the old classes. With "
            f"{FEATURES} features keep them near U(-b, b), b = 1/√features = {FEATURES**-0.5:.2f}, or zero."
        )


def _grow_seeded(grow_head: Callable[..., Any]) -> None:
    weight, bias = torch.randn(4, FEATURES), torch.randn(4)
    first, second = (grow_head(weight.clone(), bias.clone(), 3, torch.Generator().manual_seed(1))[0] for _ in range(2))
    if not torch.equal(first, second):
        raise Wrong(
            "Two generators with the same seed gave different rows: draw from the `generator` that is passed in."
        )


# ---- 02.4 reservoir ------------------------------------------------------------------------------------------------


def reservoir_slot_reference(seen: int, capacity: int, rng: np.random.Generator) -> int | None:
    """Slot for the `seen`-th sample (counted from 1), or None to let it pass (Vitter 1985, Algorithm R)."""
    if seen <= capacity:
        return seen - 1
    slot = int(rng.integers(seen))
    return slot if slot < capacity else None


def _reservoir_run(
    reservoir_slot: Callable[..., Any], length: int, capacity: int, rng: np.random.Generator
) -> list[int | None]:
    memory: list[int | None] = [None] * capacity
    for seen in range(1, length + 1):
        slot = reservoir_slot(seen, capacity, rng)
        if slot is None:
            continue
        if int(slot) != slot or not 0 <= slot < capacity:
            raise Wrong(
                f"Slot {slot!r} does not exist: slots are 0 to {capacity - 1}; return None to let a sample pass."
            )
        memory[int(slot)] = seen
    return memory


def _reservoir_fills(reservoir_slot: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    memory = _reservoir_run(reservoir_slot, 5, 5, rng)
    if memory[:4] == [1, 2, 3, 4] and memory[4] is None:
        raise Wrong(
            "Sample number `capacity` still fits: the memory has room up to and including it, `seen <= capacity`."
        )
    if None in memory:
        raise Wrong(
            "After five samples a memory of five is not full: the first `capacity` samples each get a slot of their own."
        )


def _reservoir_uniform(reservoir_slot: Callable[..., Any]) -> None:
    """Every sample must end up in the memory with probability capacity / length."""
    rng, capacity, length, runs = np.random.default_rng(1), 3, 12, 3000
    counts = np.zeros(length)
    for _ in range(runs):
        for item in _reservoir_run(reservoir_slot, length, capacity, rng):
            counts[(item or 1) - 1] += 1
    share, target = counts / runs, capacity / length
    error = 4.5 * math.sqrt(target * (1 - target) / runs)
    if (np.abs(share - target) <= error).all():
        return
    first, last = share[:capacity].mean(), share[-capacity:].mean()
    if last < 0.02:
        raise Wrong(
            "Only the first samples are ever kept: later ones must be able to replace them, or old tasks are all there is."
        )
    if last > 0.9:
        raise Wrong("The newest samples are always kept: this is a sliding window, and old tasks vanish from it.")
    if share[-1] > 0.9:
        raise Wrong(
            "Every new sample enters and throws a random old one out, so old samples fade away. The sample number `seen` "
            "may enter only with probability capacity / seen."
        )
    late = share[capacity:].mean()  # nine samples together: a third of one sample's error
    if late > target + error / 3 and first < target - error:
        raise Wrong(
            f"Late samples are too likely: they are kept in {late:.0%} of runs, the first ones in {first:.0%}, expected "
            f"{target:.0%} for all. `seen` counts this sample too: draw from `seen` numbers, not from `seen - 1`."
        )
    if late < target - error / 3 and share[-1] > target - 2 * error:
        raise Wrong(
            f"Late samples are a little too unlikely: they are kept in {late:.0%} of runs, expected {target:.0%}. `rng.integers(n)` "
            "gives 0 to n - 1, that is n numbers already: draw from `seen` numbers, not from `seen + 1`."
        )
    if share[-1] < target - error:
        raise Wrong(
            f"Late samples are too unlikely: the last is kept in {share[-1]:.0%} of runs, expected {target:.0%}. "
            "Is the chance to enter capacity / seen, and applied once?"
        )
    raise Wrong(
        f"Samples are not kept equally often: shares from {share.min():.0%} to {share.max():.0%}, expected {target:.0%} for all."
    )


def _reservoir_seeded(reservoir_slot: Callable[..., Any]) -> None:
    first, second = (_reservoir_run(reservoir_slot, 200, 5, np.random.default_rng(7)) for _ in range(2))
    if first != second:
        raise Wrong("Two runs with the same seed stored different samples: draw from the `rng` that is passed in.")


# ---- 02.5 class-balanced quotas ------------------------------------------------------------------------------------


def class_quotas_reference(available: list[int], capacity: int) -> list[int]:
    """How many samples of each class to keep: as equal as the supply allows, `capacity` in all."""
    quotas = [0] * len(available)
    for _ in range(min(capacity, sum(available))):
        open_classes = [c for c, count in enumerate(available) if quotas[c] < count]
        quotas[min(open_classes, key=lambda c: quotas[c])] += 1
    return quotas


def _quotas(class_quotas: Callable[..., Any], available: list[int], capacity: int) -> np.ndarray:
    quotas = to_array(class_quotas(list(available), capacity))
    if quotas.shape != (len(available),):
        raise Wrong(f"Return one number a class: expected {len(available)}, got shape {quotas.shape}.")
    if (quotas != np.round(quotas)).any() or (quotas < 0).any():
        raise Wrong(f"Images come whole: quotas are integers of at least 0, you returned {quotas.tolist()}.")
    return quotas


def _quota_budget(class_quotas: Callable[..., Any]) -> None:
    for available, capacity in (([50] * 9, 200), ([50] * 18, 200), ([3, 50, 50], 20)):
        quotas = _quotas(class_quotas, available, capacity)
        if quotas.sum() > capacity:
            raise Wrong(
                f"{capacity} slots, but your quotas add up to {quotas.sum():.0f}: rounding up breaks the budget."
            )
        if (quotas > np.array(available)).any():
            raise Wrong(
                f"A class with {min(available)} images cannot fill {quotas.max():.0f} slots: never promise more than there is."
            )


def _quota_even(class_quotas: Callable[..., Any]) -> None:
    quotas = _quotas(class_quotas, [500, 40, 60], 30)
    if quotas[0] > 2 * quotas[1]:
        raise Wrong(
            "Your quotas follow how common a class is. That is what a reservoir does, and rare signs vanish; balance means the same for all."
        )
    if quotas.max() - quotas.min() > 1:
        raise Wrong(f"Every class has enough, yet your quotas {quotas.astype(int).tolist()} differ by more than one.")


def _quota_full(class_quotas: Callable[..., Any]) -> None:
    quotas = _quotas(class_quotas, [50] * 9, 200)
    if quotas.sum() == 198:
        raise Wrong("200 slots for 9 classes: 200 // 9 leaves 2 slots empty. Hand the remainder out, one each.")
    if quotas.sum() < 200:
        raise Wrong(f"{200 - quotas.sum():.0f} of 200 slots stay empty although there are images for them.")
    quotas = _quotas(class_quotas, [2, 50, 50], 20)
    if quotas.sum() < 20:
        raise Wrong(
            "A class with only 2 images leaves slots that the others could use: hand out what it cannot fill, "
            f"(2, 9, 9) for 20 slots; you returned {quotas.astype(int).tolist()}."
        )
    if sorted(quotas.astype(int).tolist()) != [2, 9, 9]:
        raise Wrong(
            f"With 2, 50 and 50 images and 20 slots, expected quotas 2, 9, 9; you returned {quotas.astype(int).tolist()}."
        )


# ---- 02.6 aligned weights ------------------------------------------------------------------------------------------


def _align(align_weights: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(6, 5, generator=generator)
    weight[4:] *= 3  # the two new classes shout
    before = weight.clone()
    norms = weight.norm(dim=1)
    old, new = norms[:4].mean(), norms[4:].mean()
    expected = weight.clone()
    expected[4:] *= old / new
    raised, inverse, unit, whole, each = (weight.clone() for _ in range(5))
    raised[:4] *= new / old
    inverse[4:] *= new / old
    unit /= norms[:, None]
    whole[4:] *= weight[:4].norm() / weight[4:].norm()
    each[4:] *= old / norms[4:, None]
    result = align_weights(weight, 4)
    diagnose(
        result,
        {
            "Nothing changed: return the scaled weight, with the new rows multiplied by the ratio of mean norms.": before,
            "You raise the old rows to the new ones. That treats the ranking the same, but every logit grows and old rows "
            "change: scale the new rows down.": raised,
            "The ratio is upside down: the loud new rows got louder. Multiply by (mean old norm) / (mean new norm).": inverse,
            "You gave every row norm one. That also removes the differences between old classes; scale all new rows by one factor.": unit,
            "You compare the norms of two whole blocks, which grow with the number of classes in them. Compare the mean norm of a row.": whole,
            "You gave every new row the same norm. One factor for all new rows keeps the differences among them.": each,
        },
        expected=expected,
    )
    _same_norms(result, expected)


def _align_quiet(align_weights: Callable[..., Any]) -> None:
    """New rows that are shorter than old ones: the case that this lesson meets."""
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(4))
    weight[4:] *= 0.3
    norms = weight.norm(dim=1)
    expected = torch.cat([weight[:4], weight[4:] * norms[:4].mean() / norms[4:].mean()])
    result = align_weights(weight.clone(), 4)
    diagnose(
        result,
        {"Your factor never exceeds one. Shorter new rows are aligned as well: they are scaled up.": weight},
        expected=expected,
    )
    _same_norms(result, expected)


def _same_norms(result: Any, expected: Tensor) -> None:
    """Compare two weights, and say first what differs in the norms of their rows: those fit on a line."""
    rows = to_array(result)
    if rows.shape == tuple(expected.shape):
        close(
            np.linalg.norm(rows, axis=1).round(4),
            expected.norm(dim=1).numpy().round(4),
            "Look at the norms of the rows.",
        )
    close(result, expected, "Multiply the new rows by (mean norm of old rows) / (mean norm of new rows).")


def _align_pure(align_weights: Callable[..., Any]) -> None:
    weight = torch.randn(6, 5)
    before = weight.clone()
    align_weights(weight, 4)
    if not torch.equal(weight, before):
        raise Changed(
            "You changed the tensor that was passed in. Work on a copy (`weight.clone()`), so that the caller decides."
        )


# ---- 02.7 design ---------------------------------------------------------------------------------------------------

DESIGN_MEMORY = 20  # images on digits, two a class: what 86 images would be for 43 classes
DESIGN_FORGETTING = 0.30  # plain replay forgets 0.38 here, balanced fine-tuning behind it 0.19, GDumb 0.15
DESIGN_ACCURACY = 0.65


def design_reference(memory: int) -> list[Any]:
    """Replay, and after every task a few steps on the balanced memory alone."""
    from course_utils.methods import BalancedFinetune, Replay

    replay = Replay(memory=memory)
    return [replay, BalancedFinetune(replay, steps=50, lr=1e-3)]


def _stored_images(chosen: list[Any]) -> int:
    buffers = {id(b): b for b in (getattr(method, "buffer", None) for method in chosen) if b is not None}
    return sum(buffer.capacity for buffer in buffers.values())


def _design_methods(design: Callable[..., Any]) -> None:
    from course_utils.methods import Joint, Method

    chosen = design(DESIGN_MEMORY)
    if not isinstance(chosen, list | tuple) or not all(isinstance(method, Method) for method in chosen):
        raise Wrong("Return a list of methods, such as [methods.Replay(memory=memory)].")
    if any(isinstance(method, Joint) for method in chosen):
        raise Wrong("Joint training keeps every image ever seen: it is the ceiling, not a design within the budget.")
    stored = _stored_images(list(chosen))
    if stored > DESIGN_MEMORY:
        raise Wrong(
            f"Your methods store {stored} images together, the budget is {DESIGN_MEMORY}. Two memories share one budget."
        )


def _design_run(design: Callable[..., Any]) -> tuple[float, float]:
    """(forgetting, average accuracy) on the validation split of digits, 5 x 2 classes, mean of two seeds."""
    from course_utils import datasets, metrics, models, streams
    from course_utils.learner import Learner

    data = datasets.load("digits")
    stream = streams.class_incremental(data, 5)
    runs = []
    for seed in (0, 1):
        model = models.build("mlp", data, seed=seed)
        options: dict[str, Any] = {"steps_per_task": 60, "batch_size": 32, "lr": 3e-3, "show_progress": False}
        accuracy = (
            Learner(model, design(DESIGN_MEMORY), seed=seed, **options).fit(stream, evaluate="validation").accuracy
        )
        runs.append((metrics.forgetting(accuracy), metrics.average_accuracy(accuracy)))
    forgetting, accuracy = np.mean(runs, axis=0)
    return float(forgetting), float(accuracy)


def _design_forgets_little(design: Callable[..., Any]) -> None:
    forgetting, accuracy = _design_run(design)
    if accuracy < DESIGN_ACCURACY and forgetting < DESIGN_FORGETTING:
        raise Wrong(
            f"Forgetting is only {forgetting:.2f}, but the average accuracy is {accuracy:.2f}: there is little to forget "
            f"because little was learned. Reach at least {DESIGN_ACCURACY} as well."
        )
    if forgetting < DESIGN_FORGETTING:
        return
    from course_utils.methods import WeightAlign

    chosen = list(design(DESIGN_MEMORY))
    if any(isinstance(method, WeightAlign) for method in chosen):
        raise Wrong(
            f"Forgetting on digits is {forgetting:.2f}, it should stay below {DESIGN_FORGETTING}. Alignment multiplied the new rows "
            "by more than one, because they were shorter than the old ones: the new classes got louder."
        )
    reason = (
        "Without a single stored image the new classes win every comparison."
        if _stored_images(chosen) == 0
        else "The images are there; the last task still outweighs them. What could restore the balance at the end of a task?"
    )
    raise Wrong(f"Forgetting on digits is {forgetting:.2f}, it should stay below {DESIGN_FORGETTING}. {reason}")


EXERCISES = [
    Exercise(
        id="02.1",
        title="Soften an answer",
        difficulty=1,
        minutes=5,
        points=1,
        reference=soften_reference,
        criteria=[
            Criterion("the logits are divided by the temperature, each row sums to one", _softened),
            Criterion("temperature 1 changes nothing", _temperature_one),
        ],
        hints=(
            "What happens to 4 and 2 when you divide both by 2? Are they closer together?",
            "A temperature acts on logits, before they become probabilities.",
            "`F.softmax(..., dim=1)` of the logits divided by the temperature.",
        ),
    ),
    Exercise(
        id="02.2",
        title="The distillation loss",
        difficulty=3,
        minutes=15,
        points=4,
        reference="course_utils.objectives:distillation_loss",
        criteria=[
            Criterion("T² times the divergence of the softened distributions, mean over the batch", _kd_value, share=2),
            Criterion("zero loss and zero gradient when student and teacher agree", _kd_zero),
            Criterion("the size of the gradient does not depend on T (small logits)", _kd_temperature),
        ],
        hints=(
            "Two softened distributions, one divergence, one factor.",
            '`F.kl_div(log_probabilities, probabilities, reduction="batchmean")`: student first, teacher second.',
            "Soften both sets of logits with T, `log_softmax` for the student, `softmax` for the teacher; multiply by T².",
        ),
    ),
    Exercise(
        id="02.3",
        title="A head that grows",
        difficulty=2,
        minutes=10,
        points=3,
        reference=grow_head_reference,
        criteria=[
            Criterion("one row and one bias for every class, old and new", _grow_shapes),
            Criterion("old classes keep their rows and biases, bit for bit", _grow_keeps),
            Criterion("new rows are initialised, small, and no copies", _grow_new),
            Criterion("the same generator gives the same rows", _grow_seeded, share=0.5),
        ],
        hints=(
            "A class is a row of the weight and an entry of the bias.",
            "`torch.cat([old, new])` stacks along dim 0, old rows first.",
            "`torch.empty(num_new, features).uniform_(-bound, bound, generator=generator)` draws the new rows.",
        ),
        forbidden=(ExpandableHead.grow,),
    ),
    Exercise(
        id="02.4",
        title="A fair reservoir",
        difficulty=3,
        minutes=15,
        points=3,
        reference=reservoir_slot_reference,
        criteria=[
            Criterion("the first samples fill the memory", _reservoir_fills),
            Criterion("every sample of the stream is kept equally often", _reservoir_uniform, share=2),
            Criterion("the same `rng` gives the same choice", _reservoir_seeded, share=0.5),
        ],
        hints=(
            "Sample number n should be in the memory with probability capacity / n. What must happen when it arrives?",
            "Draw one whole number from 0 to seen - 1. In how many of the cases is it a slot?",
            "If the number is below the capacity it is the slot; otherwise return None.",
        ),
    ),
    Exercise(
        id="02.5",
        title="The same for every class",
        difficulty=3,
        minutes=15,
        points=3,
        reference=class_quotas_reference,
        criteria=[
            Criterion("never more than the memory holds, never more than a class has", _quota_budget),
            Criterion("classes with enough images differ by at most one", _quota_even),
            Criterion("no slot stays empty while there are images for it", _quota_full),
        ],
        hints=(
            "Deal the slots out like cards: one for each class, round after round.",
            "A class that has no image left is skipped in the next round.",
            "Repeat `capacity` times: of the classes with images left, the one with the smallest quota gets one more.",
        ),
    ),
    Exercise(
        id="02.6",
        title="Align the weights",
        difficulty=2,
        minutes=10,
        points=3,
        reference="course_utils.methods.calibrate:align_weights",
        criteria=[
            Criterion("new rows are scaled to the mean norm of the old ones", _align, share=2),
            Criterion("the same holds for new rows that are too short", _align_quiet),
            Criterion("the tensor passed in stays as it is", _align_pure),
        ],
        hints=(
            "Which rows are too long, and by what factor on average?",
            "`weight.norm(dim=1)` gives one norm a row; take the mean over old rows and over new rows.",
            "Clone the weight; multiply rows `num_old:` by mean old norm / mean new norm.",
        ),
    ),
    Exercise(
        id="02.7",
        title="Design within a budget",
        difficulty=4,
        minutes=20,
        points=3,
        reference=design_reference,
        criteria=[
            Criterion("a list of methods within the memory budget", _design_methods),
            Criterion(
                f"forgetting on digits below {DESIGN_FORGETTING} with {DESIGN_MEMORY} images",
                _design_forgets_little,
                share=2,
            ),
        ],
        hints=(
            "Plain replay is within the budget and forgets too much: what is still out of balance when a task ends?",
            "`methods.GDumb` and `methods.BalancedFinetune` both train on the balanced memory alone at some point.",
            "`replay = methods.Replay(memory=memory)`, then `[replay, methods.BalancedFinetune(replay, steps=..., lr=...)]`.",
        ),
    ),
]
