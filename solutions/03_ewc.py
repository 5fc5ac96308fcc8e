# %% [markdown]
# # 03 · Protecting weights
#
# {{badges}}
#
# **Can we protect weights instead of storing data?**
#
# You need: lesson 01 (the accuracy matrix, three scenarios), the beginning of lesson 02 (a head that grows), gradients
# and derivatives of a function of several variables. You need no GPU.
#
# Time: about {{human_minutes}} minutes of yours; the machine needs {{machine_minutes}}. Points: {{points}}.

# %% [markdown]
# ## You will be able to
# - say what a quadratic penalty protects and what it leaves free, with two weights and with a network,
# - compute the Fisher diagonal, and recognise two wrong versions of it that public code ships,
# - write the importance of SI and of MAS, the projection of A-GEM and the mask of PackNet,
# - choose a penalty's strength without the future, and say what that choice costs,
# - explain why no strength rescues EWC in class-incremental learning,
# - weigh methods by accuracy, time per task and what they store.
#
# ## Set-up

# %% tags=["parameters"]
import os

PRESET = os.environ.get("COURSE_PRESET", "quick")

# %% tags=["setup"]
from course_utils import (
    start,
    check,
    hint,
    points,
    Learner,
    landscape,
    methods,
    metrics,
    models,
    plots,
    streams,
    widgets,
)

course = start("03_ewc", preset=PRESET)

# %%
import numpy as np
import torch

from course_utils.lessons.experiments import lesson_03 as lesson, lesson_03_figures as figures

torch.set_num_threads(1)  # this lesson's networks are so small that a second core only costs time

# %% [markdown]
# ## 1 · Two weights, by hand
# Lesson 01 ended training on task A in a valley: across it the loss rises steeply, along its floor hardly. Then training
# on B left the valley, because nothing told it to stay. Lesson 02 stored images of A to have A's loss at hand. But near
# its minimum A's loss is nearly a bowl, and a bowl can be written down: where its centre is, and how steep it is in every
# direction. Store *that*, and no image.
#
# Train on B with a **penalty** added:
#
# $$L_B(w) + \frac{\lambda}{2} \sum_i F_i\,(w_i - w^A_i)^2$$
#
# $w^A$ are the weights after A, the **anchor**. $F_i \ge 0$ is the **importance** of weight $i$: its curvature in A's
# bowl. $\lambda$ is the **strength**: how much the past counts. This is Elastic Weight Consolidation, EWC.

# %% [markdown]
# ### Exercise 03.1 · A penalty by hand
# {{card:03.1}}
#
# With two weights and $L_B(w) = \frac{1}{2} (w - c_B)^\top H_B\, (w - c_B)$ the minimum of the sum can be written down.
# Set the derivative to zero, and solve the linear system for $w$ (`np.linalg.solve`).


# %% tags=["exercise"]
def ewc_minimum(hessian_b, centre_b, fisher_a, centre_a, strength):
    """The weights (2,) with the lowest loss of B plus penalty.

    hessian_b: (2, 2), centre_b: (2,) of task B. fisher_a: (2,) importances, centre_a: (2,) the anchor.
    """
    ### BEGIN SOLUTION
    pull = strength * np.diag(fisher_a)
    return np.linalg.solve(hessian_b + pull, hessian_b @ centre_b + pull @ centre_a)
    ### END SOLUTION


# %% tags=["check"]
ewc_minimum = check("03.1", ewc_minimum)
points("03.1")

# %% tags=["hint"]
hint("03.1")

# %%
hessian_b, centre_b = np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([2.0, 2.0])
for strength in (0, 1, 10, 1000):
    w = ewc_minimum(hessian_b, centre_b, fisher_a=np.array([0.1, 1.0]), centre_a=np.zeros(2), strength=strength)
    print(f"lambda {strength:4}: first weight {w[0]:5.2f}, second weight {w[1]:5.2f}")

# %% [markdown]
# The second weight matters to A and comes home first: at $\lambda = 10$ it is near 0, while the first one is still at 1.45.
# (At $\lambda = 1$ the first one even goes beyond 2: through the 0.5 in `hessian_b` it makes up for the second.) In the
# picture the dotted ellipses are lines of equal penalty: wide where A does not care.

