"""Clients that know a name and a few DNS servers, and find the nodes by them, as clients elsewhere do.

Each is one program with one gRPC channel (grpcio): it asks for the name again when the answer is too old, as any
cache does, and dials what it was told. It sends its session's id with every call. The demo function's model `sum`
counts every call that was answered, so a session that was lost, or a call that was carried out twice, shows.
"""

import random
import threading
import time

import dns.exception
import dns.nameserver
import dns.resolver
import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

# A client calls this often, so that a busy machine has time for nodes, too.
PAUSE_SECONDS = 0.02
CALL_SECONDS = 20
# How long a stream goes on: it always fits the 30 s that a node gives to what it has when it stops.
STREAM_SECONDS = 3
SESSIONS_MAX = 4
# Calls after which a client leaves its oldest session and opens another one. A session keeps its slot for a while
# after that, and workers have 64.
RENEWED_AFTER = 250


class Name:
    """The service's name, asked for at one region's address, so that this region is the nearest."""

    def __init__(self, zone, servers, source):
        self.zone, self.source = zone, source
        self.resolver = dns.resolver.Resolver(configure=False)
        self.resolver.nameservers = [dns.nameserver.Do53Nameserver(*server) for server in servers]
        # A server that died says nothing, or its machine says that nobody listens; then the next one is asked.
        self.resolver.timeout, self.resolver.lifetime, self.resolver.rotate = 0.5, 10, True
        self.addresses, self.until = [], 0.0

    def now(self):
        """The nodes' addresses, from memory while that is as good as an answer."""
        if time.monotonic() >= self.until:
            answer = self.resolver.resolve(self.zone, "A", source=self.source, search=False)
            self.until = time.monotonic() + answer.rrset.ttl
            self.addresses = [record.address for record in answer]
        return self.addresses


class Session:
    """What a client knows of one: its sum is between what was answered and what was sent."""

    def __init__(self):
        self.id, self.worker, self.answered, self.sent = None, None, 0, 0


class Lost(AssertionError):
    """A session that is not what it was."""


class Client:
    """One program; not to be used by two threads."""

    def __init__(self, name, port, demo):
        self.name, self.port = name, port
        with open(demo["api_key_file"]) as file:
            key = file.read().strip()
        self.metadata = [("function-id", demo["function_id"]), ("authorization", f"Bearer {key}")]
        self.channel, self.dialed = None, frozenset()

    def stub(self):
        addresses = self.name.now()
        if frozenset(addresses) != self.dialed:
            self.close()
            self.dialed = frozenset(addresses)
            target = "ipv4:" + ",".join(f"{address}:{self.port}" for address in addresses)
            # Without a pool of its own, grpcio lets all clients of this process share connections; without an authority
            # it sends the list of addresses as one, which is none.
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.default_authority", self.name.zone)]
            self.channel = grpc.insecure_channel(target, options)
        return service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def close(self):
        if self.channel is not None:
            self.channel.close()
        self.channel, self.dialed = None, frozenset()

    def headers(self, session):
        return self.metadata + ([("nvcf-reqid", session.id)] if session.id else [])

    def call(self, session, x=1):
        """One call; the answered sum. A new session is opened, on a new connection, since one that names no session is
        pinned to its first."""
        if session.id is None:
            self.close()
        stub = self.stub()
        session.sent += x
        answer = stub.ModelInfer(request(x), metadata=self.headers(session), timeout=CALL_SECONDS)
        return check(session, x, answer)

    def stream(self, session, ends):
        """A stream of messages, each answered before the next one is sent, until it is long enough."""
        until = time.monotonic() + STREAM_SECONDS
        answered = threading.Semaphore()
        over = threading.Event()

        def messages():
            while time.monotonic() < until and not ends.is_set():
                answered.acquire(timeout=CALL_SECONDS)
                if over.is_set():
                    return
                session.sent += 1
                yield request(1)
                time.sleep(PAUSE_SECONDS)

        call = self.stub().ModelStreamInfer(messages(), metadata=self.headers(session), timeout=STREAM_SECONDS + CALL_SECONDS)
        try:
            for answer in call:
                assert not answer.error_message, answer.error_message
                check(session, 1, answer.infer_response)
                answered.release()
        finally:
            over.set()
            answered.release()


