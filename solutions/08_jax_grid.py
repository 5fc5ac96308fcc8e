# %% [markdown]
# # 08 · Many repeats at once
#
# {{badges}}
#
# **What do 32 repeats at once teach that one run cannot?**
#
# You need: lesson 01 (forgetting, fine-tuning), NumPy, gradients. You need no JAX and no GPU.
#
# Time: about {{human_minutes}} minutes of yours; the machine needs {{machine_minutes}}. Points: {{points}}.

# %% [markdown]
# ## You will be able to
# - write a training step as a pure function, and turn it into a compiled loop over a whole task,
# - train 32 networks in one program, each with weights, images and random numbers of its own,
# - find out why a convolution is slow in such a program, and make it fast,
# - say how sure a comparison is, and what a single run is worth,
# - tell forgetting from loss of plasticity, and measure what goes with it: dormant units, ranks, norms, geometry,
# - plan, run, resume and read a large experiment.
#
# ## Set-up

# %% tags=["parameters"]
import os

PRESET = os.environ.get("COURSE_PRESET", "quick")

# %% tags=["setup"]
from course_utils import start, check, hint, points, grid, plots, widgets

course = start("08_jax_grid", preset=PRESET)

# %%
devices = grid.best_devices(32)  # before JAX is used: on a CPU it makes one device of each core

import jax
import jax.numpy as jnp
import numpy as np
import optax

from course_utils.lessons.experiments import lesson_08_figures as figures

# %% [markdown]
# ## 1 · Many models, one function
# Lesson after lesson compared *one* network with another, or five with five. This one trains 32 at once, as **one** program.
# The tool is JAX: NumPy's functions, and a few that take functions and return functions. The first of them is `jax.vmap`.
# It turns a function of one thing into a function of many: write what *one* model does, and map it over a leading axis.
#
# Warm up on three models with two numbers each.
#
# ### Exercise 08.1 · Many models, one function
# {{card:08.1}}
#
# `predict(params, x)` gives one model's outputs `(n,)`. Every array in `params` has a leading axis for R models. Return the
# outputs of all models on the same `x`: `(R, n)`.


# %% tags=["exercise"]
def predict_all(predict, params, x):
    """Outputs of R models on the same inputs, (R, n)."""
    ### BEGIN SOLUTION
    return jax.vmap(predict, in_axes=(0, None))(params, x)
    ### END SOLUTION


# %% tags=["check"]
predict_all = check("08.1", predict_all)
points("08.1")

# %% tags=["hint"]
hint("08.1")


# %%
def line(params, x):
    return params["slope"] * x + params["offset"]


three = {"slope": jnp.array([1.0, 2.0, 3.0]), "offset": jnp.array([0.0, 5.0, 10.0])}
print(predict_all(line, three, jnp.array([1.0, 10.0])))

# %% [markdown]
# The loop over models has not been hidden, it is gone: three lines on two inputs became one multiplication of arrays. It is
# the same for networks.

# %% [markdown]
# ## 2 · All that changes goes in and comes out
# A PyTorch model holds its weights and changes them in place. A function that JAX transforms must be **pure**: everything it
# needs is an argument, everything it changes is returned, and the same arguments give the same result. Weights are a
# **pytree**, dicts of arrays in dicts. `jax.grad(f)` is the function that gives the gradient of `f` with respect to its first
# argument, in the same structure.

# %%
jax.grad(lambda w: w["a"] ** 2 + 5 * w["b"])({"a": 3.0, "b": 1.0})

# %% [markdown]
# ### Exercise 08.2 · A step is a function
# {{card:08.2}}
#
# `loss(params, x, y)` gives a number. Return the parameters after one step of gradient descent. `jax.tree.map(f, a, b)`
# calls `f` for every pair of arrays in two trees.


# %% tags=["exercise"]
def sgd_step(loss, params, x, y, lr):
    """New parameters, of the same structure."""
    ### BEGIN SOLUTION
    gradient = jax.grad(loss)(params, x, y)
    return jax.tree.map(lambda p, g: p - lr * g, params, gradient)
    ### END SOLUTION


# %% tags=["check"]
sgd_step = check("08.2", sgd_step)
points("08.2")

# %% tags=["hint"]
hint("08.2")

# %% [markdown]
# Random numbers must be pure, too. There is no hidden generator: a **key** goes in, and the same key gives the same numbers.
# `jax.random.key(seed)` makes the first key, `jax.random.fold_in(key, number)` a new one from a key and a number. Never use a
# key twice: make one for each purpose.
#
# With many repeats this becomes a promise worth keeping. You run repeats 0 to 15 today and 16 to 31 tomorrow, or each on
# another machine. Repeat 20 must be the same run in every case. So its key may depend on nothing but the seed and the number 20.
#
# ### Exercise 08.3 · Keys that survive a split
# {{card:08.3}}
#
# Return the keys of the repeats `first`, ..., `first + count - 1` as one array. (`jnp.stack` makes an array of a list of keys.)


