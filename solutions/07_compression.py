# %% [markdown]
# # 07 · Compression
#
# {{badges}}
#
# **How small and fast can it get before it forgets?**
#
# You need: lesson 01 (streams, forgetting), replay and distillation from lesson 02, convolutions, BatchNorm. You need no GPU.
#
# Time: about {{human_minutes}} minutes of yours; the machine needs {{machine_minutes}}. Points: {{points}}.

# %% [markdown]
# ## You will be able to
# - store a network as integers of 8 bits, and say what a scale and a zero point are for,
# - fold BatchNorm into the convolution in front of it,
# - train a network that rounds, though rounding has no gradient,
# - take whole channels out of a network, so that real smaller layers stay,
# - count the arithmetic that this saves, measure what it saves in time, and explain the difference,
# - choose among many versions under a limit of size, time and accuracy,
# - keep a network small while it learns task after task, and watch what it forgets.
#
# ## Set-up

# %% tags=["parameters"]
import os

PRESET = os.environ.get("COURSE_PRESET", "quick")

# %% tags=["setup"]
from course_utils import start, check, hint, points, compression, plots, widgets

course = start("07_compression", preset=PRESET)

# %%
import torch
from IPython.display import Markdown

from course_utils.lessons.experiments import (
    lesson_07 as lesson,
    lesson_07_figures as figures,
    lesson_07_sketches as sketches,
    lesson_07_speed as speed,
)

# %% [markdown]
# ## 1 · Measure first
# The patient is the small CNN of this course, trained on all classes at once. Here is what it weighs as a file for **ONNX Runtime**, which is
# what runs networks where no PyTorch is.

# %%
data = course.data(course.settings.data)
model, train, validation, test = lesson.workshop(PRESET)
shape = tuple(data.image_shape)
before = compression.benchmark_models({"fp32": model}, validation, image_shape=shape)["fp32"]
for name in ("size_mb", "parameters", "macs", "latency_ms", "memory_mb", "accuracy"):
    print(f"{name:11} {before[name]:,.6g}")

# %% [markdown]
# Sizes are bytes on disk. Times are medians of many calls, on one core. Memory is the peak of a process that runs the file, less that of one that runs none. Accuracy is that of the very file, on validation images. From here on times are given as **ratios**: all versions take turns in one
# process, so that whatever else your machine does slows all of them alike.
#
# First three popular cures. 16-bit floats; half of the weights set to zero, the smallest ones; half of the *channels* taken out, and 8-bit integers. Guess before you run it: how many
# times as fast is the last one, for one image?

# %% tags=["widget"]
prediction = widgets.predict("Half of the channels and 8 bits: how many times as fast?", span=(0, 20))

# %%
front = course.experiment("front")
figures.show_versions(front, ["fp32", "fp16", "half of the weights zero", "50% pruned, int8 trained"])
prediction.compare(figures.in_words(front, "50% pruned, int8 trained"))

# %% [markdown] tags=["claim"]
# **Claim A.** Full run on Fashion-MNIST, three seeds. 16 bits halve the file and save no time at all: on a CPU the numbers are turned back into 32 bits when the file is loaded. Zeros save
# neither: they are stored and multiplied like any other number. Half of the channels *and* 8-bit integers: 14.7 times smaller, 4.3 to 5.5 times as fast for one image, for 0.6 to 0.8 points of accuracy (91.3 % before). The document that this lesson goes back to claims 7 times smaller and
# 3.5 times as fast for 5 points. The rest of this lesson is how.
#
# It also claims that 16 bits and 30 % pruning make a network 2.5 times smaller for 2 points. Here, with three seeds: 4.1 times smaller, for 0.8 points at most, and 1.3 times as fast, which is the pruning's doing alone.

# %%
figures.show_versions(course.experiment("half"), ["fp32", "30% pruned", "30% pruned, fp16"])

# %% [markdown]
# ## 2 · A number as an integer
# 8 bits hold the integers 0 to 255. A **scale** says how wide one step is, a **zero point** which integer stands for 0.
# By hand, with scale 0.5 and zero point 10: 0.9 is 1.8 steps, nearly 2, so it becomes 12. On the way back 12 gives 0.5 * (12 - 10) = 1.0. The error is 0.1, and inside the range it is never more than half a step.

# %% [markdown]
# ### Exercise 07.1 · A real number as an integer
# {{card:07.1}}
#
# `x` is a tensor of real numbers. Return integers from 0 to 255 (as floats, if you like), of the same shape.


# %% tags=["exercise"]
def quantize(x, scale, zero_point):
    """Integers, held within 0 to 255."""
    ### BEGIN SOLUTION
    return ((x / scale).round() + zero_point).clamp(0, 255)
    ### END SOLUTION


# %% tags=["check"]
quantize = check("07.1", quantize)
points("07.1")

# %% tags=["hint"]
hint("07.1")