def request(x):
    message = service_pb2.ModelInferRequest(model_name="sum")
    tensor = message.inputs.add(name="x", datatype="INT64", shape=[1])
    tensor.contents.int64_contents.append(x)
    return message


def outputs(answer):
    """What the worker said: the sum, its own name, and the session."""
    found = {}
    for index, output in enumerate(answer.outputs):
        if answer.raw_output_contents:
            data = answer.raw_output_contents[index]
            found[output.name] = data[4:].decode() if output.datatype == "BYTES" else int.from_bytes(data, "little", signed=True)
        elif output.datatype == "BYTES":
            found[output.name] = output.contents.bytes_contents[0].decode()
        else:
            found[output.name] = output.contents.int64_contents[0]
    return found


def check(session, x, answer):
    found = outputs(answer)
    if session.id is None:
        session.id, session.worker = found["session"], found["worker"]
    # A call without an answer may have been counted or not.
    if found["worker"] != session.worker or not session.answered + x <= found["sum"] <= session.sent:
        raise Lost(f"{session.id} was {session.answered} to {session.sent} at {session.worker}, and is {found}")
    session.answered = found["sum"]
    return found["sum"]


class Load:
    """Clients that call all the time, each in a thread: those of even numbers single calls, the others streams.

    One more sends no id. It has the session that its connection is pinned to, and another one after each connection:
    nothing is lost by its own lights, so that is only counted.
    """

    def __init__(self, clients, pinned):
        self.ends = threading.Event()
        self.lock = threading.Lock()
        self.answered, self.opened, self.strayed, self.failed, self.lost = 0, 0, 0, [], []
        self.last = [0.0] * len(clients)
        self.threads = [threading.Thread(target=self.run, args=(n, client)) for n, client in enumerate(clients)]
        self.threads.append(threading.Thread(target=self.run_pinned, args=(pinned,)))
        for thread in self.threads:
            thread.start()

    def run(self, number, client):
        choose = random.Random(number)
        sessions, calls = [], 0
        while not self.ends.is_set():
            calls += 1
            if calls % RENEWED_AFTER == 0:
                sessions.pop(0)
            session = choose.choice(sessions) if len(sessions) >= SESSIONS_MAX else Session()
            new, before = session.id is None, session.answered
            try:
                if new or number % 2 == 0:
                    client.call(session)
                else:
                    client.stream(session, self.ends)
            except dns.exception.DNSException as error:
                with self.lock:
                    self.failed.append(f"DNS: {error}")
            except grpc.RpcError as error:
                if "no existing session found" in error.details():
                    self.lost.append(f"{session.id}: {error.details()}")
                    sessions.remove(session)
                with self.lock:
                    self.failed.append(f"{time.strftime('%H:%M:%S')} {session.id}: {error.code().name}: {error.details()}")
            except Exception as error:  # A thread that dies would be a load that is none.
                self.lost.append(repr(error))
                return
            else:
                self.last[number] = time.monotonic()
            if new and session.id is not None:
                sessions.append(session)
            with self.lock:
                self.opened += new and session.id is not None
                self.answered += session.answered - before
            time.sleep(PAUSE_SECONDS)
        client.close()

    def run_pinned(self, client):
        session = None
        while not self.ends.is_set():
            try:
                answer = client.stub().ModelInfer(request(1), metadata=client.metadata, timeout=CALL_SECONDS)
            except (dns.exception.DNSException, grpc.RpcError) as error:
                with self.lock:
                    self.failed.append(f"{time.strftime('%H:%M:%S')} without an id: {error}")
            else:
                with self.lock:
                    self.answered += 1
                    self.strayed += session not in (None, outputs(answer)["session"])
                session = outputs(answer)["session"]
            time.sleep(PAUSE_SECONDS)
        client.close()

    def finish(self):
        self.ends.set()
        for thread in self.threads:
            thread.join()
