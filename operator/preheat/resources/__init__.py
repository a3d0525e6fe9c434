"""Pure builders of child objects: values in, plain manifests out. Golden-tested."""