# %%
print(quantize(torch.tensor([0.9, 0.0, -7.0, 1000.0]), 0.5, 10))

# %% [markdown]
# Which scale? One that spreads the range of the numbers, and 0 with it, over 255 steps. Why 0? Padding and ReLU make zeros everywhere. They have to come back as exactly 0.

# %% [markdown]
# ### Exercise 07.2 · Scale and zero point
# {{card:07.2}}
#
# All numbers lie between `low` and `high`. Return the scale, and the zero point as an integer.


# %% tags=["exercise"]
def scale_and_zero_point(low, high):
    """`low` (or 0) becomes the integer 0, `high` (or 0) becomes 255."""
    ### BEGIN SOLUTION
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    return scale, round(-low / scale)
    ### END SOLUTION


# %% tags=["check"]
scale_and_zero_point = check("07.2", scale_and_zero_point)
points("07.2")

# %% tags=["hint"]
hint("07.2")

# %% [markdown]
# Look at a block of 5 x 5: some of what the network's first leaky ReLU gives for one image.

# %%
images = next(iter(validation))[0]
seen = lesson.activations(model, images)
block = seen[0, :5].flatten(1)[:, 5:10]  # 5 channels, 5 pixels
scale, zero_point = scale_and_zero_point(seen.min().item(), seen.max().item())
plots.show(
    figures.draw_integers(block, quantize(block, scale, zero_point), scale, zero_point),
    alt="Three tables of 5 by 5: real numbers, the integers that stand for them, and errors of at most half a step.",
)

# %% [markdown]
# The range comes from data. That is all that **calibration** is: show the network some hundred images, and let an **observer** note the range behind every layer. The simplest one keeps the smallest and the largest number ever
# seen. Then a single odd image decides, for good. A moving average forgives it: every batch moves both ends a part of the way to its own.
#
# By hand, with ends at 4, 9 and 2: their mean is 5. The second batch moves the end from 4 half of the way to 9, to 6.5. The third one moves it a third of the way to 2, to 5.

# %% [markdown]
# ### Exercise 07.3 · An observer
# {{card:07.3}}
#
# `batches` are tensors. Batch number n, counted from 0, moves both ends by the larger one of `1 / (n + 1)` and `momentum`, as a part of the way. Return the lower end and the upper one.


# %% tags=["exercise"]
def observe(batches, momentum=0.1):
    """The moving average of every batch's smallest and largest number."""
    ### BEGIN SOLUTION
    low = high = 0.0
    for number, x in enumerate(batches):
        weight = max(momentum, 1 / (number + 1))
        low += weight * (x.min().item() - low)
        high += weight * (x.max().item() - high)
    return low, high
    ### END SOLUTION


# %% tags=["check"]
observe = check("07.3", observe)
points("07.3")

# %% tags=["hint"]
hint("07.3")

# %% [markdown]
# Eight batches, behind the same leaky ReLU. The fifth one holds an odd image: black, but for a single white pixel. What does it do to both observers, and to the *other* images?

# %%
batches = lesson.odd_batches(model, train)
plots.show(
    sketches.draw_outlier(batches, observe),
    alt="Left: the fifth batch's range is far wider; one observer jumps to it and stays, the other moves a little. Right: errors, larger with the first one.",
)

# %% [markdown]
# A wider range means wider steps for all. The average pays otherwise: the odd image's largest numbers are cut off. `compression.Observer` has both, and a third kind that leaves the rarest numbers out. The package calibrates with the average.

# %% [markdown]
# ## 3 · One scale for every channel
# Weights are known, no data needed. They are spread around 0, so their integers go from -127 to 127, and the zero point is 0. One scale for a whole layer has to cover its largest weight.
# Here are the ranges of the channels of one layer. (Its BatchNorm is folded into it, as section 4 explains.)

# %%
plain = lesson.folded(model, shape)
weight = [layer for layer in plain.modules() if isinstance(layer, torch.nn.Conv2d)][1].weight
plots.show(
    figures.draw_ranges(weight, "Second convolution, BatchNorm folded"),
    alt="Bars of the largest magnitude of each channel, sorted; a dashed line shows the range that one common scale must cover.",
)

# %% [markdown]
# ### Exercise 07.4 · One scale for every channel
# {{card:07.4}}
#
# `weight` is `(out, in, height, width)`. Return integers from -127 to 127 of the same shape, and the scales, `(out,)`.


# %% tags=["exercise"]
def quantize_channels(weight):
    """Each output channel with its own scale."""
    ### BEGIN SOLUTION
    scale = weight.abs().flatten(1).amax(dim=1) / 127
    return (weight / scale.view(-1, 1, 1, 1)).round(), scale
    ### END SOLUTION


# %% tags=["check"]
quantize_channels = check("07.4", quantize_channels)
points("07.4")

# %% tags=["hint"]
hint("07.4")

