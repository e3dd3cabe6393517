"""An S3 server on loopback for tests (moto's), which can hold back or refuse a request."""

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow.fs

BUCKET = "bucket"


class ObjectStore:
    """Runs in a thread. Every request goes through ``gate`` first: text that it returns is the answer, an S3
    error code of status 403.
    """

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.gate: Callable[[str, str], str | None] = lambda method, address: None
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.address = f"127.0.0.1:{self._server.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        maker = pyarrow.fs.S3FileSystem(
            endpoint_override=self.address, scheme="http", region="us-east-1", allow_bucket_creation=True
        )
        maker.create_dir(BUCKET)

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        refused = self.gate(environ["REQUEST_METHOD"], f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}")
        if refused is None:
            return self._moto(environ, start)
        body = f"<Error><Code>{refused}</Code><Message>no</Message></Error>".encode()
        start("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def uri(self, prefix: str, bucket: str = BUCKET) -> str:
        """Of a prefix in the bucket, as a user writes it."""
        return f"s3://{bucket}/{prefix}?endpoint_override={self.address}&scheme=http&region=us-east-1"

    def close(self) -> None:
        self._server.shutdown()
