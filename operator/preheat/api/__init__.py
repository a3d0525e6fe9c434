"""The API group preheat.dev as pydantic types: the one source of crds/ and of every default."""