# %%
whole, scales = quantize_channels(weight.detach())
common = weight.abs().max() / 127
one = (weight / common).round() * common
own = whole * scales.view(-1, 1, 1, 1)
print(
    f"one scale: {compression.signal_to_noise(weight, one):.1f} dB, own scales: {compression.signal_to_noise(weight, own):.1f} dB"
)  # decibels of weight above rounding error: 10 more is a tenth of the squared error

# %% [markdown]
# Now the whole network, with fewer and fewer bits, and nothing trained afterwards. Move the slider.

# %%
bits = course.experiment("bits")
shown = course.recorded("bits") or bits

# %% tags=["widget"]
exploration = widgets.explore(
    lambda number: figures.draw_bits(shown, number),
    alt="Accuracy against bits of a weight, for one scale a layer and one scale a channel; flat from 8 bits down, then a fall.",
    number=widgets.choice(lesson.BITS, default=3),
)

# %% [markdown] tags=["claim"]
# **Claim B.** Full run, three seeds. Down to 4 bits the accuracy falls by one point at most, either way: nobody would see whether a channel has its own scale. With 3 bits it matters: one scale a layer loses 3 to 10 points, one a channel 1 to 4.
# With 2 bits, only -1, 0 and 1 are left; one scale a layer then gives 10 to 12 %, chance, and one a channel 48 to 58 %. The ranges of our channels differ little; where they differ much, as with depthwise convolutions, own scales matter at 8 bits.

# %% [markdown]
# ## 4 · BatchNorm disappears
# In eval mode BatchNorm multiplies every channel by a constant and adds another one. So does a convolution. One of the two is enough: fold BatchNorm's constants into the weights and the bias. Then there is
# nothing between convolution and activation, and integers go straight through.

# %% [markdown]
# ### Exercise 07.5 · BatchNorm disappears
# {{card:07.5}}
#
# BatchNorm gives `gamma * (y - mean) / sqrt(variance + eps) + beta`. `weight` is `(out, in, height, width)`, without bias; all others are `(out,)`. Return the new weight and the bias.


# %% tags=["exercise"]
def fold(weight, gamma, beta, mean, variance, eps=1e-5):
    """One convolution that does both."""
    ### BEGIN SOLUTION
    factor = gamma / torch.sqrt(variance + eps)
    return weight * factor.view(-1, 1, 1, 1), beta - mean * factor
    ### END SOLUTION


# %% tags=["check"]
fold = check("07.5", fold)
points("07.5")

# %% tags=["hint"]
hint("07.5")

# %% [markdown]
# What ONNX Runtime really runs stands in the graph *after* its own optimizer. Count the nodes of our integer file, and of the one that ONNX Runtime's own quantization makes of the same network:

# %%
record = front.records["the small CNN"][0]["rows"]
for name in ("int8", "ONNX Runtime's int8"):
    print(f"{name}: {record[name]['nodes']}")

# %% [markdown]
# Our network pools *before* it normalises, so the library finds no BatchNorm right behind a convolution, leaves them in floats, and goes to and fro between floats and integers. `compression.fold_batchnorm` folds through the pooling:
# the largest of four numbers stays the largest when all are multiplied by a *positive* factor. Where a factor is negative, it leaves that BatchNorm alone.

# %% [markdown]
# ## 5 · A gradient through rounding
# After training, the network never knew that it would be rounded. **Quantization-aware training** lets it know: in the forward pass everything is rounded, there and back. But `round` is a staircase; its slope is 0
# wherever it has one. The **straight-through** gradient pretends: 1 inside the range, 0 where the number was cut off.

# %% [markdown]
# ### Exercise 07.6 · A gradient through rounding
# {{card:07.6}}
#
# Quantize as in 07.1 and come back to real numbers. The gradient is 1 for numbers inside the range, 0 outside.


# %% tags=["exercise"]
def fake_quantize(x, scale, zero_point):
    """There and back, with a gradient."""
    ### BEGIN SOLUTION
    steps = x / scale
    steps = steps + (steps.round() - steps).detach()
    return ((steps + zero_point).clamp(0, 255) - zero_point) * scale
    ### END SOLUTION


# %% tags=["check"]
fake_quantize = check("07.6", fake_quantize)
points("07.6")

# %% tags=["hint"]
hint("07.6")

# %%
plots.show(
    figures.draw_staircase(fake_quantize),
    alt="Left: a staircase of 7 steps and one of 256 that looks like a line until it is cut off. Right: gradient 1 inside the range, 0 outside.",
)

# %% [markdown]
# In the package this is `compression.quantize_model(model, train, qat_epochs=1, path="small.onnx")`. The network in floats is the teacher: the loss is lesson 02's distillation. What did it bring?

# %%
figures.show_versions(front, ["fp32", "int8", "int8, trained", "int8, first layer too", "ONNX Runtime's int8"])

