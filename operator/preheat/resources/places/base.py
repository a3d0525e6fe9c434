"""What every mode has in common, as the decision for a ModelCache sees it."""

from typing import Protocol

from preheat.resources.metadata import Manifest


class Places(Protocol):
    """Where the weights of one ModelCache wait, and what carries them there."""

    def standing(self) -> list[Manifest]:
        """Return what must be there before and after any warmer: volumes and claims of our own."""

    def warmer(self, site: str, *, boot: str = "", waits: bool = False) -> Manifest:
        """Return the Job that brings the weights to a node, or to what stands in a node's place.

        ``boot``: which of its starts the node is in. ``waits``: the Job is suspended until there is room on its disk.
        """
