"""The loop: one task per object, level-triggered. Observe, decide, apply, come back later."""
