# %% [markdown]
# # 02 · Rehearsal and distillation on traffic signs
#
# {{badges}}
#
# **How far do 200 stored images and a teacher go?**
#
# You need: lesson 01 (the accuracy matrix, forgetting, the training loop) and PyTorch tensors.
#
# Time: about {{human_minutes}} minutes of yours; the machine needs {{machine_minutes}}. Points: {{points}}.

# %% [markdown]
# ## You will be able to
# - grow the head of a network without touching what it knows,
# - keep a memory of fixed size that is fair to the stream, or fair to the classes,
# - write the distillation loss and say what its temperature does,
# - compare methods with the same budget and the same start, and read *where* they fail,
# - spend a budget of 200 images well.
#
# ## Set-up

# %% tags=["parameters"]
import os

PRESET = os.environ.get("COURSE_PRESET", "quick")
TRACKER = os.environ.get("COURSE_TRACKER", "wandb")  # or "tensorboard", or "none"

# %% tags=["setup"]
from course_utils import start, check, hint, points

course = start("02_rehearsal_kd_gtsrb", preset=PRESET)

# %% [markdown]
# ## The signs arrive in five batches
# A car maker trains a network on eight speed limits and the end of one. A year later come overtaking bans and priority
# signs, then warnings, and so on: 43 classes in five tasks of 9, 9, 9, 8 and 8. When a task arrives, the images of earlier tasks are gone. At
# test time nobody says which task a sign is from: all classes seen so far compete. This is **class-incremental** learning.

# %%
from course_utils import datasets, plots, streams

data = course.data("gtsrb")
stream = streams.class_incremental(data, num_tasks=5)
for task in stream:
    print(f"task {task.index + 1}: {len(task.classes)} classes, {len(task.train):,} training images ({task.name})")

# %% [markdown]
# First the procedural stand-in, which the course draws itself; then the data that this run uses. If both look alike, you
# have no real signs on this machine: `course data get gtsrb` fetches them.

# %%
standin = datasets.load("signs", source="standin")
plots.show(
    plots.contact_sheet(datasets.contact_sheet(standin, per_class=1, columns=11, scale=2), f"Drawn: {standin.title}"),
    alt="A sheet of 43 small drawn traffic signs, one of each class, in the order in which they are learned.",
)

# %% tags=["unstored"]
plots.show(
    plots.contact_sheet(datasets.contact_sheet(data, per_class=1, columns=11, scale=2), f"This run: {data.title}"),
    alt="A sheet of 43 small colour images of traffic signs, one of each class, in the order in which they are learned.",
)

# %% [markdown]
# Three things to know about this data set before you train anything.
#
# - **Tracks.** The German benchmark filmed each sign from a moving car: thirty frames of one sign are thirty nearly equal
#   images. The validation split holds out whole tracks. Split by frame, it would contain near-copies of training images
#   and tell you what you want to hear.
# - **No mirror images.** Flipping is a usual augmentation. Here it turns *turn right ahead* into *turn left ahead*.
# - **Stored images are other people's pictures.** A street sign is harmless. The same 200 slots in a hospital or a phone
#   hold patients and faces: a memory is a data set that you keep, with all duties that come with it. What a method
#   reaches *without* storing anything is therefore worth knowing too.

# %% [markdown]
# ## The rules of the comparison
# Results on this stream can hardly be compared across papers, because each has its own rules. Ours:
#
# - accuracy is over **all test images of the classes seen so far**; the mean over tasks stands beside it;
# - classes come in index order (`class_order=` changes it);
# - all methods take the same number of steps on a task's images, with the same network and the same first batches: **after
#   task 1 they have the same weights**. What they do beside that differs, and costs: rehearsal's batches are twice as
#   large, and **joint**, a fresh network after every task, passes as often over the union of all tasks so far. (GDumb, a
#   method below, trains on its memory alone, so its first weights differ.)
# - the teacher's answers count for every image in the batch, new or stored, on the old classes' outputs;
# - nothing is chosen by looking at test images. 200 stored images, half of the loss for the teacher (`alpha` 0.5) and a
#   temperature of 2 are the settings of the [exercise](https://github.com/stepherbin/teaching) that made this stream popular.

