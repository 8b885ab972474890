#!/usr/bin/env python3
"""A client that nobody here wrote: Python's grpcio, which learns the API from the
server by reflection alone.

usage: reflection_test.py BIN
Skipped (exit 77) where Debian's python3-grpcio is not installed.
"""
import os
import pathlib
import queue
import socket
import subprocess
import sys
import tempfile
import time
import unittest

try:
    import grpc
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
except ImportError:
    if sys.executable != "/usr/bin/python3" and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print("SKIPPED: python3-grpcio is not installed")
    sys.exit(77)

BIN = pathlib.Path(sys.argv[1]).resolve()
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"


def message_class(pool, name):
    descriptor = pool.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)


def reflection_messages():
    """The few fields of the reflection protocol that are needed."""
    file = descriptor_pb2.FileDescriptorProto(name="reflection.proto", package="r", syntax="proto3")
    types = {"string": 9, "message": 11, "bytes": 12}

    def message(name, *fields):
        m = file.message_type.add(name=name)
        for field, number, kind, many in fields:
            f = m.field.add(name=field, number=number, label=3 if many else 1)
            f.type = types.get(kind, 11)
            if kind not in types:
                f.type_name = ".r." + kind

    message("Request", ("file_containing_symbol", 4, "string", False), ("list_services", 7, "string", False))
    message("Files", ("file", 1, "bytes", True))
    message("Service", ("name", 1, "string", False))
    message("Services", ("service", 1, "Service", True))
    message("Response", ("files", 4, "Files", False), ("services", 6, "Services", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_class(pool, "r.Request"), message_class(pool, "r.Response")


class Api:
    """Calls by name, with messages built from what the server says of itself."""

    def __init__(self, channel):
        self.channel = channel
        self.pool = descriptor_pool.DescriptorPool()
        self.known = set()
        self.request, self.response = reflection_messages()
        self.services = [s.name for s in self.reflect(list_services="*").services.service]
        for service in self.services:
            if not service.startswith("grpc.reflection."):
                self.learn(service)
        self.learn("google.rpc.BadRequest")

    def reflect(self, **question):
        call = self.channel.stream_stream(
            f"/{REFLECTION}/ServerReflectionInfo", request_serializer=self.request.SerializeToString,
            response_deserializer=self.response.FromString)
        return next(call(iter([self.request(**question)]), timeout=10))

    def learn(self, symbol):
        files = [descriptor_pb2.FileDescriptorProto.FromString(f)
                 for f in self.reflect(file_containing_symbol=symbol).files.file]
        while files:  # imports first
            ready = [f for f in files if all(d in self.known for d in f.dependency
                                             if any(d == g.name for g in files))]
            for f in ready:
                files.remove(f)
                if f.name not in self.known:
                    self.pool.Add(f)
                    self.known.add(f.name)

    def method(self, path):
        service, name = path.split("/")
        return self.pool.FindServiceByName("nearline.v1." + service).methods_by_name[name]

    def call(self, path, raw=None, timeout=20, **fields):
        method = self.method(path)
        request = message_class(self.pool, method.input_type.full_name)(**fields)
        answer = message_class(self.pool, method.output_type.full_name)
        proto = descriptor_pb2.MethodDescriptorProto()
        method.CopyToProto(proto)
        kind = self.channel.unary_stream if proto.server_streaming else self.channel.unary_unary
        stub = kind(f"/nearline.v1.{path}", request_serializer=lambda m: m,
                    response_deserializer=answer.FromString)
        return stub(request.SerializeToString() if raw is None else raw, timeout=timeout)

    def stream(self, path):
        method = self.method(path)
        request = message_class(self.pool, method.input_type.full_name)
        answer = message_class(self.pool, method.output_type.full_name)
        stub = self.channel.stream_stream(f"/nearline.v1.{path}",
                                          request_serializer=request.SerializeToString,
                                          response_deserializer=answer.FromString)
        return stub, request


class ReflectionTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temp = tempfile.TemporaryDirectory()
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{s.getsockname()[1]}"
        cls.server = subprocess.Popen(
            [BIN / "nearline-server"], stderr=open(cls.temp.name + "/log", "w"),
            env={**os.environ, "NEARLINE_LISTEN": address, "NEARLINE_METRICS_LISTEN": "",
                 "NEARLINE_DATA_DIR": cls.temp.name + "/data"})
        cls.channel = grpc.insecure_channel(address)
        grpc.channel_ready_future(cls.channel).result(timeout=60)
        cls.api = Api(cls.channel)

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        cls.server.terminate()
        cls.server.wait(timeout=60)
        cls.temp.cleanup()

    def refused(self, code, path, **fields):
        with self.assertRaises(grpc.RpcError) as caught:
            answer = self.api.call(path, **fields)
            if not hasattr(answer, "DESCRIPTOR"):
                list(answer)
        self.assertEqual(caught.exception.code(), code, caught.exception)
        return caught.exception

    def test_every_service_is_listed(self):
        for name in ("RecommendationService", "FeedbackService", "ModelService", "CatalogService",
                     "AdminService"):
            self.assertIn("nearline.v1." + name, self.api.services)
        self.assertIn("grpc.health.v1.Health", self.api.services)

    def test_feed_and_ask(self):
        items = [{"id": f"film-{i}"} for i in range(20)]
        self.api.call("CatalogService/UpsertItems", items=items)
        events = [{"user": "zoë", "item": f"film-{i}", "type": "like"} for i in (3, 4)]
        first = self.api.call("FeedbackService/Feedback", events=events)
        self.assertEqual(first.accepted, 2)
        answer = self.api.call("RecommendationService/Recommend", user="zoë", count=18,
                               after=first.consistency_token)
        self.assertEqual(len(answer.items), 18)
        self.assertFalse({"film-3", "film-4"} & {i.item for i in answer.items})
        history = self.api.call("CatalogService/GetHistory", user="zoë")
        self.assertEqual([e.item for e in history.events], ["film-4", "film-3"])
        chunks = list(self.api.call("AdminService/Export"))
        self.assertEqual([e.user for c in chunks for e in c.events].count("zoë"), 2)

    def test_a_stream_acknowledges_each_batch(self):
        stub, request = self.api.stream("FeedbackService/StreamFeedback")
        outbox, counts = queue.Queue(), []
        answers = stub(iter(outbox.get, None), timeout=20)
        for name in ("1", "2", "1"):  # a view without a time: the last repeats the first
            outbox.put(request(events=[{"user": "bo", "item": "film-" + name, "type": "view",
                                        "event_id": name}]))
            answer = next(answers)
            counts.append((answer.accepted, answer.duplicates))
        self.assertEqual(counts, [(1, 0), (1, 0), (0, 1)])
        outbox.put(None)

    def test_errors_name_field_value_and_range(self):
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        for fields in ({"user": "a", "count": 1001}, {"user": "a", "count": -1},
                       {"user": "a", "count": 10 ** 9}):
            error = self.refused(invalid, "RecommendationService/Recommend", **fields)
            self.assertIn("count", error.details())
            self.assertIn("1000", error.details())
            details = dict(error.trailing_metadata())["grpc-status-details-bin"]
            self.assertIn(b"google.rpc.BadRequest", details)
        event = {"user": "a", "item": "b", "type": "hum"}
        error = self.refused(invalid, "FeedbackService/Feedback", events=[event])
        self.assertIn("events[0].type", error.details())
        self.refused(grpc.StatusCode.NOT_FOUND, "CatalogService/GetItem", item="nothing")
        self.refused(grpc.StatusCode.NOT_FOUND, "ModelService/WatchRun", run_id="nothing")
        self.refused(grpc.StatusCode.NOT_FOUND, "ModelService/Rollback")

    def test_broken_bytes_get_a_clear_answer(self):
        for raw, word in ((b"\x0a\x02\xff\xfe", "UTF-8"), (b"\x0a\x50cut", "RecommendRequest"),
                          (b"\xff" * 50, "RecommendRequest")):
            error = self.refused(grpc.StatusCode.INVALID_ARGUMENT, "RecommendationService/Recommend",
                                 raw=raw)
            self.assertIn(word, error.details())

    def test_a_stream_ends_with_its_deadline(self):
        stub, request = self.api.stream("FeedbackService/StreamFeedback")
        outbox = queue.Queue()  # nothing is ever sent
        with self.assertRaises(grpc.RpcError) as caught:
            next(stub(iter(outbox.get, None), timeout=0.3))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        outbox.put(None)
        self.assertNotEqual(self.api.call("AdminService/Status").version, "")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
