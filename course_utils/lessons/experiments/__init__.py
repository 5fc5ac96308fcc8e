"""What each lesson runs: `lesson_NN.py` holds `PRESETS` and `EXPERIMENTS`. Loaded when first asked for."""
