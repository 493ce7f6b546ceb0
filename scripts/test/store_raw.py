"""gRPC by hand: messages as lists of (field, value), so that tests reach every call and every malformed one whatever the
installed stubs know. Values: int (varint), bytes/str, list (message)."""
import grpc


def varint(n):
    n &= (1 << 64) - 1
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def msg(fields):
    """Empty strings are left out, as proto3 does; b"" is sent."""
    out = b""
    for no, v in fields:
        if v == "":
            continue
        if isinstance(v, int):
            out += varint(no << 3) + varint(v)
        else:
            v = v.encode() if isinstance(v, str) else msg(v) if isinstance(v, list) else v
            out += varint(no << 3 | 2) + varint(len(v)) + v
    return out


def take_varint(b, i):
    n = shift = 0
    while True:
        n |= (b[i] & 0x7F) << shift
        shift += 7
        i += 1
        if b[i - 1] < 0x80:
            return n, i


def fields(b):
    """[(field, int or bytes)] of a message."""
    out, i = [], 0
    while i < len(b):
        tag, i = take_varint(b, i)
        if tag & 7 == 0:
            v, i = take_varint(b, i)
        else:
            assert tag & 7 == 2, tag
            n, i = take_varint(b, i)
            v, i = b[i:i + n], i + n
        out.append((tag >> 3, v))
    return out


def get(b, no, default=b""):
    return next((v for k, v in fields(b) if k == no), default)


def same(b):
    return b


def service(path):
    """"KV/Range" → "/etcdserverpb.KV/Range"."""
    return "/" + (path if path.startswith("v3") else "etcdserverpb." + path)


class Raw:
    def __init__(self, target, **kw):
        target = target if isinstance(target, str) else f"127.0.0.1:{target}"
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        creds = kw.get("creds")
        self.ch = grpc.secure_channel(target, creds, options + kw.get("options", [])) if creds \
            else grpc.insecure_channel(target, options)

    def call(self, path, request=(), token=None, timeout=60):
        """(status name, text or None, body)"""
        fn = self.ch.unary_unary(service(path), request_serializer=same, response_deserializer=same)
        body = request if isinstance(request, bytes) else msg(request)
        try:
            return "OK", None, fn(body, timeout=timeout, metadata=[("token", token)] if token else [])
        except grpc.RpcError as e:
            return e.code().name, e.details(), b""

    def stream(self, path, requests, token=None, timeout=60):
        fn = self.ch.stream_stream(service(path), request_serializer=same, response_deserializer=same)
        return fn(requests, timeout=timeout, metadata=[("token", token)] if token else [])

    def server_stream(self, path, request=(), token=None, timeout=60):
        fn = self.ch.unary_stream(service(path), request_serializer=same, response_deserializer=same)
        return fn(request if isinstance(request, bytes) else msg(request), timeout=timeout,
                  metadata=[("token", token)] if token else [])

    def first(self, path, requests, token=None):
        """The first answer of a stream, as call() gives it."""
        try:
            return "OK", None, next(self.stream(path, iter(requests), token, 5))
        except grpc.RpcError as e:
            return e.code().name, e.details(), b""
        except StopIteration:
            return "OK", None, b""

    def login(self, name, password):
        code, text, b = self.call("Auth/Authenticate", [(1, name), (2, password)])
        return get(b, 2).decode() if code == "OK" else None

    def close(self):
        self.ch.close()
