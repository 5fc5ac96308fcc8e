"""The exercises of each lesson: `lesson_NN.py` holds `EXERCISES`, a list of `Exercise`. Loaded when first asked for."""
