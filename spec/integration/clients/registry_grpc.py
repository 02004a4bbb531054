#!/usr/bin/env python3
"""What a gRPC client that is not ours sees of the registry: python3-grpcio with messages that protoc made from proto/.

usage: registry_grpc.py HOST:GRPC_PORT HTTP_PORT SOURCE_DIR   exits 0 when every claim holds, and prints each one.
"""
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import grpc

PROTOS = ["service_registry", "service_registry_v2", "health", "reflection", "reflection_v1alpha"]
CLAIMS = []


def claim(function):
    CLAIMS.append(function)
    return function


class Client:
    def __init__(self, target, http_port, source):
        out = tempfile.mkdtemp()
        files = [f"proto/{name}.proto" for name in PROTOS]
        subprocess.run(["protoc", f"--proto_path={source}", f"--python_out={out}"] + files, check=True, cwd=source)
        sys.path.insert(0, out)
        # one pool cannot hold two files that declare one full name; ours do not
        self.pb = {name: importlib.import_module(f"proto.{name}_pb2") for name in PROTOS}
        self.v1, self.v2 = self.pb["service_registry"], self.pb["service_registry_v2"]
        self.target, self.http_port = target, http_port
        self.channel = grpc.insecure_channel(target)

    def unary(self, path, request, response, **kw):
        call = self.channel.unary_unary(path, request_serializer=lambda m: m.SerializeToString(),
                                        response_deserializer=response.FromString)
        return call(request, timeout=10, **kw)

    def old(self, method, request):
        response = {"GetHealthyServices": self.v1.GetHealthyServicesResponse}.get(method, self.v1.ServiceRegistryResponse)
        return self.unary(f"/serviceregistry.ServiceRegistry/{method}", request, response)

    def instance(self, name, port=9001, service="users"):
        return self.v1.GrpcServiceInstance(id=name, serviceName=service, host="127.0.0.1", port=port,
                                           url=f"http://127.0.0.1:{port}", healthPath="/health")

    def register(self, name, **kw):
        return self.old("RegisterService", self.v1.RegisterServiceRequest(instance=self.instance(name, **kw)))

    def deregister(self, name):
        return self.old("DeregisterService", self.v1.DeregisterServiceRequest(instanceId=name))

    def healthy(self, name=""):
        return [i.id for i in self.old("GetHealthyServices", self.v1.GetHealthyServicesRequest(instanceName=name)).services]


def code_of(function, *args, **kw):
    try:
        function(*args, **kw)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@claim
def the_old_service_registers_beats_lists_and_deregisters(c):
    answer = c.register("g1")
    assert answer.success and answer.message == "Service registered successfully", answer
    answer = c.old("SendHeartbeat", c.v1.SendHeartbeatRequest(instanceId="g1"))
    assert answer.success and answer.message == "Heartbeat received.", answer
    c.register("g2", port=9002, service="orders")
    assert c.healthy() == ["g1", "g2"], c.healthy()
    assert c.healthy("orders") == ["g2"] and c.healthy("nobody") == []
    with urllib.request.urlopen(f"http://127.0.0.1:{c.http_port}/api/v1/services", timeout=10) as answer:
        assert [i["id"] for i in json.load(answer)] == ["g1", "g2"]
    assert c.deregister("g1").success and c.deregister("g2").success and c.deregister("g2").success
    assert c.healthy() == []


@claim
def a_heartbeat_of_an_unknown_id_makes_the_client_register_again(c):
    beat = c.v1.SendHeartbeatRequest(instanceId="nobody")
    assert code_of(c.old, "SendHeartbeat", beat) == grpc.StatusCode.NOT_FOUND


@claim
def what_is_no_instance_is_refused(c):
    bad = c.instance("bad")
    for field, value in (("id", ""), ("serviceName", ""), ("port", 70000), ("port", -1), ("url", "ftp://x"),
                         ("url", "http://127.0.0.1:1/"), ("id", "x" * 256), ("host", "a b"), ("healthPath", "health")):
        row = c.v1.GrpcServiceInstance()
        row.CopyFrom(bad)
        setattr(row, field, value)
        request = c.v1.RegisterServiceRequest(instance=row)
        assert code_of(c.old, "RegisterService", request) == grpc.StatusCode.INVALID_ARGUMENT, (field, value)
    assert code_of(c.old, "RegisterService", c.v1.RegisterServiceRequest()) == grpc.StatusCode.INVALID_ARGUMENT