# %% tags=["exercise"]
def repeat_keys(seed, first, count):
    """An array of keys, (count,)."""
    ### BEGIN SOLUTION
    numbers = first + jnp.arange(count)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), numbers)
    ### END SOLUTION


# %% tags=["check"]
repeat_keys = check("08.3", repeat_keys)
points("08.3")

# %% tags=["hint"]
hint("08.3")

# %% [markdown]
# ## 3 · A task in one call
# `jax.jit` compiles a function: JAX runs it once with **tracers** in place of arrays, writes down every operation, and hands
# the list to a compiler. What Python does besides, a `print` for example, happens in that one run and never again:


# %%
@jax.jit
def double(x):
    print("traced with", x)
    return 2 * x


print(double(jnp.array(1.0)), double(jnp.array(10.0)))

# %% [markdown]
# A Python loop of 300 steps would be written down 300 times. `jax.lax.scan(f, carry, items)` is a loop that is written
# down once. It calls `f(carry, item)` for one item after the other; `f` returns the new carry, and what to keep of this step.
# Three numbers, added up, and the sums on the way:

# %%
jax.lax.scan(lambda total, number: (total + number, total + number), 0.0, jnp.array([1.0, 2.0, 3.0]))

# %% [markdown]
# In training, the weights are carried on and the loss of every step is kept.
#
# ### Exercise 08.4 · A task in one call
# {{card:08.4}}
#
# `step(params, x, y)` returns `(new params, loss)`. `order` is `(num_steps, batch_size)`: line by line, which rows of `x` and
# `y` make the next batch. Return the final parameters and the losses `(num_steps,)`.


# %% tags=["exercise"]
def train_task(step, params, x, y, order):
    """(final parameters, losses of all steps)."""

    ### BEGIN SOLUTION
    def body(params, rows):
        return step(params, x[rows], y[rows])

    return jax.lax.scan(body, params, order)
    ### END SOLUTION


# %% tags=["check"]
train_task = check("08.4", train_task)
points("08.4")

# %% tags=["hint"]
hint("08.4")

# %% [markdown]
# ## 4 · From one to 32
# The tasks of this lesson are small: tell class A from class B. Each of R **repeats** draws its own order of all classes and
# takes them in pairs, so every repeat meets other tasks. The quick preset uses **glyphs**, drawn by the course. The recorded
# full runs use Tiny-ImageNet: 200 classes of photographs, at 28x28 grey.

# %%
from course_utils.grid import data as grid_data

course.data("glyphs")
settings = grid.GridConfig(data="glyphs", num_repeats=32, train_images=80)
images = grid.load(settings)
pairs = grid_data.class_pairs(settings, len(images.names))  # (repeats, tasks, 2)
x, y = map(jnp.asarray, grid_data.task_tensors(images.train, pairs[:, 0]))
print(f"class pairs {pairs.shape}; images of task 1 {x.shape} (samples, repeats, height, width); labels {y.shape}")

# %%
sheet = np.concatenate([np.concatenate(list(x[row, :14]), axis=1) for row in (0, 80)])
plots.show(
    plots.contact_sheet(
        np.repeat(sheet[..., None], 3, axis=2).astype(np.uint8), f"Task 1 of 14 repeats: {images.title}"
    ),
    alt="Small drawn symbols, 14 columns: in each column an image of one class above an image of another.",
)

# %% [markdown]
# Columns are repeats: an image of class A above, one of class B below. Look for a column with two glyphs that are easy to tell
# apart, and for one in which they are alike. We will come back to this.
#
# A network of two layers, as three pure functions (`jax.random.split` makes two keys of one):


# %%
def init(key):
    first, second = jax.random.split(key)
    return {"hidden": jax.random.normal(first, (784, 64)) / 28, "readout": jax.random.normal(second, (64, 2)) / 8}


def logits(params, x):
    pixels = x.reshape(len(x), -1) / 127.5 - 1
    return jax.nn.relu(pixels @ params["hidden"]) @ params["readout"]


