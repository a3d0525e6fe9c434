"""What a pickle would import, read without loading it, and whether that is harmless. Bytes in, names out.

A pickle is a program: it imports what it names and calls it. So the names decide, and they are compared with a
list of what is known to be harmless; a list of what is known to be dangerous is never complete
(docs/decisions/0017).
"""

import pickletools
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

OPCODES_AT_MOST = 10_000_000
"""In one file: some ten seconds. A checkpoint of a large model has a hundred thousand."""
OPCODES_OF_DATA = 100_000
"""In bytes that are hardly a pickle, but a tensor."""
INFLATED_BYTES_AT_MOST = 256 << 20
STREAMS = 5
"""Pickles that torch reads one behind the other from a file of its old format; the tensors' numbers follow."""
NAME_BYTES_AT_MOST = 256
KNOWN_AT_MOST = 500_000
"""Texts that are remembered for later use by the same pickle."""

_DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool complex128 complex64 "
    "complex32 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2 qint32 qint8 "
    "quint8 quint4x2 quint2x4 per_tensor_affine per_tensor_symmetric per_channel_affine per_channel_symmetric "
    "per_channel_affine_float_qparams int1 int2 int3 int4 int5 int6 int7 uint1 uint2 uint3 uint4 uint5 uint6 uint7"
)
_KINDS = (
    "Double Float Half BFloat16 Long Int Short Char Byte Bool ComplexDouble ComplexFloat QInt32 QInt8 QUInt8 QUInt4x2 "
    "QUInt2x4"
)
_HARMLESS = {
    "builtins": "set frozenset bytearray complex slice dict list tuple int float bool str",
    "collections": "OrderedDict Counter defaultdict deque",
    "_codecs": "encode",
    "argparse": "Namespace",
    "torch": " ".join(
        ["Size", "Tensor", "device", _DTYPES]
        + [f"{kind}{what}" for kind in _KINDS.split() for what in ("Storage", "Tensor")]
    ),
    "torch.cuda": " ".join(f"{kind}{what}" for kind in _KINDS.split() for what in ("Storage", "Tensor")),
    "torch.storage": "TypedStorage UntypedStorage",
    "torch.nn.parameter": "Parameter",
    "torch.serialization": "_get_layout",
    "torch._tensor": "_rebuild_from_type_v2",
    "torch._utils": "_rebuild_parameter _rebuild_parameter_with_state _rebuild_qtensor _rebuild_tensor "
    "_rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_sparse_tensor _rebuild_meta_tensor_no_storage "
    "_rebuild_device_tensor_from_numpy _rebuild_device_tensor_from_cpu_tensor",
    "torch.jit._pickle": "build_intlist build_tensorlist build_doublelist build_boollist build_tensor_from_id "
    "restore_type_tag",
    "numpy": "ndarray dtype",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
}
_ALIASES = {
    "__builtin__": "builtins",  # Python 2
    "numpy._core.multiarray": "numpy.core.multiarray",  # numpy 2
    "numpy._core.numeric": "numpy.core.numeric",
}
HARMLESS = frozenset((module, name) for module, names in _HARMLESS.items() for name in names.split())
"""What torch itself loads with weights_only, numpy's arrays, and containers. Each must be harmless whatever it
is called with, and whatever is set on what it returns."""
_TORCHSCRIPT = "__torch__"
"""Names below it are classes of the archive's own program; Python has no such module."""

_IDENTIFIER = re.compile(r"[\w.<>]+")
_OPCODES = {op.code.encode("latin-1"): (op.name, op.arg.n if op.arg else 0) for op in pickletools.opcodes}
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: "<B",
    pickletools.TAKEN_FROM_ARGUMENT4: "<i",
    pickletools.TAKEN_FROM_ARGUMENT4U: "<I",
    pickletools.TAKEN_FROM_ARGUMENT8U: "<Q",
}

Name = tuple[str, str] | None
"""Module and name of something that is imported; None: it cannot be told."""


class Refused(Exception):  # noqa: N818 - the text ends a sentence that begins with the file
    """It may run code, or cannot be looked into."""


class TooLong(Refused):
    """There is more of it than is looked through."""


class NoPickle(Exception):  # noqa: N818
    """The bytes are no whole pickle: it is cut off, or something else."""


class Budget:
    """What may still be read of one file."""

    def __init__(self, opcodes: int = OPCODES_AT_MOST) -> None:
        self._opcodes = opcodes
        self._inflated_bytes = INFLATED_BYTES_AT_MOST

    def step(self) -> None:
        """Count an opcode. Raises TooLong."""
        self._opcodes -= 1
        if self._opcodes < 0:
            raise TooLong(
                f"holds pickles of more than {OPCODES_AT_MOST:,} steps, which are not looked through"
            )

    def inflate(self, count: int) -> None:
        """Count bytes. Raises TooLong."""
        self._inflated_bytes -= count
        if self._inflated_bytes < 0:
            raise TooLong(
                f"holds compressed pickles of more than {INFLATED_BYTES_AT_MOST >> 20} MiB, which are not looked through"
            )