@claim
def unknown_methods_are_unimplemented_and_garbage_is_an_error(c):
    for path in ("/serviceregistry.ServiceRegistry/Nope", "/no.Such/Thing", "/x"):
        call = c.channel.unary_unary(path)
        assert code_of(call, b"", timeout=10) == grpc.StatusCode.UNIMPLEMENTED, path
    call = c.channel.unary_unary("/serviceregistry.ServiceRegistry/RegisterService")
    assert code_of(call, b"\xff\xff\xff", timeout=10) == grpc.StatusCode.INTERNAL
    assert code_of(call, b"\x0a\xff\xff\xff\xff\x0f", timeout=10) == grpc.StatusCode.INTERNAL
    assert code_of(call, b"x" * (2 << 20), timeout=10) == grpc.StatusCode.RESOURCE_EXHAUSTED
    gzip = c.channel.unary_unary("/serviceregistry.ServiceRegistry/GetHealthyServices")
    code = code_of(gzip, b"\x0a\x40" + b"a" * 64, timeout=10, compression=grpc.Compression.Gzip)
    assert code == grpc.StatusCode.UNIMPLEMENTED, code


@claim
def unknown_fields_are_ignored(c):
    call = c.channel.unary_unary("/serviceregistry.ServiceRegistry/DeregisterService",
                                 response_deserializer=c.v1.ServiceRegistryResponse.FromString)
    assert call(b"\x0a\x01z\x98\x06\x07\xa2\x06\x03abc", timeout=10).success


@claim
def unary_calls_take_one_message(c):
    call = c.channel.stream_unary("/serviceregistry.ServiceRegistry/GetHealthyServices")
    assert code_of(call, iter([]), timeout=10) == grpc.StatusCode.INTERNAL
    assert code_of(call, iter([b"", b""]), timeout=10) == grpc.StatusCode.INTERNAL
    assert code_of(call, iter([b""]), timeout=10) == grpc.StatusCode.OK


@claim
def health_says_serving(c):
    health = c.pb["health"]

    def check(name):
        return c.unary("/grpc.health.v1.Health/Check", health.HealthCheckRequest(service=name), health.HealthCheckResponse)

    assert check("").status == 1 and check("serviceregistry.ServiceRegistry").status == 1
    assert code_of(check, "nobody") == grpc.StatusCode.NOT_FOUND
    watch = c.channel.unary_stream("/grpc.health.v1.Health/Watch", response_deserializer=health.HealthCheckResponse.FromString)
    stream = watch(b"", timeout=10)
    assert next(stream).status == 1
    stream.cancel()
    stream = watch(b"\x0a\x01x", timeout=10)
    assert next(stream).status == 3
    stream.cancel()


@claim
def reflection_lists_services_and_finds_their_files(c):
    from google.protobuf import descriptor_pb2
    for version, name in (("v1", "reflection"), ("v1alpha", "reflection_v1alpha")):
        pb = c.pb[name]
        call = c.channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                                       request_serializer=lambda m: m.SerializeToString(),
                                       response_deserializer=pb.ServerReflectionResponse.FromString)
        gate = threading.Event()
        requests = [pb.ServerReflectionRequest(list_services="*")]
        symbols = ["serviceregistry.ServiceRegistry", "serviceregistry.GrpcServiceInstance",
                   "serviceregistry.ServiceRegistry.SendHeartbeat", "serviceregistry.v2.Registry", "grpc.health.v1.Health",
                   "grpc.health.v1.HealthCheckResponse.ServingStatus"]
        requests += [pb.ServerReflectionRequest(file_containing_symbol=s) for s in symbols]
        requests += [pb.ServerReflectionRequest(file_by_filename="proto/service_registry.proto"),
                     pb.ServerReflectionRequest(file_by_filename="nope.proto"),
                     pb.ServerReflectionRequest(file_containing_symbol="serviceregistry.Nope"), pb.ServerReflectionRequest()]

        def ask():
            yield from requests
            gate.wait(10)  # the stream stays open while the answers come

        stream = call(ask(), timeout=20)
        answers = [next(stream) for _ in requests]
        gate.set()
        assert list(stream) == []
        listed = [s.name for s in answers[0].list_services_response.service]
        assert "serviceregistry.ServiceRegistry" in listed and "grpc.health.v1.Health" in listed, listed
        assert f"grpc.reflection.{version}.ServerReflection" in listed
        for symbol, answer in zip(symbols, answers[1:]):
            file = descriptor_pb2.FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0])
            assert symbol.startswith(file.package), (symbol, file.name)
        rest = answers[1 + len(symbols):]
        file = descriptor_pb2.FileDescriptorProto.FromString(rest[0].file_descriptor_response.file_descriptor_proto[0])
        assert file.service[0].name == "ServiceRegistry"
        assert rest[1].error_response.error_code == 5 and rest[2].error_response.error_code == 5
        assert rest[3].error_response.error_code == 12