# %% [markdown] tags=["claim"]
# **Claim C.** Full run, three seeds. Integers alone change the accuracy by at most 0.1 points. So there is nothing to mend, and training with rounded numbers mends nothing. It does help networks that were cut before
# (section 9): 0.05 to 0.4 points above the narrow network in floats, with every seed. Part of that is simply more training, with a teacher.
#
# The file is 3.9 times smaller, 2.2 to 2.4 times as fast for one image. With the first layer in integers, too, it is 1.7 to 2.0 times as fast: that layer reads a single channel, nine products a pixel, too few to pay for
# rounding an image first. ONNX Runtime's own quantization is 1.5 to 1.6 times as fast: three BatchNorms stayed floats.

# %% [markdown]
# ## 6 · Fewer channels
# A zero costs as much as any other number. What saves is to take whole channels *out*. Take one of four. What else has to go? Its BatchNorm, and what the next layer reads of it. Around a residual block
# more hangs together: the sum needs both its parts to be equally wide. So `inner` loses an output, because of the sum, *and* an input.

# %%
plots.show(
    sketches.draw_four_channels(),
    alt="Grids of filters. In a chain the first layer loses a row, the next one a column. With a residual block the inner layer loses a row and a column.",
)

# %% [markdown]
# Who shares a channel with whom is the **dependency graph**. Torch-Pruning finds it by following a tensor through the network; the picture is drawn from what it found. Ask it about the patient: one channel of the last convolution is sixteen inputs of the dense layer on Fashion-MNIST, one for every pixel that is left, and on the digits a single one.

# %%
for part in compression.shared_channels(model, "body.9", 2, shape):
    print(f"{part.layer:8} loses {len(part.places):2} of its {part.side}")

# %% [markdown]
# Which channels? Those with the smallest norm, as a first guess: the sum of all magnitudes (**L1**), or the root of the sum of squares (**L2**).

# %% [markdown]
# ### Exercise 07.7 · Four channels, two go
# {{card:07.7}}
#
# `first` is `(channels, in, 3, 3)`, `bias` `(channels,)`, `second` `(out, channels, 3, 3)`. Keep the `keep` channels with the largest L1 norms, in their order. Return all three.


# %% tags=["exercise"]
def remove_channels(first, bias, second, keep):
    """Three smaller tensors."""
    ### BEGIN SOLUTION
    norms = first.abs().flatten(1).sum(dim=1)
    kept = norms.topk(keep).indices.sort().values
    return first[kept], bias[kept], second[:, kept]
    ### END SOLUTION


# %% tags=["check"]
remove_channels = check("07.7", remove_channels)
points("07.7")

# %% tags=["hint"]
hint("07.7")

# %%
convolutions = [layer for layer in plain.modules() if isinstance(layer, torch.nn.Conv2d)]
first, second = convolutions[0], convolutions[1]
small = remove_channels(first.weight.detach(), first.bias.detach(), second.weight.detach(), 16)
print("before:", *(tuple(t.shape) for t in (first.weight, second.weight)), "after:", *(tuple(t.shape) for t in small))

# %% [markdown]
# L1 or L2? And of what? `prune_model` ranks a channel by *all that goes with it*: its own weights, its BatchNorm, what the next layer reads of it. And what is a norm worth at all? A control: channels drawn by **chance**. Guess how much worse it is than
# the norms, right after the cut, and once the network is mended.

# %%
norms = course.experiment("norms")
plots.show(
    sketches.draw_norms(course.recorded("norms") or norms),
    alt="Two panels of accuracy against channels gone. Right after the cut the ways to rank channels lie far apart, chance lowest; once mended they lie within a point or two.",
)

# %%
norms.table(
    {
        "half gone, cut (%)": lambda record: record["cut"][1],
        "mended (%)": lambda record: record["mended"][1],
        "nothing cut (%)": "whole",
    },
    caption="Accuracy on test images; chance is another draw with every seed. The digits' network has 10 % left, chance, whatever ranks its channels.",
)

# %% [markdown] tags=["claim"]
# **Claim D.** Full run, three seeds, half of the channels gone. A channel's own weights know something: right after the cut 44 to 65 % are left, by chance 19 to 43 %. All that goes with a channel knows more: 65 to 75 %. Whether L1 or L2 does is a matter of the seed.
#
# Then mend the network, for 120 steps with its teacher. L1 and L2 are within 0.2 points of each other, own weights 0.1 to 0.5 behind, and chance 0.3 to 0.7. Most of what a cut loses comes back, whichever channels went. On large networks, too, widths matter more than which channels are kept (Liu and others).

# %% [markdown]
# ## 7 · Slowly
# Half of the channels at once breaks a network: you have just seen it. Some now, a little training, some more: it mends each time. Early there is much to spare, late there is little. So: large steps first.