# %% tags=["widget"]
protected = widgets.explore(
    figures.draw_protection,
    alt="Valley of task A as blue areas, valley of task B as orange lines, and dotted ellipses of the penalty around A's "
    "minimum. Training on B with EWC slides along A's valley towards the joint minimum.",
    penalty=widgets.choice(figures.PENALTIES),
    strength=widgets.choice((0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0), default=1.0),
    angle=widgets.slider(-45, 45, 0),
)

# %% [markdown]
# Move the sliders and watch the title.
#
# - **strength** 0 is fine-tuning; 100 hardly leaves A. At angle 0 and strength 1 the penalty *is* A's bowl, so EWC ends in
#   the joint minimum.
# - **penalty** L2 counts both weights the same: its ellipses are circles. It cannot hold the steep direction without
#   holding the flat one, too. With the right strength its sum is here only a little worse.
# - **angle** turns A's valley. At -45 degrees the ellipse is a circle as well, although the valley is as narrow as before:
#   one number for each weight cannot describe a valley that runs across the axes. No strength reaches the joint minimum
#   now. That is what we lose by keeping only the *diagonal* of the curvature.

# %% [markdown]
# ## 2 · The penalty of a network
# A network has tens of thousands of weights, and the same formula. Importances and anchors are dictionaries: name of the
# parameter to tensor. One trap: the head grows. The new rows have no anchor, and must stay free.

# %% [markdown]
# ### Exercise 03.2 · The quadratic penalty
# {{card:03.2}}
#
# All arguments but the last map names to tensors. The names in `anchors` are the ones to sum over; `importance[name]` has
# the anchor's shape. `weights[name]` may have more rows: the first rows are the old ones.


# %% tags=["exercise"]
def quadratic_penalty(weights, anchors, importance, strength):
    """strength/2 times the sum of importance * (weight - anchor)^2, a scalar tensor with a gradient."""
    ### BEGIN SOLUTION
    total = 0.0
    for name, anchor in anchors.items():
        old = weights[name][: len(anchor)]
        total = total + (importance[name] * (old - anchor) ** 2).sum()
    return strength / 2 * total
    ### END SOLUTION


# %% tags=["check"]
quadratic_penalty = check("03.2", quadratic_penalty)
points("03.2")

# %% tags=["hint"]
hint("03.2")

# %% [markdown]
# A whole family of methods has this penalty: L2, EWC, SI and MAS. They differ in one function, `importance`. (L2's is 1 for
# every weight.) Here is what they share.

# %%
course.show(methods.Quadratic.loss)
course.show(methods.Quadratic.after_task)

# %% [markdown]
# With one `(importance, anchor)` pair for each old task, the list `terms` grows with the stream, and so does the time of
# a step: that is EWC. The **online** version keeps one running sum of importances around the latest weights, and stays
# constant. Online EWC, SI and MAS do this; L2 keeps only the latest anchor.

# %% [markdown]
# ## 3 · Which weights matter? Find the bug
# How sharply does the old task's loss curve in the direction of one weight? The **Fisher information** answers this
# without second derivatives: where the model's probabilities are right, the curvature of the loss equals the mean of the
# *squared slopes* of the log-probability. For an image $x$ let the model itself draw a label $y$:
#
# $$F_i = \frac{1}{n} \sum_x \mathbb{E}_{y \sim p(y|x)} \left[ \left( \frac{\partial \log p(y|x)}{\partial w_i} \right)^2 \right]$$
#
# ($\mathbb{E}$ is the mean over labels drawn from the model. One drawn label per image estimates it.) The following
# function is how much public code computes it, in libraries and course notebooks. It runs, and its numbers are not
# negative. It is not the Fisher diagonal. Read it before you read on: what is wrong?


# %%
def shipped_fisher(model, x, y):
    """Importance as it is often shipped. x: (n, ...) images, y: (n,) their labels."""
    loss = torch.nn.functional.cross_entropy(model(x), y)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return [gradient**2 for gradient in gradients]


