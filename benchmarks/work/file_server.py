"""A web server for the files of a folder, quick enough not to be what is measured: ``python -m ... FOLDER LATENCY``.

It prints its address. Each answer waits for LATENCY seconds first, as a server far away does.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

_RANGE = re.compile(r"^range: bytes=(\d+)-(\d*)", re.MULTILINE | re.IGNORECASE)


async def serve(folder: Path, latency_s: float) -> None:
    """Serve until the process is ended."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                if latency_s:
                    await asyncio.sleep(latency_s)
                writer.write(_answer(folder, head))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def _answer(folder: Path, head: str) -> bytes:
    method, target, _ = head.split(" ", 2)
    path = folder / target.partition("?")[0].lstrip("/")
    if not path.is_file():
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    body, status, extra = path.read_bytes(), "200 OK", f'ETag: "{path.stat().st_mtime_ns:x}"\r\n'
    if found := _RANGE.search(head):
        begin, end = int(found[1]), min(int(found[2] or len(body)), len(body) - 1)
        extra += f"Content-Range: bytes {begin}-{end}/{len(body)}\r\n"
        body, status = body[begin : end + 1], "206 Partial Content"
    front = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode()
    return front if method == "HEAD" else front + body


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), float(sys.argv[2])))
