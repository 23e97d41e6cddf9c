"""Server of the web page and its REST API: on this machine only unless told otherwise, without network access.

serve(Predictor(), "127.0.0.1", 7860)
"""

import contextlib
import errno
import ipaddress
import os
import socket
import webbrowser

from detector.console import InputError

MAX_CONNECTIONS = 250  # beyond that, clients get status 503


def serve(predictor, host, port):
    """Serve the page and open it in a browser; return when interrupted.

    Args:
        predictor: detector.inference.Predictor.
        host, port: address to listen on; port 0 picks a free one.

    Raises:
        InputError: a package is missing, or the address is not available.
    """
    listener = listen(host, port)
    try:
        import uvicorn

        from detector.web.api import create_app
    except ModuleNotFoundError as error:
        raise InputError(f"the page needs the package {error.name}; run: pip install -r requirements-app.txt") from None
    app = create_app(predictor, allowed_hosts(host))
    # Uvicorn logs tracebacks; detector.web.api logs failures in one line.
    config = uvicorn.Config(app, log_level="critical", limit_concurrency=MAX_CONNECTIONS, server_header=False)
    name = f"[{host}]" if ":" in host else "127.0.0.1" if host == "0.0.0.0" else host
    url = f"http://{name}:{listener.getsockname()[1]}"
    print(f"The page is running at {url} (press Ctrl+C to stop).", flush=True)
    webbrowser.open(url)  # the socket is open already: the browser waits until the server answers
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def listen(host, port):
    """Return a socket that listens on the address.

    Raises:
        InputError: the address is not available.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if getattr(error, "errno", None) in errno.errorcode else error
        raise InputError(f"{host}:{port}: cannot listen there ({reason}); try another --host or --port") from None


def allowed_hosts(host):
    """Return the Host headers to answer: if the server is local, only local names, against DNS rebinding."""
    local = ["localhost", "127.0.0.1", "[::1]", "::1"]
    if host == "localhost":
        return local
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return [*local, host, f"[{host}]"]
    return ["*"]