# %% [markdown]
# ### Exercise 03.3 · The Fisher diagonal
# {{card:03.3}}
#
# Write it right. `model(x)` gives logits `(n, classes)`. Draw one label per image with
# `torch.multinomial(probabilities, 1, generator=generator)`, which has the shape `(n, 1)`. The model may have dropout or
# BatchNorm: measure in eval mode, and give the model back in the mode in which you got it.


# %% tags=["exercise"]
def fisher_diagonal(model, x, generator):
    """Parameter name -> Fisher diagonal of the parameter's shape, from one label per image, drawn from the model."""
    ### BEGIN SOLUTION
    training = model.training
    model.eval()
    parameters = dict(model.named_parameters())
    fisher = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for image in x:
        log_p = model(image[None]).log_softmax(dim=1)[0]
        label = torch.multinomial(log_p.detach().exp(), 1, generator=generator)[0]
        gradients = torch.autograd.grad(log_p[label], list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            fisher[name] += gradient**2 / len(x)
    model.train(training)
    return fisher
    ### END SOLUTION


# %% tags=["check"]
fisher_diagonal = check("03.3", fisher_diagonal)
points("03.3")

# %% tags=["hint"]
hint("03.3")

# %% [markdown]
# Now the bug. Gradients of different images point in different directions, and at the end of training they cancel: that
# is what a minimum is. So the square of their *mean* is far too small, and how much too small depends on the batch size
# and on how long you trained. Others sum first and then square, which is $n^2$ times that. The square has to come first,
# image by image. (The other fault: the labels of the data are not the model's. That makes the **empirical** Fisher, a
# cousin that can be close or far.)
#
# The experiment compares four estimates with the exact diagonal, which sums over all labels instead of drawing one.

# %%
fishers = course.experiment("fisher", using={"fisher_diagonal": fisher_diagonal})
figures.show_estimates(fishers)

# %%
plots.show(
    figures.draw_estimates(fishers),
    alt="Four scatter plots of 200 weights against the exact Fisher value: estimates from single images stay closest to the "
    "line of equality; squares of a mean or a sum lie orders of magnitude away from it.",
)

# %% [markdown] tags=["claim"]
# **Claim A.** In the full run, with every seed, the two estimates from single images have a rank correlation above 0.95 with
# the exact diagonal, and their sum is within 30 % of its sum. The square of the batch mean sums to less than a tenth of it, the square
# of the sum to more than five hundred times it. Interesting: with these batches of 64 the *order* of the weights survives the
# batch mean. The *size* does not, and with it goes the meaning of $\lambda$: change the batch size, and you have another
# method. In the quick preset the network fits nearly every image, and the order suffers, too.
#
# One drawn label is unbiased, but noisy: rare labels carry much of the sum. With the 200 images of the quick preset it misses the
# exact sum by up to a third.

# %% [markdown]
# The course computes per-sample gradients of many images at once, with `torch.func.vmap`: one line instead of a loop.

# %%
course.show(methods.per_sample_gradients)

# %% [markdown]
# ## 4 · How strong?
# $\lambda$ has no natural size: it depends on the Fisher's, and so on the network and the data. It has to be chosen, and
# lesson 01 fixed the rule: on validation images of tasks already seen. We run tasks 1 and 2 with every candidate, and take the
# one with the best mean accuracy on the validation images of both. (After two tasks EWC and online EWC are still the same,
# so they share their $\lambda$.)

# %%
choice = course.experiment("choice")
figures.show_choice(choice, "task", "EWC")
figures.show_choice(choice, "class", "EWC")

# %% [markdown] tags=["claim"]
# **Claim B.** In the full run the choice hardly matters at these two ends. Task-incremental: all candidates from 10 to a million lie
# within two points. Class-incremental: within one point, and below 50 %, because task 1 is lost with every one of them.
# It matters in between, in domain-incremental learning: there the best $\lambda$ is worth more than four points over the
# worst. (Where the best is the last of the list, the list may be too short. Section 10 goes on to $10^8$.)
#
# Two tasks are little to choose on. In your run look at the class-incremental table, and remember the chosen value: a
# penalty that saves task 1 after two tasks can cost more than it saves after five.

# %% [markdown]
# ## 5 · Importance along the way: SI
# The Fisher is measured after a task. **Synaptic Intelligence** (SI) measures while training. In a small step the loss
# changes by about gradient times step, summed over all weights. So each weight can be credited with its share of the drop:
# its **path integral** is $-\sum_k g_i(k)\,\Delta w_i(k)$ over the steps $k = 0, \dots, T-1$. In a bowl the drop is half
# the curvature times the squared distance. So dividing by the squared distance gives half the curvature. A weight that
# raised the loss gets 0.

# %% [markdown]
# ### Exercise 03.4 · The path integral
# {{card:03.4}}
#
# $\Omega_i = \max\!\left(0, -\sum_k g_i(k)\,(w_i(k{+}1) - w_i(k))\right) \Big/ \left( (w_i(T) - w_i(0))^2 + \xi \right)$.
# The damping $\xi$ keeps a weight that did not move from getting a huge importance. Both arrays are NumPy arrays.


# %% tags=["exercise"]
def si_importance(gradients, weights, damping):
    """Omega (params,). gradients: (steps, params) at weights[k]; weights: (steps + 1, params), the first before step 1."""
    ### BEGIN SOLUTION
    steps = weights[1:] - weights[:-1]
    credit = -(gradients * steps).sum(axis=0)
    moved = weights[-1] - weights[0]
    return np.maximum(credit, 0) / (moved**2 + damping)
    ### END SOLUTION


# %% tags=["check"]
si_importance = check("03.4", si_importance)
points("03.4")

# %% tags=["hint"]
hint("03.4")

# %%
task_a = landscape.valley((-1.2, -0.6), angle=0)
path = landscape.descend(task_a, start=(2.0, 1.5), lr=0.05, steps=1000)
slopes = np.array([task_a.gradient(w) for w in path[:-1]])
print(f"loss taken away: {task_a.loss(path[0]) - task_a.loss(path[-1]):.3f}")
print(f"sum of credits:  {-(slopes * np.diff(path, axis=0)).sum():.3f}")
print("twice Omega:    ", (2 * si_importance(slopes, path, 1e-6)).round(2), " curvature of A:", np.diag(task_a.hessian))

# %% [markdown]
# From nothing but gradients and steps, SI finds A's curvatures. (The credits exceed the drop a little, because the steps are
# not infinitely small.) In a network two things blur this: the gradients are those of
# batches, and Adam's steps do not follow the gradient. As a method, SI takes the gradient of the task's own loss. With the
# penalty's in it, it would credit weights for obeying the penalty.

# %%
course.show(methods.SI)

# %% [markdown]
# ## 6 · Edit the gradient: GEM and A-GEM
# Another idea: leave the loss as it is, and change the *step*. **GEM** stores some images of each old task and computes the
# gradient of each task's loss on them. A step that would raise one of these losses is changed as little as possible so that it raises none. **A-GEM** asks
# for less: the *average* loss on stored images must not rise. One reference gradient $r$ from the memory, one dot product:
#
# - $g \cdot r \ge 0$: the step does no harm. Take it as it is.
# - $g \cdot r < 0$: take out the part that points against $r$: $g - \frac{g \cdot r}{r \cdot r}\, r$.
#
# (These two store images. They are here because they edit gradients, and to see what images are worth.)

# %% [markdown]
# ### Exercise 03.5 · Do no harm
# {{card:03.5}}


# %% tags=["exercise"]
def project(gradient, reference):
    """The step for A-GEM; both are flat tensors (params,)."""
    ### BEGIN SOLUTION
    dot = gradient @ reference
    if dot >= 0:
        return gradient
    return gradient - dot / (reference @ reference) * reference
    ### END SOLUTION


# %% tags=["check"]
project = check("03.5", project)
points("03.5")

# %% tags=["hint"]
hint("03.5")

# %%
reference = torch.tensor([0.0, 1.0])
for gradient in (torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])):
    print(f"gradient {gradient.tolist()}, reference {reference.tolist()}: step {project(gradient, reference).tolist()}")

