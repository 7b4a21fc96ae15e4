#!/usr/bin/env python3
"""What programs do with the official Python client; stops at the first thing that is not as it should be.

  python.py KUBECONFIG NAMESPACE        a pod is run there of the image busybox:1.37
"""
import sys, threading, time

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

config.load_kube_config(sys.argv[1])
NAMESPACE = sys.argv[2]
core, apps = client.CoreV1Api(), client.AppsV1Api()


def step(name):
    print(f"  {name}", flush=True)


def refused(status, call, *args, **more):
    try:
        call(*args, **more)
    except ApiException as error:
        assert error.status == status, error
    else:
        raise AssertionError(f"{call.__name__} was not refused")


def until(seconds, condition):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{condition} did not come true"
        time.sleep(0.05)


def objects():
    step("create, read, list, patch, replace, delete")
    labels = {"e2e": "python"}
    made = core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(
        metadata=client.V1ObjectMeta(name="settings", labels=labels), data={"a": "1"}))
    assert made.metadata.uid and made.metadata.creation_timestamp.tzinfo
    refused(409, core.create_namespaced_config_map, NAMESPACE, {"metadata": {"name": "settings"}})
    patched = core.patch_namespaced_config_map("settings", NAMESPACE, {"data": {"b": "2"}})
    assert patched.data == {"a": "1", "b": "2"}
    patched.data["a"] = "3"
    core.replace_namespaced_config_map("settings", NAMESPACE, patched)
    refused(409, core.replace_namespaced_config_map, "settings", NAMESPACE, patched)
    found = core.list_namespaced_config_map(NAMESPACE, label_selector="e2e=python", limit=1)
    assert [item.data["a"] for item in found.items] == ["3"]
    refused(422, core.create_namespaced_config_map, NAMESPACE, {"metadata": {"name": "Not_Good"}})
    refused(404, core.read_namespaced_config_map, "none", NAMESPACE)
    core.delete_namespaced_config_map("settings", NAMESPACE)
    refused(404, core.delete_namespaced_config_map, "settings", NAMESPACE)
    assert client.VersionApi().get_code().major == "1"
    utils.create_from_dict(client.ApiClient(), {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "v"}}, namespace=NAMESPACE)
    assert core.read_namespaced_secret("s", NAMESPACE).data == {"k": "dg=="}


def watching():
    step("a watch that goes on where a list ended")
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    body = {"metadata": {"name": "watched"}, "data": {"n": "0"}}

    def change():
        core.create_namespaced_config_map(NAMESPACE, body)
        core.patch_namespaced_config_map("watched", NAMESPACE, {"data": {"n": "1"}})
        core.delete_namespaced_config_map("watched", NAMESPACE)
    thread = threading.Thread(target=change)
    thread.start()
    seen = []
    stop = watch.Watch()
    for event in stop.stream(core.list_namespaced_config_map, NAMESPACE, resource_version=version, timeout_seconds=20):
        seen.append((event["type"], event["object"].data["n"]))
        if event["type"] == "DELETED":
            stop.stop()
    thread.join()
    assert seen == [("ADDED", "0"), ("MODIFIED", "1"), ("DELETED", "1")], seen


def pods():
    step("a pod: logs, exec, port-forward")
    command = ["sh", "-c", "echo started; mkdir /w; echo hello > /w/index.html; exec httpd -f -p 8080 -h /w"]
    core.create_namespaced_pod(NAMESPACE, {"metadata": {"name": "web"}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [
        {"name": "web", "image": "busybox:1.37", "command": command}]}})
    until(60, lambda: core.read_namespaced_pod("web", NAMESPACE).status.phase == "Running")
    until(20, lambda: "started" in core.read_namespaced_pod_log("web", NAMESPACE))
    lines = watch.Watch().stream(core.read_namespaced_pod_log, "web", NAMESPACE)
    assert next(lines) == "started"
    out = stream(core.connect_get_namespaced_pod_exec, "web", NAMESPACE, command=["cat", "/w/index.html"], stdout=True, stderr=True)
    assert out == "hello\n", out
    shell = stream(core.connect_get_namespaced_pod_exec, "web", NAMESPACE, command=["sh"], stdin=True, stdout=True, stderr=True, _preload_content=False)
    shell.write_stdin("echo typed; echo wrong >&2; exit 7\n")
    shell.run_forever(timeout=20)
    assert (shell.read_stdout(), shell.read_stderr(), shell.returncode) == ("typed\n", "wrong\n", 7)
    forward = portforward(core.connect_get_namespaced_pod_portforward, "web", NAMESPACE, ports="8080")
    socket = forward.socket(8080)
    socket.settimeout(10)
    socket.sendall(b"GET / HTTP/1.0\r\n\r\n")
    answer = b""
    while chunk := socket.recv(1024):
        answer += chunk
    assert answer.endswith(b"hello\n"), answer
    assert core.connect_get_namespaced_pod_proxy_with_path("web:8080", NAMESPACE, "index.html") == "hello\n"
    core.delete_namespaced_pod("web", NAMESPACE)
    until(30, lambda: not core.list_namespaced_pod(NAMESPACE).items)


def dynamically():
    step("the dynamic client: a definition, its resources, server-side apply, watch")
    api = dynamic.DynamicClient(client.ApiClient())
    definitions = api.resources.get(api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition")
    definitions.create(body={"metadata": {"name": "notes.python.kijabi.dev"}, "spec": {
        "group": "python.kijabi.dev", "scope": "Namespaced", "names": {"kind": "Note", "plural": "notes"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {"type": "object", "properties": {"text": {"type": "string"}, "n": {"type": "integer", "default": 5}}}}}}}]}})
    try:
        def served():
            try:
                api.resources.invalidate_cache()
                return api.resources.get(api_version="python.kijabi.dev/v1", kind="Note")
            except dynamic.exceptions.ResourceNotFoundError:
                return None
        until(10, served)
        notes = served()
        body = {"apiVersion": "python.kijabi.dev/v1", "kind": "Note", "metadata": {"name": "n"}, "spec": {"text": "x"}}
        applied = notes.server_side_apply(body=body, name="n", namespace=NAMESPACE, field_manager="python")
        assert applied.spec.n == 5 and applied.metadata.managedFields[0].manager == "python"
        refused(422, notes.patch, body={"spec": {"n": "text"}}, name="n", namespace=NAMESPACE, content_type="application/merge-patch+json")
        assert [event["object"].metadata.name for event in notes.watch(namespace=NAMESPACE, timeout=1)] == ["n"]
        notes.delete(name="n", namespace=NAMESPACE)
        assert not notes.get(namespace=NAMESPACE).items
    finally:
        definitions.delete(name="notes.python.kijabi.dev")


objects()
watching()
pods()
dynamically()
