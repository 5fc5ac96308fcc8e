"""The course's public address, in the one place that everything generated from it reads.

Badges and the Colab set-up cell are left out of the notebooks while it is empty.
It is an address as a browser takes it, with no slash at the end: `https://host/owner/name`.
"""

from __future__ import annotations

REPOSITORY = ""