# %% [markdown]
# ### Exercise 07.8 · Much at first, little at the end
# {{card:07.8}}
#
# Return the share that is gone after `step` of `steps` steps: target × (1 − (1 − step / steps)³), and the target ever after.


# %% tags=["exercise"]
def cubic_sparsity(step, steps, target):
    """From 0 to target."""
    ### BEGIN SOLUTION
    left = 1 - min(step, steps) / steps
    return target * (1 - left**3)
    ### END SOLUTION


# %% tags=["check"]
cubic_sparsity = check("07.8", cubic_sparsity)
points("07.8")

# %% tags=["hint"]
hint("07.8")

# %%
plots.show(
    figures.draw_schedule(cubic_sparsity),
    alt="The share of channels that is gone: the cubic curve rises fast and levels off at 50 %, a straight line rises evenly.",
)

# %% [markdown]
# ## 8 · What it should save
# A convolution sums products: one **MAC**, a multiplication with its addition, for every weight and every pixel of the output. Half of the channels in and out: a quarter of the MACs.

# %% [markdown]
# ### Exercise 07.9 · What a convolution costs
# {{card:07.9}}
#
# The image has `size` x `size` pixels. With `groups`, every output channel reads only `in_channels / groups` inputs. Return the number of MACs.


# %% tags=["exercise"]
def conv_macs(in_channels, out_channels, kernel, size, stride=1, padding=0, groups=1):
    """MACs of one convolution for one image."""
    ### BEGIN SOLUTION
    out = (size + 2 * padding - kernel) // stride + 1
    return out * out * out_channels * (in_channels // groups) * kernel * kernel
    ### END SOLUTION


# %% tags=["check"]
conv_macs = check("07.9", conv_macs)
points("07.9")

# %% tags=["hint"]
hint("07.9")

# %%
macs = course.experiment("macs")
speed.show_layers(macs, conv_macs)

# %% [markdown]
# And what it does save. Untrained networks are as fast as trained ones, so this takes a moment only. Before you look: with 88 % of the channels gone, the MACs promise a factor of about fifty.

# %%
plots.show(
    speed.draw_macs(macs),
    alt="Times faster against channels gone, for one image and for 32: the promise of the MACs climbs steeply, measured curves flatten far below it.",
)

# %% [markdown]
# Where does the time go? ONNX Runtime has a **profiler**, which writes down the time of every node. Some two microseconds of each are its own: it reports as much for nodes that compute next to nothing, and `compression.node_times` takes
# that off. Nodes go *to and fro* when they turn numbers into integers and back, or images into the order in which a node wants them. What no node takes, is the call.

# %%
plots.show(
    speed.draw_work(macs),
    alt="Bars of one image's time by kind of work: multiplying fills most of the whole network's bar and shrinks fast; what pools, converts and calls stays.",
)

# %% [markdown] tags=["claim"]
# **Claim E.** Full run, three sets of random weights. For one image the promise is kept to three quarters with half of the channels gone (3.9 promised, 2.8 to 3.0 measured), and not at all further on: with 88 % gone 53 is promised, and 6.2 to 8.0 is what came.
#
# The bars say why. *Multiplying* gets only 12 to 16 times as fast: 4 and 8 channels do not fill the instructions that multiply 8 or 16 numbers at once, and the first layer's single input channel cannot go. *Pooling and activations*, which
# MACs do not count, get 1.5 to 3 times as fast: they were a tenth of the time, and are a third now. And *the call* takes another 13 to 22 %. A single dense layer takes a 23rd to a 26th of the whole network's time, so a network of this kind can hardly be more than 26 times as fast.
#
# Integers help as long as there is much to multiply. With 88 % gone they multiply for 1.5 to 1.7 times as long as floats do, and the network is 1.2 to 1.3 times slower than in floats, with every seed.
#
# With 32 images at once a call costs next to nothing, and the promise for 50 % is kept (3.6 to 3.7 of 3.9). With 88 % gone it is 11 to 14 of 53.

# %% [markdown]
# ## 9 · Nobody is better in everything
# Now all versions at once. Most are beaten: another one is smaller, faster *and* more accurate. Those that nobody beats form the **Pareto front**. Only they are worth a thought.

# %% [markdown]
# ### Exercise 07.10 · Nobody is better in everything
# {{card:07.10}}
#
# Three lists of equal length. Return the positions of those that no other one beats: at least as good in all three, and better in one. Less is better for sizes and latencies.


# %% tags=["exercise"]
def front_of(sizes, latencies, accuracies):
    """A list of positions."""
    ### BEGIN SOLUTION
    rows = list(zip(sizes, latencies, [-a for a in accuracies], strict=True))

    def beats(a, b):
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    return [i for i, row in enumerate(rows) if not any(beats(other, row) for other in rows)]
    ### END SOLUTION


# %% tags=["check"]
front_of = check("07.10", front_of)
points("07.10")

# %% tags=["hint"]
hint("07.10")

# %%
found = figures.candidates(front)
kept = front_of([c.size_mb for c in found], [c.latency_ms for c in found], [c.accuracy for c in found])
print(*(found[i].name for i in kept), sep="\n")

# %%
figures.show_versions(front)

# %% [markdown]
# Your own front may change from run to run: two ratios that differ in the last digit shown are one number, measured twice. Two sliders over the recorded networks: share of channels that is gone, and numbers.

# %% tags=["widget"]
versions = course.recorded("front") or front
exploration_of_front = widgets.explore(
    lambda pruned, numbers: figures.draw_front(versions, figures.version(pruned, numbers)),
    alt="Accuracy against size and against speed of all versions, filled on the Pareto front; a ring marks the chosen one.",
    pruned=widgets.choice([0, 30, 50, 70], default=50),
    numbers=widgets.choice(["fp32", "int8", "int8 trained"], default="int8 trained"),
)

# %% [markdown]
# What to take depends on what you want. `compression.choose` looks at *validation* accuracy.

# %%
for target in ("speed", "size", "accuracy", "balanced"):
    rules = compression.Constraints(max_accuracy_drop=0.02)
    print(f"{compression.choose(figures.candidates(versions), target, rules).explanation}\n")

# %% [markdown] tags=["claim"]
# **Claim F.** Full run, three seeds. Zeros, the library's integers, integers in the first layer and all narrow networks in floats are beaten. For size take 70 % pruned and integers: 38 kB, 37.6 times smaller, for 1.7
# to 2.1 points. For speed take *50 %*: 70 % pruned has 2.8 times fewer MACs and is slower, with every seed. Look at its widths: 9, 19 and 38 channels, where 50 % leaves 16, 32 and 64. Processors compute in groups of 8 or 16 numbers, and
# half-filled groups cost as much as full ones; that is our explanation. 30 % pruned (22, 44 and 89 channels) needs half of the MACs and is only 1.3 times as fast. `prune_model(..., round_to=8)` is for that.
#
# A word on trust. "int8" and "int8, trained" are the same file but for its numbers, and one seed times them 2.4 and 2.6. Three networks of one shape are 4.3, 5.0 and 5.5 times as fast: other jobs ran on the machine. Turns, and medians of ten seconds, protect against a processor that
# is slower for all; not against neighbours that fill the cache, which the large network needs and the small ones do not. Ask who else will be there.

# %% [markdown]
# `compression.AutoOptimizer` does all of this by itself: it makes a dozen versions of your network, measures each one *on your machine*, and chooses for a target, within limits. It looks at validation images, and
# checks what it chose on the test images. Read what it says, to the last word.

# %%
limits = lesson.limits(course.settings.data)
training = {"epochs": lesson.MENDED[PRESET], "lr": course.settings.lr}  # behind every cut
optimizer = compression.AutoOptimizer("size", **training, memory=False, **limits)
optimized = optimizer.optimize_model(model, train, test, validation)
print(limits, optimized["explanation"], sep="\n")

# %% [markdown]
# Four kinds come back, each the best of its kind: as a picture, and as a report that you can hand on (`path="report.md"` writes it, as a page, too).

# %%
plots.show(
    compression.plot_optimization_comparison(optimized, f"Chosen for size: {data.title}"),
    alt="Four panels: size, images a second and accuracy of the baseline, the quantized, the pruned and the combined network, and size against speed.",
)

# %%
Markdown(compression.create_efficiency_report(optimized, title="The small CNN, for size"))

# %% [markdown]
# Why measure? Because rules of thumb fail. "Integers are fast", says one. The second network below is narrow from the start, with 4, 8 and 16 channels, and the target is speed. What will be chosen?

# %%
speed.show_choices(course.experiment("auto"))

# %% [markdown] tags=["claim"]
# **Claim G.** Full run, three seeds. Within 250 kB, 1 ms, 88 % and two points, the smallest has integers and 75 % of the channels gone with one seed (50 times smaller), 50 % with the other two (15 times). It is a matter of tenths: 75 % lose 1.7, 2.2 and 2.4 points of
# validation accuracy. A limit makes a cliff of a slope, so ask for the next one, too.
#
# The narrow network stays in floats with every seed: integers slow it down to 0.8 times. A file in 16 bits is chosen, which *is* the network in 32 bits once it is loaded, so who of the two is faster is chance. And one seed gives 1.7 points away for 1.1 times the speed. It was
# told that speed is all that counts and that two points are allowed: mind what you ask for.

# %% [markdown]
# ## 10 · A transformer
# The same recipe for the ViT of lesson 04. Its width runs through all blocks and stays. **Blocks** can go: each adds to what came before, so take out those that turn the tokens least. Then half of the heads and hidden neurons of those that stay.

# %%
vit = course.experiment("vit")
figures.show_versions(vit)

# %% [markdown] tags=["claim"]
# **Claim H.** Full run, three seeds, seven passes over Fashion-MNIST: 88.1 %. (Longer training does not help. After twenty passes it knows its training images by heart, 100.0 %, and others no better: 88.1 and 88.5 %, two seeds. Ten passes over images that are moved a little are too few: 86.8 and 86.9 %.)
#
# Integers alone make it 1.4 times as fast for one image, where the CNN gained 2.2 to 2.4: GELU, softmax, LayerNorm and the products inside attention stay floats, so numbers are turned to and fro.
# Three of six blocks, half of the rest, and integers: 11.6 times smaller, 3.7 times as fast, 1.0 to 1.2 points less. Trained with rounded numbers and the teacher, it is better than the floats that it came from, by 0.6 points or more with every seed: mending was not finished.

# %% [markdown]
# ## 11 · Small in a stream
# Now five tasks, class-incremental, with replay. `compression.Compress` is a method like any other: after every task it takes out a few more channels, mends the network on the task's images and on the *memory*, and deploys a
# quantized copy, with ranges from the memory. Ranges from the last task alone would cut off all others. The network itself goes on learning in floats, narrower than before.
#
# Does a network that is cut down forget more? Mending takes steps, so there is a control: replay with as many steps more.

# %%
stream = course.experiment("stream")
plots.show(
    figures.draw_stream(stream),
    alt="Bars of accuracy after five tasks: fine-tuning lowest, replay with and without compression close together, joint training highest.",
)

# %%
stream.table(
    {
        "ACC (%)": "acc",
        "forgetting (points)": "forgetting",
        "just learned (%)": "learned",
        "times smaller": "size_ratio",
        "times as fast": "speedup",
    },
    caption="Accuracies of the deployed files; speed for one image against the whole network in fp32.",
)

# %%
plots.show(
    compression.plot_efficiency_over_tasks(figures.deployed_rows(stream), f"{stream.data_title}, the first seed"),
    alt="Size, speed, accuracy and forgetting of the deployed file after each of five tasks, for three ways to deploy.",
)

# %% [markdown] tags=["claim"]
# **Claim I.** Full run, three seeds, 500 images of each class, 500 of all in memory. Integers at the end change nothing: accuracy and forgetting stay within 0.2 points of plain replay's. A network that is cut to half of its channels while it learns, and deployed in
# integers after every task, ends *above* plain replay with every seed, by 0.9 to 1.6 points, and forgets a little less, at a fifteenth of the size and 3.5 to 5.0 times as fast (three networks of one shape; section 9 says why they differ). So cutting helps? The control says no: replay with as many steps more is as good, within half a point either
# way. The steps did it, half of each batch from the memory. What remains is good news enough: compression cost nothing that could be seen.
#
# Joint training is a low ceiling here: it has three times a task's steps, and that is short for it.

# %% [markdown]
# ## 12 · Where it goes
# An ONNX file is a beginning. These are the roads from it:

# %%
figures.show_places()

# %% [markdown]
# Measure on the device itself. A processor without instructions for integer products may run int8 *slower* than fp32, and older ones overflow in the middle of a product: `compression.weight_bits` says whether yours needs weights of
# 7 bits. A tiny board needs everything in integers, the first layer too.
#
# **When not to compress at all.** When the network is fast enough. When something else takes the time: reading, decoding, sending images. When answers come in large batches on a GPU that waits anyway. When a smaller network, trained from the
# start, does the same. When rare classes matter and you have no test set for them: an average hides what a cut destroyed. And while you still change the network every day.

# %% [markdown]
# ## 13 · Think, then design

# %% [markdown] tags=["reflection"] points=1
# ### Reflection · A leaflet (1 point)
# A leaflet says: "INT8 makes your model 4 times smaller and 3 to 4 times faster; 50 % pruning halves the computation; FP16 is twice as fast." For each of the three, say what your tables answer, and what the leaflet would have to
# add to be right.
#
# *Rubric: half a point for your numbers beside all three; half a point for conditions: which network, how many images at once, which processor, share of what.*

# %% [markdown] tags=["answer"]
# *INT8:* 3.9 times smaller is right. 2.2 to 2.4 times as fast for one image here with the CNN, and see section 10 for the ViT; the factor needs the network, the number of images, and a processor with instructions for integer products. *50 % pruning:* of the channels, it leaves a quarter of the MACs and of the parameters, some 3 times as fast for one image; of the parameters, half; of single weights, as zeros, nothing. *FP16:* twice as small, and not faster on a CPU at all. It is a statement about GPUs.

# %% [markdown] tags=["reflection"] points=2
# ### Design task · Under a constraint (2 points)
# On Fashion-MNIST: **at most 250 kB, 1 ms for one image, 88 % accuracy.** On the digits of the quick preset: 60 kB, 1 ms, 93 %. Then go on: **the smallest file you can make that keeps the last two limits.** (`AutoOptimizer` knows three shares, the same for all layers. You know more.) `attempt` measures a
# recipe on validation images. When you have chosen, score that one recipe on the test images, once: `lesson.attempt(recipe, PRESET, "test")`.
#
# Write down what you tried, what you chose, and its four numbers: size, time, validation and test accuracy.
#
# *Rubric: one point for a file that keeps all three limits on your machine, with numbers. One point for at least two more recipes that change one thing each, and a reason for the smallest that fits their numbers. A choice made
# on test images gets none.*

# %% [markdown] tags=["answer"]
# *On Fashion-MNIST, from the table of section 9 (three seeds; validation in brackets).* Integers alone: 366 kB, too large. 30 % pruned and trained in integers: 181 kB, 90.9 % (91.0). 50 %: 97 kB, 90.6 % (90.7). 70 %: 38 kB, 89.5 % (89.6). All of them take far less than 1 ms, so size decides. 70 % is the
# smallest of these that keeps 88 % on validation images, and its margin says that a narrower one may do, too. One thing changed each time: the share of channels. Calibration without training with rounded numbers costs 0.1 to 0.4 points, so it was kept.


# %%
def recipe(model, train, shape):
    """Half of the channels, in two steps, no integers yet: change it."""

    def heal(network):
        return compression.finetune(network, train, steps=40, lr=2e-3, teacher=model)

    made = compression.prune_model(model, 0.5, share_of="channels", steps=2, train_fn=heal, image_shape=shape)
    return made["pruned_model"]


print(lesson.attempt(recipe, PRESET))

# %% [markdown]
# ## Where you stand
# The table counts the exercises. Reflection and design task are graded by hand.

# %%
course.score()

# %% [markdown]
# ## What this does not show
# - **Other processors.** Times come from one machine, and ratios change with it: with its vector instructions, its caches, its memory.
# - **Energy.** Watts were not measured.
# - **Large networks.** There, reading the weights from memory costs more than multiplying them, and 4 bits are worth it.
# - **Images of 28 x 28 only.** With larger ones arithmetic counts for more, and so do the MACs.
# - **What is lost where.** Accuracies are means over classes.
#
# ## Summary
# - A scale and a zero point turn numbers into integers; 0 has to come back as 0; one scale for every channel of the weights.
# - A file in 16 bits is a storage format on a CPU. Zeros save nothing. Channels do, and with a channel goes all that hangs on it.
# - Which channels go matters until the network is mended, and little afterwards. Compare with chance.
# - Rounding can be trained through. A teacher mends what was cut.
# - MACs are a promise. Measure time, in turns, with as many images at once as you will have. A profiler says where it goes.
# - Choose from a front, on validation images, under limits.
# - In a stream: cut slowly, mend with the memory, calibrate with samples of all tasks.
#
# ## Further reading
# - B. Jacob and others, *Quantization and training of neural networks for efficient integer-arithmetic-only inference*, 2018, [arXiv:1712.05877](https://arxiv.org/abs/1712.05877).
# - R. Krishnamoorthi, *Quantizing deep convolutional networks for efficient inference: a whitepaper*, 2018, [arXiv:1806.08342](https://arxiv.org/abs/1806.08342): one scale a channel.
# - Y. Bengio, N. Léonard, A. Courville, *Estimating or propagating gradients through stochastic neurons for conditional computation*, 2013, [arXiv:1308.3432](https://arxiv.org/abs/1308.3432): straight through.
# - H. Li and others, *Pruning filters for efficient ConvNets*, 2017, [arXiv:1608.08710](https://arxiv.org/abs/1608.08710).
# - S. Han, H. Mao, W. Dally, *Deep compression*, 2016, [arXiv:1510.00149](https://arxiv.org/abs/1510.00149): pruning, quantization and coding, one after the other.
# - H. Cai and others, *Once-for-all: train one network and specialize it for efficient deployment*, 2020, [arXiv:1908.09791](https://arxiv.org/abs/1908.09791).
# - Z. Liu and others, *Rethinking the value of network pruning*, 2019, [arXiv:1810.05270](https://arxiv.org/abs/1810.05270): the widths matter, not the weights that are kept.
# - M. Zhu, S. Gupta, *To prune, or not to prune: exploring the efficacy of pruning for model compression*, 2017, [arXiv:1710.01878](https://arxiv.org/abs/1710.01878): the cubic schedule.
# - G. Fang and others, *DepGraph: towards any structural pruning*, 2023, [arXiv:2301.12900](https://arxiv.org/abs/2301.12900).
# - X. Men and others, *ShortGPT: layers in large language models are more redundant than you expect*, 2024, [arXiv:2403.03853](https://arxiv.org/abs/2403.03853): which blocks can go.
#
# Next: lesson 08 runs thirty-two streams at once.