# %% [markdown]
# ## 7 · Share out the network: PackNet
# The strictest protection: weights of an old task never change again. **PackNet** trains the free weights (the frozen
# ones take part, but stand still), keeps the largest of them, sets the rest, three quarters, to zero and gives them back.
# In the second half of its steps it trains those it kept. Biases belong to the first task. A task is answered with its
# own weights and those of earlier tasks, so its answers stay the same to the last bit. The price: PackNet must be *told*
# which task a test image is from, to switch the right weights on. And every task leaves less room for the next.

# %% [markdown]
# ### Exercise 03.6 · What to keep
# {{card:03.6}}
#
# Among the free weights, keep the `1 - prune` of largest magnitude: `max(1, round((1 - prune) * number of free weights))`
# of them, exactly.


# %% tags=["exercise"]
def keep_mask(weights, free, prune):
    """Bool tensor of the weights' shape: True where the task keeps a weight. free: bool tensor of that shape."""
    ### BEGIN SOLUTION
    count = max(1, round((1 - prune) * int(free.sum())))
    magnitude = weights.abs().masked_fill(~free, -1.0).flatten()
    mask = torch.zeros_like(magnitude, dtype=torch.bool)
    mask[magnitude.topk(count).indices] = True
    return mask.reshape(weights.shape)
    ### END SOLUTION