@claim
def a_watch_tells_of_each_change_within_a_second(c):
    watch = c.channel.unary_stream("/serviceregistry.v2.Registry/WatchInstances",
                                   request_serializer=lambda m: m.SerializeToString(),
                                   response_deserializer=c.v2.Snapshot.FromString)
    stream = watch(c.v2.ListRequest(), timeout=30)
    first = next(stream)
    row = c.v2.Instance(id="w1", service_name="users", host="10.0.0.1", port=80, weight=3, zone="a", metadata='{"k": "v"}')
    answer = c.unary("/serviceregistry.v2.Registry/RegisterInstance", c.v2.RegisterRequest(instance=row), c.v2.RegisterResponse)
    assert answer.ttl_ms > 0 and answer.instance.url == "http://10.0.0.1:80", answer
    begun = time.monotonic()
    second = next(stream)
    assert time.monotonic() - begun < 1 and second.index > first.index and second.epoch == first.epoch
    got = second.instances[0]
    assert (got.id, got.weight, got.zone, got.metadata, got.lapsed) == ("w1", 3, "a", '{"k":"v"}', False), got
    c.unary("/serviceregistry.v2.Registry/SendHeartbeat", c.v2.InstanceId(id="w1"), c.v2.Empty)
    listed = c.unary("/serviceregistry.v2.Registry/ListInstances", c.v2.ListRequest(service_name="users"), c.v2.Snapshot)
    assert len(listed.instances) == 1
    c.unary("/serviceregistry.v2.Registry/DeregisterInstance", c.v2.InstanceId(id="w1"), c.v2.Empty)
    assert len(next(stream).instances) == 0
    unknown = code_of(c.unary, "/serviceregistry.v2.Registry/SendHeartbeat", c.v2.InstanceId(id="w1"), c.v2.Empty)
    assert unknown == grpc.StatusCode.NOT_FOUND
    stream.cancel()


@claim
def a_deadline_ends_a_watch(c):
    watch = c.channel.unary_stream("/serviceregistry.v2.Registry/WatchInstances")
    begun = time.monotonic()
    assert code_of(lambda: list(watch(b"", timeout=0.5))) == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begun < 5


@claim
def a_thousand_streams_share_a_connection(c):
    watch = c.channel.unary_stream("/serviceregistry.v2.Registry/WatchInstances",
                                   response_deserializer=c.v2.Snapshot.FromString)
    streams = [watch(b"", timeout=60) for _ in range(1000)]
    index = max(next(s).index for s in streams)
    c.register("many")
    assert all(next(s).index > index for s in streams)
    for stream in streams:
        stream.cancel()
    c.deregister("many")


@claim
def bytes_that_are_no_http_2_end_the_connection_and_nothing_else(c):
    host, port = c.target.rsplit(":", 1)
    for garbage in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + b"\0" * 40,
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\x04\x01\x05\0\0\0\x01\xff\xff\xff\xff"):
        with socket.create_connection((host, int(port)), timeout=10) as peer:
            peer.sendall(garbage)
            received = b""
            while True:
                try:
                    part = peer.recv(4096)
                except ConnectionResetError:
                    break
                if not part:
                    break
                received += part
            assert b"\x07" in received, (garbage, received)  # a GOAWAY frame
    assert c.healthy() == []


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@claim
def rapid_resets_and_pings_are_bounded(c):
    host, port = c.target.rsplit(":", 1)
    # HPACK: :method POST, :scheme http and :path / from the static table, :authority x literal
    head = bytes([0x83, 0x86, 0x84, 0x01, 0x01]) + b"x"

    def resets():
        for n in range(1, 40000, 2):
            yield frame(1, 5, n, head) + frame(3, 0, n, b"\0\0\0\x08")

    def pings():
        for _ in range(20000):
            yield frame(6, 0, 0, b"12345678")

    for flood in (resets, pings):
        with socket.create_connection((host, int(port)), timeout=10) as peer:
            received = []

            def read():
                try:
                    while part := peer.recv(65536):
                        received.append(part)
                except OSError:
                    pass

            reader = threading.Thread(target=read)
            reader.start()
            ended = False
            try:
                peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
                batch = b""
                for bytes_ in flood():
                    batch += bytes_
                    if len(batch) > 8192:
                        peer.sendall(batch)
                        batch = b""
            except OSError:
                ended = True
            reader.join(10)
            calm = b"\0\0\0\x0b" in b"".join(received)  # ENHANCE_YOUR_CALM
            assert not reader.is_alive() and (calm or ended), flood
    assert c.healthy() == []


def main():
    client = Client(sys.argv[1], sys.argv[2], os.path.abspath(sys.argv[3]))
    only = sys.argv[4:]
    for function in CLAIMS:
        if only and function.__name__ not in only:
            continue
        begun = time.monotonic()
        function(client)
        print(f"ok {function.__name__} ({time.monotonic() - begun:.2f} s)", flush=True)


if __name__ == "__main__":
    main()