# %%
from torchinfo import summary

from course_utils import models

model = models.build("small_cnn", data, num_outputs=stream[0].outputs)
summary(model, input_size=(1, *data.image_shape), depth=2, col_names=("output_size", "num_params"), verbose=0)

# %% [markdown]
# Three convolutions, a dense layer, and a head with one row for each class. The head starts with the nine classes of
# task 1.

# %% [markdown]
# ## A teacher
# The network of one task ago knew the old classes. **Distillation** keeps a frozen copy of it, the teacher, and asks the
# new network to answer as the teacher does. Not only which class wins: *how much* a "30" looks like an "80" and how little
# like a stop sign. At the end of training a network is so sure of itself that these differences vanish. A temperature
# brings them back.
#
# Warm up on three numbers.
#
# ### Exercise 02.1 · Soften an answer
# {{card:02.1}}
#
# Turn logits `(batch, classes)` into probabilities, softened by `temperature`.

# %% tags=["exercise"]
import numpy as np
import torch
from torch.nn import functional as F


def soften(logits, temperature):
    """Softened probabilities, `(batch, classes)`."""
    ### BEGIN SOLUTION
    return F.softmax(logits / temperature, dim=1)
    ### END SOLUTION


# %% tags=["check"]
soften = check("02.1", soften)
points("02.1")

# %% tags=["hint"]
hint("02.1")

# %% tags=["widget"]
from course_utils import widgets

LOGITS = torch.tensor([[9.0, 6.0, 1.0]])
NAMES = ("30 km/h", "80 km/h", "stop")


def softened_figure(temperature):
    probabilities = soften(LOGITS, temperature)[0].numpy()
    shares = dict(zip(NAMES, probabilities, strict=True))
    return plots.bars(shares, f"What a teacher says at temperature {temperature:g}", xlabel="probability (%)")


softened = widgets.explore(
    softened_figure,
    alt="Three bars, the teacher's probabilities for three signs; a higher temperature makes them more alike.",
    temperature=widgets.slider(1.0, 10.0, default=2.0, step=0.5),
)

# %% [markdown]
# At temperature 1 the teacher says "30, nearly for sure". At 4 it also says what else it might have been. The order never
# changes; only the distances do.
#
# Now the loss. Student and teacher are both softened with T; the loss is the Kullback-Leibler divergence from teacher to
# student, averaged over the batch, times T². For one image, with the teacher's probabilities $p$ and the student's $q$:
# $\mathrm{KL}(p\,\|\,q) = \sum_c p_c \log (p_c / q_c)$. Why T²: softening by T makes the gradient about T² smaller, so without
# the factor the term would fade as T grows.
#
# ### Exercise 02.2 · The distillation loss
# {{card:02.2}}
#
# Both logits are `(batch, classes)`. Return a scalar tensor through which the gradient reaches the student.


# %% tags=["exercise"]
def kd_loss(student_logits, teacher_logits, temperature):
    """T² · KL(teacher || student) of the softened distributions, mean over the batch."""
    ### BEGIN SOLUTION
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean") * temperature**2
    ### END SOLUTION


# %% tags=["check"]
kd_loss = check("02.2", kd_loss)
points("02.2")

# %% tags=["hint"]
hint("02.2")

# %% [markdown]
# As a method, distillation copies the teacher before a task, and maps the loss to `alpha * KD + (1 - alpha) * loss`. These
# are the two hooks, as the course runs them.

# %%
from course_utils import methods

course.show(methods.Distill.before_task)
course.show(methods.Distill.loss)