def loss(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


# %%
def train(params, x, y, order):
    """One repeat on one task."""

    def step(params, x, y):
        return sgd_step(loss, params, x, y, 0.1), loss(params, x, y)

    return train_task(step, params, x, y, order)


# %% [markdown]
# `train` is for one repeat. Now for all. The grid stores images with the samples first, because a batch is then a slice
# of the first axis:
#
# | argument | shape | repeats on axis |
# | --- | --- | --- |
# | params | each array `(R, ...)` | 0 |
# | x | `(N, R, 28, 28)` | 1 |
# | y | `(N, R)` | 1 |
# | order | `(R, num_steps, batch_size)` | 0 |
#
# ### Exercise 08.5 · From one to 32
# {{card:08.5}}
#
# `train(params, x, y, order)` is for one repeat and returns (params, losses). Return the same for all repeats, with R in front, from
# one compiled program.


# %% tags=["exercise"]
def train_grid(train, params, x, y, order):
    """What `train` returns, for all repeats at once, with R in front; compiled."""
    ### BEGIN SOLUTION
    return jax.jit(jax.vmap(train, in_axes=(0, 1, 1, 0)))(params, x, y, order)
    ### END SOLUTION


# %% tags=["check"]
train_grid = check("08.5", train_grid)
points("08.5")

# %% tags=["hint"]
hint("08.5")

# %% [markdown]
# From one model to 32 in four lines:

# %%
STEPS = 30 if PRESET == "smoke" else 150
keys = repeat_keys(seed=0, first=0, count=32)
params = jax.vmap(lambda key: init(jax.random.fold_in(key, 0)))(keys)
order = jax.vmap(lambda key: grid_data.batches(jax.random.fold_in(key, 1), len(x), 32, STEPS))(keys)
params, losses = train_grid(train, params, x, y, order)
jax.tree.map(jnp.shape, (params, losses))

# %%
plots.show(
    figures.draw_losses(losses, f"32 networks, one program: {images.title}"),
    alt="Training loss of 32 repeats over the steps, thin lines, and their mean: all fall, at different speeds.",
)

# %%
test_x, test_y = grid_data.task_tensors(images.test, pairs[:, 0])
answers = jax.vmap(logits, in_axes=(0, 1), out_axes=1)(params, jnp.asarray(test_x)).argmax(-1)  # (images, repeats)
accuracy = np.asarray((answers == test_y).mean(axis=0))
plots.show(
    figures.draw_repeats({"two layers": accuracy}, f"Task 1, test images: {images.title}"),
    alt="One dot for each of 32 repeats on an axis of accuracy, spread over tens of points, and the mean with its interval.",
)
print(f"best repeat {accuracy.max():.0%}, worst repeat {accuracy.min():.0%}")

# %% [markdown]
# Same code, same number of images, same settings. Had you run one of these, which one would it have been?

# %% [markdown]
# ## 5 · A trap
# The network of the grid is a small CNN: three 3x3 convolutions and two dense layers. `vmap` over *images* is what
# convolutions are made for. But here every repeat has **weights of its own**, and `vmap` goes over those as well. And all of it
# runs inside a `lax.scan`.

# %% tags=["widget"]
prediction = widgets.predict(
    "16 repeats at once instead of 1: what happens to the time per repeat of a convolution?",
    options=["it falls", "it stays the same", "it rises"],
)

# %%
COUNTS = (1, 2) if PRESET == "smoke" else (1, 16)
times = figures.timed_forms({"lax.conv": jax.lax.conv_general_dilated}, COUNTS)["lax.conv"]
prediction.compare(
    ", ".join(f"{count} repeats: {value / times[0]:.1f}" for count, value in zip(COUNTS, times, strict=True))
)

# %% [markdown]
# (In units of the time with one repeat.) Ask the program what became of the convolution. `lower` translates a function for the
# compiler, and the text can be read:

# %%
import re

kernels, pictures = jnp.ones((16, 3, 3, 1, 8)), jnp.ones((16, 4, 28, 28, 1))
convolve = jax.vmap(lambda x, k: jax.lax.conv(x.transpose(0, 3, 1, 2), k.transpose(3, 2, 0, 1), (2, 2), "SAME"))
program = jax.jit(convolve).lower(pictures, kernels).as_text()
print(re.findall(r"feature_group_count = \d+", program))

# %% [markdown]
# One convolution in 16 **groups**: the repeats were laid side by side as channels that must not see each other. On a CPU the
# compiler has no fast code for groups. It has none either for a convolution inside a `lax.scan`, with groups or without: the table below
# will show that already for one repeat.
#
# The way out is as old as convolutions on computers. For every output pixel, cut out the 3x3 patch under the kernel, lay it in a row, and
# multiply by the kernel as a matrix. Mapped over repeats, that is a batch of matrix products, which every machine does well.
#
# ### Exercise 08.6 · A convolution as a matrix product
# {{card:08.6}}
#
# `x` is `(n, H, W, channels)`. With one pixel of zeros around it, cut all 3x3 patches, every `stride` pixels. Return
# `(n, height, width, 9 * channels)`, a patch in the order of a kernel `(3, 3, channels, features)`. No loop over places:
# nine slices will do.


# %% tags=["exercise"]
def cut_patches(x, stride):
    """All 3x3 patches, (n, height, width, 9 * channels)."""
    ### BEGIN SOLUTION
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    cut = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(3) for j in range(3)]
    return jnp.concatenate(cut, axis=-1)
    ### END SOLUTION


# %% tags=["check"]
cut_patches = check("08.6", cut_patches)
points("08.6")

# %% tags=["hint"]
hint("08.6")


# %%
def patch_convolution(x, kernel, window_strides, padding, dimension_numbers):
    """A 3x3 convolution from your patches, with the arguments of jax.lax.conv_general_dilated."""
    return cut_patches(x, window_strides[0]) @ kernel.reshape(-1, kernel.shape[-1])


