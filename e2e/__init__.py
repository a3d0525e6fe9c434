"""End to end: clusters, images, the demo and the tests that need them."""