# %% [markdown]
# ## A head that grows
# When task 2 arrives, nine new classes need nine new rows. Everything that the network knows about the old classes must
# survive this, to the last bit: growing is not learning.
#
# ### Exercise 02.3 · A head that grows
# {{card:02.3}}
#
# `weight` is `(classes, features)`, `bias` is `(classes,)`. Return both with `num_new` more classes. New rows should be
# small; `torch.empty(...).uniform_(-b, b, generator=generator)` with b = 1/√features is what PyTorch does for a linear layer.


# %% tags=["exercise"]
def grow_head(weight, bias, num_new, generator):
    """The head with `num_new` more classes."""
    ### BEGIN SOLUTION
    features = weight.shape[1]
    bound = features**-0.5
    rows = torch.empty(num_new, features).uniform_(-bound, bound, generator=generator)
    biases = torch.empty(num_new).uniform_(-bound, bound, generator=generator)
    return torch.cat([weight, rows]), torch.cat([bias, biases])
    ### END SOLUTION


# %% tags=["check"]
grow_head = check("02.3", grow_head)
points("02.3")

# %% tags=["hint"]
hint("02.3")

# %% [markdown]
# The order of events matters. The **teacher** is copied in `before_task`, before the head grows. The **optimizer** is made
# after: one made before holds the old tensors and never moves a new row. The learner does both in one place:

# %%
from course_utils import Learner

course.show(Learner._grow)

# %% [markdown]
# ## A memory of fixed size
# **Rehearsal**, also called replay, stores a few images and mixes them into every later batch. Which ones? The simplest fair rule: every image of
# the stream has the same chance to be in memory. But the stream is long and its length unknown.
#
# The **reservoir** does it with one random number an image. The first images fill the memory. From then on, image number
# n enters with probability capacity / n, and throws a random one out.
#
# ### Exercise 02.4 · A fair reservoir
# {{card:02.4}}
#
# `seen` is the number of images so far, this one included. Return the slot (0 to capacity - 1) that it goes into, or
# `None` if it passes by. `rng.integers(n)` draws a whole number from 0 to n - 1.


# %% tags=["exercise"]
def reservoir_slot(seen, capacity, rng):
    """Slot for image number `seen`, or None."""
    ### BEGIN SOLUTION
    if seen <= capacity:
        return seen - 1
    slot = int(rng.integers(seen))
    return slot if slot < capacity else None
    ### END SOLUTION


# %% tags=["check"]
reservoir_slot = check("02.4", reservoir_slot)
points("02.4")

# %% tags=["hint"]
hint("02.4")

# %% [markdown]
# Fair to images is not fair to classes. In the German data some signs are ten times as common as others, and so they fill
# the memory. The alternative: the same number of slots for every class, as far as the class has images. When new classes
# come, the old ones give up some of theirs.
#
# ### Exercise 02.5 · The same for every class
# {{card:02.5}}
#
# `available` holds the number of images that could be stored, one count a class. Return how many of each to keep: never
# more than `capacity` in all, as equal as possible, and no slot empty while there is an image for it.


# %% tags=["exercise"]
def class_quotas(available, capacity):
    """Number of images to keep of every class."""
    ### BEGIN SOLUTION
    quotas = [0] * len(available)
    for _ in range(min(capacity, sum(available))):
        not_used_up = [c for c in range(len(available)) if quotas[c] < available[c]]
        poorest = min(not_used_up, key=lambda c: quotas[c])
        quotas[poorest] += 1
    return quotas
    ### END SOLUTION


# %% tags=["check"]
class_quotas = check("02.5", class_quotas)
points("02.5")

# %% tags=["hint"]
hint("02.5")

# %% [markdown]
# Now fill both memories from the training images, with your two functions, and count what is in them. (The procedural
# stand-in has the same number of images of every class. If the orange box is above, the two memories differ only by chance.)

# %%
rng = np.random.default_rng(0)
labels = rng.permutation(data.train.y)
reservoir = np.zeros(200, dtype=int)
for seen, label in enumerate(labels, start=1):
    slot = reservoir_slot(seen, 200, rng)
    if slot is not None:
        reservoir[slot] = label