forms = {"lax.conv": jax.lax.conv_general_dilated, "patches": patch_convolution}
figures.show_forms(figures.timed_forms(forms, COUNTS), COUNTS)

# %% [markdown]
# The same numbers, another program. Flax lets you hand it in without a change to the network:
# `nnx.Conv(..., conv_general_dilated=patches)`. For the whole network and a training step, `benchmarks/grid.py` measured the
# obvious ways side by side, in one run:

# %%
figures.show_benchmark()

# %% [markdown] tags=["claim"]
# **Claim A.** In the recorded run with 32 repeats, the vmapped convolution inside a scan takes more than fifteen times as long as
# the grid. Two traps multiply: called step by step from Python, without a scan, the vmapped form takes more than twice as long as a loop
# over one model (groups), and inside a scan more than three times as long again. A PyTorch loop over 32 models, with one thread or with
# all, takes more than twice as long as the grid; so the obvious program was far slower than no vmap at all.
#
# The first row does more than the patches: it uses two cores as two devices, and on each it computes one repeat *after* the other
# (`jax.lax.map`). The next two rows take that apart. On a CPU, "at once" means one program. On a GPU the grid takes `vmap`.
#
# None of this is a law. On a GPU or with another network it may come out differently, so the grid measures both forms for a moment
# before it starts (`convolution="auto"`).

# %% [markdown]
# ## 6 · One run is an anecdote
# Now a whole stream. Each repeat learns task after task with plain SGD (**SL**, supervised learning). Beside it stands the
# **expert**: for each task a fresh network, trained on that task alone, in the same way and for as many steps. On the task that was just
# learned, the expert says how hard the task is.

# %% [markdown]
# The rule is one pure function of one repeat; everything you wrote so far goes around it. (`weights` will let replayed images count or
# not; `has_aux` returns the logits beside the gradient.)

# %%
from course_utils.grid.rules import sl

course.show(sl.gradient)

# %%
short = course.experiment("short")
last = short.records["SL"][0]
own, expert = (figures.series(last, name) for name in ("own", "expert"))  # (bins of tasks, repeats)
first, whole = figures.bins(last)[0], f"1 to {last['last'][-1]}"
groups = {
    f"SL, task {first}": own[0],
    f"expert, task {first}": expert[0],
    f"SL, task {whole}": own.mean(axis=0),
    f"expert, task {whole}": expert.mean(axis=0),
}
plots.show(
    figures.draw_repeats(groups, f"{own.shape[1]} repeats: {short.data_title}"),
    alt="Four rows with one dot a repeat: learner and expert on the first tasks, widely spread, and in the mean over all tasks, closer "
    "together.",
)

# %%
plots.show(
    figures.draw_same_tasks(short),
    alt="Accuracy of the learner against that of the expert on the first tasks, one dot a repeat: the dots rise together.",
)

# %% [markdown] tags=["claim"]
# **Claim B.** In the full run, the luckiest of 32 repeats of *one and the same* learner is more than 20 points above the unluckiest on
# the first two tasks, and still more than five points when averaged over all twenty. Much of it is the draw of classes and of their
# test images: what is hard for the learner is hard for the expert (over repeats, their accuracies correlate above 0.5). That is the
# bias of a single run: with other classes it would have told another story, and nothing in it says so.

# %% [markdown]
# So a comparison needs many repeats, and each repeat must meet *the same tasks* under both algorithms: then what is
# easy or hard about them cancels in the difference. What is left is to say how sure the difference is.
#
# ### Exercise 08.7 · How sure are R repeats?
# {{card:08.7}}
#
# `first` and `second` are accuracies `(T, R)` of two algorithms; repeat r has met the same tasks in both. The tasks of one
# repeat share a network, the repeats share nothing. Return the mean of `first - second` and the ends of its 95 % interval
# over repeats: `(mean, low, high)`, by Student's t (`scipy.stats.t.ppf(0.975, degrees_of_freedom)`).


# %% tags=["exercise"]
import scipy.stats


def paired_interval(first, second):
    """(mean, low, high) of the difference over repeats."""
    ### BEGIN SOLUTION
    difference = (first - second).mean(axis=0)  # (R,)
    repeats = len(difference)
    half = scipy.stats.t.ppf(0.975, repeats - 1) * difference.std(ddof=1) / np.sqrt(repeats)
    return difference.mean(), difference.mean() - half, difference.mean() + half
    ### END SOLUTION


# %% tags=["check"]
paired_interval = check("08.7", paired_interval)
points("08.7")

# %% tags=["hint"]
hint("08.7")

# %%
for count in [count for count in (2, 4, 8, 16, 32) if count <= own.shape[1]]:
    mean, low, high = (100 * value for value in paired_interval(own[:, :count], expert[:, :count]))
    print(
        f"{count:2} repeats: SL - expert on the current task = {mean:5.2f} points, 95 % interval {low:6.2f} to {high:5.2f}"
    )

