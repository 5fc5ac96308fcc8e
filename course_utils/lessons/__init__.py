"""The classroom: lessons, presets, exercises with their checks and hints, experiments and their records.

Nothing is imported here: `from course_utils import start, check, hint, points` loads what it needs.
"""