balanced = class_quotas(np.bincount(labels, minlength=43).tolist(), 200)

# %%
figure = plots.counts(
    {"reservoir": np.bincount(reservoir, minlength=43), "class-balanced": balanced},
    f"What 200 slots hold: {data.title}",
    xlabel="class",
    ylabel="images in memory",
)
plots.show(
    figure,
    alt="Images per class in two memories: the class-balanced bars are all four or five high, the reservoir's are uneven.",
)
absent = 43 - len(set(reservoir.tolist()))
print(f"The reservoir has no image at all of {absent} classes; the class-balanced memory of {list(balanced).count(0)}.")

# %% [markdown]
# The rest of rehearsal is one hook: from the second task on, every batch gets stored images behind the new ones.

# %%
course.show(methods.Replay.batch)

# %% [markdown]
# ## Predict, then run
# Joint training sees every image and is the ceiling; fine-tuning does nothing and is the floor. **GDumb** ignores the stream:
# it fills a class-balanced memory and trains a fresh network on that alone, for as many steps as the others take. After all five tasks, how
# much of all test images will a network get right that stores 200 images, under five a class?

# %% tags=["widget"]
prediction = widgets.predict("Per cent of all test images right, with 200 stored images?", span=(0, 100))

# %%
results = course.experiment("methods", using={"distillation": kd_loss})
results.table(
    {
        "all test images (%)": "final",
        "mean over tasks (%)": "task_mean",
        "forgetting (points)": "forgetting",
        "old signs taken for new (%)": "to_last_task",
    },
    caption="After the fifth task. The last column: test images of tasks 1 to 4 that are called a class of task 5.",
)
prediction.compare(f"{results.mean('rehearsal', 'final'):.0f} %")

# %%
curves = {label: results.values(label, "overall") for label in results.labels}
figure = plots.accuracy_curves(
    curves, f"{len(curves)} methods, the same passes: {results.data_title}", floor="fine-tuning", ceiling="joint"
)
plots.show(
    plots.add_prediction(figure, None if prediction.value is None else prediction.value / 100),
    alt="Accuracy on all classes seen after each task: fine-tuning and distillation fall steeply, rehearsal stays high, joint is on top.",
)

# %% [markdown] tags=["claim"]
# **Claim A.** Rehearsal with 200 images closes more than 60 % of the gap between floor and ceiling.
#
# **Claim B.** Distillation alone stays within ten points of the floor. The teacher says what old classes look like, but
# with no old image in the batch nothing holds their outputs up against the new ones.
#
# **Claim C.** In the full run, a teacher *on top of* rehearsal adds at least one point with every seed. This is no law: on
# other data sets and with less training others measured that it costs. In the quick preset the teacher has seen few images
# itself, and may well be a burden. Read your own row.
#
# **Claim D.** GDumb, which ignores the stream and trains on the memory alone, stays at least ten points below rehearsal.
# What it reaches, the 200 images give; the rest of rehearsal's accuracy comes from having trained on all the others.
#
# One seed decides little between neighbours in this table. The full run's standard deviations tell you which gaps are
# larger than chance.

# %% [markdown]
# ## Where do the errors go?
# A number says how much was lost. The confusion matrix says where to: rows are true classes, columns predicted ones, in
# the order of learning. White lines stand between tasks.

# %%
ends = np.cumsum([len(task.classes) for task in stream])[:-1]
shown = [label for label in ("fine-tuning", "rehearsal") if "confusion" in results.records[label][0]]
for label in shown:
    figure = plots.confusion_matrix(
        results.records[label][0]["confusion"],
        f"{label} after task 5: {results.data_title}",
        boundaries=ends,
    )
    plots.show(figure, alt=f"Confusion matrix of {label}: true class against predicted class, tasks marked by lines.")