# %% [markdown] tags=["reflection"] points=2
# **Reflection 1.** A paper compares two methods on one order of classes with one seed each, and reports 71.4 % against
# 70.1 %. Which two sources of chance are mixed in this difference? Which of them would five more seeds on the same order
# remove, and which not?

# %% [markdown] tags=["answer"]
# *Rubric: one point for naming both sources, one for saying what more seeds do.*
#
# The draw of the classes and their order (which pairs are hard, what comes before what), and the draw of weights, batches and everything else that
# a seed decides. Five more seeds average over the second. The order stays the same, so the result still holds for this
# order alone: a method may suit it. Several orders are needed, the same ones for both methods.

# %% [markdown]
# ## 7 · Forgetting, and replay
# Each new task is a new meaning of the two outputs: this is domain-incremental learning, as in lesson 01. **Replay** (`er`) adds to
# every batch as many stored images of earlier tasks. The memory is one array on the device, a few images of *every class
# of the data set*, shared by all repeats. A repeat draws from it only classes that it has met. Memory for 32 repeats costs
# what it costs for one.

# %%
ROWS = {
    "current task (%)": ("own", slice(None)),
    "expert on the current task (%)": ("expert", slice(None)),
    "earlier tasks, at the end (%)": ("past", slice(-1, None)),
    "tasks still to come, zero-shot (%)": ("zero_shot", slice(0, -1)),
    "training images, at the end (%)": ("train_accuracy", slice(-1, None)),
    "dormant units, last three tenths (%)": ("dormant_fraction", slice(-3, None)),
    "effective rank, at the end": ("effective_rank", slice(-1, None)),
}
figures.show_runs(short, ROWS, "A short stream. What the last two rows are, section 9 will tell.")

# %%
lines = {
    "SL, current task": ("SL", "own"),
    "SL, earlier tasks (floor)": ("SL", "past"),
    "replay, current task": ("SL + replay", "own"),
    "replay, earlier tasks": ("SL + replay", "past"),
    "expert, current task (ceiling)": ("SL", "expert"),
}
plots.show(
    figures.draw_over_tasks(short, lines, f"A short stream: {short.data_title}", "accuracy on test images (%)"),
    alt="Accuracy over the tasks, learner with and without replay: on the current task beside the expert's, on earlier tasks beside guessing.",
)

# %% [markdown] tags=["claim"]
# **Claim C.** In the full run, SL ends at chance on earlier tasks: the two outputs mean the latest pair and nothing else. Replay of
# 20 images a class remembers more, and with 32 repeats there is no doubt about it: the whole interval of the difference lies above
# one point. It is also little, and it costs more than five points on the current task. Twenty photographs of a class are learned by
# heart (nearly all training images are right) and say little about the others. In the quick preset, on glyphs,
# twenty images say more about a class: the gain is larger than the price.

# %% [markdown]
# ## 8 · Does a network get tired?
# Forgetting is losing the old. There is another way to fail: learning the *new* worse and worse. It is called **loss of
# plasticity**, and it shows in one number only, the accuracy on the task just trained. The expert says what is possible. The distance between
# the two is what the past costs or gives.
#
# One remedy needs a single line: **shrink and perturb** (`pl`). Before every task the weights shrink towards zero and a share of
# a fresh network is added.
#
# ### Exercise 08.8 · Shrink and perturb
# {{card:08.8}}
#
# Both are pytrees of the same structure. `shrink` is the share by which the old weights shrink, `perturb` the share of the
# fresh ones that is added.


# %% tags=["exercise"]
def shrink_and_perturb(params, fresh, shrink, perturb):
    """(1 - shrink) * old + perturb * fresh, for every array."""
    ### BEGIN SOLUTION
    return jax.tree.map(lambda old, new: (1 - shrink) * old + perturb * new, params, fresh)
    ### END SOLUTION


# %% tags=["check"]
shrink_and_perturb = check("08.8", shrink_and_perturb)
points("08.8")

# %% tags=["hint"]
hint("08.8")

# %% [markdown]
# Learning rate and amount of shrinking were chosen as lesson 01 asks: on training images held out, and on *other repeats*,
# which have other pairs and other weights than those below. The rate was chosen for fresh networks. If it favours anybody, it
# is the expert; so SL is also run at a third of it. Between the four amounts of shrink and perturb the table finds no difference
# worth the name: any of them would do.

# %%
choice = course.recorded("choice")
if choice:
    figures.show_choice(choice, "lr", "Fresh networks, 20 tasks.")
    figures.show_choice(choice, "perturb", "SL with shrink and perturb, the second half of 60 tasks.")

# %% tags=["widget"]
tired = widgets.predict(
    "After a long stream of tasks, how does SL do on a new task, compared with a fresh network?",
    options=["worse", "the same", "better"],
)

