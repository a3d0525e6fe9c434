"""Files as torch, numpy and attackers make them, made by hand: nothing of torch is installed."""

import io
import os
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typing_extensions import override

MAGIC = 0x1950A86A20F9469CFC6C


class Evil:
    """Runs a program when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/preheat-was-here",)


class Call:
    """Calls something that a test names, when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@contextmanager
def torch() -> Iterator[tuple[Any, Any]]:
    """Stand in for torch while something is pickled; yield a kind of storage and the function that makes tensors."""

    def named(module: str, name: str) -> Any:
        def made(*_: Any) -> None: ...

        made.__module__, made.__qualname__, made.__name__ = module, name, name
        return made

    names = {"torch": ["FloatStorage"], "torch._utils": ["_rebuild_tensor_v2", "_rebuild_parameter"]}
    modules = {}
    for module, inside in names.items():
        modules[module] = types.ModuleType(module)
        for name in inside:
            setattr(modules[module], name, named(module, name))
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield modules["torch"].FloatStorage, modules["torch._utils"]
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class _Pickler(pickle.Pickler):
    """Writes storages as torch does: as a number of what lies beside the pickle."""

    @override
    def persistent_id(self, obj: Any) -> Any:
        return ("storage", *obj.arguments) if isinstance(obj, Call) and obj.function == "storage" else None


def state(protocol: int, *, count: int = 2, planted: Any = None) -> bytes:
    """Return the pickle of a state dict."""
    out = io.BytesIO()
    with torch() as (storage, utils):
        tensors: dict[str, Any] = OrderedDict()
        for number in range(count):
            kept = Call("storage", storage, str(number), "cpu", 8)
            tensor = Call(utils._rebuild_tensor_v2, kept, 0, (2, 4), (4, 1), False, OrderedDict())
            tensors[f"layers.{number}.weight"] = Call(utils._rebuild_parameter, tensor, True, OrderedDict())
        if planted is not None:
            tensors["deep"] = [{"down": (1, [planted])}]
        _Pickler(out, protocol).dump(tensors)
    return out.getvalue()


def archive(
    pickled: bytes, more: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED
) -> bytes:
    """Return a file of torch's new format."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as made:
        made.writestr("model/data.pkl", pickled)
        made.writestr("model/byteorder", b"little")
        made.writestr("model/data/0", struct.pack("<8f", *range(8)))
        made.writestr("model/data/1", b"\x93\x82\x80\x02" + bytes(range(28)))
        made.writestr("model/version", b"3\n")
        for name, content in (more or {}).items():
            made.writestr(name, content)
    return out.getvalue()


def legacy(pickled: bytes, numbers: bytes | None = None) -> bytes:
    """Return a file of torch's old format: five pickles, and the numbers."""
    about = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    first = b"".join(pickle.dumps(part, 2) for part in (MAGIC, 1001, about))
    return (
        first
        + pickled
        + pickle.dumps(["0", "1"], 2)
        + (numbers or struct.pack("<q8fq8f", 8, *range(8), 8, *range(8)))
    )


def array(descr: str, content: bytes, version: int = 1) -> bytes:
    """Return a file of numpy."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (2,), }}".ljust(117).encode() + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes((version, 0)) + length + header + content
