"""Whether a new revision failed: from what its pods tell (``pods``), and how it serves next to its predecessor (``compare``).

README.md says what counts, what does not, and how often the comparison is wrong.
"""