# %%
long = course.experiment("long")
recorded = course.recorded("long") or long  # the full runs, or your own where there are none
print(f"The figures below show {'your own runs' if recorded is long else 'the recorded full runs'}.")
LATE = slice(-3, None)  # the last three bins: 30 of 100 tasks in full
figures.show_runs(
    long,
    {
        "first tasks (%)": ("own", slice(0, 1)),
        "expert, first tasks (%)": ("expert", slice(0, 1)),
        "last tasks (%)": ("own", LATE),
        "expert, last tasks (%)": ("expert", LATE),
        "training images, first tasks (%)": ("train_accuracy", slice(0, 1)),
        "training images, last tenth (%)": ("train_accuracy", slice(-1, None)),
        "earlier tasks, last tasks (%)": ("past", LATE),
    },
    "A long stream: accuracy on the task just trained. First tasks: a tenth of the stream; last tasks: three tenths.",
)
late = recorded.records["SL"][0]
gap = paired_interval(figures.series(late, "own")[LATE], figures.series(late, "expert")[LATE])
tired.compare("{:+.1f} points, 95 % interval {:+.1f} to {:+.1f}".format(*(100 * value for value in gap)))

# %%
plots.show(
    figures.draw_gap(recorded, "SL"),
    alt="Accuracy on the task just trained minus that of the expert, over a long stream, a line for each algorithm with paired intervals: "
    "SL falls below zero, shrink and perturb stays at it.",
)

# %% [markdown] tags=["claim"]
# **Claim D.** In the full run, SL is as good as a fresh network in the first ten tasks. In the last thirty of 100 it is behind by
# more than two points, with the whole interval below zero: it has lost plasticity. All eight repeats are behind; one of them is
# almost at chance at the end. It is not that the tasks are harder: the expert is as good as before. SL cannot even fit its training
# images: from 98 % right in the first ten tasks to under 85 % in the last ten. Neither a third of the learning rate nor a read-out that
# starts every task at zero prevents it, though the latter begins *above* the expert. With shrink and perturb there is nothing of the
# kind: over the same thirty tasks it stays within one point of the expert.
#
# The quick preset, on 10 tasks of glyphs, tells another story: there SL is rather *better* than the expert, because strokes learned
# before help with new ones. Loss of plasticity needs long streams, or hard tasks. In the experiment that made it known, on 32x32 colour
# images of ImageNet with 3,000 steps a task and a read-out that is reset, accuracy rose at first, to 85 %, and then fell to 74 % over two
# thousand tasks (means of 50 tasks at the largest step size, read off the authors' figure; the abstract speaks of 89 % on an early task).

# %% [markdown]
# ## 9 · What goes with it
# What changes inside? Some measures, all from the representations (activations of the last hidden layer on test images) and
# the weights at the end of each task:
#
# - **dormant units**: share of units that answer 0 to all test images of the task. Such a ReLU passes no gradient, so its own weights
#   stand still; only other images, or changes in the layers below, can wake it.
# - **rank**: how many directions the representations use. Few directions can hold few distinctions.
# - **size of the weights** (root mean square), and how far they move in a task.
#
# You write the second one.
#
# ### Exercise 08.9 · Effective rank
# {{card:08.9}}
#
# `features` is `(samples, units)`. Divide the singular values by their sum: shares $p_i$. Return
# $\exp\!\left(-\sum_i p_i \log p_i\right)$, with $0 \log 0 = 0$.


# %% tags=["exercise"]
def effective_rank(features):
    """From 1 (one direction) to the number of directions, if all carry the same."""
    ### BEGIN SOLUTION
    values = np.linalg.svd(features, compute_uv=False)
    shares = values / values.sum()
    shares = shares[shares > 0]
    return np.exp(-(shares * np.log(shares)).sum())
    ### END SOLUTION


# %% tags=["check"]
effective_rank = check("08.9", effective_rank)
points("08.9")

# %% tags=["hint"]
hint("08.9")

# %%
MEASURES = ("train_accuracy", "dormant_fraction", "effective_rank", "weight_rms", "task_drift")
plots.show(
    figures.draw_measures(recorded, MEASURES, f"A long stream: {recorded.data_title}"),
    alt="Five panels over the tasks of a long stream, a line for each algorithm: accuracy on training images, dormant units, "
    "effective rank, size of the weights and their change within a task.",
)

# %% [markdown] tags=["claim"]
# **Claim E.** In the full run of SL, units die: from under 5 % in the first ten tasks to over 70 % in the last ten. The effective
# rank falls to less than a third (a layer that is silent altogether counts as rank 0), and the weights grow to more than one and a half
# times their size. With shrink and perturb hardly any unit is dormant and the weights stay small. The warning comes early: in tasks
# 21 to 30 half of SL's units are dormant, and its accuracy is still the expert's.
#
# In SL all three go together. The other two runs take them apart. *Slower*: the weights grow little, and it falls behind just as far. *Head reset*:
# most units live, the rank is kept, over 90 % of the training images are fitted, and it is behind the expert all the same. And shrink and
# perturb has a *lower* rank than SL in the first tasks, with an accuracy that is the same within the intervals. No single number is the illness.

