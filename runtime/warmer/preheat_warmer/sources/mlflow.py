"""mlflow://MODEL/VERSION and mlflow://MODEL@ALIAS: a version in a model registry, resolved to where its files are.

Used of MLflow's REST API: ``registered-models/alias`` (which version), ``model-versions/get-download-uri``
(where), and ``mlflow-artifacts/artifacts/PATH`` (the bytes, where the tracking server hands them out).
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.manifest import File, Manifest
from preheat_warmer.secret import Secret
from preheat_warmer.sources.base import Source, Transfer
from preheat_warmer.sources.bucket import BucketSource
from preheat_warmer.sources.registry import basic
from preheat_warmer.sources.web import Web, WebSource, bearer

_URI = re.compile(r"mlflow://([^/@]+)(?:/([0-9]+)|@(.+))")


class ModelVersionSource:
    """One version of one registered model."""

    def __init__(self, uri: str, endpoint: str, token: str | None, secret: Secret, web: Web) -> None:
        match = _URI.fullmatch(uri)
        if match is None:
            raise Hopeless(Reason.INVALID_CONFIG, f"{uri} names no version and no alias")
        self._uri = uri
        self._model, self._version, self._alias = unquote(match[1]), match[2] or "", match[3] or ""
        self._endpoint = endpoint
        self._secret = secret
        self._anonymous = web.authorized(bearer(None))
        self._web = web.authorized(basic(secret) if secret.username else bearer(token))
        self._files: Source | None = None
        self._asking = asyncio.Lock()

    async def list(self) -> Manifest:
        """Return what the SHA256SUMS among the version's artifacts says; ``revision`` is the version."""
        files = await self._resolved()
        return replace(await files.list(), revision=self._version)

    async def size(self, file: File) -> int | None:
        """Return the size of an artifact."""
        return await (await self._resolved()).size(file)

    @asynccontextmanager
    async def open(
        self, file: File, offset: int, version: str, end: int | None = None
    ) -> AsyncIterator[Transfer]:
        """Read an artifact."""
        async with (await self._resolved()).open(file, offset, version, end) as transfer:
            yield transfer

    async def _resolved(self) -> Source:
        """Return where the files are, asked for once: an alias that moves meanwhile does not mix two versions."""
        async with self._asking:
            if self._files is None:
                if self._alias:
                    query = {"name": self._model, "alias": self._alias}
                    found = await self._ask("registered-models/alias", query)
                    self._version = str(self._in(found, "model_version", "version"))
                query = {"name": self._model, "version": self._version}
                found = await self._ask("model-versions/get-download-uri", query)
                self._files = self._source(str(self._in(found, "artifact_uri")))
            return self._files

    async def _ask(self, method: str, query: dict[str, str]) -> Any:
        url = f"{self._endpoint}/api/2.0/mlflow/{method}?{urlencode(query, quote_via=quote)}"
        try:
            text, _ = await self._web.text(url)
        except Hopeless as error:
            if error.reason is not Reason.NOT_FOUND:
                raise
            raise Hopeless(
                Reason.NOT_FOUND,
                f"{self._uri}: the tracking server at {self._endpoint} knows no such model, version or alias",
            ) from error
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._no_server() from error

    def _in(self, found: Any, *names: str) -> Any:
        for name in names:
            if not isinstance(found, dict) or name not in found:
                raise self._no_server()
            found = found[name]
        return found

    def _no_server(self) -> Hopeless:
        return Hopeless(
            Reason.NOT_FOUND,
            f"{self._endpoint} does not answer as a tracking server of MLflow: check spec.model.endpoint",
        )

    def _source(self, artifacts: str) -> Source:
        """Return the source that an artifact URI names; who asks is shown to the tracking server alone."""
        parts = urlsplit(artifacts)
        match parts.scheme:
            case "mlflow-artifacts":
                path = quote(unquote(parts.path).strip("/"))
                url = f"{self._endpoint}/api/2.0/mlflow-artifacts/artifacts/{path}/"
                return WebSource(url, self._web)
            case "s3" | "gs":
                return BucketSource(artifacts, self._secret.endpoint, None, self._secret, self._anonymous)
            case "http" | "https":
                return WebSource(f"{artifacts.rstrip('/')}/", self._anonymous)
            case _:
                raise Hopeless(
                    Reason.NOT_FOUND,
                    f"{self._uri}: its files are at {parts.scheme or 'a path'}:, where no warmer gets to: let the "
                    "tracking server hand them out (mlflow server --serve-artifacts), or log the model to s3://, "
                    "gs:// or https://",
                )