# %% [markdown] tags=["claim"]
# **Claim E.** With fine-tuning, over 90 % of the test images of old tasks are called a class of the last one: the columns on
# the right are full, the diagonal is empty before them. With rehearsal it is under 30 %. This is **recency bias**.
# Claim E of lesson 01 suggests that the features of old signs are not gone; the head has been told, thousands of times,
# that the answer is one of the last eight.
#
# Where do rehearsal's errors go? Count them, for the signs of tasks 1 to 4.

# %%
counts = np.array(results.records["rehearsal"][0]["confusion"])
task_of = np.repeat(np.arange(len(stream)), [len(task.classes) for task in stream])
true, predicted = np.indices(counts.shape)
errors = counts * (true != predicted) * (task_of[true] < len(stream) - 1)
for name, where in (
    ("an earlier task", task_of[predicted] < task_of[true]),
    ("the same task", task_of[predicted] == task_of[true]),
    ("a later task", task_of[predicted] > task_of[true]),
):
    print(f"{errors[where].sum() / errors.sum():5.0%} of the errors name a class of {name}")

# %% [markdown] tags=["claim"]
# **Claim F.** Rehearsal's errors still lean forward: more of them name a class of a later task than of an earlier one. But
# many stay within the task. Those are ordinary confusions of alike signs, and no remedy for forgetting will mend them.

# %% [markdown] tags=["reflection"] points=2
# **Reflection 1.** Distillation uses no stored image, and its final accuracy is near the floor. Yet a colleague's paper
# reports that it "hardly forgets" on the same stream. Both can be honest. Name two differences in the protocol that could
# explain it, and say which sentence in the paper you would look for.

# %% [markdown] tags=["answer"]
# *Rubric: one point for each difference with a reason; the sentence must be one that decides between them.*
#
# **Task-aware evaluation**: if the task is known at test time, only the classes of that task compete, recency bias cannot
# show, and distillation keeps the order within a task well. Look for "multi-head" or "task identity is given".
# **What is called forgetting**: the drop from a task's own peak can be small because the peak was low (a strong teacher
# keeps the network from learning the new task). Look for the accuracy right after each task, the diagonal of the matrix.
# Also accepted: a large first task (half of the classes), a pretrained network, or test images used to choose alpha.

# %% [markdown]
# ## Turn the knobs
# Every point below is a run, not a formula; the cell says whose. First the size of the memory and how it is filled.

# %% tags=["widget"]
recorded = [course.recorded(name) for name in ("memory", "distillation", "methods")]
live = not all(recorded)
if live:
    recorded = [course.experiment("memory"), course.experiment("distillation"), results]
sweep, teacher, best = recorded
print("These are your own runs." if live else "These are recorded full runs.")
MEMORY_SIZES = sorted({int(label.split(", ")[1]) for label in sweep.labels})


def memory_figure(stored_images):
    curves = {
        label.split(",")[0]: sweep.values(label, "overall")
        for label in sweep.labels
        if label.endswith(f", {stored_images}")
    }
    curves |= {label: best.values(label, "overall") for label in ("fine-tuning", "joint")}
    title = f"Rehearsal with {stored_images} images: {sweep.data_title}"
    return plots.accuracy_curves(curves, title, floor="fine-tuning", ceiling="joint")


memory_view = widgets.explore(
    memory_figure,
    alt="Accuracy after each task for one memory size: class-balanced and reservoir between floor and ceiling.",
    stored_images=widgets.choice(MEMORY_SIZES, default=200 if 200 in MEMORY_SIZES else MEMORY_SIZES[-1]),
)

# %%
policies = {
    policy: np.array([sweep.mean(f"{policy}, {size}", "final") / 100 for size in MEMORY_SIZES])
    for policy in ("class-balanced", "reservoir")
}
figure = plots.sweep(
    MEMORY_SIZES,
    policies,
    f"What another image is worth: {sweep.data_title}",
    xlabel="stored images",
    floor=best.mean("fine-tuning", "final") / 100,
    ceiling=best.mean("joint", "final") / 100,
)
plots.show(
    figure,
    alt="Final accuracy against memory size for both policies: it rises fast at first and then ever more slowly.",
)