# %% tags=["check"]
keep_mask = check("03.6", keep_mask)
points("03.6")

# %% tags=["hint"]
hint("03.6")

# %%
weights = torch.tensor([[0.9, -0.1, 0.4], [-0.8, 0.3, 0.2]])
first = keep_mask(weights, torch.ones(2, 3, dtype=torch.bool), prune=0.5)
second = keep_mask(weights, ~first, prune=0.5)
print(first.int().tolist(), "are the first task's,", second.int().tolist(), "the second's")

# %% [markdown]
# ## 8 · One more importance: MAS
# The Fisher asks how much the *probabilities* depend on a weight. **Memory Aware Synapses** (MAS) asks about the output vector
# itself: how much does its squared length change? No label is needed, not even a drawn one, so it can be measured on any images.

# %% [markdown]
# ### Exercise 03.7 · MAS
# {{card:03.7}}
#
# $\Omega_i = \frac{1}{n} \sum_x \left| \frac{\partial \lVert f(x) \rVert^2}{\partial w_i} \right|$, in eval mode. As with the Fisher: image by image.


# %% tags=["exercise"]
def mas_importance(model, x):
    """Parameter name -> importance of the parameter's shape. model(x): (n, outputs)."""
    ### BEGIN SOLUTION
    training = model.training
    model.eval()
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for image in x:
        gradients = torch.autograd.grad(model(image[None]).square().sum(), list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            total[name] += gradient.abs() / len(x)
    model.train(training)
    return total
    ### END SOLUTION


# %% tags=["check"]
mas_importance = check("03.7", mas_importance)
points("03.7")

# %% tags=["hint"]
hint("03.7")

# %% [markdown]
# ## 9 · Predict, then run
# Eleven ways to learn five tasks of two classes, in three scenarios, with the same network and number of epochs. Every
# $\lambda$ was chosen as in section 4, for each method and scenario. EWC sums over all labels here, instead of drawing
# one. Rehearsal, A-GEM and GEM store the same number of images (50 in quick, 200 in full); joint keeps all of them; the
# others none. PackNet is told the task in task- and domain-incremental learning
# (there it is an oracle: nobody else is told) and has to guess it in class-incremental learning, by the most confident answer.
#
# Before you run: with the task told, fine-tuning forgets little in lesson 01. In class-incremental learning it ends at about 20 %.
# Where will EWC end there?

# %% tags=["widget"]
prediction = widgets.predict("Class-incremental ACC of EWC, in per cent?", span=(0, 100))

# %%
results = course.experiment("methods")
figures.show_methods(results, "acc", "ACC after the fifth task (%).")
prediction.compare(f"{results.mean('class, EWC', 'acc'):.0f} %")

# %%
figures.show_methods(results, "bwt", "Backward transfer (points): the change of old tasks since they were learned.")

# %% [markdown] tags=["claim"]
# **Claim C.** Task-incremental, full run: every one of the five penalties is at least five points above fine-tuning with
# every seed, and none loses more than four points of what was learned. L2, which knows nothing about the data, is within two points of
# EWC.
#
# **Claim D.** Domain-incremental, full run: *L2 beats EWC*, by at least three points with every seed. EWC leaves free what its
# Fisher calls unimportant, and a network that is sure of its answers has a small Fisher almost everywhere. L2 holds everything, and pays:
# just after training, it knows each task at least three points less well than EWC does. Nearest to joint come rehearsal and GEM, which
# store images.
#
# **Claim E.** Class-incremental, full run: no penalty passes 25 %, with any seed. A-GEM, with 200 images, passes 40 % with each of
# five seeds; rehearsal with the *same* images is at least three points above GEM, and GEM above A-GEM. "Do no harm" uses images less well than simply training
# on them.

# %% [markdown]
# How sure are these numbers? A-GEM's differ by ten points between seeds, so one seed would decide nothing.

# %%
everything = course.recorded("methods") or results
for name in ("A-GEM", "GEM", "rehearsal"):
    low, high = everything.interval(f"class, {name}", "acc")
    print(
        f"{name:10} {everything.mean(f'class, {name}', 'acc'):5.1f} %, 95 % interval over seeds {low:5.1f} to {high:5.1f} %"
    )

# %%
plots.show(
    figures.draw_owned(results),
    alt="Bars: the share of the hidden layers' parameters that each task owns, the first most and every later one less, and what is free.",
)

# %% [markdown] tags=["claim"]
# **Claim F.** Where PackNet is told the task, its backward transfer is exactly 0, with every seed: not small, zero. Where it has to
# guess, it stays below 35 % in the full run. It knows all the answers, and not which of them was asked for.

# %% [markdown]
# ## 10 · Why no lambda rescues EWC here
# This is not a bug of the method, and not a bad $\lambda$. Said before the plot:
#
# EWC keeps the *old tasks' predictions*: which of task 1's classes an image of task 1 is. It has no image of task 1 left to learn
# the new question, whether the image is of task 1 at all. The new rows of the head are free, and in every batch the
# answer is a new class. So they win, on old images too.
#
# A small $\lambda$ does nothing. A large one holds the old rows and the features where they are, and then the new task
# has to be solved with the new rows alone: they still win over the old ones, because nothing in the loss ever lowers the
# new outputs on an old image. Both ends are bad, and there is no good middle, because the penalty does not contain what
# is missing.

# %%
sweep = course.experiment("sweep")
plots.show(
    figures.draw_sweep(sweep, results),
    alt="Class-incremental EWC over lambda: accuracy on all tasks stays near the floor or below for every lambda, far from joint.",
)

# %%
plots.show(
    figures.draw_sweep(sweep, results, "task"),
    alt="Task-incremental EWC over lambda: accuracy on all tasks, on the old ones and on the last one, with floor and ceiling.",
)

# %% [markdown] tags=["claim"]
# **Claim G.** In the full run no $\lambda$ from 1 to $10^8$ brings class-incremental EWC above 21 %, with any seed. Joint training is at
# least 60 points higher. The same values give at least 94 % task-incrementally, from 10 on.

# %% [markdown]
# Look at single runs. The sliders read recorded ones.

# %% tags=["widget"]
recorded = course.recorded("sweep") or sweep


def matrix(scenario, strength):
    return figures.draw_matrix(recorded, scenario, strength)


matrices = widgets.explore(
    matrix,
    alt="Accuracy matrix of EWC for one scenario and one lambda, mean over seeds.",
    scenario=widgets.choice(("class", "task")),
    strength=widgets.choice(sorted({float(label.split(", ")[1]) for label in recorded.labels}), default=10000.0),
)

# %% [markdown]
# The networks of the class-incremental sweep still know the old tasks: ask them with the task told, and only its own two outputs compete.

# %%
sweep_told = {label: sweep.mean(label, "told") for label in sweep.labels if label.startswith("class")}
for label, told in sweep_told.items():
    print(
        f"lambda {label.split(', ')[1]:>8}: class-incremental {sweep.mean(label, 'acc'):5.1f} %, same network with the task told {told:5.1f} %"
    )

# %% [markdown] tags=["claim"]
# **Claim H.** In the full run, with $\lambda$ from 100 to 10,000, these networks answer more than 90 % right once the task is told,
# at least three points more than fine-tuning's networks. EWC did protect what it promised to protect. It is the question between
# tasks that nobody trained.

# %% [markdown]
# ## 11 · What does it cost?
# Each method ran beside fine-tuning, in turn, on the same machine; the table gives the time of the first and the last task as
# multiples of fine-tuning's, and what the method keeps when the stream ends.

# %%
cost = course.experiment("cost")
cost.table(
    {"first task (x fine-tuning)": "first", "last task (x fine-tuning)": "last", "kept at the end (kB)": "kilobytes"},
    caption="Domain-incremental. Kept: importances, anchors, masks or stored images; not the network, not joint's whole data.",
)

# %% [markdown] tags=["claim"]
# **Claim I.** In the recorded run EWC's last task takes at least 1.4 times as long as its first one, measured against
# fine-tuning, because every old task adds a penalty; online EWC grows by less than 1.4 times. GEM's last task takes at least 1.5
# times as long as its second one: one more gradient per old task. EWC keeps exactly five times what online EWC keeps.
#
# A Fisher and an anchor for each of this network's 89,000 weights take more memory than 200 images of 784 bytes. (Joint
# keeps all images of the stream, over 40 MB here. The table counts only what a method stores beside the data.)

# %% [markdown]
# ## 12 · Think, then design

# %% [markdown] tags=["reflection"] points=1
# ### Reflection · Eighty-eight per cent (1 point)
# A report says: "EWC reaches 85 to 90 % on Fashion-MNIST in five tasks of two classes, with less than 15 % forgetting."
# Under which of the three scenarios can this be true? Say how you know from your own table, what the same network would score in the
# other scenario, and which two numbers the report should have given beside it.
#
# *Rubric: half a point for a scenario that the table or the sweep supports, with the numbers; half a point for the two
# numbers that are missing, and why they change what the sentence means.*

# %% [markdown] tags=["answer"]
# Task-incremental, in this course: there fine-tuning alone already has about 87 % with 15 points of forgetting, and EWC 98 %
# with less than one. So the sentence describes a task-aware network, and not even a well-tuned one. Domain-incremental EWC has about 81 % with 22 points.
# Class-incrementally it would be near 20 % with 99 points of forgetting, as the sweep shows for every $\lambda$: all that is left is the
# last task. Missing are the floor (fine-tuning in the same scenario) and the ceiling (joint training). With the floor at
# 87 %, "85 to 90 %" means that the method may have done nothing at all.

# %% [markdown] tags=["reflection"] points=2
# ### Design task · Keep without storing (2 points)
# Domain-incremental, and you may store no image. **Goal: the best backward transfer, while each task is still learned: the mean
# of the diagonal must stay within six points of fine-tuning's (on test images, at the end).** You may use any method of this course and combine
# them. Choose on validation images of the first two tasks, look at the test set once, over three seeds.
#
# Use the cell below. Then write down what you tried, what you chose and on what grounds, the test numbers with their
# spread, and what your method keeps from task to task.
#
# *Rubric: one point for a choice that uses only validation images of tasks 1 and 2, with the numbers that decided it. One
# point for a backward transfer better than that of plain EWC under the same constraint, or for an honest report that it was missed, with a reason that
# fits the numbers. A method that stores images, or a result chosen on the test set, gets none.*

# %% [markdown] tags=["answer"]
# I tried the five penalties, distillation, and distillation with online EWC, each penalty with its list of strengths. On
# validation images of tasks 1 and 2 (domain-incremental), L2 with $\lambda = 1$ had the best mean, 93.3 %, just before SI with
# 92.8 %; EWC had 87.4 %. So I chose L2. On the test set, over three seeds, its backward transfer is about -6 points, against -22 for EWC,
# and the mean of the diagonal 93.6 %, within six points of fine-tuning's 99.0 %. It keeps one copy of the weights. SI would have
# been better still (about -3 points, diagonal 93.4 %), but nothing that I was allowed to look at said so. Distillation
# with online EWC misses the constraint.

# %%
data = course.data(course.settings.data)
pairs = streams.domain_incremental(data, num_tasks=5)


def attempt(make, seeds=(0, 1, 2), final=False):
    """Mean of the diagonal and BWT per seed: validation after task 2, or with `final` the test set after task 5."""
    found = []
    for seed in seeds:
        model = models.build("mlp", data, seed=seed, hidden=lesson.HIDDEN)
        learner = Learner(model, make(), epochs=course.settings.epochs, seed=seed, show_progress=False)
        history = learner.fit(pairs) if final else learner.fit(pairs.first(2), evaluate="validation")
        found.append((np.diag(history.accuracy).mean(), metrics.backward_transfer(history.accuracy)))
    return 100 * np.array(found)


for name, make in {"fine-tuning": list, "EWC": lambda: [methods.EWC(1000.0, samples=200)]}.items():
    diagonal, transfer = attempt(make).mean(axis=0)
    print(f"{name:12} learned {diagonal:5.1f} %, backward transfer {transfer:5.1f} points (validation, tasks 1 and 2)")

# %% tags=["instructor"]
design = course.experiment("design")
design.table(
    {"learned (%)": "learned", "backward transfer (points)": "bwt", "ACC (%)": "acc"},
    caption="Domain-incremental, no stored image, five tasks.",
)

# %% [markdown]
# ## Where you stand
# The table counts the exercises. Reflections and the design task are graded by hand.

# %%
course.score()

# %% [markdown]
# ## What this does not show
# - One small network and short streams of equal tasks. In a large pretrained network weights can be held with less loss; lesson 04
#   freezes almost all of them.
# - The Fisher *diagonal* only. Block-diagonal versions (Kronecker factors) see valleys that run across the axes.
# - One order of classes, one budget, one optimizer, which starts afresh with every task. With other settings the ranking between the penalties
#   moves; that they stay at the floor in class-incremental learning does not.
# - $\lambda$ chosen after two tasks need not be good for five: claim B. We keep to it, and say so.
#
# ## Summary
# - Near its minimum, a task's loss is a bowl; its curvature says which weights matter. A quadratic penalty stores the bowl
#   instead of images.
# - The Fisher diagonal is the mean of *squared per-image* gradients with labels from the model. Square of the mean, or of the sum,
#   is something else.
# - L2, EWC, SI and MAS are one method with four importances. They help when the task is told, help in
#   domain-incremental learning, and do not help when new classes compete with old ones.
# - A few stored images do what no penalty does here: they let old and new classes be compared.
#
# ## Further reading
# - J. Kirkpatrick and others, *Overcoming catastrophic forgetting in neural networks*, 2017,
#   [arXiv:1612.00796](https://arxiv.org/abs/1612.00796): EWC.
# - F. Huszár, *Note on the quadratic penalties in elastic weight consolidation*, 2018,
#   [arXiv:1712.03847](https://arxiv.org/abs/1712.03847), and J. Schwarz and others, *Progress and compress*, 2018,
#   [arXiv:1805.06370](https://arxiv.org/abs/1805.06370): online EWC.
# - F. Zenke, B. Poole, S. Ganguli, *Continual learning through synaptic intelligence*, 2017,
#   [arXiv:1703.04200](https://arxiv.org/abs/1703.04200).
# - R. Aljundi and others, *Memory aware synapses*, 2018, [arXiv:1711.09601](https://arxiv.org/abs/1711.09601).
# - D. Lopez-Paz, M. Ranzato, *Gradient episodic memory for continual learning*, 2017,
#   [arXiv:1706.08840](https://arxiv.org/abs/1706.08840), and A. Chaudhry and others, *Efficient lifelong learning with
#   A-GEM*, 2018, [arXiv:1812.00420](https://arxiv.org/abs/1812.00420).
# - A. Mallya, S. Lazebnik, *PackNet*, 2018, [arXiv:1711.05769](https://arxiv.org/abs/1711.05769).
# - F. Kunstner, L. Balles, P. Hennig, *Limitations of the empirical Fisher approximation*, 2019,
#   [arXiv:1905.12558](https://arxiv.org/abs/1905.12558).
# - G. van de Ven, *On the computation of the Fisher information in continual learning*, 2025,
#   [arXiv:2502.11756](https://arxiv.org/abs/2502.11756).
#
# Next: lesson 04 asks how few weights a new task needs.
