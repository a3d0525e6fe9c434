"""One HTTP/2 connection, from its first byte to the answer, without a socket: bytes in, bytes out.

After what a client asked at once is answered it is told to go (GOAWAY): a gRPC channel stays on its connection for ever,
and would never find the replica that comes. It connects anew with its next call.
"""

from collections.abc import Callable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, RequestReceived
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from preheat_front.asking import Asked, path_of

STREAMS = 64
HEADERS_BYTES = 16_384

Answer = tuple[list[tuple[str, str]], bytes]
"""Headers, and a body where there is one."""


class RefusedError(Exception):
    """What came is no HTTP/2."""


class Exchange:
    """The server's side of one connection."""

    def __init__(self, answer: Callable[[Asked], Answer]) -> None:
        self._answer = answer
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self._h2.local_settings.update({
            SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: HEADERS_BYTES,
        })  # fmt: skip
        self._h2.initiate_connection()
        self.is_over = False
        """Whether there is nothing more to say."""

    def receive(self, data: bytes) -> bytes:
        """Take in what came; return what is to be sent. Raises RefusedError."""
        try:
            events = self._h2.receive_data(data)
            for event in events:
                self._take(event)
            if self.is_over:
                self._h2.close_connection()
        except (ProtocolError, ValueError) as error:
            raise RefusedError(str(error)) from error
        return bytes(self._h2.data_to_send())

    def _take(self, event: Event) -> None:
        if not isinstance(event, RequestReceived) or event.stream_id is None:
            return
        headers = {bytes(name): bytes(value) for name, value in event.headers or ()}
        is_grpc = headers.get(b"content-type", b"").startswith(b"application/grpc")
        asked = Asked(
            headers.get(b":method", b"").decode("latin-1"), path_of(headers.get(b":path", b"/")), is_grpc
        )
        said, body = self._answer(asked)
        self._h2.send_headers(event.stream_id, said, end_stream=not body)
        if body:
            self._h2.send_data(event.stream_id, body, end_stream=True)
        self.is_over = True