# %%
sweep.table({"all test images (%)": "final", "mean over tasks (%)": "task_mean", "forgetting (points)": "forgetting"})

# %% [markdown] tags=["claim"]
# **Claim G.** In the full run (one seed), four times the memory buys more from 50 images than from 200. At every size the
# reservoir is behind, and further behind in the mean over tasks than in the share of all test images: common signs are
# common in the test set too, so neglecting rare ones costs less there.
#
# Now the teacher: its weight `alpha` and its temperature, always with 200 stored images. `alpha` 0 is plain rehearsal.
# Taking one ingredient out, or turning it up and down, with all else equal is called an **ablation**.

# %% tags=["widget"]
SETTINGS = {tuple(float(part.split()[1]) for part in label.split(", ")): label for label in teacher.labels}


def teacher_figure(alpha, temperature):
    curves = {
        "rehearsal": best.values("rehearsal", "overall"),
        "with a teacher": teacher.values(SETTINGS[alpha, temperature], "overall"),
        "fine-tuning": best.values("fine-tuning", "overall"),
        "joint": best.values("joint", "overall"),
    }
    title = f"A teacher of weight {alpha:g} at temperature {temperature:g}: {teacher.data_title}"
    return plots.accuracy_curves(curves, title, floor="fine-tuning", ceiling="joint")


teacher_view = widgets.explore(
    teacher_figure,
    alt="Accuracy after each task: rehearsal with and without a teacher, between floor and ceiling.",
    alpha=widgets.choice(sorted({alpha for alpha, _ in SETTINGS}), default=0.5),
    temperature=widgets.choice(sorted({temperature for _, temperature in SETTINGS}), default=2.0),
)

# %%
teacher.table(
    {"all test images (%)": "final", "mean over tasks (%)": "task_mean", "forgetting (points)": "forgetting"},
    caption=f"Plain rehearsal: {best.mean('rehearsal', 'final'):.1f} % of all test images.",
)

# %% [markdown] tags=["claim"]
# **Claim I.** In the full run (one seed, so differences below about a point mean little), every teacher of weight 0.1 or 0.5
# beats plain rehearsal. At 0.9 the result is worse than with no teacher at all: only a tenth of the loss is left for the
# new classes, and the next teacher hands on what was not learned. The weight matters more than the temperature.

# %% [markdown]
# ## How far do 200 images go?
# Take the best row so far, rehearsal with distillation, and add ingredients that store no image more:
#
# - a **better choice of images**: at most one frame of each track, because five frames of one sign are nearly one image;
# - **aligned weights**: if the new rows of the head are longer than the old ones, their logits shout; make them equal;
# - **balanced fine-tuning**: a few last steps on the memory alone, where every class has the same number of images.
#
# You write the second one.
#
# ### Exercise 02.6 · Align the weights
# {{card:02.6}}
#
# `weight` is `(classes, features)`; the first `num_old` rows are old classes. Return a new weight in which all new rows
# are multiplied by one factor, so that their mean norm equals the mean norm of the old rows.


# %% tags=["exercise"]
def align_weights(weight, num_old):
    """The weight with its new rows scaled to the old rows' mean norm."""
    ### BEGIN SOLUTION
    norms = weight.norm(dim=1)
    aligned = weight.clone()
    aligned[num_old:] *= norms[:num_old].mean() / norms[num_old:].mean()
    return aligned
    ### END SOLUTION


# %% tags=["check"]
align_weights = check("02.6", align_weights)
points("02.6")

# %% tags=["hint"]
hint("02.6")

