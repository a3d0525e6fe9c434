module preheat.dev/tests/vectors

go 1.26.0