# %% [markdown] tags=["reflection"] points=2
# **Reflection 2.** Replay against forgetting, shrink and perturb against loss of plasticity. Would you expect either to help
# against the *other* failure? Say which of the runs above, or which one that was not made, could decide it.

# %% [markdown] tags=["answer"]
# *Rubric: one point for a reason for each remedy, one for naming a run and what to look at in it.*
#
# Shrink and perturb weakens what is stored in the weights, old knowledge included, so it should not help to remember; it may
# hurt. Its accuracy on earlier tasks beside that of SL would show it (in the long runs both are at chance, so nothing is left to
# lose). Replay keeps old images in every batch: the network has to serve more tasks with the same units, which may keep features
# diverse or leave less room for the new task. The short stream decides for twenty tasks: with replay hardly a unit dies and the rank
# grows, and still accuracy on the current task is lower. Living units are not yet plasticity. What happens after a hundred tasks
# would take a long stream with replay, which was not made here.

# %% [markdown]
# ## 10 · The shape of what it knows
# A class is not a point but a cloud, a **manifold**: all its images, as the network represents them. A read-out separates clouds the
# more easily, the smaller they are, the farther apart, and the fewer directions they extend in. **Manifold capacity** makes this precise: how
# many such clouds *per feature* a linear read-out can still separate, if their labels are drawn at random. Points have capacity 2.
# Directions that no image uses do not count as features, so two clouds in N used directions have at least capacity 2 / N. **Radius** is the
# size of a cloud, relative to the distance of its centre; **dimension** the number of directions it fills. (These are the measures of
# both clouds together, after Chou et al.)

# %%
GEOMETRY = ("capacity", "radius", "dimension")
plots.show(
    figures.draw_measures(recorded, GEOMETRY, f"Two classes of the current task: {recorded.data_title}"),
    alt="Three panels over the tasks, a line for each algorithm: capacity, radius and dimension of the two classes.",
)

# %% [markdown] tags=["claim"]
# **Claim F.** In the full run of SL, the dimension of the clouds falls, and their capacity *rises*, to more than twice that of shrink and
# perturb (tasks 80, 90 and 100 together), while accuracy falls. A better geometry for a worse network? When nearly all units are dead,
# few directions are left, and the least capacity that two clouds can have, 2 / N, comes up. Read a geometry together with a rank, and
# with the accuracy that it should explain. Two classes are few for a measure made for many, and eight repeats are few as well: look at the
# bars. (In the last two bins one repeat of SL is left out: all its representations are zero.)

# %% [markdown]
# All of it at one time of the stream. Move the slider to a task: the vertical lines mark its place, accuracy is the mean of the tasks
# around it, the spectrum (singular values of the representations) that of this task, mean over repeats, and the clouds are one repeat's test
# images of this task, on the two directions in which they differ most. At task 100 of SL most of the images lie on one spot: to this
# network they look the same. That is what dead units do.

# %% tags=["widget"]
TIMES = late["last"]


def moment_figure(algorithm, task):
    return figures.draw_moment(recorded, algorithm, TIMES.index(task))


moment = widgets.explore(
    moment_figure,
    alt="Four panels for one time of the stream: accuracy so far against the expert, spectrum of the representations against that "
    "of the first tasks, the two classes on their first two principal components, and geometry relative to the first tasks.",
    algorithm=widgets.choice(recorded.labels),
    task=widgets.choice(TIMES, default=TIMES[-1]),
)

# %% [markdown]
# ## 11 · Plan it, run it, read it
# A grid logs while it trains: weights, accuracy on evaluated tasks, representations. That is what makes later questions
# possible, and it is what fills disks. So it says beforehand what it will write.

# %%
import tempfile

small = grid.GridConfig(
    data="glyphs", num_tasks=2, num_repeats=8, steps_per_task=20, log_frequency=10, convolution="patches",
    devices=grid.best_devices(8),
)  # fmt: skip
folder = grid.run(small, tempfile.mkdtemp() + "/glyphs", images=images)

# %%
results = grid.GridResults(folder)
for path in sorted(results.path(0).iterdir()):
    print(f"{path.name:22} {path.stat().st_size:>9,} bytes")
print("weights of the read-out:", results.weights(0)["dense2"]["kernel"].shape, "(log points, repeats, hidden, 2)")
print("accuracy:", results.metrics(0)["accuracy"].shape, "(log points, repeats, evaluated tasks)")
print("representations:", results.representations(0).shape, "(log points, repeats, tasks, samples, hidden)")