# %%
further = course.experiment("further", using={"distillation": kd_loss, "align": align_weights})
further.table(
    {
        "all test images (%)": "final",
        "mean over tasks (%)": "task_mean",
        "forgetting (points)": "forgetting",
        "norm of old rows": lambda record: 100 * record["head_norms"][0],
        "norm of new rows": lambda record: 100 * record["head_norms"][1],
    },
    caption="Every row is rehearsal with distillation and one image per track; a plus adds one thing to that. Norms x 100.",
)

# %%
compared = results if further.live else best  # rows of the same preset
before = ("fine-tuning", "rehearsal", "rehearsal + distillation", "joint")
finals = {label: compared.values(label, "final") / 100 for label in before[:3]}
finals |= {label: further.values(label, "final") / 100 for label in further.labels}
finals |= {"joint": compared.values("joint", "final") / 100}
figure = plots.bars(finals, f"200 images, well spent: {further.data_title}", floor="fine-tuning", ceiling="joint")
plots.show(
    figure, alt="Final accuracy of rehearsal and of rehearsal with further ingredients, between floor and ceiling."
)

# %% [markdown] tags=["claim"]
# **Claim H.** In the full run, one image per track is better than images at random with every seed, for nothing, and over
# 88 %. The other two do not help here:
#
# - Aligned weights change the result by less than one point. Look at the norms: here the new rows are *shorter* than the
#   old ones, so alignment makes the new classes louder. Recency bias need not show in the length of the rows.
# - Balanced fine-tuning loses at least two points. A likely reason: two hundred steps on two hundred images learn these
#   images by heart. In exercise 02.7 below, on digits, the same method helps.
#
# What helps in one place need not help in another. Without the ablation you would have shipped all three.

# %% [markdown]
# ## Log a run
# Ten runs later you will not remember which was which. A tracker keeps the settings, the losses and the accuracy matrix of
# every run. Here **Weights & Biases** writes into a folder and sends nothing anywhere; `wandb sync` uploads it if you have
# an account. `TRACKER = "tensorboard"` in the parameters cell uses TensorBoard instead.

# %%
from course_utils import tracking

digits = datasets.load("digits")
tracker = tracking.open_tracker(TRACKER, name="rehearsal-digits", config={"memory": 200, "method": "rehearsal"})
learner = Learner(models.build("mlp", digits), [methods.Replay(memory=200)], steps_per_task=60, tracker=tracker)
history = learner.fit(streams.class_incremental(digits, 5))
tracker.finish()
print(f"Logged {int(history.steps.sum())} steps and a {history.accuracy.shape} accuracy matrix to: {TRACKER}.")

# %% [markdown]
# ## Design within a budget
#
# ### Exercise 02.7 · Design within a budget
# {{card:02.7}}
#
# Your product may store `memory` images in all. Return the list of methods you would ship. On digits with 20 images, two
# a class, forgetting must stay below 0.30 and the average accuracy above 0.65; plain rehearsal does not manage that. The
# check trains it with two seeds on the validation split, so it takes a few seconds. You may choose among:
#
# | method | what it does |
# | --- | --- |
# | `methods.Replay(memory=..., policy=...)` | rehearsal, `"class_balanced"` or `"reservoir"` |
# | `methods.Distill(alpha=0.5, temperature=2.0)` | a teacher |
# | `methods.WeightAlign()` | aligned weights, after every task |
# | `methods.BalancedFinetune(replay, steps=100, lr=1e-4)` | last steps on the memory of that `replay`, which comes before it in the list |
# | `methods.GDumb(memory=...)` | a fresh network on the memory alone |
# | `methods.DERpp(memory=...)` | rehearsal of images together with the answers once given to them |


# %% tags=["exercise"]
def design(memory):
    """Methods that store at most `memory` images together."""
    ### BEGIN SOLUTION
    replay = methods.Replay(memory=memory)
    return [replay, methods.BalancedFinetune(replay, steps=50, lr=1e-3)]
    ### END SOLUTION


