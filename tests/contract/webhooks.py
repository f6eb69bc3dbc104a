"""For scripts/webhook-receivers: runs the receivers of docs/guide/webhooks.md against a payonce."""

import contextlib
import http.client
import http.server
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid

PATIENCE = 60
GUIDE = open("docs/guide/webhooks.md").read()


def code(language, needle):
    """The code block of the guide in this language that contains a text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if needle in block]
    return found


def wait(what, look):
    """What `look` finds, as soon as it finds something."""
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        if time.monotonic() > end:
            sys.exit(f"not within {PATIENCE} s: {what}")
        time.sleep(0.02)
    return found


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class Receiver:
    """A receiver of the guide, unchanged but for its port."""

    def __init__(self, stack, command, text, secret):
        self.port = free_port()
        environment = os.environ | {"SIGNING_SECRET": secret}
        process = subprocess.Popen(
            [*command, text.replace("8000", str(self.port))],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        wait("a receiver listens", lambda: listens(self.port))

    def post(self, headers, body):
        """The status of its response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("POST", "/", body, headers)
        status = connection.getresponse().status
        connection.close()
        return status


class Recorder(http.server.ThreadingHTTPServer):
    """An endpoint that records calls and passes them on to a receiver."""

    def __init__(self, stack):
        recorder = self
        self.calls, self.receiver = [], None

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                # Alterations have another length.
                del headers["content-length"], headers["host"]
                status = recorder.receiver.post(headers, body)
                recorder.calls.append((headers, body, status))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        stack.callback(self.shutdown)

    def next_call(self, count):
        headers, body, status = wait("a call", lambda: self.calls[count:])[0]
        assert status == 204, f"the receiver responded with {status}"
        return headers, body


def altered(headers, body):
    """The same call with one thing changed, and its name."""
    for index in (0, len(body) // 2, len(body) - 1):
        changed = bytearray(body)
        changed[index] ^= 1
        yield f"byte {index} of the body", headers, bytes(changed)
    yield "a shorter body", headers, body[:-1]
    yield "another webhook-id", headers | {"webhook-id": headers["webhook-id"][:-1] + "9"}, body
    timestamp = int(headers["webhook-timestamp"])
    for change in (1, -1, -301, 301):
        yield f"a timestamp {change} s away", headers | {"webhook-timestamp": str(timestamp + change)}, body
    signature = headers["webhook-signature"]
    wrong = " ".join(f"v1,{'A' if one[3] != 'A' else 'B'}{one[4:]}" for one in signature.split(" "))
    yield "changed signatures", headers | {"webhook-signature": wrong}, body
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        yield f"no {name}", {other: value for other, value in headers.items() if other != name}, body


def judge(receiver, headers, body):
    """Checks that a receiver accepts a call and none of its alterations. Returns the number of those."""
    assert receiver.post(headers, body) == 204, "an unchanged call was refused"
    refused = 0
    for name, changed_headers, changed_body in altered(headers, body):
        status = receiver.post(changed_headers, changed_body)
        assert status == 400, f"{name}: {status}"
        refused += 1
    return refused


class Payonce:
    def __init__(self, stack):
        environment = os.environ | {
            "HOST": "127.0.0.1",
            "PORT": "0",
            "RUST_LOG": "info",
            "ANONYMOUS_ACCESS": "loopback",
            "WEBHOOK_SECRET": secrets.token_hex(32),
            "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.1",
        }
        log = stack.enter_context(tempfile.NamedTemporaryFile("r"))
        # cargo run becomes the program, so this is the server's process.
        command = ["cargo", "run", "--quiet"]
        server = subprocess.Popen(command, env=environment, stderr=open(log.name, "w"))
        stack.callback(server.wait)
        stack.callback(server.send_signal, signal.SIGTERM)

        def address():
            if server.poll() is not None:
                sys.exit(open(log.name).read())
            return re.search(r"listens on (http://[^\s,]+)\s", open(log.name).read())

        self.url = wait("the server listens", address)[1]

    def post(self, path, body):
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        return json.load(urllib.request.urlopen(request, timeout=PATIENCE))

    def pay(self):
        return self.post("/payment", {"user_id": "user_1", "amount": 100})["transaction_id"]


def check(stack, payonce, name, command, text):
    recorder = Recorder(stack)
    endpoint = payonce.post("/webhook-endpoint", {"url": f"http://127.0.0.1:{recorder.server_port}/"})
    recorder.receiver = old = Receiver(stack, command, text, endpoint["secret"])

    transaction_id = payonce.pay()
    headers, body = recorder.next_call(0)
    event = json.loads(body)
    assert event["data"]["transaction_id"] == transaction_id and headers["webhook-id"] == event["event_id"]
    page = urllib.request.urlopen(f"{payonce.url}/events?after={event['position'] - 1}&limit=1").read()
    assert body in page, "the feed has the same bytes"
    assert len(headers["webhook-signature"].split(" ")) == 1
    print(f"{name}: accepted a call, refused {judge(old, headers, body)} changed ones")

    path = f"/webhook-endpoint/{endpoint['endpoint_id']}/rotate"
    new = Receiver(stack, command, text, payonce.post(path, {})["secret"])
    assert new.post(headers, body) == 400, "the new secret did not sign the first call"
    # The server that delivers reads the endpoint anew within seconds.
    while True:
        payonce.pay()
        headers, body = recorder.next_call(len(recorder.calls))
        if len(headers["webhook-signature"].split(" ")) == 2:
            break
    for which, receiver in (("old", old), ("new", new)):
        refused = judge(receiver, headers, body)
        print(f"{name}: during rotation, the {which} secret accepted a call, refused {refused} changed ones")
    return recorder


def check_comparison(payonce, recorder):
    """The guide's function finds exactly the events that a receiver did not get."""
    guide = {}
    exec(code("python", "def missed"), guide)
    received = lambda: {headers["webhook-id"] for headers, _, _ in recorder.calls}
    begin = json.loads(recorder.calls[0][1])["position"] - 1
    wait("everything is received", lambda: not guide["missed"](payonce.url, received(), begin)[0])
    lost = recorder.calls[0][0]["webhook-id"]
    events, after, feed = guide["missed"](payonce.url, received() - {lost}, begin)
    assert [event["event_id"] for event in events] == [lost], events
    assert guide["missed"](payonce.url, set(), after, feed)[0] == []
    print("comparison with the feed: found the one event that was taken away, and no other")


with contextlib.ExitStack() as stack:
    payonce = Payonce(stack)
    python = code("python", "standardwebhooks")
    check(stack, payonce, "Python, standardwebhooks", [sys.executable, "-c"], python)
    recorder = check(stack, payonce, "JavaScript, svix", ["node", "-e"], code("js", "svix"))
    check_comparison(payonce, recorder)
