# %% [markdown]
# # 00 · Start here
#
# {{badges}}
#
# **What will I learn, and does my machine work?**
#
# You need: Python, and an idea of how a neural network is trained. You need no GPU.
#
# Time: about {{human_minutes}} minutes of yours; the machine needs {{machine_minutes}}. Points: {{points}}.

# %% [markdown]
# ## You will be able to
# - say whether your machine is ready, in one line that you can paste into a question,
# - find your way through the ten lessons,
# - write an exercise, check it, read the report, ask for a hint,
# - tell a quick run on your machine from the recorded full run beside it.
#
# ## Set-up
# Every lesson begins with these two cells. `PRESET` says how much to compute:
#
# | preset | for | time |
# | --- | --- | --- |
# | `smoke` | checking that everything runs | seconds |
# | `quick` | learning: small, one seed, the effect is visible | about a minute |
# | `full` | the numbers that the course quotes: real data, several seeds | minutes to hours |

# %% tags=["parameters"]
import os

PRESET = os.environ.get("COURSE_PRESET", "quick")

# %% tags=["setup"]
from course_utils import start, check, hint, points

course = start("00_start_here", preset=PRESET)

# %% [markdown]
# The line above says which lesson and preset you run, on what device, with which versions, and where data are looked
# for. **When you ask a question about the course, paste it.**
#
# Is the machine ready? The next cell loads a small data set and draws a figure.

# %%
from course_utils import datasets, plots

data = course.data("digits")
sheet = datasets.contact_sheet(data, per_class=6, columns=12, scale=2)
plots.show(
    plots.contact_sheet(sheet, data.title),
    alt="Sixty small grey images of handwritten digits, six of each class from 0 to 9.",
)

# %% [markdown]
# You see a blue box and sixty handwritten digits: all is well. The box says what the data are. When a lesson cannot get
# the real data, it draws a **stand-in**, and an orange box says so, as does every figure and table made from it.
# Numbers from a stand-in are not results about the real data.
#
# ## The map
#
# {{lesson_map}}
#
# Lessons 01 and 02 come first: everything later uses their words. After them you may choose.

# %% [markdown]
# ## What this course is about
# A network learns the digits 0 to 4. Then it goes on training, on 5 to 9 alone. This is called **fine-tuning**, and it
# is what you get without any special method: the floor of every comparison in this course. The ceiling is **joint
# training**, one network trained on all ten digits at once. At test time the network must choose among all ten digits.
#
# Before you run it: after the second half, which share of the *first* five digits does the fine-tuned network still get
# right?

# %% tags=["widget"]
from course_utils import widgets

prediction = widgets.predict(
    "Share of the digits 0 to 4 still right after learning 5 to 9?", options=["over 90 %", "about half", "under 10 %"]
)

# %%
results = course.experiment("two_tasks")
results.table(
    {
        "digits 0-4 (%)": lambda record: 100 * record["accuracy"][-1][0],
        "digits 5-9 (%)": lambda record: 100 * record["accuracy"][-1][1],
    },
    caption="Accuracy on test images after the second half.",
)
prediction.compare(f"{results.accuracy('fine-tuning')[0, -1, 0]:.0%}")

# %% [markdown] tags=["claim"]
# The fine-tuned network gets under 10 % of the first five digits right; joint training gets over 80 %. The network
# could hold both halves, but training on one made it stop answering with the other half. That is **catastrophic
# forgetting**. Lesson 01 asks why.
#
# ## Your run | full run
# Your run has one seed. One seed can mislead. So most tables show two columns: **your run**, and the **full run** that
# the course's authors recorded, with its mean and standard deviation over seeds. The line below the table says on what
# data it was recorded and when. If you change your own code, the left column moves. The networks of the full run stay as
# they were; but where a table scores them with a function of yours, as some in lesson 01 do, the right column moves too.

# %% [markdown]
# ## How exercises work
# An exercise is a function that you complete. Below it stands a check. The check does three things:
#
# 1. It tries your function and reports on each requirement. If it recognises a mistake, it says which one.
# 2. It gives points, also for a part that is right. `points("00.1")` shows how many. Hints never cost points.
# 3. It hands back your function if all is right. If not, it hands back the course's own, called the **reference**, and
#    a banner says so. So you can always go on with the lesson, and come back later.
#
# Here is a first attempt at exercise 00.1, made by someone in a hurry. The task: the accuracy over all tasks together,
# where `correct` and `total` count the right images and all images of each task.


# %%
def hurried_accuracy(correct, total):
    shares = [correct[task] / total[task] for task in range(len(correct))]
    return sum(shares) / len(shares)


attempt = check("00.1", hurried_accuracy)

# %% [markdown]
# Read the report. The first requirement is met, and the second names the mistake: this is an unweighted mean. With 90
# of 100 images right in one task and 10 of 20 in another, it says 70 %, although 100 of 120 images, 83 %, are right.
# Both numbers are used in this field, under the same name. This course always says which one it means.

# %% [markdown]
# ### Exercise 00.1 · Accuracy over all tasks
# {{card:00.1}}
#
# Write it rightly: every *image* counts the same, however large its task is. Return a share between 0 and 1. `correct`
# and `total` are lists or arrays with one count per task.


# %% tags=["exercise"]
def mean_accuracy(correct, total):
    """Accuracy over the test images of all tasks together."""
    ### BEGIN SOLUTION
    return sum(correct) / sum(total)
    ### END SOLUTION


# %% tags=["check"]
mean_accuracy = check("00.1", mean_accuracy)
points("00.1")

# %% [markdown]
# Stuck? Each run of the next cell shows one more of three hints.

# %% tags=["hint"]
hint("00.1")

# %% [markdown]
# From here on the lesson uses `mean_accuracy`: yours, or the reference if you have not written it yet.

# %%
correct, total = [90, 10], [100, 20]
print(f"every image counts the same: {mean_accuracy(correct, total):.1%}")
print(f"every task counts the same:  {hurried_accuracy(correct, total):.1%}")

# %% [markdown]
# ## Where you stand
# At the end of every lesson this table shows your exercises, your points and what is still borrowed.

# %%
course.score()

# %% [markdown]
# ## What this does not show
# - One network, one small data set, one order of the digits. Lesson 01 measures forgetting with care, over several
#   seeds.
# - That the checks can be trusted blindly. They try your function on a few inputs; a function may pass and still be
#   wrong elsewhere.
#
# ## Summary
# - The set-up line identifies your machine. Paste it into questions.
# - `check` reports, `points` counts, `hint` helps, and nothing ever blocks you.
# - Your run is one seed; the full run beside it is the number to quote.
#
# ## Further reading
# - R. French, *Catastrophic forgetting in connectionist networks*, Trends in Cognitive Sciences 3(4), 1999: the problem
#   in eight pages.
# - L. Wang, X. Zhang, H. Su, J. Zhu, *A comprehensive survey of continual learning*, 2023,
#   [arXiv:2302.00487](https://arxiv.org/abs/2302.00487).
# - The two libraries of the field: [Avalanche](https://avalanche.continualai.org) and
#   [Mammoth](https://github.com/aimagelab/mammoth).