# %% tags=["check"]
design = check("02.7", design)
points("02.7")

# %% tags=["hint"]
hint("02.7")

# %% [markdown] tags=["reflection"] points=2
# **Reflection 2.** You may store 200 images of traffic signs, or 200 images from a clinic. Same code, same accuracy. What
# changes, and which of the methods in this lesson would you then propose? Two or three sentences.

# %% [markdown] tags=["answer"]
# *Rubric: one point for what changes (consent, purpose, deletion on request, leaks: a stored image is personal data kept
# beyond its task); one point for a method that follows from it, with its price in accuracy.*
#
# Stored pictures of people are personal data: they need a purpose and consent, must be deletable (a model trained by
# rehearsal must then do without them), and can be stolen. Distillation stores no image but here hardly helps; so say the
# price. One may store images only of volunteers, or nothing, and protect weights instead (lesson 03), and should expect
# class-incremental accuracy near the floor.

# %% [markdown]
# ## The classic protocol, and what others report
# The [exercise](https://github.com/stepherbin/teaching) that made this stream popular uses five tasks of 8 classes and never
# learns the last three. A [public solution](https://github.com/GabrielGst/IO-ML-CL) reports, after task 5: fine-tuning
# 12.5 %, rehearsal with distillation 64.2 %, an upper bound of 81 % (one pass) to 88 % (five passes). Those are single runs
# with a weaker training recipe, so the comparison is about the course's recipe as a whole, not about one method.

# %%
classic = course.recorded("classic")
if classic:
    classic.table(
        {"all test images (%)": "final", "forgetting (points)": "forgetting"}, caption="Five tasks of 8 classes."
    )
else:
    print("No recorded run here: `course run 02 --preset full` makes it.")

# %% [markdown]
# ## What this does not show
# - One order of the classes, and signs of one country. Index order puts alike signs into one task; another order is
#   easier or harder.
# - A small network trained from scratch. A pretrained one forgets less and is lesson 04's subject.
# - That 200 is the right budget: what a stored image costs is not a number in this lesson.
#
# ## Summary
# - 200 stored images close most of the gap to joint training; a teacher without images does not.
# - Without a memory all old signs are called new ones. With one, errors lean to later tasks, and many are confusions
#   within a task.
# - A comparison needs a floor, a ceiling, the same steps, one start, several seeds, and an ablation for every ingredient.
#
# The table counts the exercises. Reflections are graded by hand.

# %%
course.score()

# %% [markdown]
# ## Further reading
# - G. Hinton, O. Vinyals, J. Dean, *Distilling the knowledge in a neural network*, 2015,
#   [arXiv:1503.02531](https://arxiv.org/abs/1503.02531).
# - Z. Li, D. Hoiem, *Learning without forgetting*, 2016, [arXiv:1606.09282](https://arxiv.org/abs/1606.09282).
# - A. Prabhu, P. Torr, P. Dokania, *GDumb*, ECCV 2020, and its [code](https://github.com/drimpossible/GDumb).
# - P. Buzzega et al., *Dark experience for general continual learning* (DER++), 2020,
#   [arXiv:2004.07211](https://arxiv.org/abs/2004.07211).
# - B. Zhao et al., *Maintaining discrimination and fairness in class incremental learning* (weight alignment), 2020,
#   [arXiv:1911.07053](https://arxiv.org/abs/1911.07053).
# - D.-W. Zhou et al., a [survey of class-incremental learning](https://github.com/zhoudw-zdw/CIL_Survey/) with code; G. van
#   de Ven's [library](https://github.com/GMvandeVen/continual-learning); ContinualAI's
#   [list of papers](https://github.com/ContinualAI/continual-learning-papers).
# - J. Stallkamp et al., *Man vs. computer: benchmarking machine learning algorithms for traffic sign recognition*, 2012
#   (the data set), [doi:10.1016/j.neunet.2012.02.016](https://doi.org/10.1016/j.neunet.2012.02.016).