# %% [markdown]
# - **Killed?** Start it again: it goes on with the first unfinished task and ends with the same bytes. Every random number comes from
#   (seed, repeat, task, use), so nothing but the weights has to be saved.
# - **More cores or devices?** `devices=4` gives each a quarter of the repeats. They never talk to each other, so the program has
#   no communication in it, and the numbers stay the same.
# - **More machines?** Exercise 08.3: `course grid run --first-repeat 32` on the second one.
# - **Too large for memory?** The task's images come and go; test sets can be read task by task (`--no-preload`), evaluated
#   tasks capped (`--eval-tasks`), repeats mapped in chunks instead of all at once (`--repeat-axis map`).
#
# On a command line it is `course grid run --data glyphs --num-tasks 10 --num-repeats 32 --analyse`, and `--dry-run` asks only for the size.
#
# ### Exercise 08.10 · A grid on a budget
# {{card:08.10}}
#
# Your question: on 50 tasks of `"tiny_imagenet_gray"` with 300 steps each, does a variant differ from SL by a point or more? In a pilot the
# paired difference had a standard deviation of 2.5 points between repeats. Return a `grid.GridConfig` for SL such that
#
# 1. the 95 % interval of such a difference is at most ± 1 point, with at most 40 repeats;
# 2. for the end of *every* task there are accuracy, the expert's accuracy, and representations of the current task;
# 3. all of it takes at most 1 GB on disk.
#
# | field | meaning |
# | --- | --- |
# | `num_repeats` | repeats |
# | `log_frequency` | steps between two log points; the weights of every log point are written |
# | `representations` | at which log points they are kept: `"all"`, `"log"` (log-spaced), `"last"` (the end of a task) or `"none"` |
# | `eval_tasks` | so many tasks are tested besides the current one; 0: all of them |
# | `expert` | whether fresh networks are trained too; `True` unless you say otherwise |
#
# The others are as above: `data`, `num_tasks`, `steps_per_task`.


# %% tags=["exercise"]
def design():
    """A grid.GridConfig for the question above."""
    ### BEGIN SOLUTION
    return grid.GridConfig(
        data="tiny_imagenet_gray", num_tasks=50, num_repeats=32, steps_per_task=300,
        log_frequency=300, eval_tasks=5, representations="last",
    )  # fmt: skip
    ### END SOLUTION


# %% tags=["check"]
design = check("08.10", design)
points("08.10")

# %% tags=["hint"]
hint("08.10")

# %% [markdown]
# ## What this does not show
# - **That deep networks lose plasticity in general.** One small CNN, plain SGD, one learning rate (and a third of it), photographs at 28x28 grey
#   on which even a fresh network gets little more than 70 %. Adam, normalisation layers and other activations were not tried.
# - **A cause.** Dormant units, ranks and sizes were watched, and taken apart by two more runs; none was changed by itself.
# - **That shrink and perturb is for free.** Here it costs nothing measurable on new tasks. It takes no step against forgetting: with
#   and without it, earlier tasks are at chance.
# - **The long run.** 100 tasks are all that 200 classes give without repeating one. The published experiments go on for 2,000 to 5,000.
#
# ## Summary
# - Write what one model does, as a pure function; `grad`, `jit`, `scan` and `vmap` make it a program for many.
# - A key depends on seed, repeat, task and use, so any split of the work gives the same numbers.
# - `vmap` over weights turns a convolution into a grouped one, and a scan makes it slower still. Patches and a matrix product are the
#   cure; measuring found it.
# - Repeats are what counts, not tasks. Same tasks for both algorithms, difference within a repeat, interval over repeats.
# - Forgetting is seen on old tasks, loss of plasticity on the new one, beside an expert. Each has a remedy of its own.
#
# The table counts the exercises. Reflections are graded by hand.

# %%
course.score()

# %% [markdown]
# ## Further reading
# - S. Dohare et al., *Loss of plasticity in deep continual learning*, Nature 632, 2024,
#   [doi:10.1038/s41586-024-07711-7](https://doi.org/10.1038/s41586-024-07711-7), and its
#   [code](https://github.com/shibhansh/loss-of-plasticity).
# - J. Ash, R. Adams, *On warm-starting neural network training* (shrink and perturb), 2020,
#   [arXiv:1910.08475](https://arxiv.org/abs/1910.08475).
# - G. Sokar et al., *The dormant neuron phenomenon in deep reinforcement learning*, 2023,
#   [arXiv:2302.12902](https://arxiv.org/abs/2302.12902).
# - S. Chung, D. Lee, H. Sompolinsky, *Classification and geometry of general perceptual manifolds*, 2018,
#   [arXiv:1710.06487](https://arxiv.org/abs/1710.06487); C.-N. Chou et al., *Geometry linked to untangling efficiency* (GLUE), 2025,
#   for clouds that are correlated.
# - C. Lu et al., [PureJaxRL](https://github.com/luchris429/purejaxrl): whole experiments as one function from a key to results.
# - JAX's own pages on [pure functions](https://docs.jax.dev/en/latest/notebooks/Common_Gotchas_in_JAX.html) and
#   [automatic vectorization](https://docs.jax.dev/en/latest/automatic-vectorization.html).