class Source(Protocol):
    """Bytes, read forward. All raise NoPickle where there are not as many."""

    def read(self, count: int) -> bytes:
        """Return exactly so many bytes."""
        ...

    def skip(self, count: int) -> None:
        """Leave bytes out."""
        ...

    def line(self) -> bytes:
        """Return a line without its end. Raises TooLong too."""
        ...

    def ended(self) -> bool:
        """Tell whether nothing is left."""
        ...


def check_streams(source: Source, budget: Budget) -> None:
    """Look at the pickles that are loaded of a file. Raises Refused, and NoPickle when one is none."""
    for _ in range(STREAMS):
        for found in imports(source, budget):
            _check_name(found)
        if source.ended():
            return
    guess(source)


def guess(source: Source) -> None:
    """Look at what is hardly a pickle. Raises Refused for one all the same."""
    budget = Budget(OPCODES_OF_DATA)
    with suppress(NoPickle, TooLong):
        while True:
            for found in imports(source, budget):
                if found is not None and all(_IDENTIFIER.fullmatch(part) for part in found):
                    _check_name(found)


def _check_name(found: Name) -> None:
    if found is None:
        raise Refused("imports something in a way that hides its name: loading it may run any code")
    module, name = found
    if (_ALIASES.get(module, module), name) in HARMLESS or module.split(".")[0] == _TORCHSCRIPT:
        return
    raise Refused(
        f"imports {module[:100]}.{name[:100]}, which is none of the things that weights are made of: loading it may "
        "run any code"
    )


def imports(source: Source, budget: Budget) -> Iterator[Name]:
    """Yield what one pickle imports, up to its end. Raises NoPickle at a byte where loading it would fail too."""
    texts = _Texts()
    while True:
        budget.step()
        code = source.read(1)
        if code not in _OPCODES:
            raise NoPickle(f"{code!r} is no step of one")
        opcode, length = _OPCODES[code]
        if opcode == "STOP":
            return
        if opcode in {"GLOBAL", "INST"}:
            yield (_text(source.line()), _text(source.line()))
            texts.push(None)
        elif opcode == "STACK_GLOBAL":
            yield texts.pair
            texts.forget()
        elif opcode in {"EXT1", "EXT2", "EXT4"}:
            yield None
            source.skip(length)
            texts.push(None)
        else:
            texts.follow(opcode, length, source)


class _Texts:
    """What is known of the two texts on top of the stack. STACK_GLOBAL takes a name from there.

    They are known when the two steps before it pushed texts, or texts that had been remembered; of anything cleverer
    nothing is.
    """

    def __init__(self) -> None:
        self._known: dict[int, str] = {}
        self._counted = 0
        self._numbered = False
        self._under: str | None = None
        self._top: str | None = None

    @property
    def pair(self) -> Name:
        """Return both, None when one is unknown."""
        return None if self._under is None or self._top is None else (self._under, self._top)

    def push(self, text: str | None) -> None:
        """Something comes on top."""
        self._under, self._top = self._top, text

    def forget(self) -> None:
        """Something was taken away, or changed in a way that is not followed."""
        self._under = self._top = None

    def follow(self, opcode: str, length: int, source: Source) -> None:
        """Read what follows a step that imports nothing, and do what it does to texts."""
        match opcode:
            case "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8":
                self.push(_short_text(source, length))
            case "MEMOIZE":
                self._remember(self._counted)
                self._counted += 1
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._remember(_number(source, length))
                self._numbered = True
            case "GET" | "BINGET" | "LONG_BINGET":
                key = _number(source, length)
                # Both ways of remembering in one pickle: what counts where is not followed.
                self.push(None if self._counted and self._numbered else self._known.get(key))
            case _:
                _skip(source, length)
                self.forget()

    def _remember(self, key: int) -> None:
        self._known.pop(key, None)
        if self._top is not None and len(self._known) < KNOWN_AT_MOST:
            self._known[key] = self._top


def _short_text(source: Source, length: int) -> str | None:
    """Return a text that may be part of a name, None for one that is too long."""
    count = _length(source, length)
    if count > NAME_BYTES_AT_MOST:
        source.skip(count)
        return None
    return _text(source.read(count), "surrogatepass")  # as the unpickler reads texts, but not lines


def _text(given: bytes, errors: str = "strict") -> str:
    try:
        return given.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise NoPickle("a name is no text") from error


def _number(source: Source, length: int) -> int:
    """Return the number that a step is followed by: digits on a line, or bytes."""
    if length >= 0:
        return int.from_bytes(source.read(length), "little")
    try:
        return int(source.line())
    except ValueError as error:
        raise NoPickle("a number is none") from error


def _skip(source: Source, length: int) -> None:
    """Leave out what follows a step: a line, so many bytes, or as many as a length before them says."""
    if length == pickletools.UP_TO_NEWLINE:
        source.line()
    else:
        source.skip(length if length >= 0 else _length(source, length))


def _length(source: Source, kind: int) -> int:
    form = _LENGTHS[kind]
    count: int = struct.unpack(form, source.read(struct.calcsize(form)))[0]
    if count < 0:
        raise NoPickle("a length is below 0")
    return count
